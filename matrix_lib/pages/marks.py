"""What one person answered, as it comes: one line of JSON an answer, on the disk before the next is asked.

    {"item", "question", "value", "frame", "by", "at"}     the last line for an item and a question counts

A line that a killed process left half written is passed over, and does not swallow the next.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Mark", "Marks", "check_name"]

_NAME = re.compile(r"\w(?:[\w .-]{0,38}\w)?", re.UNICODE)


@dataclass(frozen=True)
class Mark:
    """An answer. value: a choice, a list of frames, or a text; frame: on which it was decided."""

    value: Any
    frame: int | None = None


def check_name(name: str) -> str:
    """A person's name, which becomes a file's. Raises ValueError for one that cannot."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name has up to 40 letters, digits, blanks, dots and dashes; got {name[:60]!r}")
    return name


class Marks:
    """The answers of one person. Safe to use from several threads.

    Args:
        path: of the file; it is made with the first answer. by: the person's name.
    """

    def __init__(self, path: Path, by: str) -> None:
        self.path, self.by, self._lock = path, check_name(by), threading.Lock()
        self._found: dict[str, dict[str, Mark]] = {}
        self.damaged = 0
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            item, question, value, frame = (entry[key] for key in ("item", "question", "value", "frame"))
            if not isinstance(item, str) or not isinstance(question, str):
                raise TypeError
            if frame is not None and type(frame) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            self.damaged += bool(line.strip())
            return
        self._found.setdefault(item, {})[question] = Mark(value, frame)

    def of(self, item: str) -> Mapping[str, Mark]:
        """{question: answer} of an item."""
        with self._lock:
            return dict(self._found.get(item, {}))

    def put(self, item: str, question: str, mark: Mark) -> None:
        """Keeps an answer; it is on the disk when this returns. Raises OSError where it cannot be."""
        entry = {"item": item, "question": question, "value": mark.value, "frame": mark.frame, "by": self.by}
        entry["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._found.setdefault(item, {})[question] = mark

    @contextmanager
    def held(self) -> Iterator[Marks]:
        """Keeps other processes from asking this person the same things. Raises ValueError where one does."""
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_suffix(".lock"), timeout=0):
                yield self
        except Timeout:
            raise ValueError(f"a page for {self.by} is open already: stop the other server first") from None
