"""The AUC of layers that were chosen on other runs, and an interval that holds the choice."""

from __future__ import annotations

import numpy as np
import pytest
from support_counts import count

from matrix_lib.evaluation.layers.dominance import auc, auc_bounds
from matrix_lib.evaluation.layers.held_out import held_out_auc


def runs(rng: np.random.Generator, n: int, effects: list[float]) -> tuple[np.ndarray, np.ndarray]:
    label = np.arange(n) < n // 2
    table = rng.normal(size=(n, len(effects)))
    table[label] += effects
    return table, label


def truth(rng: np.random.Generator, n: int, effects: list[float], take: int) -> float:
    """Layers chosen on four of five folds, asked on very many fresh runs."""
    found = []
    for _ in range(200):
        table, label = runs(rng, n * 4 // 5, effects)
        fresh, right = runs(rng, 2000, effects)
        best = np.argsort(-(table[label].mean(0) - table[~label].mean(0)) / table.std(0))[:take]
        value = ((fresh - table.mean(0)) / table.std(0))[:, best].mean(1)
        bad = np.sort(value[~right])
        found.append(np.searchsorted(bad, value[right]).mean() / len(bad))
    return float(np.mean(found))


@pytest.mark.soak
@pytest.mark.parametrize("effects", [[0.0] * 10, [0.8, 0.2] + [0.0] * 8])
def test_the_interval_covers_the_truth(effects: list[float]) -> None:
    rng, n, sets = np.random.default_rng(1), 60, count(24, soak=400)
    wanted = truth(rng, n, effects, 2)
    found = [held_out_auc(*runs(rng, n, effects), 2, draws=100, seed=i) for i in range(sets)]
    held = [one.low <= wanted <= one.high for one in found]
    assert np.mean(held) >= (0.93 if sets > 100 else 0.83), "95 % say so; by chance a few more may miss"
    assert abs(np.mean([one.mean for one in found]) - wanted) < 0.05
    assert np.mean([one.high - one.low for one in found]) < 0.6, "it says something"


def test_no_folds_without_two_of_each() -> None:
    table = np.random.default_rng(0).normal(size=(10, 3))
    assert held_out_auc(table, np.arange(10) < 1, 1) is None
    assert held_out_auc(table, np.arange(10) < 2, 1, draws=20) is not None
    same = held_out_auc(table, np.arange(10) < 5, 1, draws=20)
    assert same == held_out_auc(table, np.arange(10) < 5, 1, draws=20)


def test_an_auc_near_1_is_not_certain() -> None:
    """Where all runs are in order every draw of a bootstrap says 1; the truth (Phi of 2.5 / sqrt 2) is below."""
    rng, held = np.random.default_rng(0), 0
    assert auc_bounds(1.0, 20, 20) == pytest.approx((0.8987, 1.0), abs=1e-3)
    assert auc_bounds(0.0, 20, 20) == pytest.approx((0.0, 1 - 0.8987), abs=1e-3)
    for _ in range(300):
        table, label = runs(rng, 24, [2.5])
        low, high = auc_bounds(auc(table[:, 0], label), 12, 12)
        held += low <= 0.9615 <= high
    assert held / 300 > 0.93
    sure = held_out_auc(np.where(np.arange(40) < 20, 1.0, 0.0)[:, None], np.arange(40) < 20, 1, draws=20)
    assert sure is not None
    assert sure.low < 0.91 < sure.high == 1
