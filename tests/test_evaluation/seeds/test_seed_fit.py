"""A seed rule out of judged runs: it finds what decides, is checked on other clips, and says when there is nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from matrix_lib.evaluation.layers.scores import KindScores, RunScores
from matrix_lib.evaluation.seeds.choice import choice_table, most_gain, seed_choices, shared_fate
from matrix_lib.evaluation.seeds.fit import fit_seed_rule, fit_seeds, masked_features, rule_checks, rule_scores
from matrix_lib.instrument.readings.seed_rule import SeedRule, paying
from training.analysis.seeds import about_seeds
from training.analysis.settings import parse

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


def test_a_calibration_by_held_out_scores_takes_back_what_was_only_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs, nothing that decides, and layers chosen because they seem to: what is said of new clips is too sure,
    and less so with the calibration."""
    later = runs(0.0, seed=99, clips=300)
    label = np.array([run.success for run in later])

    def worse() -> float:
        """How much worse than the share alone, said of every run: a mean over fits."""
        found = []
        for seed in range(4):
            rule = fit_seed_rule(runs(0.0, seed=seed, clips=25), 4, "cogvideox", take=2)
            said = 1 / (1 + np.exp(-rule_scores(rule, later, "cogvideox")))
            found.append(float(((said - label) ** 2).mean() - label.mean() * (1 - label.mean())))
        return float(np.mean(found))

    calibrated = worse()
    monkeypatch.setattr("matrix_lib.evaluation.seeds.fit._calibration", lambda said, label: (1.0, 0.0))
    assert 0 < calibrated < 0.7 * worse()


def test_a_rule_is_tried_on_other_runs_and_held_to_what_it_was_fitted_on(rule: SeedRule) -> None:
    later = runs(0.1, seed=1)
    scores = rule_scores(rule, later, "cogvideox")
    features = masked_features(later, 4)
    for i in (0, 7):
        told = {name: float(table[i, [2, 4]].mean()) for name, table in features.tables.items()}
        assert scores[i] == pytest.approx(rule.score({**dict.fromkeys(("binding", "instances"), math.nan), **told}))
    checks = rule_checks(scores, later)
    assert checks["auc"] > 0.9
    assert sum(value for name, value in checks.items() if name.endswith("_runs")) == len(later)
    with pytest.raises(ValueError, match="fitted on cogvideox, and the runs are of wan"):
        rule_scores(rule, later, "wan")
    with pytest.raises(ValueError, match=r"names layers \(2, 9\) of v2t"):
        rule_scores(replace(rule, layers_v2t=(2, 9)), later, "cogvideox")
    with pytest.raises(ValueError, match="weighs binding"):
        rule_scores(replace(rule, weights={"binding": 1.0}), later, "cogvideox")
    with pytest.raises(ValueError, match="masks of first frames, and the runs have all"):
        rule_scores(replace(rule, masks="first"), later, "cogvideox")
    with pytest.raises(ValueError, match="nothing can be told apart"):
        rule_checks(scores, [replace(run, success=True) for run in later])


