"""Keeps a run on disk while it is sampled, whatever becomes of the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..instrument.capture import Capture
from .captures import CaptureParts

__all__ = ["Kept"]


class Kept:
    """The steps of a run in a folder while it is sampled, and the whole in one file when it has ended. A disk that is
    full ends the keeping, with a note, and not the run."""

    def __init__(self, path: Path) -> None:
        self._parts: CaptureParts | None = CaptureParts(path)
        self.notes: list[str] = []
        self.file: Path | None = None  # the whole, once it is written

    def __call__(self, first: int, part: Capture) -> None:
        """A recorder's sink."""
        self._try(lambda parts: parts(first, part))

    def finish(self, capture: Capture) -> None:
        """Writes the whole, and notes where it is."""
        self._try(lambda parts: self._kept(parts.finish(capture)))
        capture.meta["notes"] = [*capture.meta.get("notes", ()), *self.notes]

    def _kept(self, file: Path) -> None:
        self.file = file
        self.notes.append(f"kept in {file}")

    def _try(self, write: Callable[[CaptureParts], None]) -> None:
        if self._parts is None:
            return
        try:
            write(self._parts)
        except OSError as error:
            logging.warning("MATRIX: %s", error)
            self._parts = None
            self.notes.append(f"the capture was not kept while sampling: {error}")
