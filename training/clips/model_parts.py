"""Whether a model's folder holds all that a run opens later: tokenizer, encoders, transformer, files of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.load import ModelSource

__all__ = ["check_parts"]

_WEIGHTS = (".safetensors", ".bin")
_POINTER = b"version https://git-lfs"


def check_parts(model: ModelSource) -> None:
    """Raises ValueError that names every part of the model that is missing or not whole. Nothing large is read."""
    if model.bundle is not None:  # its files were checked against their hashes
        return
    root = Path(model.where)
    wrong = [f"  {name}: {why}" for name, why in _missing(model, root)]
    if not wrong:
        try:
            _ = model.tokenizer
        except (ValueError, OSError, ImportError, TypeError, KeyError) as error:
            wrong.append(f"  tokenizer: it cannot be opened: {error}")
    if wrong:
        raise ValueError(
            f"the model at {model.where!r} is not whole, and nothing was done:\n" + "\n".join(wrong) + "\nFetch these "
            "parts again"
        )


def _missing(model: ModelSource, root: Path) -> Iterator[tuple[str, str]]:
    unread = family(model.shape.family).unread
    for name, value in model.index.items():
        if not isinstance(value, list) or len(value) not in (2, 3) or value[0] is None or name in unread:
            continue
        folder = root / name
        if not folder.is_dir():
            yield name, "there is no such folder"
        elif not any(path.is_file() for path in folder.iterdir()):
            yield name, "its folder is empty"
        elif (folder / "config.json").is_file():
            yield from ((name, why) for why in _weights(folder))


def _weights(folder: Path) -> Iterator[str]:
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    if not files:
        yield "it has a config.json and no weights (*.safetensors)"
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, OSError) as error:
            yield f"{index.name} cannot be read: {error}"
            continue
        if absent := sorted(name for name in named if not (folder / name).is_file()):
            yield f"{len(absent)} of {len(named)} files of weights are missing, first {absent[0]}"
    for path in files:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            yield f"{path.name} is a pointer of git-lfs: `git lfs pull` fetches the file itself"
        elif len(start) < len(_POINTER):
            yield f"{path.name} has {len(start)} bytes"
