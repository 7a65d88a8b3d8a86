"""What a model says is read strictly: who does what to whom, and which box is whom."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.evaluation.intergen.answers import AnswerError
from training.curation.review import agreement, check_review, decided, fixes_of
from training.curation.stages.anchors import read_choice
from training.curation.stages.triplets import read_triplets, written
from training.curation.stages.verify import read_same

CAPTION = "A man in a red coat picks the cup up and hands it to another man, while a dog watches the man."


def answer() -> dict[str, Any]:
    return {
        "instances": [
            {
                "id": 1,
                "class": "man",
                "words": "a man in a red coat",
                "occurrence": None,
                "descriptor": "the man in red",
            },
            {"id": 2, "class": "cup", "words": "the cup", "occurrence": None, "descriptor": "the cup"},
            {"id": 3, "class": "man", "words": "another man", "occurrence": None, "descriptor": "the other man"},
            {"id": 4, "class": "dog", "words": "a dog", "occurrence": None, "descriptor": "the dog"},
        ],
        "interactions": [
            {"subject": 1, "verb": "pick up", "words": "picks ... up", "object": 2, "contactness": 5, "dynamism": 4},
            {"subject": 4, "verb": "watch", "words": "watches", "object": None, "contactness": 1, "dynamism": 1},
        ],
    }


def test_a_good_answer_becomes_tags_phrases_and_roles() -> None:
    content = read_triplets(f"```json\n{json.dumps(answer())}\n```", CAPTION)
    strong = [each for each in content["interactions"] if each["contactness"] > 2]
    made = written(content, strong, CAPTION)
    assert made["prompt"] == (
        "A <id1> man in a red coat picks the <id2> cup up and hands it to another <id3> man, "
        "while a <id4> dog watches the man."
    )
    roles = {each["name"]: each["role"] for each in made["instances"]}
    assert roles == {"man in a red coat": "subject", "cup": "object", "man": "instance", "dog": "instance"}
    specs = parse_phrases(made["phrases"])
    assert [(s.name, s.subject, s.object) for s in specs if s.role == "verb"] == [
        ("pick up", "man in a red coat", "cup")
    ]
    assert made["alike"] == []


def change(path: str, value: Any) -> str:
    content: Any = copy.deepcopy(answer())
    *way, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    place = content
    for part in way:
        place = place[part]
    place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("no json", "no JSON"),
        ("[]", "the answer is an object"),
        (change("instances.1.id", 3), "ids are 1 to 4"),
        (change("instances.0.class", "a man, tall"), "class is one noun"),
        (change("instances.0.words", "a woman"), "does not stand in the caption"),
        (change("instances.0.words", "man"), "stands 3 times in the caption: say occurrence"),
        (change("instances.2.words", "a man in a red coat"), "have the same words"),
        (change("instances.0.words", "man in a red coat picks"), "lie inside of those of an instance"),
        (change("instances.0.occurrence", 2), "there is no 2"),
        (change("interactions.0.object", 1), "does something to itself"),
        (change("interactions.0.object", 7), "one of the ids"),
        (change("interactions.0.words", "up ... picks"), "in this order"),
        (change("interactions.0.contactness", 6), "from 1 to 5"),
        (change("interactions.0.dynamism", "4"), "from 1 to 5"),
        (change("interactions.1", answer()["interactions"][0]), "twice"),
    ],
)
def test_answers_that_cannot_be_are_refused_with_what_is_wrong(raw: str, said: str) -> None:
    with pytest.raises(AnswerError, match=said):
        read_triplets(raw, CAPTION)


def test_of_more_than_five_instances_those_that_take_part_are_kept() -> None:
    caption = "one two three four five six seven"
    names = caption.split()
    content = {
        "instances": [
            {"id": n, "class": "thing", "words": w, "occurrence": None, "descriptor": w}
            for n, w in enumerate(names[:6], 1)
        ],
        "interactions": [
            {"subject": 6, "verb": "seven", "words": "seven", "object": 2, "contactness": 5, "dynamism": 5}
        ],
    }
    content = read_triplets(json.dumps(content), caption)
    made = written(content, content["interactions"], caption)
    assert [each["words"] for each in made["instances"]] == ["two", "six"]
    assert made["bystanders"] == ["one", "three", "four", "five"]
    assert made["prompt"] == "one <id1> two three four five <id2> six seven"
    assert (made["interactions"][0]["subject"], made["interactions"][0]["object"]) == (2, 1)


def test_one_thing_named_twice_and_two_that_look_alike() -> None:
    caption = "the dog bites the dog"
    content = {
        "instances": [
            {"id": n, "class": "dog", "words": "the dog", "occurrence": n, "descriptor": "the dog"} for n in (1, 2)
        ],
        "interactions": [
            {"subject": 1, "verb": "bite", "words": "bites", "object": 2, "contactness": 5, "dynamism": 4}
        ],
    }
    content = read_triplets(json.dumps(content), caption)
    made = written(content, content["interactions"], caption)
    assert made["prompt"] == "the <id1> dog bites the <id2> dog"
    assert made["alike"] == [[1, 2]]
    assert [each["name"] for each in made["instances"]] == ["dog", "dog 2"]


def test_a_choice_is_one_to_one() -> None:
    good = {"answers": [{"id": 1, "number": 2, "confidence": 0.9}, {"id": 2, "number": None, "confidence": 0.1}]}
    assert read_choice(json.dumps(good), (1, 2), 3) == {1: (2, 0.9), 2: (None, 0.1)}
    for broken, said in (
        ([(1, 2, 0.9), (2, 2, 0.9)], "two of them have one box"),
        ([(1, 2, 0.9)], "are not answered"),
        ([(1, 4, 0.9), (2, None, 0.9)], "from 1 to 3"),
        ([(1, 2, 1.9), (2, None, 0.9)], "from 0 to 1"),
        ([(1, 2, 0.9), (1, 3, 0.9)], "answered once"),
    ):
        rows = [dict(zip(("id", "number", "confidence"), each)) for each in broken]
        with pytest.raises(AnswerError, match=said):
            read_choice(json.dumps({"answers": rows}), (1, 2), 3)


def test_what_people_say_is_checked_and_counted() -> None:
    fix = {"verdict": "fix", "by": "ann", "fixes": {"1": {"frame": 2, "points": [[3, 4, 1]]}}}
    check_review(fix)
    assert fixes_of([fix]) == {"1": {"frame": 2, "points": [[3, 4, 1]]}}
    for wrong in (
        {"verdict": "yes"},
        {"verdict": "fix"},
        {**fix, "fixes": {"1": {"frame": 2}}},
        {**fix, "fixes": {"1": {"frame": 2, "box": [5, 5, 1, 1]}}},
    ):
        with pytest.raises(ValueError, match="verdict|fix"):
            check_review(wrong)
    assert decided([], [], "clean")["status"] == "kept"
    assert decided([], ["swap"], "clean")["status"] == "open"
    accept, drop = {"verdict": "accept", "by": "ann"}, {"verdict": "drop", "by": "bob"}
    assert decided([accept, drop], [], "all")["status"] == "open"
    assert decided([accept, fix], [], "none")["status"] == "open"
    assert decided([drop], [], "all")["status"] == "dropped"
    said = (
        [{"ann": "accept", "bob": "accept"}] * 3
        + [{"ann": "drop", "bob": "drop"}] * 3
        + [{"ann": "drop", "bob": "accept"}] * 2
    )
    kappa, clips = agreement(said) or (0.0, 0)
    assert clips == 8
    assert kappa == pytest.approx((0.75 - 30 / 64) / (1 - 30 / 64))
    assert agreement([{"ann": "accept"}]) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"answers": [{"id": 1, "same": true, "confidence": 0.9}]}', r"ids \[2\] are not answered"),
        ('{"answers": [{"id": 3, "same": true}]}', "answered once"),
        ('{"answers": [{"id": 1, "same": "yes"}]}', "true or false"),
        ('{"answers": [{"id": 1, "same": true, "confidence": 7}]}', "from 0 to 1"),
        ("[1]", "the answer is an object"),
    ],
)
def test_a_second_look_is_read_strictly(raw: str, said: str) -> None:
    with pytest.raises(AnswerError, match=said):
        read_same(raw, (1, 2))
