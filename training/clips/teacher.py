"""What teaches Local Gram Flow: mask tracks, a model's own clean latents, or SAM 2's features.

C channels, T pixel frames, H x W pixels, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.grid import Grid
from matrix_lib.core.losses.flow import features_on
from matrix_lib.io.files import expanded
from matrix_lib.io.sam2 import frame_features
from matrix_lib.io.sam2_checkpoints import load_sam2

from .store import file_hash

__all__ = ["LATENTS", "MASKS", "Sam2Teacher", "teacher_of"]

MASKS, LATENTS = "masks", "latents"


class Sam2Teacher:
    """A SAM 2 checkpoint, opened when its first clip comes. `hash_file` may be replaced by one that remembers."""

    def __init__(self, checkpoint: str, device: torch.device | str = "cpu") -> None:
        self.checkpoint, self.device = expanded(checkpoint), device
        self.hash_file: Any = file_hash
        self._model: Any = None
        if not self.checkpoint.is_file():
            raise ValueError(
                f"task.teacher is {MASKS}, {LATENTS}, or the file of a SAM 2 checkpoint; "
                f"there is no file {checkpoint!r}"
            )

    @cached_property
    def identity(self) -> str:
        """Of the checkpoint's content, and of its own configuration where it has one."""
        own = self.checkpoint.with_suffix(".yaml")
        files: list[Path] = [self.checkpoint, *([own] if own.is_file() else [])]
        return "-".join(str(self.hash_file(path))[:16] for path in files)

    def fingerprint(self) -> dict[str, dict[str, str]]:
        """What a run's record says of it."""
        return {"teacher": {"checkpoint": self.identity}}

    def features(self, frames: Tensor, grid: Grid) -> Tensor:
        """(C, F, h, w) float16 on the CPU, of frames (T, H, W, 3) uint8."""
        if self._model is None:
            self._model = load_sam2(self.checkpoint, self.device)
        return features_on(frame_features(self._model, frames), grid).half().cpu()

    def close(self) -> None:
        """Lets go of the model; it is opened again where it is asked again."""
        self._model = None


def teacher_of(said: str, device: torch.device | str = "cpu") -> Sam2Teacher | None:
    """The model that `task.teacher` names; None of what needs none. ValueError where there is no such file."""
    return None if said in (MASKS, LATENTS) else Sam2Teacher(said, device)
