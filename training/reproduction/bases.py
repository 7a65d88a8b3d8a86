"""Bases with room: small models that were not told something, trained from nothing in minutes."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matrix_lib.hosts import bundle

from ..fit import Trainer
from ..models.mini_unet import publish_unet
from ..publish import publish
from ..run.config import FitConfig, override
from ..run.presets import PRESETS
from ..run.task_settings import UNetTask
from .scale import Scale

__all__ = ["Base", "base_config", "identity_of", "train_base"]


@dataclass(frozen=True)
class Base:
    """A base by what makes it: a preset of `training.fit` and a seed."""

    preset: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.preset}-{self.seed}"


def base_config(base: Base, scale: Scale, out: Path) -> FitConfig:
    """The whole configuration of a base's run."""
    preset = PRESETS[base.preset]()
    config: FitConfig = override(preset, scale.unet if isinstance(preset.task, UNetTask) else scale.base)
    run = replace(config.run, seed=base.seed, out=str(out), tensorboard=False, bar=False, log_every=50, keep=1)
    return replace(config, run=run)


def train_base(base: Base, scale: Scale, folder: Path) -> dict[str, Any]:
    """Trains a base, or goes on where that was cut short, and leaves its bundle in ``folder``. Returns its identity."""
    if not (folder / bundle.MANIFEST).is_file():
        began, run = time.monotonic(), folder.with_name(f"{folder.name}.run")
        spent = folder.with_name(f"{folder.name}.seconds.json")  # of all legs, where training was cut short
        before = float(json.loads(spent.read_text())) if spent.is_file() else 0.0
        trainer = Trainer(base_config(base, scale, run))
        try:
            trainer.run()
        finally:
            spent.write_text(json.dumps(round(before + time.monotonic() - began, 1)))
        if trainer.stopping:
            raise KeyboardInterrupt
        draft = folder.with_name(f"{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        (publish_unet if isinstance(trainer.config.task, UNetTask) else publish)(run, draft)
        (draft / "seconds.json").write_text(json.dumps(round(before + time.monotonic() - began, 1)))
        draft.replace(folder)
        spent.unlink()
        shutil.rmtree(run, ignore_errors=True)
    return identity_of(base, folder)


def identity_of(base: Base, folder: Path) -> dict[str, Any]:
    """Preset, seed, steps, seconds, and the hash of the transformer's first shard: bases of equal preset and seed that
    were trained apart differ in it, and their rows are never paired."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    first = manifest["files"]["transformer"][0]
    return {
        "preset": base.preset,
        "seed": base.seed,
        "hash": manifest["checksums"][first][:12],
        "steps": manifest["training"]["steps"],
        "seconds": json.loads((folder / "seconds.json").read_text()),
    }
