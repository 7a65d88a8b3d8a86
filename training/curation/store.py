"""Results on disk: one file of JSON lines a stage, appended, and found again by key.

Memory holds a key and a place for each line, never the lines. A line is whole or does not count: what a killed run left
half written is cut off before the next line goes in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from matrix_lib.io.strict_json import parse_json

from .stage import STATUSES, Item, Result, Stage, key_of

__all__ = ["Results"]


class Results:
    """The results of one stage.

    many: a clip may have several lines without a key. parts: a folder in which workers elsewhere leave results; they
    are taken from there. Lines without a key count for the clip that they name, whatever the key would be: a person's
    or another tool's. `notes` says which lines could not be read. Raises ValueError for two such lines about one clip.
    """

    def __init__(self, path: Path, many: bool = False, parts: Path | None = None) -> None:
        self.path, self.many, self.notes = path, many, list[str]()
        self._own: dict[str, tuple[int, int]] = {}
        self._given: dict[str, list[tuple[int, int]]] = {}
        self._file: IO[bytes] | None = None
        if path.is_file():
            self._scan()
        if parts is not None and parts.is_dir():
            self._gather(parts)

    def __len__(self) -> int:
        return len(self._own) + len(self._given)

    def find(self, stage: Stage, item: Item) -> Result | None:
        """What the stage has found about this clip as it now is, None where it has not been asked."""
        if places := self._given.get(item["name"]):
            result = self._read(places[-1])
            result.setdefault("status", "kept")
            result.setdefault("reason", "")
            if result["status"] not in STATUSES:
                raise ValueError(f"status is one of {', '.join(STATUSES)}; got {result['status']!r}")
            return stage.taken(result, item)
        place = self._own.get(key_of(stage, item))
        return None if place is None else self._read(place)

    def given(self, name: str) -> list[Result]:
        """All lines without a key about a clip, in their order."""
        return [self._read(place) for place in self._given.get(name, [])]

    def own(self) -> Iterator[Result]:
        """All results that have a key, in the order of the file."""
        return (self._read(place) for place in list(self._own.values()))

    @property
    def given_names(self) -> Iterator[str]:
        """Clips that lines without a key are about."""
        return iter(self._given)

    def add(self, result: Result) -> None:
        """Appends a result with its key. It is on the disk, or OSError says why it is not."""
        if result["key"] in self._own:
            return
        self._own[result["key"]] = self._append(result)

    def give(self, result: Result) -> None:
        """Appends a person's line, which has no key. It is on the disk, or OSError says why it is not."""
        place = self._append(result)
        self.sync()
        self._given.setdefault(result["name"], []).append(place)

    def _append(self, result: Result) -> tuple[int, int]:
        line = json.dumps(result, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - it stays open
        at = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(at)
            raise
        return at, len(line)

    def sync(self) -> None:
        """Asks the system to put on the disk what was added."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _gather(self, parts: Path) -> None:
        """Takes what workers left behind in files of their own, whole lines alone."""
        for path in sorted(parts.glob("*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self.add(parse_json(line))
            path.unlink()

    def _scan(self) -> None:
        at = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                self._take(number, line, at)
                at += len(line)
        size = self.path.stat().st_size
        if size and not line.endswith(b"\n"):
            self._mend(line, size)

    def _take(self, number: int, line: bytes, at: int) -> None:
        if not line.strip():
            return
        try:
            found = parse_json(line)
            name, key = found["name"], found.get("key")
            if not isinstance(name, str):
                raise ValueError("its name is no text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if line.endswith(b"\n"):
                self.notes.append(f"line {number} of {self.path.name} is passed over: {str(error)[:120]}")
            return
        if isinstance(key, str):
            self._own.setdefault(key, (at, len(line)))
        elif name in self._given and not self.many:
            raise ValueError(f"{self.path} has two lines without a key about {name!r}: keep one of them")
        else:
            self._given.setdefault(name, []).append((at, len(line)))

    def _mend(self, line: bytes, size: int) -> None:
        """A last line without an end: another tool's whole one gets it, a killed run's half is cut off."""
        try:
            parse_json(line)
        except ValueError:
            os.truncate(self.path, size - len(line))
            return
        with open(self.path, "ab") as file:
            file.write(b"\n")

    def _read(self, place: tuple[int, int]) -> Any:
        with open(self.path, "rb") as file:
            file.seek(place[0])
            return json.loads(file.read(place[1]))
