"""A seed rule out of judged runs: what the first steps say of success, checked on clips that it was not fitted on.

N runs, L layers, St steps, E entities. Choosing layers and fitting weights are done without the clips that are judged;
a clip's seeds are all in one fold. Layers that are chosen because they separate separate less on other clips, so scores
are brought back to what held-out scores were worth: a slope and a bias (Platt 1999, "Probabilistic outputs").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...instrument.readings.seed_rule import SeedRule
from ..layers.dominance import auc, auc_bounds
from ..layers.scores import KindScores, RunScores

__all__ = ["MaskedFeatures", "SeedFit", "fit_seed_rule", "fit_seeds", "masked_features", "rule_checks", "rule_scores"]

Array = NDArray[np.float64]
_RIDGE = 1.0  # of weights of standardised features, as one run's worth of doubt
_AS_SAID = (
    5.0  # of a calibration's slope from 1 and bias from 0: in simulations no worse than none where scores are good
)
_FOLDS, _DRAWS = 5, 500
_BINS = 5  # of probabilities, for the calibration error
_KINDS = {"v2t": ("words", "words_least", "verb"), "v2v": ("instances",)}


@dataclass(frozen=True)
class MaskedFeatures:
    """Scores of each layer in the first steps, by feature of `seed_rule.FEATURES`, each (N, L); and layers by kind."""

    tables: Mapping[str, Array]
    layers: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SeedFit:
    """A fitted rule; the runs that had a label; and (N,) what was said of each by a fit that did not know its clip."""

    rule: SeedRule
    runs: tuple[RunScores, ...]
    held_out: Array


def masked_features(runs: Sequence[RunScores], steps: int) -> MaskedFeatures:
    """What the first `steps` steps of runs say, layer by layer: the mean over these steps of the share on the mask
    above chance. Raises ValueError for runs of as few steps, and runs of different layers."""
    tables: dict[str, Array] = {}
    layers: dict[str, tuple[int, ...]] = {}
    for kind, names in _KINDS.items():
        found = [run.kinds[kind] for run in runs if kind in run.kinds]
        if len(found) < len(runs):
            continue  # nothing of the kind was recorded in some run
        layers[kind] = found[0].layers
        if any(each.layers != layers[kind] for each in found):
            raise ValueError("the runs are of models with different layers: fit a rule for each model")
        if (fewest := min(len(each.steps) for each in found)) <= steps:
            raise ValueError(f"the runs have {fewest} steps, and a rule looks at fewer than all of them; got {steps}")
        for name in names:
            rows = [_of_run(each, steps, name) for each in found]
            if all(row is not None for row in rows):
                tables[name] = np.stack([row for row in rows if row is not None])
    if not tables:
        raise ValueError("no run has scores of words or instances on masks: nothing can be fitted")
    return MaskedFeatures(tables, layers)


def _of_run(scores: KindScores, steps: int, name: str) -> Array | None:
    """(L,) of one run, None where it has no such entity."""
    wanted = [i for i, role in enumerate(scores.roles) if (role == "verb") == (name == "verb")]
    if not wanted:
        return None
    calls = np.array([count for _, _, count in scores.steps[:steps]], dtype=np.float64)
    values = np.nan_to_num(scores.each_step("above")[:, :steps, wanted].astype(np.float64))
    over = np.einsum("lse,s->le", values, calls) / max(calls.sum(), 1e-12)
    return over.min(1) if name == "words_least" else over.mean(1)


def fit_seed_rule(
    runs: Sequence[RunScores], steps: int, backbone: str, take: int = 3, seed: int = 0, title: str = ""
) -> SeedRule:
    """A rule from runs that have a label of success: `fit_seeds` without what was said of each run."""
    return fit_seeds(runs, steps, backbone, take, seed, title).rule


def fit_seeds(
    runs: Sequence[RunScores], steps: int, backbone: str, take: int = 3, seed: int = 0, title: str = ""
) -> SeedFit:
    """A rule from runs that have a label of success, and held-out scores of those runs.

    Args:
        steps: sampling steps that it may look at, from the first.
        backbone: family of the model. take: layers of each kind, those that separate best.
        title: what the runs are, for people.

    The rule's `checks` are of clips that were held out, layers chosen, weights and calibration fitted without them:
    see `rule_checks`. Raises ValueError where a class has fewer runs than folds.
    """
    judged = [run for run in runs if run.success is not None]
    label = np.array([bool(run.success) for run in judged])
    clips = [run.clip for run in judged]
    if min(int(label.sum()), int((~label).sum())) < _FOLDS or len(set(clips)) < _FOLDS:
        raise ValueError(
            f"a seed rule is checked in {_FOLDS} folds of clips, so it takes {_FOLDS} successes and failures, and as "
            f"many clips; got {int(label.sum())} and {int((~label).sum())} of {len(set(clips))} clips"
        )
    features = masked_features(judged, steps)
    fold = _folds(clips, label, seed)
    if any(len(set(label[fold != number])) < 2 for number in range(_FOLDS)):
        raise ValueError("all failures, or all successes, are of so few clips that none is left to fit on: judge more")
    said, held = np.empty(len(judged)), np.empty(len(judged))
    for number in range(_FOLDS):
        test = fold == number
        fitted = _fit(features, label, ~test, take)
        said[test] = fitted.logits(features, test)
    for number in range(_FOLDS):  # calibrated by the other folds alone
        slope, bias = _calibration(said[fold != number], label[fold != number])
        held[fold == number] = slope * said[fold == number] + bias
    rule = _fit(features, label, np.ones(len(label), bool), take)
    slope, bias = _calibration(said, label)
    made = SeedRule(
        steps,
        dict(zip(rule.names, map(float, slope * rule.weights))),
        float(slope * rule.bias + bias),
        dict(zip(rule.names, map(float, rule.centre))),
        dict(zip(rule.names, map(float, rule.scale))),
        rule.layers.get("v2t"),
        rule.layers.get("v2v"),
        True,
        backbone,
        _masks(judged),
        f"{len(judged)} judged runs of {len(set(clips))} clips{f', {title}' if title else ''}",
        _checks(held, label, fold, clips, seed),
    )
    return SeedFit(made, tuple(judged), held)


def rule_scores(rule: SeedRule, runs: Sequence[RunScores], backbone: str) -> Array:
    """(N,) what a rule says of runs that were recorded whole, of the same family but perhaps of another model.

    Raises ValueError for a rule of another family, of other masks, of layers that were not recorded, or that weighs
    something that is not kept with a run.
    """
    if rule.backbone and rule.backbone != backbone:
        raise ValueError(f"this seed rule was fitted on {rule.backbone}, and the runs are of {backbone}")
    if rule.masks and rule.masks != (found := _masks(runs)):
        raise ValueError(f"this seed rule was fitted with masks of {rule.masks} frames, and the runs have {found}")
    features = masked_features(runs, rule.steps)
    unknown = [name for name in rule.weights if name not in features.tables]
    if unknown:
        raise ValueError(f"this seed rule weighs {', '.join(unknown)}; runs keep {', '.join(features.tables)}")
    places = {}
    for kind, chosen in (("v2t", rule.layers_v2t), ("v2v", rule.layers_v2v)):
        known = features.layers.get(kind, ())
        lost = [layer for layer in chosen or () if layer not in known]
        if lost or (chosen is None and any(_kind_of(name) == kind for name in rule.weights)):
            raise ValueError(f"this seed rule names layers {chosen} of {kind}, and the runs have {known}")
        places[kind] = [known.index(layer) for layer in chosen or ()]
    names = tuple(rule.weights)
    table = _columns(features, names, places)
    centre, scale = (np.array([part.get(n, d) for n in names]) for part, d in ((rule.centre, 0.0), (rule.scale, 1.0)))
    return (table - centre) / scale @ np.array([rule.weights[name] for name in names]) + rule.bias


def rule_checks(said: Array, runs: Sequence[RunScores], seed: int = 0) -> dict[str, float]:
    """How good scores (N,) are that nobody fitted on these labelled runs.

    `auc` with its 95 % interval (clips drawn anew), `brier` beside `brier_base` (the share of successes said of every
    run), `calibration` (mean distance of said and found shares over bins of probability) and for each bin with runs
    what was said, what was found and the number of runs (`bin2_said`, ...). `useful` is 1 where the interval of the AUC
    lies above a half and the Brier score below that of the share. Raises ValueError where a class has no run.
    """
    label = np.array([bool(run.success) for run in runs])
    if label.all() or not label.any():
        raise ValueError(f"{int(label.sum())} of {len(label)} runs are successes: nothing can be told apart")
    return _checks(said, label, np.zeros(len(label), int), [run.clip for run in runs], seed)


def _masks(runs: Sequence[RunScores]) -> str:
    known = {all(each.known) for run in runs for each in run.kinds.values()}
    if len(known) > 1:
        raise ValueError("some runs have masks of every frame and some of the first alone: fit a rule for each")
    return "all" if known.pop() else "first"


@dataclass(frozen=True)
class _Fitted:
    names: tuple[str, ...]
    layers: Mapping[str, tuple[int, ...]]
    places: Mapping[str, list[int]]
    centre: Array
    scale: Array
    weights: Array
    bias: float

    def logits(self, features: MaskedFeatures, rows: NDArray[np.bool_]) -> Array:
        table = _columns(features, self.names, self.places)[rows]
        return (table - self.centre) / self.scale @ self.weights + self.bias


def _columns(features: MaskedFeatures, names: Sequence[str], places: Mapping[str, list[int]]) -> Array:
    return np.stack([features.tables[name][:, places[_kind_of(name)]].mean(1) for name in names], 1)


def _kind_of(name: str) -> str:
    return next(kind for kind, names in _KINDS.items() if name in names)


def _fit(features: MaskedFeatures, label: NDArray[np.bool_], rows: NDArray[np.bool_], take: int) -> _Fitted:
    """Layers, then weights, from some of the runs."""
    names = tuple(features.tables)
    places = {}
    for kind in features.layers:
        own = [features.tables[name][rows] for name in names if _kind_of(name) == kind]
        if own:
            table, right = np.mean(own, 0), label[rows]
            gap = (table[right].mean(0) - table[~right].mean(0)) / np.maximum(table.std(0), 1e-12)
            places[kind] = sorted(np.argsort(-gap, kind="stable")[:take].tolist())
    table = _columns(features, names, places)[rows]
    centre, scale = table.mean(0), np.maximum(table.std(0), 1e-9)
    weights, bias = _logistic((table - centre) / scale, label[rows])
    layers = {kind: tuple(features.layers[kind][i] for i in at) for kind, at in places.items()}
    return _Fitted(names, layers, places, centre, scale, weights, bias)


def _logistic(table: Array, label: NDArray[np.bool_]) -> tuple[Array, float]:
    """Weights and bias of a ridge-regularised logistic regression, by Newton's method; the bias is free."""
    x = np.hstack([table, np.ones((len(table), 1))])
    w = _newton(x, label, np.zeros(x.shape[1]), np.array([_RIDGE] * table.shape[1] + [1e-9]))
    return w[:-1], float(w[-1])


