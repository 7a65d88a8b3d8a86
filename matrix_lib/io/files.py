"""Where files may lie, and how they are written: inside given folders, and whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["inside", "whole_file"]


def inside(name: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]) -> Path:
    """The absolute path of `name`, which may be relative to any of `folders` and has to lie in one of them.

    Links are followed before the check. Of several folders the first that holds the file wins, else the first. Raises
    ValueError for a path outside of all of them.
    """
    roots = [Path(folder).resolve() for folder in folders]
    if "\0" in str(name):
        raise ValueError(f"a file name has no zero bytes; got {str(name)!r}")
    candidates = [(root / name).resolve() for root in roots]
    allowed = [path for path in candidates if any(path.is_relative_to(root) for root in roots)]
    if not allowed:
        raise ValueError(
            f"{str(name)!r} is outside of the folders that this may touch: {', '.join(map(str, roots))}. "
            "Move the file into one of them"
        )
    return next((path for path in allowed if path.exists()), allowed[0])


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`. It becomes `target` when the block ends well and goes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
