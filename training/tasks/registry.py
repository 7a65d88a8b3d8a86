"""Which task trains what some settings ask for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..run.config import FitConfig
from ..run.task_settings import AlignTask, CodecTask, DenoiseTask, TaskSettings, TuneTask
from .alignment import FolderAlignment, MiniAlignment
from .codec import CodecStep
from .denoise import DenoiseStep
from .task import Task

__all__ = ["TASKS", "make_task"]

TASKS: dict[type[TaskSettings], Callable[[FitConfig, torch.device], Task]] = {
    CodecTask: CodecStep,
    DenoiseTask: DenoiseStep,
    AlignTask: MiniAlignment,
    TuneTask: FolderAlignment,
}


def make_task(config: FitConfig, device: torch.device) -> Task:
    """The task of a configuration, with its network on the device."""
    return TASKS[type(config.task)](config, device)
