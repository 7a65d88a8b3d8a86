"""Ctrl-C and SIGTERM while a run trains: a request first, an interrupt the second time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """While open, Ctrl-C and SIGTERM call `stop`, which says whether that was the first time; a second one stops at
    once."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, frame: FrameType | None) -> None:
        if not self.stop():
            raise KeyboardInterrupt
        print("stopping after this step; the same command goes on from here", flush=True)
