"""Means and their intervals against known values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from matrix_lib.evaluation.statistics import (
    benjamini_hochberg,
    bootstrap,
    estimate,
    holm,
    over_bases,
    over_seeds_and_prompts,
    smallest_difference,
    wilson,
)


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
    assert str(estimate([0.5, 0.6])) == "0.550 [0.500, 0.600] (n = 2)"
    assert str(estimate([0.5, 0.5])) == "0.500 [not known: all values are equal] (n = 2)"


def test_equal_values_are_not_certain():
    """Of n equal pairs, another could have stayed unseen: the exact bound for 0 of n, times how far it could be."""
    for count in (1, 8, 64):
        found = bootstrap(np.zeros(count), bounds=(-1, 1))
        unseen = 1 - 0.025 ** (1 / count)
        assert (found.low, found.high) == pytest.approx((-unseen, unseen))
        assert found.p == 1
        assert over_seeds_and_prompts(np.zeros((3, count)), bounds=(-1, 1)) == replace(found, count=3 * count)
    top = bootstrap(np.ones(20), bounds=(0, 1))
    assert top.high == 1
    assert top.low == pytest.approx(wilson(20, 20).low, abs=0.02)
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):  # rare differences: often none of 60 is seen
        some = bootstrap((rng.random(60) < 0.02).astype(float), bounds=(0, 1), resamples=400)
        held += some.low <= 0.02 <= some.high
    assert held / 400 > 0.9


def test_p_is_small_where_the_interval_leaves_out_0_and_even_under_the_null():
    rng = np.random.default_rng(0)
    assert bootstrap(rng.normal(1, 1, 50)).p < 0.01
    p = np.array([bootstrap(rng.normal(0, 1, 40), resamples=500).p for _ in range(300)])
    assert 0.02 < (p < 0.05).mean() < 0.1
    assert 0.4 < (p < 0.5).mean() < 0.6


def test_corrections_agree_with_scipy_and_keep_false_findings_down():
    rng = np.random.default_rng(0)
    p = rng.random(30) ** 2
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([0.01, math.nan])[1])
    assert math.isnan(benjamini_hochberg([math.nan])[0])
    false = [min(holm(rng.random(20))) < 0.05 for _ in range(1000)]
    assert 0.025 < np.mean(false) < 0.075


def test_the_smallest_difference_is_found_as_often_as_it_says():
    rng = np.random.default_rng(0)
    least = smallest_difference(bootstrap(rng.normal(0, 1, 100)))
    assert least == pytest.approx(2.8 * 0.1, rel=0.2)
    found = [bootstrap(rng.normal(0.28, 1, 100), resamples=300).low > 0 for _ in range(300)]
    assert 0.72 < np.mean(found) < 0.88


def test_bases_that_are_few_do_not_find_what_is_not_there_and_can_find_what_is():
    """Of three bases with one, one and three seeds, whose prompts and heterogeneity are those of measured rows."""
    rng = np.random.default_rng(0)

    def drawn(mean: float, apart: float) -> list[np.ndarray]:
        common = rng.normal(mean, 0.16, 128)
        return [
            common + rng.normal(0, apart) + rng.normal(0, 0.2, 128) + rng.normal(0, 0.25, (seeds, 128))
            for seeds in (1, 1, 3)
        ]

    found = [over_bases(drawn(0.0, apart), resamples=200)[1] for apart in (0.0, 0.03, 0.08) for _ in range(60)]
    assert np.mean([each.low > 0 for each in found]) < 0.04
    assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.94
    # what all draws and all bases agree on is not held back by the number of draws
    sure = over_bases([rng.normal(0.5 + 0.01 * base, 0.2, (1, 128)) for base in range(9)], resamples=200)[1]
    assert sure.p < 1e-6


def test_the_smallest_difference_of_few_bases_counts_corrections_and_student():
    means = [0.0, 0.06, 0.12]
    found = over_bases([np.random.default_rng(base).normal(mean, 0.1, (1, 128)) for base, mean in enumerate(means)])[1]
    plain, corrected = (smallest_difference(found, comparisons=times, means=means) for times in (1, 10))
    # Student's t of two degrees of freedom: 4.303 (5 %), 14.09 (0.5 %), 1.061 (the power)
    error = 0.06 / math.sqrt(3)
    assert plain == pytest.approx(max(smallest_difference(found), (4.303 + 1.061) * error), rel=1e-3)
    assert corrected == pytest.approx((14.089 + 1.061) * error, rel=1e-3)


def test_intervals_hold_seeds_and_prompts():
    rng = np.random.default_rng(0)
    values = (rng.random((3, 400)) < 0.5).astype(float)
    found = over_seeds_and_prompts(values)
    assert found.low < 0.5 < found.high
    assert 0.03 < found.high - found.low < 0.12
    apart = over_seeds_and_prompts(values + np.array([[-0.2], [0.0], [0.2]]))
    assert apart.high - apart.low > 0.2, "seeds that disagree widen the interval"
    assert math.isnan(over_seeds_and_prompts(np.full((2, 3), np.nan)).mean)


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
