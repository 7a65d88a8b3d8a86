"""Checkpoints as folders of safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["latest", "load", "save"]

PREFIX = "step-"


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], meta: dict[str, Any], keep: int = 2) -> Path:
    """Writes `folder/step-NNNNNNN` through a temporary folder, then removes all but the newest `keep`."""
    target = folder / f"{PREFIX}{step:07d}"
    draft = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({k: v.detach().contiguous().cpu() for k, v in group.items()}, draft / f"{name}.safetensors")
    (draft / "meta.json").write_text(json.dumps({**meta, "step": step}, indent=1))
    if target.exists():
        shutil.rmtree(target)
    draft.replace(target)
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / "meta.json").is_file())


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's folder."""
    found = _all(folder)
    return found[-1] if found else None


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors per group, and the metadata."""
    meta = json.loads((checkpoint / "meta.json").read_text())
    return {p.stem: load_file(p) for p in sorted(checkpoint.glob("*.safetensors"))}, meta


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors, `<parameter index>.<name>`. Rates and groups come from the config."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def unpack_optimiser(optimiser: torch.optim.Optimizer, packed: dict[str, Tensor]) -> None:
    """Inverse of `pack_optimiser`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in packed.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
