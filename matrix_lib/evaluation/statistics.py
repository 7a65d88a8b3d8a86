"""Means with their 95 % intervals: Wilson's for shares of yes and no, the bootstrap for anything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "bootstrap", "estimate", "over_seeds_and_prompts", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A mean of ``count`` values and the interval [low, high] that holds it; nan where there is no value."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def interval(self) -> str:
        """Without the count: "0.900 [0.850, 0.950]"."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __str__(self) -> str:
        return f"{self.interval} (n = {self.count})"


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; use a share between 0 and 1, such as 0.95")


def wilson(successes: int, count: int, confidence: float = 0.95) -> Estimate:
    """Share of successes with Wilson's score interval, which holds near 0 and 1 and for few trials.

    Raises ValueError where successes are not between 0 and count. Source: Wilson 1927, JASA 22, p. 209.
    """
    _check(confidence)
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count} trials; successes have to be between 0 and the trials")
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / count
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    return Estimate(share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale), count)


def bootstrap(values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of ``values`` (any shape, nan is left out) with the percentile bootstrap interval, always the same."""
    _check(confidence)
    kept = np.asarray(values, dtype=np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(seed)
    step = max(1, 2_000_000 // len(kept))
    means: list[np.ndarray] = []
    for start in range(0, resamples, step):
        picks = draws.integers(0, len(kept), (min(step, resamples - start), len(kept)))
        means.append(kept[picks].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(kept.mean()), float(low), float(high), len(kept))


def over_seeds_and_prompts(values: NDArray[np.float64], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of (S, P) values, S seeds and P prompts, with the percentile bootstrap over both, drawn anew with
    replacement; nan counts for nothing. With one seed the interval is over prompts alone."""
    draws = np.random.default_rng(seed)
    runs, prompts = values.shape
    # how often each seed and each prompt is drawn says as much as which ones are, and needs no loop
    rows = draws.multinomial(runs, np.full(runs, 1 / runs), resamples).astype(np.float64)
    columns = draws.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    known = ~np.isnan(values)
    total = ((rows @ np.where(known, values, 0.0)) * columns).sum(axis=1)
    count = ((rows @ known) * columns).sum(axis=1)
    low, high = np.nanquantile(total / np.where(count > 0, count, np.nan), [0.025, 0.975])
    return Estimate(float(np.nanmean(values)), float(low), float(high), int(known.sum()))


def estimate(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """`wilson` for booleans, `bootstrap` for numbers."""
    array = np.asarray(values)
    if array.dtype == bool:
        return wilson(int(array.sum()), array.size, confidence)
    return bootstrap(array, confidence)
