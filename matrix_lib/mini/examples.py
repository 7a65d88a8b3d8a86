"""The clips of the mini world that come with the pack, with their whole truth."""

from __future__ import annotations

from functools import lru_cache

from .world import Clips, WorldConfig, make_clips

__all__ = ["EXAMPLES", "example_truth", "example_world"]

# Numbers in one seed's row of the held-out split, of the size that mini makes.
EXAMPLES = {"lift": 4, "hit": 14, "push": 17, "pull": 21}
_SEED = 20261121


def example_world() -> Clips:
    """The clips that EXAMPLES counts: 17 frames of 128x128."""
    size = WorldConfig(height=128, width=128, frames=17, split="heldout_pairs")
    return make_clips(_SEED, max(EXAMPLES.values()) + 1, size)


@lru_cache
def example_truth(name: str) -> Clips:
    """One of them (`Clips` of length 1). Raises ValueError for another name."""
    if name not in EXAMPLES:
        raise ValueError(f"the example clips are {', '.join(EXAMPLES)}; got {name!r}")
    return example_world().select([EXAMPLES[name]])
