"""A store of tensors by what they were made from: made once by whichever process comes first, checked whenever read.

    FOLDER/KIND/ab3/ab3f...safetensors     one entry; its name is a hash of everything it depends on
    FOLDER/locks/ab3.lock                  held while an entry whose name begins so is made

Entries are written whole or not at all, and carry a hash of what they hold. Locks belong to the system, which lets go
of them when a process ends, however it ends; several processes and several runs may share one store.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matrix_lib.io.files import expanded, whole_file

__all__ = ["DamagedError", "Entry", "Store", "file_hash", "key_of"]

FORMAT = "matrix-training-store"
VERSION = 1


class DamagedError(ValueError):
    """An entry that is there and is not what was written."""


@dataclass(frozen=True)
class Entry:
    """Tensors by name, and facts beside them (anything that JSON holds)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def key_of(*parts: Any) -> str:
    """A name for what was made from `parts`: a hash over them, as JSON."""
    said = json.dumps([VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()[:40]


class Store:
    """A folder of entries. Threads and processes may use it at once. Its path may begin with `~`, hold `$VARIABLES`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = expanded(folder)
        self._hashes: dict[str, list[Any]] | None = None
        self._guard = threading.Lock()

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:3] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Whether an entry is there; whether it is whole is told by `load`."""
        return self.path(kind, key).is_file()

    def load(self, kind: str, key: str) -> Entry:
        """An entry, checked against its own hash. KeyError where it is missing, DamagedError where it is not whole."""
        path = self.path(kind, key)
        if not path.is_file():
            raise KeyError(key)
        try:
            with safe_open(str(path), framework="pt") as file:
                head = json.loads((file.metadata() or {}).get("entry", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if head.get("format") != FORMAT or head.get("key") != key:
                raise DamagedError(f"{path} is no entry of this name")
            facts = head.get("facts", "{}")
            if _digest(tensors, facts) != head.get("digest"):
                raise DamagedError(f"{path} does not hold what was written")
            return Entry(tensors, json.loads(facts))
        except DamagedError:
            raise
        except (SafetensorError, OSError, ValueError, AttributeError) as error:
            raise DamagedError(f"{path} cannot be read: {error}") from None

    def save(self, kind: str, key: str, entry: Entry) -> None:
        """Writes an entry. OSError, with what to do, where the disk is full."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in entry.tensors.items()}
        facts = json.dumps(entry.facts, sort_keys=True)
        head = {"format": FORMAT, "key": key, "facts": facts, "digest": _digest(tensors, facts)}
        with whole_file(self.path(kind, key)) as temporary:
            save_file(tensors, str(temporary), {"entry": json.dumps(head)})  # one value: of several the order varies

    def get(self, kind: str, key: str, make: Callable[[], Entry], say: Callable[[str], object] = print) -> Entry:
        """An entry, made where it is missing and made again, and said so, where it is damaged."""
        try:
            return self.load(kind, key)
        except KeyError:
            pass
        except DamagedError as error:
            say(f"{error}; it is made again")
        with self._lock(key):
            with suppress(KeyError, DamagedError):
                return self.load(kind, key)
            self._sweep(kind, key)
            self.save(kind, key, make())
            return self.load(kind, key)

    def claim(self, kind: str, key: str, make: Callable[[], Entry]) -> Literal["made", "there", "busy"]:
        """Makes an entry that is missing, unless another process is at it (or at a neighbour of the same lock): then
        "busy", and nothing was done."""
        if self.has(kind, key):
            return "there"
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return "busy"
        try:
            if self.has(kind, key):
                return "there"
            self._sweep(kind, key)
            self.save(kind, key, make())
            return "made"
        finally:
            lock.release()

    def wait(self, key: str) -> None:
        """Until nobody is at this entry."""
        with self._lock(key):
            pass

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its place, size and time of change."""
        said = path.stat()
        name, stamp = str(path.resolve()), [said.st_size, said.st_mtime_ns]
        with self._guard:
            if self._hashes is None:
                self._hashes = self._read_hashes()
            if self._hashes.get(name, [None])[:-1] == stamp:
                return str(self._hashes[name][-1])
        found = file_hash(path)
        if said.st_size < 1 << 20:
            return found
        with self._guard:
            self._hashes = {**self._read_hashes(), **self._hashes, name: [*stamp, found]}
            with whole_file(self.folder / "hashes.json") as temporary:
                temporary.write_text(json.dumps(self._hashes), encoding="utf-8")
        return found

    def _read_hashes(self) -> dict[str, list[Any]]:
        """What is remembered; a damaged file is nothing."""
        try:
            found = json.loads((self.folder / "hashes.json").read_text(encoding="utf-8"))
            return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 3}
        except (OSError, ValueError, AttributeError):
            return {}

    def _lock(self, key: str) -> FileLock:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(folder / f"{key[:3]}.lock"), thread_local=False)

    def _sweep(self, kind: str, key: str) -> None:
        """Takes away what processes that were killed while writing left behind; whoever writes here holds our lock."""
        for path in self.path(kind, key).parent.glob(".*.part.safetensors"):
            with suppress(OSError):
                path.unlink()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    state = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        value = tensors[name]
        state.update(f"|{name} {value.dtype} {tuple(value.shape)}|".encode())
        if value.numel():
            state.update(value.flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()
