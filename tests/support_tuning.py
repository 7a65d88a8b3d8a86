"""A tiny model, a few clips, and the command that trains the one on the others."""

from __future__ import annotations

from pathlib import Path

from support_models import make_cogvideox

from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips

__all__ = ["make_home", "tune"]


def make_home(folder: Path) -> Path:
    """A CogVideoX of two layers, and six clips of 9 frames of 64x64, of which mini_00001 to mini_00004 are good."""
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=64)
    export_clips(make_clips(5, 6, world), folder / "clips")
    make_cogvideox(folder / "model", sample=(9, 8, 8))
    return folder


def tune(home: Path, out: Path | str, *more: str) -> list[str]:
    """Arguments of `training.fit`: two steps, every one of them logged; scale 32."""
    return [
        "matrix_cogvideox_5b_i2v", f"task.model={home / 'model'}", f"data.folder={home / 'clips'}",
        f"data.cache={home / 'cache'}", "data.frames=9", "data.height=64", "data.width=64", "data.bystanders=true",
        "data.skip_bad=true", "data.workers=1", "task.v2t=0", "task.v2v=0", "task.rank=2", "task.alpha=64",
        "task.weights=fp32", "task.decoder=8", "optim.warmup=1", "run.steps=2", "run.preview_every=0",
        "run.log_every=1", "run.tensorboard=false", f"run.out={out}", *more,
    ]  # fmt: skip
