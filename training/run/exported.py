"""The LoRA that a run's folder or a checkpoint means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones.lora import AlignmentLoRA, Factors, Info, find_style
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.io.lora.read import load_lora

from . import checkpoint
from .record import LORA, newest_run
from .task_settings import expert_note

__all__ = ["find_lora", "lora_of_weights", "read_lora"]

_PREFIX, _DOWN, _UP = "transformer.", ".lora_A.default.weight", ".lora_B.default.weight"


def find_lora(source: Path) -> Path:
    """The LoRA file that a path means: of a checkpoint its own, of a run's folder the finished one, else that of its
    newest checkpoint; a checkpoint of an older version, which has none, is given back as it is. Any other path, too.

    Raises ValueError for a file that is another part of a checkpoint: its names mean nothing without the settings.
    """
    if source.is_file() and source.name != LORA and source.name in _meta(source.parent).get("files", ()):
        raise ValueError(
            f"{source} is a part of a checkpoint, without its alpha and its condition: give the folder {source.parent}"
        )
    if not source.is_dir():
        return source
    if _meta(source):
        return source / LORA if (source / LORA).is_file() else source
    run = newest_run(source)
    if (run / LORA).is_file():
        return run / LORA
    found = checkpoint.latest(run, lambda text: None)
    return source if found is None else find_lora(found)


def read_lora(source: Path, family: str | None = None, scale: float | None = None) -> AlignmentLoRA:
    """The LoRA that a path means (see `find_lora`). Raises ValueError as `load_lora`, and where there is none."""
    found = find_lora(source)
    return lora_of_weights(found) if (found / checkpoint.META).is_file() else load_lora(found, family, scale)


def lora_of_weights(folder: Path) -> AlignmentLoRA:
    """The LoRA of a checkpoint of an older version, which holds the trained weights and the settings alone.

    Where weights were averaged these are the last ones, and a note says so. Raises ValueError for a checkpoint of
    something that has no LoRA.
    """
    groups, meta = checkpoint.load(folder)
    task, data = (meta["config"].get(part, {}) for part in ("task", "data"))
    if "alpha" not in task or "rank" not in task:
        raise ValueError(f"{folder} is a checkpoint of something else than a LoRA")
    condition = str(task.get("condition", data.get("condition", "none")))
    form = str(data.get("prompt_form", ""))
    info = Info(
        condition="" if condition == "none" else condition,
        layers={"v2t": tuple(task["v2t"]), "v2v": tuple(task["v2v"])},
        palette=FIXED if condition == "id_map" else (),
        trigger="target" if form in ("target_word", "target_sentence") else "",
        prompt_form=form,
        image_attention="" if task.get("image_attention", True) else "off",
        notes=(
            f"{task['method']}, step {meta['step']} of {meta['config']['run']['steps']}",
            *expert_note(task.get("expert", "")),
        ),
    )
    averaged = meta["config"]["optim"].get("ema", 0.0)
    notes = ("these are the last weights, not the averaged ones",) if averaged else ()
    weights = {name.removeprefix(_PREFIX): value for name, value in groups["model"].items()}
    downs = {name.removesuffix(_DOWN): value for name, value in weights.items() if name.endswith(_DOWN)}
    family, _ = find_style(downs, None, {name: int(down.shape[1]) for name, down in downs.items()})
    factors = {name: Factors(down, weights[name + _UP], float(task["alpha"])) for name, down in downs.items()}
    place = REGISTRY[family].input_projection
    trained = {part: weights[f"{place}.{part}"] for part in ("weight", "bias") if f"{place}.{part}" in weights}
    return AlignmentLoRA(family, factors, trained, {}, info, "matrix", notes)


def _meta(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / checkpoint.META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "step" in found else {}
