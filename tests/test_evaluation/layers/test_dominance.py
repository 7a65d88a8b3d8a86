"""Layer statistics against planted truth and against brute force."""

import itertools

import numpy as np
import pytest
from support_counts import seeds

from matrix_lib.evaluation.layers.dominance import auc, dominant_layers, influential_layers, varied_layers

LAYERS = tuple(range(42))


def planted(seed, where=(7, 11, 12), effect=2.0, clips=50):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.05, 0.3, len(LAYERS))
    sd = rng.uniform(0.01, 0.04, len(LAYERS))
    shared = rng.normal(size=(clips, 1))  # layers of one clip resemble each other
    noise = 0.6 * shared + 0.8 * rng.normal(size=(clips, len(LAYERS)))
    success = np.arange(clips) < clips // 2
    scores = base + sd * noise
    for layer in where:
        scores[success, layer] += effect * sd[layer]
    order = rng.permutation(clips)
    return scores[order], success[order]


@pytest.mark.soak
def test_planted_layers_are_found_exactly_in_99_of_100_draws():
    draws, exact = seeds(25, soak=100), 0
    for seed in draws:
        scores, success = planted(seed)
        found = dominant_layers(scores, success, LAYERS, draws=4000, seed=seed)
        exact += sorted(found.chosen) == [7, 11, 12]
    assert exact >= 0.99 * len(draws), f"found exactly the planted layers in {exact} of {len(draws)} draws"


@pytest.mark.soak
def test_nothing_planted_nothing_found():
    draws = seeds(50, soak=100)
    false = sum(
        bool(dominant_layers(*planted(seed, effect=0.0), LAYERS, alpha=0.05, draws=1000, seed=seed).chosen)
        for seed in draws
    )
    assert false <= 0.12 * len(draws), (
        f"{false} of {len(draws)} empty tables gave a layer at a family-wise error of 0.05"
    )


def test_permutation_p_value_equals_all_permutations():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(10, 1))
    scores[:5] += 1.0
    success = np.arange(10) < 5

    def t(a, b):
        return (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 4)

    column = scores[:, 0]
    given = t(column[:5], column[5:])
    every = [
        t(column[list(pick)], column[[i for i in range(10) if i not in pick]])
        for pick in itertools.combinations(range(10), 5)
    ]
    want = np.mean([value >= given - 1e-12 for value in every])
    got = dominant_layers(scores, success, [0], draws=40000, seed=1)
    assert abs(got.p[0] - want) < 0.01
    assert got.p[0] == got.p_adjusted[0]


def test_gaps_and_intervals():
    scores, success = planted(5)
    got = dominant_layers(scores, success, LAYERS, draws=2000)
    np.testing.assert_allclose(got.success_gap, scores[success].mean(0) - scores.mean(0))
    np.testing.assert_allclose(got.failure_gap, scores[~success].mean(0) - scores.mean(0))
    np.testing.assert_allclose(got.separation, got.success_gap - got.failure_gap)
    assert ((got.low < got.separation) & (got.separation < got.high)).all()
    assert got.low[7] > 0
    assert list(got.chosen) == sorted(got.chosen, key=lambda layer: -got.separation[layer])


def test_sets_are_made_equal():
    scores, success = planted(5, clips=60)
    more = success | (np.arange(60) % 3 == 0)
    got = dominant_layers(scores, more, LAYERS, draws=200)
    assert got.clips == min(more.sum(), (~more).sum())


def test_influence_is_the_papers_rank_sum():
    scores = np.array([[0.9, 0.5, 0.1, 0.4], [0.8, 0.1, 0.2, 0.7], [0.9, 0.3, 0.2, 0.6]])
    got = influential_layers(scores, [3, 5, 8, 9], top=2, keep=2)
    np.testing.assert_allclose(got.frequency, [1.0, 1 / 3, 0.0, 2 / 3])
    np.testing.assert_allclose(got.rank_sum, [0, 4, 6, 2])
    assert got.chosen == (3, 9)


def test_dummy_layers_drop_out():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 4))
    scores[:, 2] = 0.25
    assert varied_layers(scores, [0, 1, 2, 3]) == (0, 1, 3)


def test_auc_counts_pairs_and_ties():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([1, 1, 1], [True, False, False]) == 0.5
    values, label = [0.3, 0.1, 0.3, 0.9, 0.2], [True, False, False, True, False]
    pairs = [(a > b) + 0.5 * (a == b) for a, x in zip(values, label) if x for b, y in zip(values, label) if not y]
    assert auc(values, label) == pytest.approx(np.mean(pairs))


def test_bad_tables_are_told():
    scores, success = planted(1)
    with pytest.raises(ValueError, match="there are 50 and 0"):
        dominant_layers(scores, np.ones(50, bool), LAYERS)
    with pytest.raises(ValueError, match="42 layers"):
        influential_layers(scores[:, :3], LAYERS)
    scores[4, 0] = np.nan
    with pytest.raises(ValueError, match=r"clips \[4\].*no mask"):
        dominant_layers(scores, success, LAYERS)
    with pytest.raises(ValueError, match="one success label per clip"):
        dominant_layers(np.ones((3, 1)), [True], [0])
