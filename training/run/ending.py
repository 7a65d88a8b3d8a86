"""How a command ends that cannot go on, or that somebody stops: with one sentence, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from matrix_lib.io.files import whole_file

__all__ = ["ending", "probe"]


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


def probe(folder: Path) -> None:
    """Makes a folder, and raises OSError where it cannot be written to: told before hours of work, not after."""
    with whole_file(folder / "probe") as temporary:
        temporary.write_bytes(b"x" * 4096)
    (folder / "probe").unlink()
