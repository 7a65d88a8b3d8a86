"""Reads the parts of a diffusers-format folder: their configurations and their safetensors, by native names.

What the host then has no place for is an error, never a silent gap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...backbones.weight_names import Rules, to_native

__all__ = ["DAMAGED", "Progress", "check_names", "read_json", "read_weights", "told"]

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1; may raise to stop."""

DAMAGED = (TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError)
"""What the host trips over in weights and settings that do not fit together."""

_MAX_JSON = 16 * 1024 * 1024


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """What the host trips over in a folder whose weights and configs do not fit together, as one ValueError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, *DAMAGED) as error:
        raise ValueError(
            f"{folder} cannot be loaded: its weights and its config.json do not fit together, or a file is damaged "
            f"({type(error).__name__}: {str(error)[:300]}). Download the folder again."
        ) from error


def check_names(folder: Path, given: set[str], wanted: set[str]) -> None:
    """Both ways: a weight without a place and a place without a weight are errors."""
    for names, what in ((wanted - given, "lacks weights"), (given - wanted, "has weights without a place")):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise ValueError(f"{folder} {what} in the native model: {first} ({len(names)} in all). Is a shard missing?")


def read_weights(
    folder: Path, stem: str, rules: Rules | None = None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """All tensors of `folder/stem*.safetensors`, renamed by `rules`. Raises ValueError naming the file that is
    missing or cannot be read."""
    state: dict[str, Tensor] = {}
    files = _weight_files(folder, stem)
    for index, path in enumerate(files):
        try:
            state.update(comfy.utils.load_torch_file(str(path), safe_load=True))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is no complete safetensors file ({str(error)[:200]}). Download it again."
            ) from error
        if progress is not None:
            progress((index + 1) / len(files) * 0.5)
    if not rules:
        return state
    return to_native(state, rules, (lambda i, n: progress(0.5 + 0.5 * i / n)) if progress is not None else None)


def _weight_files(folder: Path, stem: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: a diffusers folder has one part a sub-folder")
    for variant in ("", ".bf16", ".fp16"):
        single, index = folder / f"{stem}{variant}.safetensors", folder / f"{stem}.safetensors.index{variant}.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return _shards(index)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    hint = f" It holds {pickles[0]}, a pickle, which is not read: convert it to safetensors." if pickles else ""
    raise ValueError(f"{folder} has neither {stem}.safetensors nor {stem}.safetensors.index.json.{hint}")


def _shards(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map", {})
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} is no index of shards: its weight_map does not name one file for each weight")
    names = sorted(set(listed.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}: shards are .safetensors files beside the index")
    files = [index.parent / name for name in names]
    if missing := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{index.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing[:3])}")
    if not files:
        raise ValueError(f"{index} lists no shards")
    return files


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: is the folder a complete diffusers download?")
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(f"{path} is {path.stat().st_size} bytes, too large for a config")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, a config is a JSON object")
    return content