def test_what_choosing_is_worth_is_what_the_judged_runs_say() -> None:
    """Four seeds a clip, two of them good, of 8 steps, 2 looked at: by hand."""
    flat = np.zeros(LAYERS, np.float32)
    made = [run(clip, seed, seed in (1, 3), flat) for clip in range(12) for seed in range(4)]
    knows = np.array([20 * bool(each.success) - 10.0 for each in made])
    rows = {(row.tried, row.kept): row for row in seed_choices(made, knows, 2)}
    assert sorted(rows) == [(2, 0), (2, 1), (4, 0), (4, 1), (4, 2)]
    pair, one, two, pays = (rows[key] for key in ((2, 1), (4, 1), (4, 2), (4, 0)))
    assert (pays.steps, pays.rate.mean, pays.rate_gain.mean) == (two.steps, two.rate.mean, two.rate_gain.mean)
    assert (pair.steps, one.steps, two.steps) == (2 * 2 + 6, 4 * 2 + 6, 4 * 2 + 2 * 6)
    assert (pair.success.mean, one.success.mean, two.success.mean) == (1, 1, 1)
    assert one.plain.mean == 0.5
    assert one.rate.mean == pytest.approx(100 / 14)
    assert two.rate.mean == pytest.approx(200 / 20)
    assert two.rate_gain.mean == pytest.approx(200 / 20 - 50 / 8)
    assert (one.runs, two.runs) == (1, 2)
    assert one.plain_any.mean == 0.5
    assert two.plain_any.mean == pytest.approx(1 - 1 / 6)  # both of two drawn from four are failures
    blind = seed_choices(made, np.zeros(len(made)), 2)[2]  # keeps the first seed, always a failure
    assert (blind.success.mean, blind.rate_gain.mean) == (0, pytest.approx(-50 / 8))
    assert choice_table([one]).splitlines()[2].startswith("| 4 | 1 | 14 | 1.000")
    assert choice_table([pays]).splitlines()[2].startswith("| 4 | as many as pay | 20 | 1.000")
    assert (one.most.mean, pays.most.mean) == (one.rate_gain.mean, two.rate_gain.mean)  # nobody could know more
    assert shared_fate(made).mean == pytest.approx(-1 / 3)  # two of four in every clip: less alike than by chance
    whole = seed_choices(made, np.zeros(len(made)), 2)[-1]  # who knows nothing drops nothing, and loses nothing
    assert (whole.steps, whole.rate_gain.mean) == (4 * 8, 0)
    assert seed_choices(made[::4], knows[::4], 2) == []


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_seeds_of_one_clip_share_their_fate(shared: float) -> None:
    """Every seed takes its clip's own end with a chance of sqrt(shared), else any: the correlation of two of them."""
    rng, flat = np.random.default_rng(0), np.zeros(LAYERS, np.float32)
    own = rng.random((200, 1)) < 0.6
    good = np.where(rng.random((200, 4)) < math.sqrt(shared), own, rng.random((200, 4)) < 0.6)
    found = shared_fate([run(clip, seed, bool(good[clip, seed]), flat) for clip in range(200) for seed in range(4)])
    assert found.mean == pytest.approx(shared, abs=0.08)
    assert found.low - 0.01 <= shared <= found.high + 0.01
    assert found.count == 200
    few = shared_fate([run(clip, seed, bool(own[clip, 0]), flat) for clip in range(12) for seed in range(4)])
    assert (few.mean, few.high) == (1, 1)
    assert 0 < few.low < 0.7  # a quarter of such clips could have both ends
    assert math.isnan(shared_fate([run(clip, 0, True, flat) for clip in range(9)]).mean)


@pytest.mark.parametrize(("success", "auc", "looked"), [(0.7, 0.61, 0.25), (0.3, 0.8, 0.125), (0.1, 0.9, 0.25)])
def test_the_most_that_a_rule_can_gain_is_what_simulated_seeds_reach(success: float, auc: float, looked: float) -> None:
    """By the best threshold on 400,000 seeds; and a group of eight whose probabilities are right comes near it from
    below, but above plain sampling."""
    rng = np.random.default_rng(0)
    apart = math.sqrt(2) * NormalDist().inv_cdf(auc)
    good = rng.random(400_000) < success
    logit = apart * (rng.standard_normal(len(good)) + apart * good) - apart**2 / 2 + math.log(success / (1 - success))
    order = np.argsort(-logit)
    went = np.arange(1, len(good) + 1) / len(good)
    rates = good[order].cumsum() / len(good) / (looked + (1 - looked) * went) / success
    most = most_gain(success, auc, looked)
    assert most == pytest.approx(rates[20_000:].max(), abs=0.02)
    groups = 1 / (1 + np.exp(-logit[:32_000].reshape(-1, 8)))
    many = [paying(list(group), round(1000 * looked), 1000) for group in groups]
    kept = [won[np.argsort(-group)[:m]].sum() for group, won, m in zip(groups, good[:32_000].reshape(-1, 8), many)]
    gained = sum(kept) / (looked * 32_000 + (1 - looked) * sum(many)) / success
    assert min(1, most - 0.03) - 0.02 < gained < most + 0.03
    assert most_gain(success, 1, looked) == pytest.approx(1 / (looked + (1 - looked) * success))
    assert most <= most_gain(success, 0.999, looked) <= most_gain(success, 1, looked) + 1e-3
    assert most_gain(success, 0.5, looked) == 1


