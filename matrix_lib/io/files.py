"""Where files may lie, and how they are written: inside given folders, and whole or not at all."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..core.json_text import parse_object

__all__ = ["check_safetensors", "expanded", "inside", "parse_object", "said", "what_it_is", "whole_file"]

# Bytes of one name on every usual file system, less what a number and a temporary name add; characters of a path.
_LONGEST_PART, _LONGEST = 200, 1000


def inside(name: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]) -> Path:
    """The absolute path of `name`, which may be relative to any of `folders` and has to lie in one of them.

    Links are followed before the check. Of several folders the first that holds the file wins, else the first. Raises
    ValueError for a path outside of all of them.
    """
    roots = [Path(folder).resolve() for folder in folders]
    if "\0" in str(name):
        raise ValueError(f"a file name has no zero bytes; got {str(name)!r}")
    if any("\ud800" <= character <= "\udfff" for character in str(name)):
        raise ValueError(f"a file name is made of whole characters; got {ascii(str(name))[:60]}")
    if any(len(os.fsencode(part)) > _LONGEST_PART for part in str(name).split("/")) or len(str(name)) > _LONGEST:
        raise ValueError(f"the file name {str(name)[:40]!r}... has {len(str(name))} characters: choose a shorter one")
    candidates = [(root / name).resolve() for root in roots]
    allowed = [path for path in candidates if any(path.is_relative_to(root) for root in roots)]
    if not allowed:
        raise ValueError(
            f"{str(name)!r} is outside of the folders that this may touch: {', '.join(map(str, roots))}. "
            "Move the file into one of them"
        )
    return next((path for path in allowed if path.exists()), allowed[0])


def check_safetensors(path: Path, longest_header: int = 1 << 22) -> None:
    """Before a safetensors file is opened: its list of tensors, which is read whole, is no longer than `longest_header`
    bytes and lies inside the file. The library checks the rest. Raises ValueError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:] != b"{" or length > size - 8:
        raise ValueError(f"it is no whole safetensors file: {what_it_is(path)}")
    if length > longest_header:
        raise ValueError(f"its header has {length} bytes, and {longest_header} are the most")


def said(error: BaseException) -> str:
    """What a library said, in a length that people read: it may quote the whole file."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:200]}..."


def what_it_is(path: Path) -> str:
    """A guess at what a file is that is no safetensors file."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return "it looks like a pickle or PyTorch checkpoint, which is not read here"
    return "it is truncated, damaged or of another kind"


def expanded(text: str | os.PathLike[str]) -> Path:
    """A path that a person wrote, with `~` and `$VARIABLES`. ValueError for a variable that is not set."""
    given = os.path.expandvars(os.fspath(text))
    if not Path(os.fspath(text)).exists() and (left := re.search(r"\$(\w+|\{[^}]*\})", given)):
        raise ValueError(f"{os.fspath(text)!r} has the variable {left[0]}, which is not set in this environment")
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(text)!r} cannot be found: {error}") from None


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`. It becomes `target` when the block ends well and goes when it does not.

    Raises OSError, saying what to do, where the folder cannot be written to, a file stands in its place, or the disk is
    full.
    """
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o644)  # safetensors writes files that nobody else may read
        temporary.replace(target)
    except (FileExistsError, NotADirectoryError) as error:
        above = (each for each in target.parents if each.is_symlink() or each.exists())
        wrong = next((each for each in above if not each.is_dir()), target.parent)
        raise OSError(
            f"{target} was not written: {wrong} is a file, or a link that leads nowhere, and no folder. Choose another "
            "place"
        ) from error
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{target} was not written: {error}. Nothing of it was kept, and a file of that name is as it was. Free "
            "some space there, or choose a folder that may be written to"
        ) from error
    finally:
        with suppress(OSError):  # a folder that cannot be written to holds no temporary file either
            temporary.unlink(missing_ok=True)
