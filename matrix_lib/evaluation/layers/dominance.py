"""Which layers carry an interaction: influential layers, dominant layers, and how sure one can be of them.

Works on a table of alignment scores, N clips x L layers (or heads), one value per clip and layer: the step-averaged
AAS of one kind of map and one group of entities. Source: MATRIX (arXiv 2510.07310), section 3; the paper gives no
intervals and no test, so both are ours: a stratified bootstrap, and a permutation test whose p-values are adjusted for
the number of layers by the largest statistic of each permutation (Westfall and Young).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dominance", "Influence", "auc", "auc_bounds", "dominant_layers", "influential_layers", "varied_layers"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Influence:
    """Layers by how often and how strongly they align. All arrays are (L,), in the order of `layers`.

    frequency: share of clips in which the layer is among the top; magnitude: mean score; rank_sum: rank by frequency
    plus rank by magnitude, 0 the best. chosen: the kept layers, best first.
    """

    layers: tuple[int, ...]
    frequency: Array
    magnitude: Array
    rank_sum: Array
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Dominance:
    """Layers by how far they separate success from failure. All arrays are (L,), in the order of `layers`.

    success_gap, failure_gap: mean over the success (failure) set minus the mean over both. separation: their
    difference. low, high: its bootstrap interval. p: permutation test of separation = 0 against separation > 0;
    p_adjusted: the same over all layers together. chosen: layers with p_adjusted <= alpha, best first. clips: size of
    each set.
    """

    layers: tuple[int, ...]
    success_gap: Array
    failure_gap: Array
    separation: Array
    low: Array
    high: Array
    p: Array
    p_adjusted: Array
    chosen: tuple[int, ...]
    clips: int


def varied_layers(scores: Array, layers: Sequence[int], floor: float = 1e-3) -> tuple[int, ...]:
    """Layers whose score varies over clips: dummy layers, whose standard deviation is below `floor` times the median
    layer's, look the same whatever the clip shows and drop out (the paper does so for Wan's video-to-text maps)."""
    table, names = _table(scores, layers)
    spread = table.std(axis=0)
    keep = spread > floor * max(float(np.median(spread)), np.finfo(float).tiny)
    return tuple(layer for layer, kept in zip(names, keep, strict=True) if kept)


def influential_layers(scores: Array, layers: Sequence[int], top: int = 10, keep: int = 10) -> Influence:
    """Ranks layers by frequency in each clip's `top` and by mean score, adds the ranks, keeps the best `keep`."""
    table, names = _table(scores, layers)
    top, keep = min(top, len(names)), min(keep, len(names))
    if top < 1 or keep < 1:
        raise ValueError(f"top and keep are 1 or more; got {top} and {keep}")
    places = np.argsort(-table, axis=1, kind="stable")[:, :top]
    frequency = np.bincount(places.ravel(), minlength=len(names)) / len(table)
    magnitude = table.mean(axis=0)
    rank_sum = _ranks(frequency) + _ranks(magnitude)
    order = sorted(range(len(names)), key=lambda i: (rank_sum[i], -magnitude[i]))
    return Influence(names, frequency, magnitude, rank_sum, tuple(names[i] for i in order[:keep]))


def dominant_layers(
    scores: Array,
    success: Sequence[bool] | NDArray[np.bool_],
    layers: Sequence[int],
    *,
    alpha: float = 0.005,
    draws: int = 10000,
    seed: int = 0,
    least: int = 5,
) -> Dominance:
    """Compares equal-sized sets of clips that succeeded and that failed.

    Args:
        scores: (N, L). success: (N,) which clips show the interaction that was asked for.
        alpha: family-wise error over all layers below which a layer is chosen.
        draws: permutations, and bootstrap resamples. seed: of both, and of which clips of the larger set are taken.
        least: smallest set that is worth a test.

    Raises ValueError for scores that are not finite, labels that do not fit, or too few successes or failures.
    """
    table, names = _table(scores, layers)
    label = np.asarray(success, dtype=bool)
    if label.shape != (len(table),):
        raise ValueError(f"one success label per clip: {len(table)} clips, labels of shape {label.shape}")
    each = int(min(label.sum(), (~label).sum()))
    if each < least:
        raise ValueError(
            f"a gap needs at least {least} successes and {least} failures; there are {int(label.sum())} and "
            f"{int((~label).sum())}. Generate more clips, or harder prompts if failures are missing."
        )
    rng = np.random.default_rng(seed)
    good = table[rng.permutation(np.flatnonzero(label))[:each]]
    bad = table[rng.permutation(np.flatnonzero(~label))[:each]]
    both = np.concatenate([good, bad])
    mean = both.mean(axis=0)
    separation = good.mean(axis=0) - bad.mean(axis=0)
    low, high = _bootstrap(good, bad, draws, rng)
    p, adjusted = _permute(both, each, draws, rng)
    order = np.argsort(-separation, kind="stable")
    chosen = tuple(names[i] for i in order if adjusted[i] <= alpha)
    gaps = good.mean(axis=0) - mean, bad.mean(axis=0) - mean
    return Dominance(names, *gaps, separation, low, high, p, adjusted, chosen, each)


