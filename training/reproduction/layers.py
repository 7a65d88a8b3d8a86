"""Which layers the losses read: named by what a base itself does, lowest, or drawn.

L layers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from matrix_lib.evaluation.layers.dominance import auc, dominant_layers
from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.mini.world import Clips

from ..data.world import seed_of
from .bench import Bench, Table

__all__ = ["COUNTS", "analyse", "choose"]

COUNTS = {"v2t": 2, "v2v": 1}
_DRAW = 2  # of the set: clips that nothing is judged on
_GRADIENTS = 16  # clips whose gradients are compared
_ANALYSED = 9  # noise of the clips that a base is analysed on
_LEAST = 8  # successes and failures that a gap needs
_OWN = " of the base"


def analyse(bench: Bench, name: str = "told") -> dict[str, Any]:
    """Shares of attention by layer on true clips, and on what the base makes the separation of success from failure.

    name: set of the clips, which are other ones than those that are judged. (Sittings up to 2026-12-01 had the judged
    prompts of the set "told", of which the set of unseen pairs shares none.)
    """
    scale = bench.scale
    true = bench.attention(bench.clips(name, scale.true, draw=_DRAW))
    agree = bench.agreement(bench.clips(name, min(scale.true, _GRADIENTS), draw=_DRAW))
    table, success = _generated(bench, bench.clips(name, scale.generated, draw=_DRAW))
    layers = range(scale.layers)
    out: dict[str, Any] = {"successes": int(success.sum()), "failures": int((~success).sum())}
    out["chance"] = round(float(true["chance"].mean()), 4)
    for kind in ("v2t", "verb", "v2v"):
        row: dict[str, Any] = {"share": true[kind].mean(0).round(4).tolist(), "chosen": []}
        row |= {"agreement": agree[kind]} if kind in agree else {}
        if min(success.sum(), (~success).sum()) >= _LEAST:
            gap = dominant_layers(table[kind], success, layers, alpha=0.05, draws=2000, least=_LEAST)
            row["separation"] = gap.separation.round(4).tolist()
            row["p_adjusted"] = gap.p_adjusted.round(4).tolist()
            row["auc"] = [round(auc(table[kind][:, i], success), 3) for i in layers]
            row["chosen"] = list(gap.chosen)
        out[kind] = row
    return out


def _generated(bench: Bench, clips: Clips) -> tuple[Table, Any]:
    """Shares of attention (n, L) on what is seen in the base's own clips, and which of them are right; clips whose
    first frame lacks somebody whom the caption names, or that lack somebody altogether, are left out."""
    tables: list[Table] = []
    success: list[bool] = []
    for start in range(0, len(clips), 64):
        part = clips.select(slice(start, start + 64))
        video = bench.made(part, purpose=seed_of(_ANALYSED, start))
        verdict, seen = judge(video, part), look(video, part)
        slots = part.named
        ever, first = seen.masks.flatten(2).any(2), seen.masks[:, :, 0].flatten(2).any(2)
        found = (ever & first | ~slots) & (ever | ~part.present)
        keep = found.all(1).cpu().nonzero()[:, 0].tolist()
        if keep:
            tables.append(bench.attention(part.select(keep), masks=seen.masks[keep], video=video[keep]))
            success += (verdict.right_roles & verdict.right_path & verdict.intact).cpu()[keep].tolist()
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]} if tables else {}
    return joined, np.array(success, dtype=bool)


def choose(analysis: Mapping[str, Any], kind: str, home: int = 0) -> dict[str, tuple[int, ...]]:
    """v2t and v2v of a kind of layers.

    dominant: those with a gap between success and failure (5 %), best first, filled up with the largest shares on the
    mask. lowest: the smallest shares. random D: `random.Random(D)` takes as many of what neither of these has, the same
    places in every base; random D of the base: other ones in each base (home: its seed). layer L: this one for words
    and tracks. all: every layer.
    """
    named = {at: _named(analysis[at], count) for at, count in COUNTS.items()}
    if kind == "dominant":
        return named
    if kind == "all":
        return {at: tuple(range(len(analysis[at]["share"]))) for at in COUNTS}
    word, _, draw = kind.partition(" ")
    if word == "layer" and draw.isdecimal() and int(draw) < min(len(analysis[at]["share"]) for at in COUNTS):
        return dict.fromkeys(COUNTS, (int(draw),))
    low = {at: _lowest(analysis[at]["share"], COUNTS[at], named[at]) for at in COUNTS}
    if kind == "lowest":
        return low
    draw, own = draw.removesuffix(_OWN), draw.endswith(_OWN)
    if word != "random" or not draw.isdecimal():
        raise ValueError(f"layers are dominant, lowest, all, random D{{{_OWN}}} or layer L of the base's; got {kind!r}")
    chance, out = random.Random(f"{draw}, {home}" if own else int(draw)), {}
    for at, count in COUNTS.items():
        every = range(len(analysis[at]["share"]))
        free = [i for i in every if i not in named[at] + low[at]]
        out[at] = tuple(sorted(chance.sample(free if len(free) >= count else list(every), count)))
    return out


def _named(row: Mapping[str, Any], count: int) -> tuple[int, ...]:
    order = list(row["chosen"])[:count]
    rest = [int(i) for i in np.argsort(-np.array(row["share"])) if int(i) not in order]
    return tuple(sorted(order + rest[: count - len(order)]))


def _lowest(shares: list[float], count: int, taken: tuple[int, ...]) -> tuple[int, ...]:
    order = [int(i) for i in np.argsort(np.array(shares))]
    free = [i for i in order if i not in taken]
    return tuple(sorted((free if len(free) >= count else order)[:count]))
