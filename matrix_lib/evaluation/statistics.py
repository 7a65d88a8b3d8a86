"""Means with their 95 % intervals, p-values corrected for many comparisons, and the difference that could be found.

Shares of yes and no take Wilson's interval, anything else the bootstrap. Values that are all equal show no spread, and
a bootstrap of them would claim certainty: their interval comes from how often another value could have stayed unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Estimate",
    "benjamini_hochberg",
    "bootstrap",
    "estimate",
    "holm",
    "over_bases",
    "over_seeds_and_prompts",
    "smallest_difference",
    "wilson",
]

_POWER = 0.8
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean of ``count`` values and the interval [low, high] that holds it; nan where it is not known.

    p: of a mean of 0 against any other, two-sided, by the same draws as the interval; nan where nobody asked.
    """

    mean: float
    low: float
    high: float
    count: int
    p: float = math.nan

    @property
    def interval(self) -> str:
        """Without the count: "0.900 [0.850, 0.950]"."""
        if math.isnan(self.low) and not math.isnan(self.mean):
            return f"{self.mean:.3f} [not known: all values are equal]"
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


def bootstrap(
    values: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Estimate:
    """Mean of ``values`` (any shape, nan is left out) with the percentile bootstrap interval, always the same.

    bounds: between which each value lies by its definition. Without them nothing is known of the interval of values
    that are all equal, or of one alone: it is nan.
    """
    _check(confidence)
    kept = np.asarray(values, dtype=np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0)
    if np.ptp(kept) == 0:
        return _all_equal(float(kept[0]), len(kept), len(kept), confidence, bounds)
    draws = np.random.default_rng(seed)
    step = max(1, 2_000_000 // len(kept))
    means: list[np.ndarray] = []
    for start in range(0, resamples, step):
        picks = draws.integers(0, len(kept), (min(step, resamples - start), len(kept)))
        means.append(kept[picks].mean(axis=1))
    drawn = np.concatenate(means)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(kept.mean()), float(low), float(high), len(kept), _p_of(drawn))


def _all_equal(value: float, count: int, independent: int, confidence: float, bounds: Bounds | None) -> Estimate:
    """Of ``count`` equal values, ``independent`` of them drawn apart: how often another one can occur without having
    been seen (Clopper and Pearson), and how far such a one could be away."""
    p = 1.0 if value == 0 else 0.5 ** (independent - 1)
    if bounds is None:
        return Estimate(value, math.nan, math.nan, count, p)
    unseen = 1 - ((1 - confidence) / 2) ** (1 / independent)
    low, high = (value + unseen * (bound - value) for bound in bounds)
    return Estimate(value, low, high, count, p)


def _p_of(drawn: NDArray[np.float64]) -> float:
    """Two-sided, of 0: how often a resampled mean lies on the other side of it."""
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(drawn) + 1))


def over_seeds_and_prompts(
    values: NDArray[np.float64], resamples: int = 2000, seed: int = 0, bounds: Bounds | None = None
) -> Estimate:
    """Mean of (S, P) values, S seeds and P prompts, with the percentile bootstrap over both, drawn anew with
    replacement; nan counts for nothing. With one seed the interval is over prompts alone. bounds: see `bootstrap`."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0)
    if np.ptp(kept) == 0:
        return _all_equal(float(kept[0]), len(kept), int((~np.isnan(values)).any(0).sum()), 0.95, bounds)
    draws = np.random.default_rng(seed)
    runs, prompts = values.shape
    # how often each seed and each prompt is drawn says as much as which ones are, and needs no loop
    rows = draws.multinomial(runs, np.full(runs, 1 / runs), resamples).astype(np.float64)
    columns = draws.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    known = ~np.isnan(values)
    total = ((rows @ np.where(known, values, 0.0)) * columns).sum(axis=1)
    count = ((rows @ known) * columns).sum(axis=1)
    drawn = total / np.where(count > 0, count, np.nan)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(float(np.nanmean(values)), float(low), float(high), int(known.sum()), _p_of(drawn))


def estimate(values: ArrayLike, confidence: float = 0.95, bounds: Bounds | None = None) -> Estimate:
    """`wilson` for booleans, `bootstrap` for numbers."""
    array = np.asarray(values)
    if array.dtype == bool:
        return wilson(int(array.sum()), array.size, confidence)
    return bootstrap(array, confidence, bounds=bounds)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false finding among them is kept; nan stays nan and counts for
    nothing. Source: Holm 1979, Scand. J. Statist. 6, p. 65."""
    order = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    found, least = [math.nan] * len(p), 0.0
    for rank, (value, place) in enumerate(order):
        least = max(least, min(1.0, value * (len(order) - rank)))
        found[place] = least
    return found


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p-values adjusted so that the share of false findings among all findings is kept; nan stays nan and counts for
    nothing. Source: Benjamini and Hochberg 1995, JRSS B 57, p. 289."""
    order = sorted(((value, place) for place, value in enumerate(p) if not math.isnan(value)), reverse=True)
    found, most = [math.nan] * len(p), 1.0
    for behind, (value, place) in enumerate(order):
        most = min(most, value * len(order) / (len(order) - behind))
        found[place] = most
    return found


def smallest_difference(
    found: Estimate,
    power: float = _POWER,
    confidence: float = 0.95,
    comparisons: float = 1.0,
    means: Sequence[float] = (),
) -> float:
    """The smallest difference that a comparison with this interval would have found with the given chance; nan where
    the interval is not known. Normal: (z of the confidence + z of the power) standard errors.

    comparisons: how often p counts, as in the first step of `holm`. means: of two bases or more, for what `over_bases`
    found: Student's p of them has to pass as well.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    tail = (1 - confidence) / comparisons
    least = (NormalDist().inv_cdf(1 - tail / 2) + NormalDist().inv_cdf(power)) * (found.high - found.low) / (2 * z)
    if len(means) < 2:
        return least
    reach = sum(_reach(chance, len(means) - 1) for chance in (tail, 2 * (1 - power)))
    return max(least, reach * float(np.std(means, ddof=1)) / math.sqrt(len(means)))