def auc(score: Array, success: Sequence[bool] | NDArray[np.bool_]) -> float:
    """How well a score tells success from failure: probability that a random success scores higher, ties half.

    0.5 is chance. Raises ValueError where one of the two is missing.
    """
    values, label = np.asarray(score, dtype=np.float64), np.asarray(success, dtype=bool)
    good, bad = values[label], values[~label]
    if not len(good) or not len(bad):
        raise ValueError(f"an AUC needs successes and failures; there are {len(good)} and {len(bad)}")
    below = np.searchsorted(np.sort(bad), good, "left")
    upto = np.searchsorted(np.sort(bad), good, "right")
    return float((below + upto).mean() / (2 * len(bad)))


def auc_bounds(found: float, successes: int, failures: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of an AUC from its value and the sizes of both classes, which holds near 0 and 1 as well.

    There a bootstrap cannot know of the runs that would not be in order: of an AUC of 1 all its draws are 1. Source:
    Newcombe 2006, Statistics in Medicine 25, p. 559 (method 5).
    """
    z, more = NormalDist().inv_cdf(0.5 + confidence / 2), (successes + failures) / 2 - 1

    def beyond(truth: float) -> bool:
        pairs = 1 + more * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        return abs(found - truth) > z * math.sqrt(truth * (1 - truth) * pairs / (successes * failures))

    ends = []
    for end in (0.0, 1.0):
        inside, outside = found, end
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        ends.append(inside if beyond(outside) else end)
    return ends[0], ends[1]


def _table(scores: Array, layers: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    table, names = np.asarray(scores, dtype=np.float64), tuple(layers)
    if table.ndim != 2 or table.shape[1] != len(names) or not len(table):
        raise ValueError(
            f"scores are (clips, layers) with {len(names)} layers and at least one clip; got {table.shape}"
        )
    if not np.isfinite(table).all():
        clips = np.flatnonzero(~np.isfinite(table).all(axis=1))[:5].tolist()
        raise ValueError(f"scores of clips {clips} are not finite: leave out clips whose entities have no mask")
    return table, names


def _ranks(values: Array) -> Array:
    """0 for the largest; equal values share their mean rank."""
    order = np.argsort(-values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    for value in np.unique(values):
        ranks[values == value] = ranks[values == value].mean()
    return ranks


def _bootstrap(good: Array, bad: Array, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """95 % percentile interval of the separation, resampling clips within each set."""
    n = len(good)
    share = [rng.multinomial(n, np.full(n, 1 / n), size=draws) / n for _ in range(2)]
    resampled = share[0] @ good - share[1] @ bad
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return low, high


def _permute(both: Array, each: int, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """One-sided p-values of Welch's t, plain and adjusted by the largest t of each permutation."""
    signs = np.tile(np.repeat([True, False], each), (draws, 1))
    rng.permuted(signs, axis=1, out=signs)
    signs = np.concatenate([np.repeat([[True, False]], each, axis=1), signs])  # the labels as given come first
    pick = signs.astype(np.float64)
    centred = both - both.mean(axis=0)
    sums, squares = pick @ centred, pick @ centred**2
    all_squares = (centred**2).sum(axis=0)
    mean = sums / each
    var_a = squares / each - mean**2
    var_b = (all_squares - squares) / each - mean**2  # the other half's mean is minus this one's
    spread = np.sqrt(np.maximum(var_a + var_b, 0.0) / max(each - 1, 1))
    t = np.divide(2 * mean, spread, out=np.zeros_like(mean), where=spread > 0)
    given, drawn = t[0], t[1:]
    p = (1 + (drawn >= given).sum(axis=0)) / (draws + 1)
    largest = drawn.max(axis=1)
    adjusted = (1 + (largest[:, None] >= given).sum(axis=0)) / (draws + 1)
    return p, adjusted
