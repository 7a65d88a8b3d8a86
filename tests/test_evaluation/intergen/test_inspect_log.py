"""A log for the viewer of inspect-ai: read by itself where it is installed, else one line says what is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from support_judging import answers, write_clips, write_suite

from matrix_lib.evaluation.intergen.answers import read_verification
from matrix_lib.evaluation.intergen.inspect_log import write_inspect_log
from matrix_lib.evaluation.intergen.run import Options, find_videos, prepare, requests_of
from matrix_lib.evaluation.intergen.scores import Presence, score_video, summarise
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.evaluation.judges.judge import Reply
from matrix_lib.evaluation.judges.store import Answers


def test_the_log_holds_questions_frames_answers_and_what_is_missing(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path / "suite"))
    (one, _), _ = find_videos(suite, write_clips(tmp_path / "model"))
    requests = requests_of(one, prepare(suite)["000"], suite, Options(repeats=3))
    store = Answers(tmp_path / "answers.jsonl")
    raw = json.dumps(answers({4: False, 10: False}))
    store.add(requests[0], "judge", Reply(raw, "v1"))
    store.fail(requests[1], "judge", "the service is down")
    read = read_verification(raw, (0, 5, 10))
    run = summarise([score_video("000", "", [read], Presence(3, (), ()))])
    arguments = (tmp_path / "model.eval", requests, store, run, "model", suite.hash)
    if importlib.util.find_spec("inspect_ai") is None:
        with pytest.raises(ValueError, match="pip install inspect-ai"):
            write_inspect_log(*arguments)
        return
    from inspect_ai.log import read_eval_log

    write_inspect_log(*arguments)
    found = read_eval_log(str(tmp_path / "model.eval"))
    assert found.eval.model == "judge: v1"
    assert len(found.samples or []) == 6
    samples = {(str(each.id), each.epoch): each for each in found.samples or []}
    first, second = samples["000 verify 1", 1], samples["000 verify 1", 2]
    assert first.scores is not None
    assert (first.scores["kisa_raw"].value, first.scores["sgi_raw"].value) == (5 / 6, 3 / 4)
    assert "4 no" in str(first.scores["kisa_raw"].answer)
    assert first.output.completion == raw
    kinds = [part.type for part in first.messages[1].content]
    assert kinds == ["text", *["text", "image"] * 3]
    assert not second.scores
    assert second.error is not None
    assert second.error.message == "the service is down"
    assert found.results is not None
    values = {each.name: each.metrics["mean"].value for each in found.results.scores}
    assert values["kisa_raw"] == pytest.approx(5 / 6)
    assert (found.results.total_samples, found.results.completed_samples) == (6, 1)
