"""One arm: a base is fine-tuned, judged at checkpoints, and its attention measured at the end."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..fit import Trainer
from ..run import checkpoint
from ..run.config import FitConfig
from ..run.record import LORA, FinishedRunError
from .arms import Arm, arm_config
from .bench import Bench
from .pictures import strip
from .plan import Group

__all__ = ["gradient_share", "run_arm"]

_LOUD = 100.0


def run_arm(
    arm: Arm, seed: int, bench: Bench, analysis: Mapping[str, Any], group: Group, out: Path, home: int = 0
) -> dict[str, Any]:
    """Trains, or goes on with what was cut short, and judges. What training wrote is removed at the end. home: seed of
    the base.

    Raises KeyboardInterrupt where it was told to stop."""
    scale = bench.scale
    config = arm_config(arm, seed, bench.folder, analysis, scale, out, group.world, home)
    began = time.monotonic()
    share = _train(config)
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
        **({} if share is None else {"gradient": share}),
        "curve": curve,
        "attention": {name: values.mean(0).round(4).tolist() for name, values in found.items()},
        "picture": strip(bench.shown[group.sets[0]]),
    }
    shutil.rmtree(out, ignore_errors=True)
    return result


def _train(config: FitConfig) -> float | None:
    """Returns `gradient_share`; None where nothing was left to train, or no loss reads attention."""
    try:
        trainer = Trainer(config)
    except FinishedRunError:
        return None
    share = gradient_share(trainer)
    trainer.run()
    if trainer.stopping:
        raise KeyboardInterrupt
    if torch.cuda.is_available():
        del trainer
        torch.cuda.empty_cache()
    return share


def gradient_share(trainer: Trainer) -> float | None:
    """How much of the gradient at the factors comes from the losses of attention, |a| / (|a| + |d|) with the diffusion
    loss's d, at the first batch and before any step; None without such losses. The run is not changed by it.

    The losses are weighed higher meanwhile, so that rounding of the sum, of which d is most, does not hide them.
    """
    step: Any = trainer.task
    task = step.task
    if not task.losses:
        return None
    loud = {name: _LOUD * getattr(task, name) for name in ("sga", "spa", "tavid", "flow")}
    found = []
    plainly = replace(task, method="off", teacher="masks", flow_of="attention")  # both are refused without the flow
    for each in (replace(task, **loud), plainly):
        step.task = each
        trainer.backward(0)
        grads = [p.grad for name, p in trainer.plain.named_parameters() if p.grad is not None and ".lora_" in name]
        found.append(torch.cat([grad.detach().double().flatten() for grad in grads]))
        for p in trainer.params:
            p.grad = None
    step.task = task
    aligned, plain = float((found[0] - found[1]).norm()) / _LOUD, float(found[1].norm())
    return round(aligned / max(aligned + plain, 1e-20), 5)


def _lora(out: Path, step: int, last: int) -> Path:
    return out / LORA if step == last else out / f"{checkpoint.PREFIX}{step:07d}" / LORA


def _losses(path: Path) -> dict[str, list[float]]:
    """First and last logged value of each loss."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name in ("diffusion", "sga", "spa", "target", "flow")] if rows else []
    return {name: [round(float(rows[place][name]), 6) for place in (0, -1)] for name in names}
