"""A log of inspect-ai, written from a judgement and read back by the package. Run as a program it needs a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support_judging import answers, write_clips, write_suite

from matrix_lib.evaluation.intergen.answers import read_verification
from matrix_lib.evaluation.intergen.inspect_log import write_inspect_log
from matrix_lib.evaluation.intergen.run import Options, find_videos, prepare, requests_of
from matrix_lib.evaluation.intergen.scores import Presence, score_video, summarise
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.evaluation.judges.judge import Reply
from matrix_lib.evaluation.judges.store import Answers

__all__ = ["check", "write"]

RAW = json.dumps(answers({4: False, 10: False}))


def write(folder: Path) -> Path:
    """One answer of three repeats, one failed call, the rest not asked yet. Raises ValueError where the package is
    absent."""
    suite = read_suite(write_suite(folder / "suite"))
    (one, _), _ = find_videos(suite, write_clips(folder / "model"))
    requests = requests_of(one, prepare(suite)["000"], suite, Options(repeats=3))
    store = Answers(folder / "answers.jsonl")
    store.add(requests[0], "judge", Reply(RAW, "v1"))
    store.fail(requests[1], "judge", "the service is down")
    read = read_verification(RAW, (0, 5, 10))
    run = summarise([score_video("000", "", [read], Presence(3, (), ()))])
    write_inspect_log(folder / "model.eval", requests, store, run, "model", suite.hash)
    return folder / "model.eval"


def check(path: Path) -> None:
    """The package reads what was asked, with the frames, what was said, and what is missing."""
    from inspect_ai.log import read_eval_log

    found = read_eval_log(str(path))
    assert found.eval.model == "judge: v1"
    assert len(found.samples or []) == 6
    samples: dict[Any, Any] = {(str(each.id), each.epoch): each for each in found.samples or []}
    first, second = samples["000 verify 1", 1], samples["000 verify 1", 2]
    assert (first.scores["kisa_raw"].value, first.scores["sgi_raw"].value) == (5 / 6, 3 / 4)
    assert "4 no" in str(first.scores["kisa_raw"].answer)
    assert first.output.completion == RAW
    assert [part.type for part in first.messages[1].content] == ["text", *["text", "image"] * 3]
    assert not second.scores
    assert second.error.message == "the service is down"
    assert found.results is not None
    values = {each.name: each.metrics["mean"].value for each in found.results.scores}
    assert abs(values["kisa_raw"] - 5 / 6) < 1e-6
    assert (found.results.total_samples, found.results.completed_samples) == (6, 1)


if __name__ == "__main__":
    check(write(Path(sys.argv[1])))
    print("read by inspect-ai")
