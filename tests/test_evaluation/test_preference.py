"""Bradley-Terry against closed forms and another solver; intervals against people of known strengths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from support_counts import count

from matrix_lib.evaluation.preference import Preference, Vote, bradley_terry, preference

NAMES = ("a", "b", "c", "d")
TRUE = np.array([0.8, 0.2, -0.1, -0.9])


def simulated(draws: np.random.Generator, prompts: int, ties: float = 0.0, people: int = 1) -> list[Vote]:
    """Every pair of every prompt. ties: Davidson's (1970), which leave wins in the odds of the strengths."""
    votes = []
    for prompt in range(prompts):
        for i, j in itertools.combinations(range(4), 2):
            one, other = math.exp(TRUE[i]), math.exp(TRUE[j])
            even = ties * math.sqrt(one * other)
            for person in range(people):
                at = draws.random() * (one + other + even)
                won = NAMES[i] if at < one else NAMES[j] if at < one + other else ""
                votes.append(Vote(str(prompt), NAMES[i], NAMES[j], won, str(person)))
    return votes


def test_two_models_are_the_logit() -> None:
    for wins, losses in ((7, 3), (1000, 0), (0, 1), (5, 5)):
        found = bradley_terry(np.array([[0, wins], [losses, 0]]))
        half = math.log((wins + 0.5) / (losses + 0.5)) / 2
        assert found == pytest.approx([half, -half], abs=1e-9)


def test_many_models_are_at_the_maximum_of_the_likelihood() -> None:
    draws = np.random.default_rng(0)
    for size in (3, 5, 8):
        wins = draws.integers(0, 9, (size, size)).astype(float)
        wins[0, 1:] += 60  # somebody far ahead
        np.fill_diagonal(wins, 0)

        def against(strength: np.ndarray, wins: np.ndarray = wins) -> float:
            met = (wins + wins.T) > 0
            return float(((wins + 0.5 * met) * np.logaddexp(0, strength[None, :] - strength[:, None])).sum())

        best = minimize(against, np.zeros(size), method="BFGS", options={"gtol": 1e-9}).x
        assert bradley_terry(wins) == pytest.approx(best - best.mean(), abs=1e-5)


def test_models_that_never_met_have_no_strength_beside_each_other() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1], wins[2, 3] = 3, 2
    assert np.isnan(bradley_terry(wins)).all()
    wins[1, 2] = 1
    assert not np.isnan(bradley_terry(wins)).any(), "through others they did"
    found = preference([Vote("1", "a", "b", "a"), Vote("2", "a", "b", "")], NAMES[:3])
    assert found.share["a"].mean == 0.75
    assert math.isnan(found.share["c"].mean)
    assert math.isnan(found.strength["a"].mean)


def test_who_always_wins_is_not_certain_to() -> None:
    found = preference([Vote(str(n), "a", "b", "a") for n in range(8)], ("a", "b"))
    assert found.share["a"].mean == 1.0
    assert 0.6 < found.share["a"].low < 0.8
    assert math.isnan(found.strength["a"].low)
    (pair,) = found.pairs
    assert pair.lead.low < 0.5
    assert pair.p == pytest.approx(2.0**-7)


def test_ties_count_half_and_votes_on_others_are_refused() -> None:
    found = preference([Vote("1", "a", "b", "a"), Vote("1", "a", "b", "", "ben"), Vote("2", "a", "b", "")], ("a", "b"))
    assert (found.votes, found.ties, found.prompts) == (3, 2, 2)
    assert found.share["a"].mean == pytest.approx(2 / 3)
    assert found.pairs[0].lead.mean == pytest.approx(0.25), "over prompts, not over votes"
    with pytest.raises(ValueError, match="no votes"):
        preference([], ("a", "b"))
    for vote in (Vote("1", "a", "x", "a"), Vote("1", "a", "b", "c")):
        with pytest.raises(ValueError, match="a vote is about two of"):
            preference([vote], ("a", "b", "c"))


@pytest.mark.soak
@pytest.mark.parametrize("people", [1, 3])
def test_intervals_hold_known_strengths(people: int) -> None:
    """Simulated people on 60 prompts: 95 % intervals hold the true strengths about as often as they say."""
    draws, rounds = np.random.default_rng(people), count(20, 400)
    hits, order = np.zeros(4), 0
    for _ in range(rounds):
        found = preference(simulated(draws, 60, people=people), NAMES)
        ends = [(found.strength[name].low, found.strength[name].high) for name in NAMES]
        hits += [low <= true <= high for (low, high), true in zip(ends, TRUE, strict=True)]
        order += _best_and_worst(found) == ("a", "d")
    assert (hits / rounds >= 0.8).all(), hits / rounds
    assert 0.88 <= (hits / rounds).mean() <= 1.0
    assert order == rounds


def test_ties_keep_the_order_and_draw_strengths_together() -> None:
    draws = np.random.default_rng(5)
    with_ties, without = (preference(simulated(draws, 300, ties), NAMES) for ties in (1.0, 0.0))
    assert list(with_ties.strength) == list(without.strength) == list(NAMES)
    assert with_ties.ties > 300
    assert with_ties.strength["a"].mean < without.strength["a"].mean


def test_equal_models_are_not_told_apart() -> None:
    """Of pairs without any difference few have a p below .05 after correction."""
    draws, found = np.random.default_rng(9), 0
    for _ in range(20):
        votes = [
            Vote(str(prompt), NAMES[i], NAMES[j], NAMES[i] if draws.random() < 0.5 else NAMES[j])
            for prompt in range(40)
            for j in range(4)
            for i in range(j)
        ]
        found += min(pair.p for pair in preference(votes, NAMES).pairs) < 0.05
    assert found <= 3


def _best_and_worst(found: Preference) -> tuple[str, str]:
    order = list(found.strength)
    return order[0], order[-1]
