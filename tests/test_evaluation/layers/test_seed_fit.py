"""A seed rule out of judged runs: it finds what decides, is checked on other clips, and says when there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matrix_lib.evaluation.layers.scores import KindScores, RunScores
from matrix_lib.evaluation.layers.seed_fit import fit_seed_rule, masked_features
from matrix_lib.instrument.seed_rule import SeedRule

LAYERS, STEPS, TOKENS = 6, 8, 100


def run(clip: int, seed: int, success: bool, layer_gain: np.ndarray) -> RunScores:
    """Raw sums of a flat map of mass 1 whose share on the mask is chance plus a gain by layer, in the first 4 steps."""
    chance = np.full((3, 2), 0.1, np.float32)
    raw = np.full((LAYERS, STEPS, 3), 0.1, np.float32)
    raw[:, :4] += layer_gain[:, None, None]
    kind = KindScores(
        "v2t", tuple(range(LAYERS)), ("a", "b", "hits"), ("subject", "object", "verb"),
        tuple((i, 1 - i / STEPS, 1) for i in range(STEPS)), (True, True), raw, np.ones_like(raw),
        np.zeros((LAYERS, 3, 1), np.float32), np.ones((LAYERS, 3, 1), np.float32),
        np.zeros((LAYERS, 3, 2), np.float32), np.ones((LAYERS, 3, 2), np.float32), chance,
    )  # fmt: skip
    return RunScores(f"clip{clip:03}", seed, "a hits b", {"v2t": kind}, success=success)


def runs(deciding: float, seed: int = 0, clips: int = 60) -> list[RunScores]:
    """Two seeds a clip; layers 2 and 4 carry `deciding` more in successes, all carry noise."""
    rng = np.random.default_rng(seed)
    made = []
    for clip in range(clips):
        for each in range(2):
            success = bool(rng.random() < 0.6)
            gain = 0.2 + 0.05 * rng.standard_normal(LAYERS)
            gain[[2, 4]] += deciding * success
            made.append(run(clip, each, success, gain.astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def rule() -> SeedRule:
    return fit_seed_rule(runs(0.1), 4, "cogvideox", take=2)


def test_it_finds_the_layers_and_tells_success_on_clips_that_it_has_not_seen(rule: SeedRule) -> None:
    assert rule.layers_v2t == (2, 4)
    assert rule.layers_v2v is None
    assert rule.fitted
    assert (rule.steps, rule.masks, rule.backbone) == (4, "all", "cogvideox")
    assert set(rule.weights) == {"words", "words_least", "verb"}
    # two layers of deviation .05, .1 apart: d' = 2 sqrt 2 of the mean, an AUC of Phi(2) = .977
    assert rule.checks["auc"] == pytest.approx(0.977, abs=0.03)
    assert rule.checks["useful"] == 1
    assert rule.checks["brier"] < 0.5 * rule.checks["brier_base"]
    assert rule.checks["calibration"] < 0.1
    later = runs(0.1, seed=1)
    features = masked_features(later, 4)
    said = []
    for i, each in enumerate(later):
        told = {name: float(table[i, [2, 4]].mean()) for name, table in features.tables.items()}
        probability = rule.probability(rule.score({**dict.fromkeys(("binding", "instances"), math.nan), **told}))
        assert probability is not None
        said.append((probability > 0.5) == each.success)
    assert np.mean(said) > 0.9
    assert SeedRule.from_json(rule.to_json()) == rule


def test_where_nothing_decides_it_says_so() -> None:
    rule = fit_seed_rule(runs(0.0), 4, "cogvideox", take=2)
    assert rule.checks["auc_low"] < 0.5
    assert rule.checks["useful"] == 0


def test_too_few_runs_and_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 5 successes and failures"):
        fit_seed_rule(runs(0.1, clips=3), 4, "cogvideox")
    with pytest.raises(ValueError, match="the runs have 8 steps"):
        fit_seed_rule(runs(0.1), 8, "cogvideox")


def test_a_rule_from_a_stranger_is_checked(rule: SeedRule) -> None:
    whole = rule.to_json()
    for old, new in (('"version": 1', '"version": 2'), ('"words":', '"wurds":'), ('"steps": 4', '"steps": "4"')):
        with pytest.raises(ValueError, match="this is no seed rule of version 1"):
            SeedRule.from_json(whole.replace(old, new))
    with pytest.raises(ValueError, match="needs words, .* could not be told"):
        rule.score(dict.fromkeys(("words", "words_least", "verb"), math.nan))
