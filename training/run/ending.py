"""How a command ends that cannot go on, or that somebody stops: with one sentence, never a traceback."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from matrix_lib.io.files import whole_file

__all__ = ["LOCK", "alone", "ending", "probe", "unlocked"]

LOCK = ".lock"


@contextlib.contextmanager
def ending(command: str, stopped: str = "nothing was kept") -> Iterator[None]:
    """Ends the process with 1 and what is wrong where the block raises ValueError or OSError, with 130 at Ctrl-C.

    stopped: what becomes of what was done, and how to go on.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"{command}: {error}")
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", flush=True)
        sys.exit(130)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that only one may work in, until the block ends or the process does. Within
    one process blocks may lie in each other.

    Raises ValueError where one is at work in it, and OSError where the folder cannot be written to.
    """
    probe(folder)
    # A lock of the system's ends with its process; a file in its place would outlive one that was killed.
    lock = FileLock(folder / LOCK, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is at work in {folder} now: wait for it, or stop it") from None
    except (NotImplementedError, OSError) as error:
        unlocked(folder, error)
    try:
        yield
    finally:
        lock.release()


def unlocked(folder: Path, error: Exception) -> None:
    """Says that a file system has no locks, so that people keep a second process out themselves."""
    print(f"{folder} cannot be locked ({error}): see to it that no other process works in it", file=sys.stderr)


def probe(folder: Path) -> None:
    """Makes a folder, and raises OSError where it cannot be written to: told before hours of work, not after."""
    target = folder / f".probe-{uuid.uuid4().hex[:12]}"  # nobody's file, and of no other process that looks
    with whole_file(target) as temporary:
        temporary.write_bytes(b"x" * 4096)
    target.unlink()
