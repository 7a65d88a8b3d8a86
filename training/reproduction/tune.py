"""One arm: a base is fine-tuned, judged at checkpoints, and its attention measured at the end."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..fit import Trainer
from ..run import checkpoint
from ..run.config import FitConfig
from ..run.record import LORA, FinishedRunError
from .arms import Arm, arm_config
from .bench import Bench
from .plan import Group

__all__ = ["run_arm"]


def run_arm(arm: Arm, seed: int, bench: Bench, analysis: Mapping[str, Any], group: Group, out: Path) -> dict[str, Any]:
    """Trains, or goes on with what was cut short, and judges. What training wrote is removed at the end.

    Raises KeyboardInterrupt where it was told to stop."""
    scale = bench.scale
    config = arm_config(arm, seed, bench.folder, analysis, scale, out, group.world)
    began = time.monotonic()
    _train(config)
    trained = time.monotonic()
    task, trigger = config.task, config.task.trigger
    curve = []
    for step in scale.checkpoints:
        names = group.sets if step == scale.steps else group.early
        with bench.tuned(_lora(out, step, scale.steps)):
            curve.append({"step": step, "sets": bench.scores(names, task.condition, trigger)})
    with bench.tuned(out / LORA):
        seen = bench.clips(group.sets[0], scale.true, trigger, source=task.condition == "source_target")
        found = bench.attention(seen, task.condition)
    result = {
        "arm": arm.name,
        "seed": seed,
        "settings": {
            "clips": config.data.chunk,
            "batch": config.data.batch,
            "steps": scale.steps,
            "v2t": list(task.v2t),
            "v2v": list(task.v2v),
            **{k: v for k, v in asdict(arm).items() if k in ("factor", "layers", "settings")},
        },
        "seconds": {"training": round(trained - began, 1), "all": round(time.monotonic() - began, 1)},
        "losses": _losses(out / "metrics.csv"),
        "curve": curve,
        "attention": {name: values.mean(0).round(4).tolist() for name, values in found.items()},
    }
    shutil.rmtree(out, ignore_errors=True)
    return result


def _train(config: FitConfig) -> None:
    try:
        trainer = Trainer(config)
    except FinishedRunError:
        return
    trainer.run()
    if trainer.stopping:
        raise KeyboardInterrupt
    if torch.cuda.is_available():
        del trainer
        torch.cuda.empty_cache()


def _lora(out: Path, step: int, last: int) -> Path:
    return out / LORA if step == last else out / f"{checkpoint.PREFIX}{step:07d}" / LORA


def _losses(path: Path) -> dict[str, list[float]]:
    """First and last logged value of each loss."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name in ("diffusion", "sga", "spa", "target")] if rows else []
    return {name: [round(float(rows[place][name]), 6) for place in (0, -1)] for name in names}
