"""How far judges agree beyond chance, with 95 % intervals by a bootstrap over what was judged together (videos).

    kappa = (agreed - by chance) / (1 - by chance)

Sources: Cohen 1960, Educ. Psychol. Meas. 20, p. 37, for two; Fleiss 1971, Psychol. Bull. 76, p. 378, for several.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate

__all__ = ["Agreement", "agreement", "cohen_kappa", "fleiss_kappa"]

_RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Of some judges. agreed: how often two of them say the same; kappa: nan where everybody said one thing, since
    chance explains that; count: of questions that all of them answered; groups: of videos that these belong to."""

    judges: tuple[str, ...]
    agreed: float
    kappa: Estimate
    count: int
    groups: int


def agreement(said: Mapping[str, Mapping[tuple[Hashable, ...], Hashable]]) -> Agreement:
    """Of two judges (Cohen) or more (Fleiss), on what all of them answered.

    Args:
        said: {judge: {item: category}}. The first entry of an item is its group (the video): items of one group are
            drawn together, since they are not independent.

    Raises ValueError for fewer than two judges.
    """
    if len(said) < 2:
        raise ValueError(f"agreement is between two judges or more; got {list(said)}")
    shared = sorted(set.intersection(*(set(each) for each in said.values())), key=repr)
    categories = sorted({each[item] for each in said.values() for item in shared}, key=repr)
    if not shared:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return Agreement(tuple(said), math.nan, nothing, 0, 0)
    codes = np.array([[categories.index(each[item]) for each in said.values()] for item in shared])
    names = {group: place for place, group in enumerate(dict.fromkeys(item[0] for item in shared))}
    groups = np.array([names[item[0]] for item in shared])
    tables = _pair_tables(codes, len(categories), groups) if len(said) == 2 else _counts(codes, len(categories), groups)
    kappa = _cohen if len(said) == 2 else _fleiss
    value = float(kappa(tables.sum(0)))
    low, high = _interval(tables, kappa)
    return Agreement(
        tuple(said), _agreed(codes), Estimate(value, low, high, len(shared)), len(shared), len(names)
    )  # fmt: skip


def cohen_kappa(table: Sequence[Sequence[float]]) -> float:
    """Of a table (K, K): how often one judge said i and the other j. nan where chance explains everything."""
    return float(_cohen(np.asarray(table, float)))


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Of counts (N, K): how many judges put an item into a category, the same number of judges for each item. nan where
    chance explains everything. Raises ValueError where items have different numbers of judges."""
    table = np.asarray(counts, float)
    judges = table.sum(1)
    if np.ptp(judges) or judges[0] < 2:
        raise ValueError("each item has the same number of judges, two or more")
    return float(_fleiss(_sums(table).sum(0)))


def _pair_tables(codes: NDArray[np.int64], kinds: int, groups: NDArray[np.int64]) -> Array:
    """(G, K, K): what both judges said, by group."""
    tables = np.zeros((groups.max() + 1, kinds, kinds))
    np.add.at(tables, (groups, codes[:, 0], codes[:, 1]), 1)
    return tables


def _cohen(tables: Array) -> Array:
    """(...): of tables (..., K, K)."""
    total = tables.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = np.trace(tables, axis1=-2, axis2=-1) / total
        chance = (tables.sum(-1) * tables.sum(-2)).sum(-1) / total**2
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def _counts(codes: NDArray[np.int64], kinds: int, groups: NDArray[np.int64]) -> Array:
    """(G, K + 2): sums of `_sums` by group."""
    each = np.stack([(codes == kind).sum(1) for kind in range(kinds)], 1).astype(float)
    sums = np.zeros((groups.max() + 1, kinds + 2))
    np.add.at(sums, groups, _sums(each))
    return sums


def _sums(counts: Array) -> Array:
    """(N, K + 2) of counts (N, K): the counts, the share of pairs that agree, and 1."""
    judges = counts.sum(1)
    pairs = (counts * (counts - 1)).sum(1) / (judges * (judges - 1))
    return np.concatenate([counts, pairs[:, None], np.ones((len(counts), 1))], 1)


def _fleiss(sums: Array) -> Array:
    """(...): of sums (..., K + 2)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = sums[..., :-2] / sums[..., :-2].sum(-1, keepdims=True)
        agreed, chance = sums[..., -2] / sums[..., -1], (shares**2).sum(-1)
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def _agreed(codes: NDArray[np.int64]) -> float:
    judges = codes.shape[1]
    same = sum((codes[:, i] == codes[:, j]).mean() for i in range(judges) for j in range(i))
    return float(same / (judges * (judges - 1) / 2))


def _interval(tables: Array, kappa: object) -> tuple[float, float]:
    """95 %, groups drawn anew; not known for one group, or where a tenth of the draws has no kappa."""
    groups = len(tables)
    if groups < 2:
        return math.nan, math.nan
    weights = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _RESAMPLES)
    drawn = kappa(np.tensordot(weights, tables, 1))  # type: ignore[operator]
    known = drawn[~np.isnan(drawn)]
    if len(known) < 0.9 * _RESAMPLES:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
