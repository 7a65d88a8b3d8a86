"""The parts of the two-GPU benchmark on a CPU: its inputs and its watch with the real trainer, and how runs end."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import two_gpus
from training.clips.cache import Cache


def launcher(folder, seconds=60.0):
    return two_gpus.Launcher(folder, [], replace(two_gpus.SMALL, limit=seconds))


@pytest.mark.usefixtures("one_thread")
def test_the_trainer_reads_the_clips_where_nothing_can_read_video(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    found = {}
    settings = two_gpus.make_inputs(tmp_path, two_gpus.SMALL, [], found)
    assert found["tokens"] == 274
    monkeypatch.setattr(Cache, "_made", lambda *_: pytest.fail("something was encoded while the watch ran"))
    out = tmp_path / "one"
    two_gpus.main([str(tmp_path / "report"), *settings, "run.steps=2", f"run.out={out}"])
    report = json.loads((tmp_path / "report-0.json").read_text())
    assert len(report["ms"]) == 2
    assert report["split"] == 0
    curves = two_gpus.curves(out / "metrics.csv")
    assert [len(curves[name]) for name in two_gpus.CURVES] == [2] * 4
    assert min(curves["sga"]) > 0
    assert two_gpus.figures([report, report], 1)["step_ms"] == pytest.approx(report["ms"][1], abs=0.01)


def test_runs_that_fail_or_hang_are_told(tmp_path):
    start = launcher(tmp_path)
    failed = start._follow("one", [sys.executable, "-c", "raise SystemExit('no such clip')"], "")
    assert failed == "it ended with 1:\nno such clip\n"
    assert start._follow("one", [sys.executable, "-c", "print('step 1/1')"], "") == ""
    # a run is ended with the processes that it started
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert "no run may take more than 2 s" in launcher(tmp_path, 2.0)._follow("one", [sys.executable, "-c", child], "")


def test_a_comparison_is_of_the_largest_difference_of_a_step():
    whole = {"loss": [1.0, 0.5], "sga": [0.0, 0.1], "spa": [0.1, 0.1], "norm": [1.0, 2.0], "step_ms": 200.0}
    made = {**whole, "loss": [1.0, 0.505], "step_ms": 110.0, "peak_gb": [1.0, 1.0]}
    assert two_gpus.difference(made, whole) == {"loss": 0.0099, "sga": 0.0, "spa": 0.0, "norm": 0.0}
    with pytest.raises(ValueError, match="longer"):
        two_gpus.difference({**made, "loss": [1.0]}, whole)


def test_the_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1,2")
    assert two_gpus.visible_gpus() == ["3", "1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert two_gpus.visible_gpus() == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert two_gpus.visible_gpus() == []
