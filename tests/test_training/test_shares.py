"""Several processes share the scoring of a folder; memory does not grow with the number of clips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support_commands import Commands
from support_counts import SOAK, count

from scripts.judge_load import load, write_clips
from training.score_tracks import main

ROOT = Path(__file__).resolve().parents[2]


def forks(commands: Commands, given: Path, made: Path) -> str:
    return commands.ranks(2, "training.score_tracks", given, made, codes=(2, 0))


def torchrun(commands: Commands, given: Path, made: Path) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "training.score_tracks", str(given), str(made)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("launched", [False, *([True] if SOAK else [])])
def test_two_processes_give_the_report_of_one(launched: bool, commands: Commands, tmp_path: Path) -> None:
    given, made = write_clips(tmp_path, 7, 5, 48, 64)
    (made / "00005.mp4").unlink()
    (made / "00005.mp4").write_bytes(b"no video")
    (made / "00006.tracks.safetensors").unlink()
    alone = tmp_path / "alone" / "made"
    shutil.copytree(made, alone)
    assert main([str(given), str(alone)]) == 2
    # A part that an earlier run of three processes left behind is taken, and goes.
    lines = (alone / "track_scores.jsonl").read_text().splitlines(keepends=True)
    (made / "track_scores.part-2.jsonl").write_text(lines[0] + "half a li")
    said = (torchrun if launched else forks)(commands, given, made)
    assert "00005 has no scores: '00005.mp4' cannot be read as a video" in said
    assert "there is no 00006.tracks.safetensors" in said
    assert re.findall(r"made: 1 of (\d)", said) == ["3"], "one of two processes had three of what was left"
    for name in ("track_scores.jsonl", "track_summary.json"):
        ours = (made / name).read_text().replace(str(made), str(alone))
        assert ours == (alone / name).read_text(), said[-2000:]
    assert not list(made.glob("*part*"))
    assert said.count("| made |") <= 1


if SOAK:  # a run of minutes: the memory of a short one is that of its imports

    @pytest.mark.soak
    @pytest.mark.timeout(0)
    def test_memory_does_not_grow_with_the_clips(tmp_path: Path) -> None:
        found = load(tmp_path / "clips", count(6, 500), 1, 49, 480, 720)
        print(found)
        assert found["late_mib"] <= found["early_mib"] + 32