def _calibration(said: Array, label: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and bias that turn held-out scores into logits of success, as near to 1 and 0 as they may be."""
    table, usual = np.stack([said, np.ones(len(said))], 1), np.array([1.0, 0.0])
    slope, bias = _newton(table, label, usual, np.array([_AS_SAID, _AS_SAID]))
    return max(0.0, float(slope)), float(bias)


def _newton(x: Array, label: NDArray[np.bool_], centre: Array, penalty: Array) -> Array:
    """Weights of a logistic regression, each held to its centre by its penalty."""
    w = centre.copy()
    for _ in range(100):
        p = _sigmoid(x @ w)
        gradient = x.T @ (p - label) + penalty * (w - centre)
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + np.diag(penalty), gradient)
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    return w


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


def _folds(clips: Sequence[str], label: NDArray[np.bool_], seed: int) -> NDArray[np.int_]:
    """The fold of each run; a clip's runs are in one. Clips are dealt in the order of their share of successes, so that
    every fold has both."""
    rng = np.random.default_rng(seed)
    names = sorted(set(clips))
    share = {name: float(label[[clip == name for clip in clips]].mean()) for name in names}
    order = sorted(names, key=lambda name: (share[name], rng.random()))
    place = {name: at % _FOLDS for at, name in enumerate(order)}
    return np.array([place[clip] for clip in clips])


def _pooled_auc(said: Array, label: NDArray[np.bool_], fold: NDArray[np.int_]) -> float:
    """The AUC inside of each fold, weighed by its pairs: logits of different fits share no scale."""
    total = pairs = 0.0
    for number in np.unique(fold):
        own = fold == number
        many = int(label[own].sum()) * int((~label[own]).sum())
        if many:
            total, pairs = total + many * auc(said[own], label[own]), pairs + many
    return total / pairs if pairs else float("nan")


def _checks(
    said: Array, label: NDArray[np.bool_], fold: NDArray[np.int_], clips: Sequence[str], seed: int
) -> dict[str, float]:
    p, share = _sigmoid(said), float(label.mean())
    brier, base = float(((p - label) ** 2).mean()), share * (1 - share)
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    off = sum(abs(float(p[bins == b].mean() - label[bins == b].mean())) * float((bins == b).mean()) for b in set(bins))
    rng, names = np.random.default_rng(seed), sorted(set(clips))
    rows = {name: np.flatnonzero([clip == name for clip in clips]) for name in names}
    drawn = []
    for _ in range(_DRAWS):
        at = np.concatenate([rows[names[i]] for i in rng.integers(0, len(names), len(names))])
        drawn.append(_pooled_auc(said[at], label[at], fold[at]))
    low, high = (float(v) for v in np.nanquantile(drawn, [0.025, 0.975]))
    found = _pooled_auc(said, label, fold)
    if low == high:  # no draw has a run out of order: how often one could stay unseen
        low, high = auc_bounds(found, int(label.sum()), int((~label).sum()))
    return {
        "runs": float(len(label)),
        "successes": float(label.sum()),
        "auc": found,
        "auc_low": low,
        "auc_high": high,
        "brier": brier,
        "brier_base": base,
        "calibration": off,
        "useful": float(low > 0.5 and brier < base),
        **_bins(p, label, bins),
    }


def _bins(p: Array, label: NDArray[np.bool_], bins: NDArray[np.int_]) -> dict[str, float]:
    """The reliability diagram as numbers."""
    found: dict[str, float] = {}
    for number in sorted(set(bins.tolist())):
        own = bins == number
        parts = {"said": p[own].mean(), "found": label[own].mean(), "runs": own.sum()}
        found |= {f"bin{number}_{name}": float(value) for name, value in parts.items()}
    return found
