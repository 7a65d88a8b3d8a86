"""Suites and questions: read as meant or refused with the place."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count
from support_judging import SUITE, write_suite

from matrix_lib.evaluation.intergen.questions import KISA, SGI, check_texts, from_template, read_sheet, write_sheet
from matrix_lib.evaluation.intergen.suite import COLOURS, Instance, Interaction, Sample, read_suite


def test_a_suite_and_its_template_questions(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path))
    assert [sample.id for sample in suite.samples] == ["000", "001"]
    sheet = from_template(suite.sample("000"), suite.hash)
    told = sheet.asked[0].told(suite.sample("000"))
    assert len(told) == 10
    assert told[0] == (
        "At the start, has the man in a cap (red box) not yet begun to do 'opens the door of' with the white fridge "
        "(green box)?"
    )
    assert "fridge" not in told[6]
    assert "man" not in told[9].replace("whom", "")
    twins = from_template(suite.sample("001"), suite.hash).asked
    assert [each.interaction.subject for each in twins] == ["girl 1", "girl 2"]
    assert "(red box)" in twins[0].told(suite.sample("001"))[6], "the colour is the only key"
    assert "(green box)" in twins[1].told(suite.sample("001"))[6]
    path = tmp_path / "questions" / "000.json"
    write_sheet(sheet, path)
    assert read_sheet(path, suite.sample("000")) == sheet


def test_a_verb_without_an_object_asks_of_the_subject_alone(tmp_path: Path) -> None:
    sample = Sample("1", "a dog waves", (Instance("dog", "dog", ""),), (Interaction("waves", "dog"),))
    asked = from_template(sample, "h").asked[0]
    assert all("{dog}" in text for text in asked.texts)
    assert [*KISA, *SGI] == list(range(1, 11))


def test_the_hash_is_of_what_is_asked(tmp_path: Path) -> None:
    before = read_suite(write_suite(tmp_path / "a")).hash
    assert read_suite(write_suite(tmp_path / "b")).hash == before
    other = copy.deepcopy(SUITE)
    other["samples"][0]["instances"][0]["appearance"] = "the man with a hat"
    assert read_suite(write_suite(tmp_path / "c", other)).hash != before


def test_instances_have_as_many_colours_as_words_can_tell() -> None:
    instances = tuple(Instance(f"p{i}", "person", "") for i in range(9))
    assert Sample("1", "x", instances[:8]).colour("p7") == list(COLOURS)[7]  # defect 14: an IndexError beyond 6
    with pytest.raises(ValueError, match="9 instances, and boxes have 8 colours"):
        Sample("1", "x", instances)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format="other"), "not of the form"),
        (lambda s: s.update(version=2), "version 2"),
        (lambda s: s.update(stride=0), "stride is a whole number"),
        (lambda s: s.update(stride=True), "stride is a whole number"),
        (lambda s: s.update(samples=[]), "no samples"),
        (lambda s: s.update(samples={}), "no samples"),
        (lambda s: s["samples"].append(3), "sample 2 is no object"),
        (lambda s: s["samples"][1].update(id="000"), "'000' is there twice"),
        (lambda s: s["samples"][0].update(id="../x"), "do as a file name"),
        (lambda s: s["samples"][0].update(prompt=" "), "prompt is empty"),
        (lambda s: s["samples"][0].update(prompt=None), "prompt is missing"),
        (
            lambda s: s["samples"][0].update(direction="both"),
            "direction is unidirectional or bidirectional; got 'both'",
        ),
        (lambda s: s["samples"][0]["instances"][1].update(name="man"), "names of instances are different"),
        (lambda s: s["samples"][0]["instances"][1].update(name="{x}"), "without braces"),
        (
            lambda s: s["samples"][0]["interactions"][0].update(subject="dog"),
            "'dog' of 'opens' is none of its instances",
        ),
        (lambda s: s["samples"][0]["interactions"][0].update(object="man"), "to itself"),
        (lambda s: s["samples"][0]["instances"][0].update(role="hero"), "role of 'man'"),
        (lambda s: s["samples"][0].update(instances=[]), "no instances"),
        (lambda s: s["samples"][0].update(instances="man"), "instances is a list of objects"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, message: str) -> None:
    content = copy.deepcopy(SUITE)
    change(content)
    with pytest.raises(ValueError, match=message):
        read_suite(write_suite(tmp_path, content))


def test_the_example_of_the_documentation_is_one(tmp_path: Path) -> None:  # defect 17: the page named other folders
    text = (Path(__file__).parents[3] / "docs" / "judging.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    suite = read_suite(write_suite(tmp_path, json.loads(example)))
    assert [sample.id for sample in suite.samples] == ["000"]
    assert from_template(suite.samples[0], suite.hash).asked


def test_no_suite_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suite.json is missing"):
        read_suite(tmp_path)
    (tmp_path / "suite.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="cannot be read as a suite"):
        read_suite(tmp_path)
    (tmp_path / "suite.json").write_text("[" * 200000)
    with pytest.raises(ValueError, match="cannot be read as a suite"):
        read_suite(tmp_path)


def test_questions_are_checked(tmp_path: Path) -> None:  # defect 9: nobody checked them
    sample = read_suite(write_suite(tmp_path)).sample("000")
    interaction, texts = sample.interactions[0], list(from_template(sample, "h").asked[0].texts)
    for place, text, message in (
        (0, "Does {man} stand there?", r"question 1 names \{man\}, and should name \{fridge\} and \{man\}"),
        (6, "Does {man} touch {fridge}?", "question 7 names"),
        (9, "Is {man} it, really?", "question 10 names"),
        (1, "{man} {fridge}", "ends with"),
        (2, "Do {man} and {fridge} " + "x" * 200 + "?", "8 to 200 characters"),
    ):
        with pytest.raises(ValueError, match=message):
            check_texts(sample, interaction, [*texts[:place], text, *texts[place + 1 :]])
    with pytest.raises(ValueError, match="there are 9 questions, not 10"):
        check_texts(sample, interaction, texts[:9])


@pytest.mark.soak
@settings(max_examples=count(60, soak=1000), deadline=None)
@given(st.data())
def test_any_damage_to_a_suite_is_one_sentence(tmp_path_factory: Any, data: Any) -> None:
    content = copy.deepcopy(SUITE)
    where: Any = content
    for _ in range(data.draw(st.integers(1, 5))):
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(where[key], dict | list) or not where[key] or data.draw(st.booleans()):
            junk = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just([]), st.just({}), st.just([3]))
            where[key] = data.draw(junk)
            break
        where = where[key]
    folder = tmp_path_factory.mktemp("suite")
    said = ""
    try:
        assert read_suite(write_suite(folder, content)).samples
    except ValueError as error:
        said = str(error)
    assert not said or ("suite.json" in said and "\n" not in said)


def test_questions_of_another_sample_or_form_are_refused(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path))
    path = tmp_path / "q.json"
    write_sheet(from_template(suite.sample("000"), suite.hash), path)
    with pytest.raises(ValueError, match="of sample '000'"):
        read_sheet(path, suite.sample("001"))
    content = json.loads(path.read_text())
    content["interactions"][0]["questions"][0]["q"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="numbered 1 to 10"):
        read_sheet(path, suite.sample("000"))
    for text in ("{}", "[]", "3", "x", json.dumps({"id": "000", "interactions": []})):
        path.write_text(text)
        with pytest.raises(ValueError, match="cannot be read as questions"):
            read_sheet(path, suite.sample("000"))
