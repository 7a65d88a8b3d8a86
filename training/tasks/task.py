"""What a task is to the trainer. `training.fit` asks for nothing else, and knows no task by name."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..run.config import FitConfig
from ..run.log import Log

__all__ = ["Batches", "Look", "Task"]


class Batches(Protocol):
    """Where batches come from. Each is a function of its arguments and the run's seed alone, so a resumed run sees what
    the uninterrupted one would have seen."""

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Any:
        """This process's batch of one of the `parts` that a step accumulates."""

    def close(self) -> None:
        """Stops making them. Called once, at the end of the run."""


class Look:
    """What a run will train on, looked at before anything costs time.

    Args:
        fingerprint: what it is, as `run.record` compares it: {kind: {name: facts}}.
    """

    def __init__(self, fingerprint: dict[str, dict[str, Any]]) -> None:
        self.fingerprint = fingerprint


class Task(Protocol):
    """Something to train. Built from (config, device, look); `tasks.registry` says which one is built for which
    settings.

    The trainer lets it `look`, and compares what was found with what the run's folder says. Then it builds it, asks
    `compile` for the network if `run.compile`, and `batches` for the data. In every part of every step it asks the data
    for a batch, and for its `loss`, and takes the gradients, both inside `during`. At the end `final` and `publish` say
    what comes out.

    Attributes:
        net: parameters that require a gradient are trained, averaged and saved; the others stay where they came from.
    """

    net: nn.Module

    @classmethod
    def look(cls, config: FitConfig, device: torch.device) -> Look:
        """A look at the data and the model's files: everything that can be refused is refused here. Every process calls
        it.

        Raises ValueError with what is wrong and what to do.
        """
        return Look({})

    def compile(self, net: nn.Module) -> nn.Module:
        """Compiles `net`, which is `self.net` as several processes train it, or the parts of it that gain from it."""
        return net

    @abstractmethod
    def batches(self, process: int) -> Batches:
        """The data of the run, for the process of this number. Called once."""

    def during(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Open around the loss and the backward pass of each part of a step."""
        return contextlib.nullcontext()

    @abstractmethod
    def loss(self, net: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Runs `net` on a batch.

        Args:
            generator: on the CPU, for what is drawn and not part of the batch; of this step, process and part.

        Returns "loss", a scalar with a gradient, and further scalars for the log, the same ones at every step.
        """

    def start(self) -> dict[str, Tensor]:
        """Whole tensors for the state of `net` that the run starts from. Every process asks, at step 0 alone."""
        return {}

    def facts(self) -> list[str]:
        """Lines of the start summary: what only the task knows."""
        return []

    def held(self) -> int:
        """How many measurements `measure` has on held-out data. 0: none is held out."""
        return 0

    def measure(self, net: nn.Module, index: int) -> dict[str, Tensor]:
        """Runs `net` on held-out data, without gradients: "loss" and further scalars, the same names for every index,
        under the same conditions at every step and in every run. Every process calls it as often, inside `during`."""
        return {}

    def preview(self, step: int, log: Log) -> None:
        """Shows what the network can do, every `run.preview_every` steps. Every process calls it. Raises nothing."""

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says about the network's sizes, as JSON."""
        return {}

    def final(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state to publish, from the trained state of `net` with averaged weights. Every process calls it; `net`
        itself stays as it is."""
        return state

    def export(self, state: dict[str, Tensor], folder: Path, step: int) -> None:
        """Writes what people use of a run at this step into the folder of a checkpoint, from the trained state of `net`
        with averaged weights. The main process alone calls it. Raises OSError where it cannot be written."""

    def publish(self, state: dict[str, Tensor], step: int) -> None:
        """Writes what people use of a finished run beside its checkpoints, from what `final` gave. The main process
        alone calls it. Raises OSError where it cannot be written."""
