"""LoRA factors of a run: how they are scaled, dropped out, and what they start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.io.lora.read import load_lora

from ..run.exported import find_lora
from ..run.task_settings import AlignmentTask

__all__ = ["alpha_of", "drop_out", "load_start", "start_state"]


def alpha_of(task: AlignmentTask) -> float:
    """The alpha whose alpha / rank is the scale that is trained at: of rsLoRA alpha / sqrt(rank) (Kalajdzievski, 2023).
    Files hold this one, so every reader finds the right scale."""
    return task.alpha * task.rank**0.5 if task.rslora else task.alpha


def drop_out(transformer: nn.Module, modules: Sequence[str], share: float) -> None:
    """Lets this share of what goes into the factors of `modules` be zero while they train."""
    for name in modules:
        layer: Any = transformer.get_submodule(name)
        for adapter in layer.lora_A:
            layer.lora_dropout[adapter] = nn.Dropout(share) if share else nn.Identity()


def load_start(task: AlignmentTask, family: str, condition: str, modules: Sequence[str] | None = None) -> AlignmentLoRA:
    """The LoRA of `task.start`: a file of any format, a checkpoint, or a run.

    Args:
        condition: what the run's extra input channels take, "" for none.
        modules: that get factors in this run; None where that is not known yet.

    Raises ValueError for a LoRA of another family, rank, condition, or of other modules.
    """
    where = f"task.start={task.start}"
    try:
        lora = load_lora(find_lora(Path(task.start)), family)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from error
    ranks = sorted({one.rank for one in lora.factors.values()})
    if ranks != [task.rank]:
        raise ValueError(f"{where} is of rank {', '.join(map(str, ranks))}: set task.rank to it; got {task.rank}")
    if len(lora.dora) != (len(lora.factors) if task.dora else 0):
        what = "a DoRA" if lora.dora else "no DoRA"
        raise ValueError(f"{where} is {what}: set task.dora={str(bool(lora.dora)).lower()}")
    if bool(lora.projection) != bool(condition) or (lora.info.condition not in ("", condition) and condition):
        there = lora.info.condition or ("an unknown condition" if lora.projection else "none")
        raise ValueError(f"{where} was trained with the condition {there}, and this run has {condition or 'none'}")
    if modules is not None and (odd := sorted(set(modules) ^ set(lora.factors))):
        what = "has no factors of" if odd[0] in modules else "has factors of"
        raise ValueError(
            f"{where} {what} {odd[0]} ({len(odd)} modules differ): set task.lora_v2t, task.lora_v2v to its"
        )
    return lora


def start_state(lora: AlignmentLoRA, task: AlignmentTask, place: str) -> dict[str, Tensor]:
    """What goes into the state of a transformer that has factors; `place` is its input projection. A LoRA of another
    scale is the same change of the model here: its ups are scaled."""
    scale, state = alpha_of(task) / task.rank, {}
    for name, one in lora.factors.items():
        state[f"{name}.lora_A.default.weight"] = one.down.float()
        state[f"{name}.lora_B.default.weight"] = one.up.float() * (one.scale() / scale)
        if one.magnitude is not None:
            state[f"{name}.lora_magnitude_vector.default.weight"] = one.magnitude.float()
    return state | {f"{place}.{part}": value.to(torch.float32) for part, value in lora.projection.items()}
