"""What models are judged on: clips of the mini world that nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from matrix_lib.mini.verbs import VERBS
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from ..data.world import seed_of

__all__ = ["NOISE", "SEED", "SETS", "TOLD", "held_out"]

SEED = 75_000_000  # far from every seed that anything was trained on
NOISE = 7
TOLD = ("join", "bounce", "pull", "lift")
"""Verbs whose roles the first frame does not give away: the words alone tell."""
_INTERACTIONS = tuple(verb.name for verb in VERBS if verb.interaction)
_MOVES = tuple(verb.name for verb in VERBS if not verb.interaction)

SETS: dict[str, Mapping[str, Any]] = {
    "told": {"split": "train", "distractor_share": 0.0, "verbs": TOLD},
    "unseen pairs": {"split": "heldout_pairs", "distractor_share": 0.0, "verbs": TOLD},
    "others": {
        "split": "train",
        "distractor_share": 0.0,
        "verbs": tuple(name for name in _INTERACTIONS if name not in TOLD),
    },
    "look-alikes": {"split": "train", "distractor_share": 1.0, "verbs": _INTERACTIONS},
    "open moves": {
        "split": "all",
        "distractor_share": 0.0,
        "verbs": _MOVES,
        "single_motion_share": 1.0,
        "max_instances": 2,
        "captions": "undetermined",
    },
}
"""Interactions whose roles words tell, with pairs of things that training showed, and with pairs that it never showed;
the other interactions; clips in which somebody looks just like a named instance; and single things that move, whose
captions do not say where to."""


@lru_cache(maxsize=8)
def held_out(name: str, size: tuple[int, int, int], count: int, device: torch.device, draw: int = 0) -> Clips:
    """Clips of a set and a size (frames, height, width), the same ones for every model; other ones for another
    ``draw``."""
    frames, height, width = size
    settings = {"single_motion_share": 0.0, **SETS[name]}
    world = WorldConfig(height=height, width=width, frames=frames, **settings)
    alike = settings["distractor_share"] > 0
    place = [SEED, list(SETS).index(name), *([draw] if draw else [])]
    clips = make_clips(seed_of(*place), count * (3 if alike else 1), world, device)
    if not alike:
        return clips
    kept = clips.ambiguous.cpu().nonzero()[:, 0][:count]  # not everybody's double finds room
    if len(kept) < count:
        raise ValueError(f"only {len(kept)} of {len(clips)} clips have look-alikes; {count} are wanted")
    return clips.select(kept.tolist())
