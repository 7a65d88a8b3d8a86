"""Malformed inputs of judging, and a clear message for each: suites, questions, videos, masks, answers, tracks."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from support_counts import seeds
from support_judging_faults import FAULTS, Case, break_it, whole

from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.evaluation.intergen.tracking import first_masks
from training.judge import main

_INSIDE = re.compile(
    r"Traceback|NoneType|object has no attribute|is not subscriptable|object is not|not iterable|<class |KeyError|"
    r"unhashable|unsupported operand|expected str|list indices|unexpected keyword|positional argument|AssertionError"
)
"""What a Python error says to those who wrote the program, and to nobody else."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    whole(folder)
    return folder


def run(case: Case, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(how it ended, all that was said)."""
    capsys.readouterr()
    if case.command == ("masks",):
        try:
            suite = read_suite(Path("suite"))
            first_masks(suite, suite.samples[0])
        except ValueError as error:
            return 1, str(error)
        return 0, ""
    if case.command == ("answered",):
        main(["ask", "suite", "model", "--answers", "said.jsonl"])
        code = main(["score", "suite", "model"])
    elif case.command == ("detected",):
        main(["ask", "suite", "model", "--answers", "said.jsonl", "--emergence", "detector"])
        code = main(["score", "suite", "model", "--emergence", "detector"])
    else:
        code = main(list(case.command))
    said = capsys.readouterr()
    return code, f"{said.out}\n{said.err}"


def test_answers_that_are_not_there_are_no_silent_nothing(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(good, tmp_path / "it"))
    assert main(["ask", "suite", "model", "--answers", "sayd.jsonl"]) == 2
    assert "there is no file 'sayd.jsonl' with answers yet" in capsys.readouterr().err
    Path("said.jsonl").write_text(Path("said.jsonl").read_text(), encoding="utf-16")
    assert main(["ask", "suite", "model", "--answers", "said.jsonl"]) == 2
    assert re.search(r"said.jsonl: \d+ lines are no answers, and do not count", capsys.readouterr().err)


def test_nothing_is_wrong_with_what_is_broken_here(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(good, tmp_path / "it"))
    for case in (
        Case(("answered",), ()),
        Case(("detected",), ()),
        Case(("prepare", "taken", "--authors", "released"), ()),
    ):
        code, said = run(case, capsys)
        assert code == 0, said
    assert main(["score", "suite", "model", "--hand-labels", "hand.csv"]) == 0
    suite = read_suite(Path("suite"))
    assert set(first_masks(suite, suite.samples[0])) == {"man", "fridge"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_each_malformed_input_has_a_clear_message(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # So that the folder is put back when the test ends.
    kinds, counted, wrong = list(FAULTS), 0, []
    for seed in seeds(45, 1000):
        kind = kinds[seed % len(kinds)]
        folder = tmp_path / "case"
        shutil.copytree(good, folder)
        os.chdir(folder)
        try:
            case = break_it(kind, folder, random.Random(seed))
            code, said = run(case, capsys)
        except Exception as error:
            code, said, case = -1, f"{type(error).__name__}: {error}", Case((), ())
        finally:
            os.chdir(tmp_path)
            shutil.rmtree(folder)
        lines = [line for line in said.splitlines() if any(word in line for word in case.words)]
        clear = code in case.codes and lines and not _INSIDE.search(said) and max(map(len, lines)) < 3000
        counted += bool(clear)
        if not clear:
            wrong.append(f"seed {seed}, {kind}: ended with {code}: {said[-600:]}")
    print(f"{counted} of {counted + len(wrong)} malformed inputs had a clear message")
    assert not wrong, f"{len(wrong)} without a clear message:\n" + "\n\n".join(wrong[:12])