def test_held_out_scores_do_not_know_their_clips() -> None:
    """Where nothing decides, choosing by them is worth nothing: the share of successes stays."""
    fit = fit_seeds(runs(0.0, clips=150), 4, "cogvideox", take=2)
    pair, pays = seed_choices(fit.runs, fit.held_out, 4)
    assert pays.rate_gain.mean == pytest.approx(0, abs=0.3)
    assert pair.success.low < pair.plain.mean < pair.success.high
    fit = fit_seeds(runs(0.1, clips=150), 4, "cogvideox", take=2)
    pair, pays = seed_choices(fit.runs, fit.held_out, 4)
    assert pays.rate_gain.mean > pair.rate_gain.mean
    assert pair.success.low > pair.plain.mean + 0.1


def test_the_command_writes_the_rule_and_what_it_is_worth_and_tries_it_elsewhere(tmp_path: Path) -> None:
    said = about_seeds(runs(0.1), "cogvideox", tmp_path, steps=4, rule="", take=2, title="mini")
    assert "seed_rule.json, on held-out clips: AUC 0.9" in said
    assert "it tells them apart" in said
    assert "times the successes of plain sampling; seeds of one clip share their fate by" in said
    assert (tmp_path / "seed_choice.md").read_text().startswith(said.splitlines()[0])
    rule = SeedRule.from_json((tmp_path / "seed_rule.json").read_text())
    told = json.loads((tmp_path / "seed_choice.json").read_text())
    assert told["checks"] == rule.checks
    assert [(row["tried"], row["kept"]) for row in told["choices"]] == [(2, 1), (2, 0)]

    other = tmp_path / "other"
    file = str(tmp_path / "seed_rule.json")
    said = about_seeds(runs(0.0, seed=3), "cogvideox", other, steps=0, rule=file, take=2, title="another")
    assert "it does NOT tell them apart" in said
    assert "these clips" not in said
    again = about_seeds(runs(0.1), "cogvideox", other, steps=0, rule=file, take=2, title="mini")
    assert "! it was fitted on runs of this model and these clips" in again
    about_seeds(runs(0.0, seed=3), "cogvideox", other, steps=0, rule=file, take=2, title="another")
    assert not (other / "seed_rule.json").exists()
    assert json.loads((other / "seed_choice.json").read_text())["rule"] == rule.source
    alone = [run for run in runs(0.1) if run.seed == 0]
    assert "give more --seeds" in about_seeds(alone, "cogvideox", other, steps=0, rule=file, take=2, title="x")


def test_settings_about_seeds_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["mini:4", "mini", "--out", "x", "--labels", "judge"]
    (tmp_path / "rule.json").write_text("{}")
    for more, says in (
        (["--seed-rule", str(tmp_path / "none.json")], "there is no file"),
        (["--seed-rule", str(tmp_path / "rule.json"), "--seed-steps", "6"], "give one of them"),
        (["--seed-rule", str(tmp_path / "rule.json"), "--tracks", "seen"], "--tracks given"),
    ):
        with pytest.raises(SystemExit):
            parse([*given, *more])
        assert says in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(ValueError, match="this is no seed rule"):
        about_seeds(runs(0.1), "c", tmp_path, steps=0, rule=str(tmp_path / "rule.json"), take=2, title="")
