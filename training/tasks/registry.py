"""Which task trains what some settings ask for."""

from __future__ import annotations

from typing import Any

import torch

from ..run.config import FitConfig
from ..run.task_settings import AlignTask, CodecTask, DenoiseTask, TaskSettings, TuneTask, UNetTask
from .alignment import FolderAlignment, MiniAlignment
from .codec import CodecStep
from .denoise import DenoiseStep
from .task import Look, Task
from .unet import UNetStep

__all__ = ["TASKS", "look", "make_task"]

TASKS: dict[type[TaskSettings], Any] = {
    CodecTask: CodecStep,
    DenoiseTask: DenoiseStep,
    UNetTask: UNetStep,
    AlignTask: MiniAlignment,
    TuneTask: FolderAlignment,
}


def look(config: FitConfig, device: torch.device) -> Look:
    """What the task of a configuration finds before anything is made; see `Task.look`."""
    return TASKS[type(config.task)].look(config, device)


def make_task(config: FitConfig, device: torch.device, seen: Look | None = None) -> Task:
    """The task of a configuration, with its network on the device. `seen` is what `look` found."""
    return TASKS[type(config.task)](config, device, seen or look(config, device))
