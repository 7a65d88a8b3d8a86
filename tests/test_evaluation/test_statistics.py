"""Means and their intervals against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matrix_lib.evaluation.statistics import bootstrap, estimate, over_seeds_and_prompts, wilson


def test_wilson_against_published_values():
    some = wilson(8, 10)
    assert (some.mean, some.count) == (0.8, 10)
    assert some.low == pytest.approx(0.4902, abs=1e-4)
    assert some.high == pytest.approx(0.9433, abs=1e-4)
    none = wilson(0, 10)
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10).high == 1


def test_wilson_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).binomial(60, 0.9, 400)
    held = sum(some.low <= 0.9 <= some.high for some in (wilson(int(k), 60) for k in draws))
    assert 0.91 <= held / 400 <= 0.99


def test_bootstrap_of_normal_values_is_near_the_textbook():
    values = np.random.default_rng(1).normal(2, 1, 400)
    some = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert some.mean == pytest.approx(values.mean())
    assert some.low == pytest.approx(values.mean() - half, abs=0.02)
    assert some.high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap(values) == some


def test_missing_values_are_left_out_and_nothing_is_nan():
    assert bootstrap([1.0, math.nan, 1.0]).count == 2
    empty = bootstrap([math.nan])
    assert empty.count == 0
    assert math.isnan(empty.mean)
    assert math.isnan(wilson(0, 0).low)


def test_estimate_chooses_by_type_and_reads_well():
    assert estimate(np.array([True, True, False])) == wilson(2, 3)
    assert estimate([0.5, 0.5]).low == 0.5
    assert str(estimate([0.5, 0.5])) == "0.500 [0.500, 0.500] (n = 2)"


def test_intervals_hold_seeds_and_prompts():
    rng = np.random.default_rng(0)
    values = (rng.random((3, 400)) < 0.5).astype(float)
    found = over_seeds_and_prompts(values)
    assert found.low < 0.5 < found.high
    assert 0.03 < found.high - found.low < 0.12
    apart = over_seeds_and_prompts(values + np.array([[-0.2], [0.0], [0.2]]))
    assert apart.high - apart.low > 0.2, "seeds that disagree widen the interval"
    assert over_seeds_and_prompts(np.ones((1, 5))).interval == over_seeds_and_prompts(np.ones((2, 7))).interval


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(3, 2), "between 0 and the trials"),
        (lambda: wilson(1, 2, confidence=95), "share between 0 and 1"),
        (lambda: bootstrap([1.0], confidence=0), "share between 0 and 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
