"""Answers are read strictly: what cannot be read is an error that says what was asked for, never a score."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count
from support_judging import answers

from matrix_lib.evaluation.intergen.answers import AnswerError, read_emergence, read_verification

SHOWN = (0, 5, 10)


def test_answers_in_every_form_that_judges_use() -> None:
    plain = json.dumps(answers({3: False}))
    for raw in (
        plain,
        f"```json\n{plain}\n```",
        json.dumps({"results": answers({3: False})}),
        f"Here:\n```\n{plain}```\n",
    ):
        found = read_verification(raw, SHOWN)
        assert [q for q, answer in found.items() if not answer.yes] == [3]
    said = answers()
    for place, word in enumerate(("YES", "Yes.", " yes ", "'yes'", '"Yes"', "no", "No.", "NO (visually implausible)")):
        said[place]["answer"] = word
    said[8] |= {"answer": "implausible", "question_id": "9"}  # defect 5: capitals, dots and texts were "no" or moved
    found = read_verification(json.dumps(said), SHOWN)
    assert [found[q].yes for q in range(1, 11)] == [True] * 5 + [False] * 4 + [True]
    assert [q for q in found if found[q].implausible] == [8, 9]  # defect 4: these dropped out of both sums


def broken(change: Any) -> str:
    said = answers()
    made = change(said)
    return json.dumps(said if made is None else made)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "no JSON"),
        ("I cannot help with that.", "no JSON: 'I cannot help"),
        (json.dumps(answers())[:-40], "no JSON"),
        ("```json\n[]\n```\n```json\n[]\n```", "2 fenced parts"),
        ("{}", "an array of objects"),
        ("[" * 100000, "no JSON"),
        (broken(lambda said: said.__delitem__(9)), r"questions \[10\] are not answered"),
        (broken(lambda said: said.append(said[0])), "question 1 is answered twice"),
        (broken(lambda said: said[0].update(question_id=0)), r"one of \[1, 2, .*; got 0"),
        (broken(lambda said: said[0].update(question_id=True)), "a whole number; got 'True'"),
        (broken(lambda said: said[0].update(answer="maybe")), "question 1 is .*got 'maybe'"),
        (broken(lambda said: said[0].update(answer=1)), "got '1'"),
        (broken(lambda said: said[0].update(frame_index=7)), r"null or one of \[0, 5, 10\]; got 7"),
        (broken(lambda said: said[0].update(frame_index=None)), "yes, but on no frame"),
        (broken(lambda said: said.__setitem__(0, 3)), "each answer is an object; got 3"),
        (broken(lambda said: {"a": said, "b": said}), "one such array"),
        ("x" * (2 << 20), "a million characters"),
    ],
)
def test_what_cannot_be_read(raw: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        read_verification(raw, SHOWN)


@pytest.mark.soak
@settings(max_examples=count(60, soak=1000), deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000))
def test_damaged_answers_are_whole_or_refused(noise: bytes, place: int) -> None:
    """Bytes anywhere in an answer: what is read is one of the ten answers that were given, or it is refused."""
    raw = json.dumps(answers({2: False})).encode()
    cut = raw[: place % len(raw)] + noise + raw[place % len(raw) :]
    try:
        found = read_verification(cut.decode("utf-8", "replace"), SHOWN)
    except AnswerError:
        return
    assert sorted(found) == list(range(1, 11))
    assert all(
        answer.frame in (*SHOWN, None) and (answer.frame is not None or not answer.yes) for answer in found.values()
    )


def test_emergence() -> None:
    assert read_emergence('{"emergence": "No", "emergence_frames": []}', SHOWN).frames == ()
    found = read_emergence('{"emergence": "yes", "emergence_frames": [10, 5, 5], "emergence_reason": "a dog"}', SHOWN)
    assert (found.frames, found.reason) == ((5, 10), "a dog")
    for raw, message in (
        ('{"emergence": "yes", "emergence_frames": []}', "'yes', but emergence_frames has 0"),
        ('{"emergence": "no", "emergence_frames": [5]}', "'no', but"),
        ('{"emergence": "yes", "emergence_frames": [7]}', r"frames \[7\] were not shown"),  # defect 10: were ignored
        ('{"emergence": "yes", "emergence_frames": [0, 5]}', "frame 0 is the first"),
        ('{"emergence": "no", "emergence": "yes", "emergence_frames": [5]}', "one key twice"),
        ('{"emergence": "error"}', "got 'error'"),
        ('{"raw_response": "..."}', "the answer is an object"),  # defect 2: counted as nothing emerged
        ('{"emergence": "yes", "emergence_frames": ["5"]}', "list of frame numbers"),
    ):
        with pytest.raises(AnswerError, match=message):
            read_emergence(raw, SHOWN)
