"""`python -m scripts.kill_training --kills 20`: kills a training run at random moments, and sees that nothing is lost.

A run is started, killed with SIGKILL at a random moment (also in the middle of writing a checkpoint), and started
again, so many times; then it is let to its end. Each time there has to be a whole checkpoint that is no older than the
one before, and the end has to be that of a run which nobody disturbed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training.run import checkpoint

ROOT = Path(__file__).resolve().parents[1]


def fresh(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`python -m MODULE ARGUMENTS`."""
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)


def hammer(start: Callable[[], Any], folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Starts a run of `training.fit` in `folder` as often as it takes to kill it so many times, and lets it end. Raises
    AssertionError where a checkpoint is lost. `start` gives what `Popen` gives."""
    draw = random.Random(seed)
    done, at, steps, torn = 0, 0, [], 0
    while done < kills:
        process = start()
        writing = at > 0 and draw.random() < 0.5  # every other time while a checkpoint is being written
        _wait_for_work(process, folder, at, writing)
        if process.poll() is None:
            time.sleep(draw.random() * (0.005 if writing else 0.2))
        process.kill()
        done += process.wait() == -9
        torn += any(folder.glob(".step-*"))
        found = checkpoint.latest(folder, lambda text: None)
        assert found is not None, "no checkpoint is left"
        step = int(checkpoint.load(found)[1]["step"])
        assert step >= at, f"the newest checkpoint is of step {step}, and there was one of step {at}"
        at = step
        steps.append(at)
        if process.returncode == 0:
            break
    code = start().wait()
    assert code == 0, f"the run that was left alone ended with {code}"
    last = checkpoint.latest(folder)
    assert last is not None
    finished = bool(checkpoint.load(last)[1]["finished"])
    return {"kills": done, "steps": steps, "while_writing": torn, "finished": finished}


def _wait_for_work(process: Any, folder: Path, at: int, writing: bool) -> None:
    """Until the run has got further than the last time, or writes what would be further, or is over."""
    old = {path.name for path in folder.glob(".step-*")}
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        further = any(int(path.name[5:]) > at for path in folder.glob("step-*"))
        if further if not writing else any(path.name not in old for path in folder.glob(".step-*")):
            return
        time.sleep(0.0005 if writing else 0.005)


def kill_and_compare(
    home: Path, kills: int, steps: int, seed: int, start: Callable[..., Any] = fresh
) -> dict[str, Any]:
    """A run that nobody disturbs in `home/whole`, and one that is killed in `home/killed`; what became of it. `start`
    takes a module and its arguments."""
    settings = [
        "codec_cpu", f"run.steps={steps}", "run.save_every=1", "data.workers=1", "run.tensorboard=false",
        "run.log_every=1",
    ]  # fmt: skip
    whole, killed = home / "whole", home / "killed"
    assert start("training.fit", *settings, f"run.out={whole}").wait() == 0
    report = hammer(lambda: start("training.fit", *settings, f"run.out={killed}"), killed, kills, seed)
    ends = []
    for folder in (whole, killed):
        found = checkpoint.latest(folder)
        assert found is not None
        ends.append(checkpoint.load(found)[0])
    same = all(torch.equal(v, ends[1][g][n]) for g, group in ends[0].items() for n, v in group.items())
    return {**report, "same_end_bit_for_bit": same}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.kill_training", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        report = kill_and_compare(Path(home), chosen.kills, chosen.steps, chosen.seed)
    print(json.dumps(report))
    return 0 if report["same_end_bit_for_bit"] and report["finished"] and report["kills"] == chosen.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
