"""What a run says of itself before it trains, and of its pace once it does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import FitConfig

__all__ = ["Pace", "start_lines"]

_AFTER = 5  # steps that the pace is taken from, once the first one has warmed everything up


def start_lines(
    config: FitConfig, net: nn.Module, step: int, processes: int, more: Sequence[str], folder: Path
) -> list[str]:
    """The start summary, a line a fact; `more` is what the task knows."""
    batch, parts = config.data.batch, config.optim.accumulate
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    every = sum(p.numel() for p in net.parameters())
    steps = f"steps {step + 1} to {config.run.steps}" if step else f"{config.run.steps} steps"
    lines = [
        f"run: {folder}, {steps}, settings in {folder / 'config.json'}",
        f"batch: {batch * parts * processes} clips a step ({batch} a process at once x {parts} accumulated x "
        f"{processes} process{'es' if processes > 1 else ''})",
        f"trained: {_count(trained)} of {_count(every)} parameters",
        *more,
    ]
    size = trained * 20  # weights, averages, two moments, and the LoRA or what else is published
    free = shutil.disk_usage(folder).free
    if free < (config.run.keep + 1) * size:
        lines.append(
            f"note: a checkpoint takes up to {size / 2**30:.3g} GiB, and {free / 2**30:.3g} are free in {folder} for "
            f"{config.run.keep + 1} of them: make room, or set run.keep lower"
        )
    return lines


def _count(number: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {name}"
    return str(number)


class Pace:
    """Says once how long a step takes, after the first few steps of a run.

    Args:
        steps: of the whole run. say: for the sentence.
    """

    def __init__(self, steps: int, device: torch.device, say: Callable[[str], object]) -> None:
        self.steps, self.device, self.say = steps, device, say
        self.first: tuple[int, float] | None = None
        self.told = False

    def __call__(self, step: int, values: dict[str, Tensor]) -> None:
        """Takes a step that was made."""
        if self.told:
            return
        if self.first is None:
            self.first = step, self._now()
        elif step - self.first[0] >= _AFTER:
            began, at = self.first
            each = (self._now() - at) / (step - began)
            self.say(f"{each:.2f} s a step, {_time(each * (self.steps - step))} to go{self._memory()}")
            self.told = True

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _memory(self) -> str:
        if self.device.type != "cuda":
            return ""
        return f", {torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB at the most"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
