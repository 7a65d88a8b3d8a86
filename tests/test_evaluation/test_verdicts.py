"""One rule for every claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matrix_lib.evaluation.statistics import Estimate, bootstrap
from matrix_lib.evaluation.verdicts import ceiling, floor, manipulated, verdict


def at(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 64)


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [
        (at(0.02, 0.1), None, "holds"),
        (at(0.02, 0.1), 0.04, "holds"),
        (at(0.02, 0.1), 0.2, "open"),
        (at(-0.02, 0.04), None, "does not hold"),
        (at(-0.3, -0.1), 0.001, "does not hold"),
        (at(-0.02, 0.08), None, "open"),
        (at(0.001, 0.04), 0.3, "does not hold"),
        (Estimate(0.0, math.nan, math.nan, 3), None, "open"),
    ],
)
def test_the_rule(difference: Estimate, p: float | None, word: str) -> None:
    found = verdict(difference, 0.05, p=p, p_margin=p and 0.01)
    assert found.word == word
    assert str(found).startswith(word)


def test_what_cannot_be_asked_says_why() -> None:
    sure = at(0.1, 0.2)
    assert verdict(sure, 0.05, [floor(0.52, 0.5)]).why == "the base scores 0.520, chance is 0.500"
    assert verdict(sure, 0.05, [floor(0.7, 0.5), ceiling(0.99)]).word == "cannot be asked"
    at_the_top = [ceiling(0.99)]
    assert verdict(at(0.001, 0.01), 0.05, at_the_top).word == "cannot be asked", "there is no room for a gain"
    assert verdict(at(-0.2, -0.1), 0.05, at_the_top).word == "does not hold", "a loss needs no room above"
    assert verdict(at(-0.2, -0.1), 0.05, [*at_the_top, floor(0.5, 0.5)]).word == "cannot be asked"
    assert verdict(at(-0.02, 0.04), 0.05, p=1.0, p_margin=0.2).word == "open", "one of many, and near the margin"
    assert verdict(at(-0.02, 0.04), 0.05, p=1.0, p_margin=0.01).word == "does not hold"
    unmoved = manipulated(at(-0.01, 0.02))
    assert "moved by 0.005 [-0.010, 0.020]" in verdict(sure, 0.05, [unmoved]).why
    assert verdict(sure, 0.05, [floor(0.7, 0.5), ceiling(0.8), manipulated(at(0.1, 0.2))]).word == "holds"
    with pytest.raises(ValueError, match="above 0; got 0"):
        verdict(sure, 0)
    with pytest.raises(ValueError, match="give both, or neither"):
        verdict(sure, 0.05, p=0.01)


def test_no_effect_is_rarely_said_to_hold_and_a_large_one_is_found() -> None:
    rng = np.random.default_rng(0)

    def words(mean: float) -> list[str]:
        return [verdict(bootstrap(rng.normal(mean, 0.2, 64), resamples=300), 0.1).word for _ in range(200)]

    none, large = words(0.0), words(0.15)
    assert none.count("holds") <= 14
    assert none.count("does not hold") > 150
    assert large.count("holds") > 190
