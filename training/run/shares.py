"""Work on many files that several processes share: each takes every n-th, and the first one waits for the others.

Started as usual there is one process, and nothing of torch.distributed is set up.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = ["Shares"]

T = TypeVar("T")


class Shares:
    """place: of this process, from 0; count: how many there are, as `accelerate launch` or `torchrun` started them.

    gpu: whether each process has a GPU of its own; on CPUs any number may share a machine.
    """

    def __init__(self, gpu: bool) -> None:
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            patience = datetime.timedelta(days=7)  # one may be done hours before the others
            self._state = PartialState(cpu=not gpu, timeout=patience)
        self.place = self._state.process_index if self._state else 0
        self.count = self._state.num_processes if self._state else 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all have found."""
        return self.place == 0

    def device(self, asked: str) -> str:
        """Where this process computes: "cuda" is a GPU of its own."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return f"cuda:{local}" if asked == "cuda" and self._state else asked

    def of(self, everything: Sequence[T]) -> list[T]:
        """This process's part."""
        return list(everything[self.place :: self.count])

    def meet(self) -> None:
        """Waits until every process is here."""
        if self._state:
            self._state.wait_for_everyone()

    def end(self) -> None:
        """Lets go of the other processes."""
        if self._state:
            self._state.destroy_process_group()