def over_bases(
    tables: Sequence[NDArray[np.float64]], resamples: int = 4000, seed: int = 0, bounds: Bounds | None = None
) -> tuple[Estimate, Estimate]:
    """Mean of the bases' means of (S, P) values, S seeds of a base and P prompts, the same ones in every base: for
    these very bases, and for bases like these.

    Of these bases, seeds and prompts are drawn anew with replacement. Of bases like these, the bases as well; and as
    such a bootstrap of a few bases is too narrow, the interval reaches as far as Student's of the bases' means where
    that is wider, and p is the larger one. Of one base alone nothing is known about others: nan.

    Raises ValueError for no base, and for other prompts in some base.
    """
    if not tables or len({table.shape[1] for table in tables}) != 1:
        raise ValueError("one table (seeds, prompts) a base, of the same prompts, and at least one of them")
    means = np.array([table.mean() for table in tables])
    count = sum(table.size for table in tables)
    joined = np.concatenate(tables)
    if np.ptp(joined) == 0:
        same = _all_equal(float(means.mean()), count, joined.shape[1], 0.95, bounds)
        return same, same if len(tables) > 1 else Estimate(same.mean, math.nan, math.nan, count)
    columns, state = _prompt_draws(joined.shape[1], resamples, seed)
    draws = np.random.default_rng()
    draws.bit_generator.state = state
    drawn = []
    for table in tables:
        runs = len(table)
        rows = draws.multinomial(runs, np.full(runs, 1 / runs), resamples) / runs
        drawn.append(np.einsum("rp,rp->r", rows @ table, columns))
    fixed = np.stack(drawn, axis=1)
    weights = draws.multinomial(len(tables), np.full(len(tables), 1 / len(tables)), resamples) / len(tables)
    these = _from_draws(float(means.mean()), fixed.mean(axis=1), count)
    if len(tables) < 2:
        return these, Estimate(these.mean, math.nan, math.nan, count)
    drawn_anew = (fixed * weights).sum(axis=1)
    like = _from_draws(float(means.mean()), drawn_anew, count)
    half, p = _student(means)
    low, high = min(like.low, like.mean - half), max(like.high, like.mean + half)
    return these, Estimate(like.mean, low, high, count, max(_beyond_draws(drawn_anew), p))


@lru_cache(maxsize=2)
def _prompt_draws(prompts: int, resamples: int, seed: int) -> tuple[NDArray[np.float64], Any]:
    """(resamples, prompts) how often each prompt is drawn, as a share, and where the generator stands then: the same
    for all tables of a report, and most of what an interval costs."""
    draws = np.random.default_rng(seed)
    columns = draws.multinomial(prompts, np.full(prompts, 1 / prompts), resamples) / prompts
    return columns, draws.bit_generator.state


def _beyond_draws(drawn: NDArray[np.float64]) -> float:
    """`_p_of`, and where no draw lies beyond 0 the normal tail of their spread: otherwise a correction for many
    comparisons would multiply "less than one in so many draws", and no difference could ever pass it."""
    p, tail = _p_of(drawn), 2 * NormalDist().cdf(-abs(float(drawn.mean())) / float(drawn.std()))
    return min(p, tail) if min((drawn <= 0).sum(), (drawn >= 0).sum()) == 0 else p


def _from_draws(mean: float, drawn: NDArray[np.float64], count: int) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), count, _p_of(drawn))


def _student(values: NDArray[np.float64]) -> tuple[float, float]:
    """Half of Student's 95 % interval of a mean, and two-sided p of 0."""
    freedom = len(values) - 1
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return 0.0, 1.0 if values.mean() == 0 else 0.0
    return _reach(0.05, freedom) * error, _beyond(abs(float(values.mean())) / error, freedom)


@lru_cache(maxsize=256)
def _reach(chance: float, freedom: int) -> float:
    """The t that Student's passes, on either side, with this chance."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, freedom) > chance else (low, middle)
    return high


def _beyond(t: float, freedom: int) -> float:
    """Chance that Student's t lies farther from 0 than this: an integral over the angle whose tangent is
    t / sqrt(freedom), where the density is a power of the cosine."""
    whole = np.linspace(0.0, math.pi / 2, 20001)
    density = np.cos(whole) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    inside = np.interp(math.atan(t / math.sqrt(freedom)), whole, area)
    return float(1 - inside / area[-1])
