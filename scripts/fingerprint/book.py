"""The file of a fingerprint: a line of text for every value, and the comparison of two such files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

__all__ = ["Book", "differences"]

_LONGEST = 160  # characters of a text that is kept as it is


class Book:
    """Collects values by name. `hidden`: texts that differ from run to run (folders), and what stands for them."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self.values: dict[str, str] = {}
        self.hidden = dict(hidden)

    def add(self, name: str, value: Any) -> None:
        """Writes down a tensor, a text, a number, or whatever holds such; objects that hold none are passed over.

        Raises ValueError for a name that is taken, and for tensors that are not finite: they would hide a change.
        """
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            if value.is_floating_point() and not value.float().isfinite().all():
                raise ValueError(f"{name} is not finite")
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            self._keep(name, f"{value.dtype} {list(value.shape)} {_hash(raw)}")
        elif isinstance(value, str):
            for text, instead in self.hidden.items():
                value = value.replace(text, instead)
            long = f"text of {len(value)} {_hash(value.encode())}"
            self._keep(name, value if len(value) <= _LONGEST else long)
        elif value is None or isinstance(value, bool | int | float):
            self._keep(name, repr(value))
        elif isinstance(value, bytes):
            self._keep(name, f"{len(value)} bytes {_hash(value)}")
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.add(f"{name}.{key}", value[key])
        elif isinstance(value, list | tuple):
            for place, each in enumerate(value):
                self.add(f"{name}.{place}", each)
        elif hasattr(value, "to_json"):  # layers, bindings
            self.add(name, value.to_json())
        elif isinstance(getattr(value, "cond", None), Tensor):  # of the host's conditionings
            self.add(name, value.cond)

    def add_file(self, name: str, path: Path) -> None:
        """Writes down a file: tensors and header of a safetensors file, the text of HTML, JSON, ..., bytes of others"""
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for key in sorted(file.keys()):
                    self.add(f"{name}.{key}", file.get_tensor(key))
                self.add(f"{name}.header", json.dumps(file.metadata(), sort_keys=True))
        elif path.suffix in (".pth", ".pt"):
            self.add(name, torch.load(path, weights_only=True))
        elif path.suffix in (".html", ".json", ".svg", ".md", ".csv", ".txt"):
            self.add(name, path.read_text(encoding="utf-8"))
        else:
            self.add(name, path.read_bytes())

    def add_folder(self, name: str, folder: Path, pattern: str = "*") -> None:
        """Writes down every file below a folder whose name matches. Raises ValueError where there is none."""
        found = [path for path in sorted(folder.rglob(pattern)) if path.is_file()]
        if not found:
            raise ValueError(f"{name}: no {pattern} in {folder}")
        for path in found:
            self.add_file(f"{name}.{path.relative_to(folder).as_posix()}", path)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.values, indent=0, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

    def _keep(self, name: str, text: str) -> None:
        if name in self.values:
            raise ValueError(f"there are two values called {name}")
        self.values[name] = text


def differences(first: Path, second: Path) -> list[str]:
    """What two files do not have in common, a line for each value."""
    one, two = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    found = []
    for name in sorted({*one, *two}):
        if one.get(name) != two.get(name):
            found.append(
                f"{name}\n  {one.get(name, '(is not in the first)')}\n  {two.get(name, '(is not in the second)')}"
            )
    return found


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
