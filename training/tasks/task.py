"""What is trained: each task builds its network, prepares clips for it, and gives the loss of one step."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from matrix_lib.mini.world import Clips
from training.tasks.codec import CodecStep
from training.tasks.denoise import DenoiseStep

from ..run.config import CodecTask, DenoiseTask, FitConfig

__all__ = ["Step", "make_step"]


class Step(Protocol):
    net: nn.Module

    def compile(self, net: nn.Module) -> nn.Module: ...

    def prepare(self, clips: Clips) -> dict[str, Tensor]: ...

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]: ...

    def finish(self, net: nn.Module) -> None: ...


def make_step(config: FitConfig, device: torch.device) -> Step:
    """The task that a configuration asks for."""
    if isinstance(config.task, CodecTask):
        return CodecStep(config.task, config.data, device)
    assert isinstance(config.task, DenoiseTask)
    return DenoiseStep(config.task, config.data, device)


def describe(step: Step) -> dict[str, Any]:
    """What a checkpoint says about the network's shapes."""
    return vars(step.sizes) if isinstance(step, DenoiseStep) else {}
