"""Is there a rule that names good layers before training? What a base's own analysis says of layers, against what arms
that read these layers gained.

A arms of one base that differ in their layers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.evaluation.statistics import Estimate, holm, over_bases

from .sittings import Row, Rows, place, short

__all__ = ["LEAST_ARMS", "LEAST_RULED", "Ruled", "layer_rules", "predicted"]

LEAST_ARMS = 5  # of a base: a rank correlation of fewer says nothing
LEAST_RULED = 3  # bases
_PARTS = ("told", "unseen pairs")
_KINDS = {"things": ("v2t", "v2t"), "verbs": ("verb", "v2t"), "tracks": ("v2v", "v2v")}  # analysed, trained
_SCORES = {
    "share": "AAS (share on the mask) of",
    "separation": "success gap of",
    "auc": "AUC of success, of",
    "agreement": "gradient agreement of",
}


@dataclass(frozen=True)
class Ruled:
    """A rule. by_base: rank correlation (Spearman) of what it says with what arms gained, by preset and seed: of a base
    that was trained again the mean. like: mean over bases like these; p corrected for all rules. pick: what the arm
    that it names gained over the mean of a base's arms."""

    name: str
    by_base: dict[str, float]
    like: Estimate
    p: float
    pick: float


def predicted(analysis: Mapping[str, Any], settings: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """What each rule says of an arm's layers: the mean of a score over them; rules that were not measured are left
    out."""
    found: dict[str, float] = {}
    for score, said in _SCORES.items():
        values = {}
        for kind, (analysed, trained) in _KINDS.items():
            row = analysis.get(analysed, {}).get(score)
            if row and settings[trained]:
                values[kind] = float(np.mean([row[i] for i in settings[trained]]))
                found[f"{said} {kind}"] = values[kind]
        if len(values) == len(_KINDS):
            found[f"{said} all three"] = float(np.mean(list(values.values())))
    return found


def layer_rules(rows: Rows) -> list[Ruled]:
    """All rules, and as the first one the choice among them: for each base the rule that was best on the others. Empty
    where fewer than three bases have arms enough."""
    tables = _tables(rows)
    correlations: dict[str, dict[str, float]] = {}
    picks: dict[str, dict[str, float]] = {}
    for base, (gains, said) in tables.items():
        for rule, values in said.items():
            correlations.setdefault(rule, {})[base] = _spearman(values, gains)
            picks.setdefault(rule, {})[base] = float(gains[int(np.argmax(values))] - gains.mean())
    rules = {rule: found for rule, found in correlations.items() if len(_joined(found)) >= LEAST_RULED}
    if not rules:
        return []
    chosen = {base: _best(rules, base) for base in tables}
    named = {base: rule for base, rule in chosen.items() if rule}
    tested = {base: correlations[rule][base] for base, rule in named.items()}
    every = {name: _joined(found) for name, found in {"the best rule on the other bases": tested, **rules}.items()}
    picks["the best rule on the other bases"] = {base: picks[rule][base] for base, rule in named.items()}
    gained = {name: _joined(found) for name, found in picks.items()}
    estimates = {rule: _estimate(list(found.values())) for rule, found in every.items()}
    names = list(rules)
    corrected = dict(zip(names, holm([estimates[name].p for name in names]), strict=True))
    return [
        Ruled(
            name, found, estimates[name], corrected.get(name, estimates[name].p),
            float(np.mean([gained[name][base] for base in found])),
        )
        for name, found in every.items()
    ]  # fmt: skip


def _joined(found: Mapping[str, float]) -> dict[str, float]:
    """By preset and seed: bases of one seed that were trained apart are no further bases, and count with their mean."""
    out: dict[str, list[float]] = {}
    for base in sorted(found, key=place):
        out.setdefault(short(base), []).append(found[base])
    return {base: float(np.mean(values)) for base, values in out.items()}


def _estimate(values: Sequence[float]) -> Estimate:
    found = over_bases([np.array([[value]]) for value in values], bounds=(-1, 1))[1]
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def _best(rules: Mapping[str, Mapping[str, float]], base: str) -> str:
    """The rule with the largest mean on other bases, of those that this base has; "" where none has others."""
    others = {
        rule: _joined({at: v for at, v in found.items() if short(at) != short(base)}) for rule, found in rules.items()
    }
    means = {rule: float(np.mean([*found.values()])) for rule, found in others.items() if found and base in rules[rule]}
    return max(means, key=means.__getitem__) if means else ""


def _tables(rows: Rows) -> dict[str, tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]]:
    """{base: gains (A,), {rule: (A,)}} of bases with an analysis and enough arms."""
    out = {}
    for base, about in rows.bases.items():
        analysis: Mapping[str, Any] = about.get("analysis", {})
        arms = [arm for arm in rows.arms_of("alignment") if _differs_in_layers(arm)] if analysis else []
        gains, said = [], []
        for arm in arms:
            seeds = [s for s in rows.seeds_of("alignment", base, arm) if rows.get("alignment", base, "off", s)]
            pairs = [(rows.get("alignment", base, arm, s), rows.get("alignment", base, "off", s)) for s in seeds]
            differences = [_gain(one, off) for one, off in pairs if one and off]
            if differences and pairs[0][0] is not None:
                gains.append(float(np.mean(differences)))
                said.append(predicted(analysis, pairs[0][0].about["settings"]))
        if len(gains) >= LEAST_ARMS:
            shared = [rule for rule in said[0] if all(rule in each for each in said)]
            out[base] = np.array(gains), {rule: np.array([each[rule] for each in said]) for rule in shared}
    return out


def _differs_in_layers(arm: str) -> bool:
    return arm == "10x" or arm == "10x lowest" or arm.startswith(("10x random ", "10x layer "))


def _gain(one: Row, off: Row) -> float:
    values = [(one.values(part, "right_roles"), off.values(part, "right_roles")) for part in _PARTS]
    return float(np.mean([a.mean() - b.mean() for a, b in values if a is not None and b is not None]))


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """0 where one of them does not vary."""
    ranks = [_ranks(values) for values in (one, other)]
    if any(np.ptp(values) == 0 for values in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    return np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])
