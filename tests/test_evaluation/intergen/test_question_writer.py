"""Questions from a model are held to the rules of questions by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support_judging import SUITE, write_suite

from matrix_lib.evaluation.intergen.answers import AnswerError
from matrix_lib.evaluation.intergen.question_writer import question_request, read_questions
from matrix_lib.evaluation.intergen.questions import from_template, read_sheet, write_sheet
from matrix_lib.evaluation.intergen.suite import Sample, read_suite


def sample_of(folder: Path, interactions: bool = True) -> Sample:
    content = json.loads(json.dumps(SUITE))
    if not interactions:
        content["samples"][0]["interactions"] = []
    return read_suite(write_suite(folder, content)).samples[0]


def written(sample: Sample) -> dict[str, Any]:
    """As a good model answers."""
    texts = list(from_template(sample, "").asked[0].texts)
    return {"interactions": [{"name": "opens", "subject": "man", "object": "fridge", "questions": texts}]}


def test_a_good_answer_is_a_sheet(tmp_path: Path) -> None:
    known, open_ = sample_of(tmp_path / "known"), sample_of(tmp_path / "open", interactions=False)
    answer = written(known)
    sheet = read_questions(f"```json\n{json.dumps(answer)}\n```", known, "hash", "writer-1")
    assert sheet.asked[0].interaction == known.interactions[0], "the phrase of the suite stays"
    write_sheet(sheet, tmp_path / "000.json")
    assert read_sheet(tmp_path / "000.json", known) == sheet
    answer["interactions"][0] |= {"subject": "{man}", "questions": [f" {text} " for text in sheet.asked[0].texts]}
    assert read_questions(json.dumps(answer), open_, "hash", "writer-1").asked[0].texts == sheet.asked[0].texts
    text = question_request(open_).text
    assert "find them in the prompt (unidirectional)" in text
    assert "a man opens a fridge" in text
    assert '"name": "opens", "subject": "man"' in question_request(known).text
    assert question_request(known).key != question_request(open_).key
    assert "questions 2 to 5: it begins" in question_request(known).system
    assert "{man}" in question_request(known).system


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: [one["questions"]], "the answer is an object"),  # defect 9: an array was refused and nobody told
        (lambda one: {"interactions": []}, "the answer is an object"),
        (lambda one: {"interactions": [one | {"questions": one["questions"][:9]}]}, "1: .*there are 9 questions"),
        (lambda one: {"interactions": [one | {"questions": ["?"] * 10}]}, "question 1 names nobody, and should"),
        (lambda one: {"interactions": [one | {"questions": 3}]}, "interaction 1: questions is a list of ten texts"),
        (lambda one: {"interactions": [one | {"subject": "dog"}]}, "interaction 1: .*'dog' of 'opens' is none of its"),
        (lambda one: {"interactions": [one | {"object": None}]}, "name, subject and object are texts"),
        (lambda one: {"interactions": [one, one]}, "an interaction is there twice"),
        (lambda one: {"interactions": [one | {"name": "closes"}]}, "the interactions are .*and no others"),
        (
            lambda one: {"interactions": [one | {"questions": [q.replace("{man}", "the man (red box)") for q in
                                                               one["questions"]]}]},
            "question 1 names {fridge}, and should name {fridge} and {man}",
        ),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_with_its_place(tmp_path: Path, change: Any, message: str) -> None:
    sample = sample_of(tmp_path)
    with pytest.raises(AnswerError, match=message):
        read_questions(json.dumps(change(written(sample)["interactions"][0])), sample, "hash", "writer-1")
