"""Kappa against its papers' examples, and its interval against many draws of judges whose kappa is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support_counts import count

from matrix_lib.evaluation.agreement import agreement, cohen_kappa, fleiss_kappa


def test_published_examples() -> None:
    # Cohen 1960, table 1: two judges, three categories; and the usual example of two
    assert cohen_kappa([[88, 14, 18], [10, 40, 10], [2, 6, 12]]) == pytest.approx(0.492, abs=5e-4)
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    # ten items, fourteen judges, five categories: kappa .210
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_where_chance_explains_everything_kappa_is_not_known() -> None:
    said = {("v", n): True for n in range(5)}
    found = agreement({"anna": said, "ben": dict(said)})
    assert (found.agreed, found.count, found.groups) == (1.0, 5, 1)
    assert math.isnan(found.kappa.mean)
    assert math.isnan(cohen_kappa([[3, 0], [0, 0]]))
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))
    with pytest.raises(ValueError, match="same number of judges"):
        fleiss_kappa([[3, 0], [2, 0]])
    with pytest.raises(ValueError, match="between two judges"):
        agreement({"anna": said})


def test_only_what_all_of_them_answered_counts() -> None:
    one = {("v", 1): True, ("v", 2): False, ("w", 1): True, ("w", 3): True}
    other = {("v", 1): True, ("v", 2): True, ("w", 1): True, ("x", 9): False}
    found = agreement({"anna": one, "ben": other})
    assert (found.judges, found.count, found.groups) == (("anna", "ben"), 3, 2)
    assert found.agreed == pytest.approx(2 / 3)
    assert agreement({"anna": one, "ben": {}}).count == 0


def test_two_judges_by_fleiss_are_scotts_pi_and_near_cohen() -> None:
    draws = np.random.default_rng(1)
    first = draws.random(400) < 0.6
    second = first ^ (draws.random(400) < 0.15)
    counts = np.stack([first.astype(int) + second, 2 - first - second.astype(int)], 1)
    table = [[np.sum(first & second), np.sum(first & ~second)], [np.sum(~first & second), np.sum(~first & ~second)]]
    assert fleiss_kappa(counts.tolist()) == pytest.approx(cohen_kappa(table), abs=5e-3)


@pytest.mark.soak
def test_intervals_hold_the_true_kappa() -> None:
    """Judges who see the truth and err by chance, on videos of unlike difficulty; many videos give the true kappa."""
    draws = np.random.default_rng(3)

    def judged(videos: int, judges: int) -> list[dict[tuple[int, int], bool]]:
        errs = draws.choice([0.02, 0.3], videos)
        truth = draws.random((videos, 10)) < 0.6
        flips = draws.random((judges, videos, 10)) < errs[None, :, None]
        return [{(v, q): bool(truth[v, q] ^ flip[v, q]) for v in range(videos) for q in range(10)} for flip in flips]

    for judges in (2, 3):
        names = ("anna", "ben", "cleo")[:judges]
        true = agreement(dict(zip(names, judged(2000, judges), strict=True))).kappa.mean
        rounds, hits = count(20, 400), 0
        for _ in range(rounds):
            found = agreement(dict(zip(names, judged(40, judges), strict=True))).kappa
            hits += found.low <= true <= found.high
        assert 0.75 <= hits / rounds <= 1.0, (judges, hits / rounds)
