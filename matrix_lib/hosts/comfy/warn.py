"""Warnings for people: in the log, and for the node that runs when they are given."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["gathered", "warn"]

_gathering: ContextVar[list[str] | None] = ContextVar("matrix_warnings", default=None)


def warn(text: str, log: bool = True) -> None:
    """Says `text` to whoever gathers, and in the log unless `log` is False (there it stands already)."""
    if log:
        logging.warning("MATRIX: %s", text)
    found = _gathering.get()
    if found is not None and text not in found:
        found.append(text)


@contextlib.contextmanager
def gathered() -> Iterator[list[str]]:
    """Every warning that is given inside, each once, in this thread. One inside another keeps its own to itself."""
    found: list[str] = []
    token = _gathering.set(found)
    try:
        yield found
    finally:
        _gathering.reset(token)
