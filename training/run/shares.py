"""Work on many files that several processes share: each takes every n-th, and the first one waits for the others.

Started as usual there is one process, and nothing of torch.distributed is set up.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

__all__ = ["Shares"]

T = TypeVar("T")


class Shares:
    """place: of this process, from 0; count: how many there are, as `accelerate launch` or `torchrun` started them.

    gpu: whether they compute on GPUs. More processes than a machine has GPUs take turns at them; on CPUs any number may
    share a machine.
    """

    def __init__(self, gpu: bool) -> None:
        self._state: Any = None
        self._gpus, self._sharing = 0, False
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
            self._gpus = torch.cuda.device_count() if gpu else 0
            self._sharing = 0 < self._gpus < here
            patience = datetime.timedelta(days=7)  # one may be done hours before the others
            # NCCL refuses two processes on one GPU; what they tell one another is small, and goes by way of the CPU
            self._state = PartialState(cpu=self._gpus < here, timeout=patience)
        self.place = self._state.process_index if self._state else 0
        self.count = self._state.num_processes if self._state else 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all have found."""
        return self.place == 0

    def device(self, asked: str) -> str:
        """Where this process computes: "cuda" is a GPU of its own, while there are enough of them."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return f"cuda:{local % self._gpus}" if asked == "cuda" and self._gpus else asked

    def of(self, everything: Sequence[T]) -> list[T]:
        """This process's part."""
        return list(everything[self.place :: self.count])

    def meet(self) -> None:
        """Waits until every process is here."""
        if self._state and self._sharing:
            torch.distributed.all_reduce(torch.zeros(1))  # a barrier asks for a GPU of the process's own number
        elif self._state:
            self._state.wait_for_everyone()

    def end(self) -> None:
        """Lets go of the other processes."""
        if self._state:
            self._state.destroy_process_group()
