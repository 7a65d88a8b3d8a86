"""How well layers that were chosen on some runs tell success from failure on others.

N runs, L layers. Choosing and judging on the same runs would flatter, so runs are dealt into folds: layers are chosen
on all folds but one, and judged on that one. The interval draws runs anew, successes and failures apart, and chooses
again in each draw: it holds what both the choice and the judgement owe to chance. A run that is drawn twice stays in
its own fold, or it would be judged by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..statistics import Estimate
from .dominance import auc_bounds

__all__ = ["held_out_auc"]

Array = NDArray[np.float64]


def held_out_auc(
    table: Array, label: NDArray[np.bool_], take: int, *, folds: int = 5, draws: int = 400, seed: int = 0
) -> Estimate | None:
    """AUC of the mean z-score of the `take` layers that separate best on the other folds, with its 95 % interval.

    Args:
        table: (N, L) scores. label: (N,) success.
        folds: at most as many as the smaller class has runs.

    None where a class has fewer than two runs. AUCs are taken inside each fold, whose scores share a scale, and
    averaged over its pairs. The interval is the bootstrap's spread about its own median, put around the estimate: draws
    hold fewer different runs than there are, so that they choose a little worse. Near 0 and 1, where draws hardly
    spread, it reaches as far as `auc_bounds`.
    """
    folds = min(folds, int(label.sum()), int((~label).sum()))
    if folds < 2:
        return None
    rng = np.random.default_rng(seed)
    place = np.empty(len(label), dtype=int)
    groups = [np.flatnonzero(label), np.flatnonzero(~label)]
    for group in groups:
        place[rng.permutation(group)] = np.arange(len(group)) % folds
    found = _crossed(table, label, place, folds, take)
    drawn = []
    for _ in range(draws):
        runs = np.concatenate([group[rng.integers(0, len(group), len(group))] for group in groups])
        drawn.append(_crossed(table[runs], label[runs], place[runs], folds, take))
    low, middle, high = np.nanquantile(drawn, [0.025, 0.5, 0.975])
    least, most = auc_bounds(found, int(label.sum()), int((~label).sum()))
    least, most = min(least, found + low - middle), max(most, found + high - middle)
    return Estimate(found, float(max(0.0, least)), float(min(1.0, most)), len(label))


def _crossed(table: Array, label: NDArray[np.bool_], place: NDArray[np.int_], folds: int, take: int) -> float:
    """The AUC over all folds, each by the layers that were chosen without it; nan where no fold can be judged."""
    wins = pairs = 0.0
    for fold in range(folds):
        train, test = place != fold, place == fold
        known, right = table[train], label[train]
        if not (right.any() and (~right).any() and label[test].any() and (~label[test]).any()):
            continue  # a draw may leave a fold, or all others, with one class alone
        z = (table[test] - known.mean(0)) / np.maximum(known.std(0), 1e-12)
        gap = (known[right].mean(0) - known[~right].mean(0)) / np.maximum(known.std(0), 1e-12)
        value = z[:, np.argsort(-gap, kind="stable")[:take]].mean(1)
        good, bad = value[label[test]], np.sort(value[~label[test]])
        wins += float(np.searchsorted(bad, good, "left").sum() + np.searchsorted(bad, good, "right").sum()) / 2
        pairs += len(good) * len(bad)
    return wins / pairs if pairs else float("nan")
