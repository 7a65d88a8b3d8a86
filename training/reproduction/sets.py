"""What models are judged on: clips of the mini world that nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from matrix_lib.mini.verbs import VERBS
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from ..data.world import seed_of

__all__ = ["JUDGED", "NOISE", "SEED", "SETS", "TOLD", "held_out"]

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
    "unseen verbs": {"split": "train", "distractor_share": 0.0, "verbs": ("pull", "lift")},
    "two at once": {
        "split": "train",
        "distractor_share": 0.0,
        "verbs": TOLD,
        "pair_share": 1.0,
        "size": 0.75,
        "max_instances": 6,
    },
    "cluttered": {
        "split": "train",
        "distractor_share": 0.0,
        "verbs": TOLD,
        "clutter": 24,
        "occlusion_share": 1.0,
        "camera": True,
    },
    "even look-alikes": {
        "split": "train",
        "distractor_share": 1.0,
        "even_twins": True,
        "verbs": tuple(verb.name for verb in VERBS if verb.parts == 2 and verb.name != "orbit"),
    },
    "open scenes": {
        "split": "all",
        "distractor_share": 0.0,
        "verbs": TOLD,
        "max_instances": 3,
        "camera": True,
        "captions": "undetermined",
    },
}
"""Interactions whose roles words tell, with pairs of things that training showed, and with pairs that it never showed;
the other interactions; clips in which somebody looks just like a named instance; single things that move, whose
captions do not say where to; verbs that `weak_verbs` never saw; two interactions at once; clips before a moving
background full of things, with others in the way; doubles of the recipient of which the first frame does not say which
one is meant; and two things that act on each other under a moving camera, whose captions do not say how."""

JUDGED: dict[str, tuple[str, ...]] = {
    "weak_roles": ("told", "unseen pairs", "look-alikes", "even look-alikes"),
    "weak_untold": ("told", "unseen pairs"),
    "weak_roles_33": ("told", "unseen pairs"),
    "weak_roles_49": ("told", "unseen pairs"),
    "weak_pairs": ("two at once", "told"),
    "weak_verbs": ("unseen verbs", "others"),
    "weak_clutter": ("cluttered", "told"),
}
"""What bases of a preset are judged on before anything; the first set is also that of their layer analysis."""


@lru_cache(maxsize=8)
def held_out(name: str, size: tuple[int, int, int], count: int, device: torch.device, draw: int = 0) -> Clips:
    """Clips of a set and a size (frames, height, width), the same ones for every model; other ones for another
    ``draw``."""
    frames, height, width = size
    settings = {"single_motion_share": 0.0, **SETS[name]}
    world = WorldConfig(height=height, width=width, frames=frames, **settings)
    alike, both = settings["distractor_share"] > 0, "pair_share" in settings
    place = [SEED, list(SETS).index(name), *([draw] if draw else [])]
    clips = make_clips(seed_of(*place), count * (3 if alike or both else 1), world, device)
    if not alike and not both:
        return clips
    found = torch.tensor([bool(name) for name in clips.second]) if both else clips.ambiguous.cpu()
    kept = found.nonzero()[:, 0][:count]  # not everybody's double, and not every second pair, finds room
    if len(kept) < count:
        what = "two interactions" if both else "look-alikes"
        raise ValueError(f"only {len(kept)} of {len(clips)} clips have {what}; {count} are wanted")
    return clips.select(kept.tolist())
