"""How often a generated check is made: some times with fixed seeds in `make test`, many times in `make soak`.

`make soak N=2 SEED=7` makes twice as many as a check names for it, and none of another SEED's cases. Tests that count
are marked `soak`; those of hypothesis are by themselves.
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["SEED", "SOAK", "count", "seeds"]

SOAK = float(os.environ.get("SOAK") or 0)
SEED = int(os.environ.get("SOAK_SEED") or 0)


def count(test: int, soak: int) -> int:
    """How often: `test` in `make test`, `soak` times N in `make soak`."""
    return max(1, round(soak * SOAK)) if SOAK else test


def seeds(test: int, soak: int) -> range:
    """So many seeds: from 0 on in `make test`."""
    first = SEED * 1_000_000
    return range(first, first + count(test, soak))


settings.register_profile("counted", max_examples=count(100, 2000), derandomize=not SOAK, deadline=None, database=None)
settings.load_profile("counted")
