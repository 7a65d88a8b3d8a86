"""What a run asks of the system: folders of its own, and how much memory it has held."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..run.ending import unlocked

__all__ = ["alone", "most_memory"]


def alone(lock: Path, folder: Path) -> Any:
    """A context that holds a folder by a lock file. Raises ValueError where another run does."""
    try:
        return FileLock(lock, timeout=0, fallback_to_soft=False).acquire()
    except Timeout:
        raise ValueError(f"another run is at {folder}: wait for it, or stop it") from None
    except (NotImplementedError, OSError) as error:
        unlocked(folder, error)
        return nullcontext()


def most_memory() -> list[int]:
    """MB that this process and its ended children have held at most; [] where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows has none
        return []
    return [round(resource.getrusage(who).ru_maxrss / 1024) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
