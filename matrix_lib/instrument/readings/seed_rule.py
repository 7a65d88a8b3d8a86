"""Which seeds will work: what the first steps of a run say, and a rule that makes a score of it.

L layers, St step bins, E entities, F token frames.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ...core.json_text import parse_object
from ...core.ranges import ranges
from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind
from .mix_ups import find_mix_ups
from .motion_heads import find_motion
from .sinks import find_sinks
from .word_masks import relative_heat, sharpest_layers, step_heat, told_names

__all__ = [
    "FEATURES",
    "LABEL_FREE",
    "SeedRule",
    "Tried",
    "chosen_seeds",
    "paying",
    "seed_features",
    "seeds_report",
    "tried",
]

FEATURES: dict[str, str] = {
    "binding": "how concentrated the maps of the instances' words are, 0 flat to 1 a single token, their mean",
    "agreement": "how far words and first-frame tokens agree where each instance is: cosine of their maps, the mean",
    "swapped": "share of steps and token frames in which two instances are in each other's place",
    "doubled": "share in which an instance is in two places",
    "sink": "share of what everybody looks at that lies on attention sinks",
    "acts": "whether subjects of verbs move before their objects, by motion heads: 0 the objects alone, 1 the subjects",
    "words": "share of the words' attention on the given masks of their instances, above chance, the mean",
    "words_least": "the same, of the instance that has least",
    "verb": "the same, of the verbs, on the masks of their subject and object",
    "instances": "share of the first-frame tokens' attention on the given masks of their instances, above chance",
}
"""What each feature is. Those from `words` on need given masks."""
_MOST_TEXT = 1 << 16


@dataclass(frozen=True)
class SeedRule:
    """A score out of the first steps: the sum of weights x (feature - centre) / scale, and a bias.

    Args:
        steps: sampling steps that it looks at, from the first.
        weights: by feature. centre, scale: by feature, 0 and 1 where they are not given.
        layers_v2t, layers_v2v: layers of either kind; None for the sharpest.
        fitted: whether the score is the logit of a success, fitted on judged runs. Scores of rules that were not only
            order seeds.
        backbone: family of the model that it was fitted on; "" for any.
        masks: which token frames the masks of the fit knew: "first", "all", or "" where it takes none.
        source: what it was made from, for people.
        checks: what was measured of it on runs that it was not fitted on.

    Raises ValueError for features that there are not, and numbers that make no score.
    """

    steps: int
    weights: Mapping[str, float]
    bias: float = 0.0
    centre: Mapping[str, float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    layers_v2t: tuple[int, ...] | None = None
    layers_v2v: tuple[int, ...] | None = None
    fitted: bool = False
    backbone: str = ""
    masks: str = ""
    source: str = ""
    checks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for part in (self.weights, self.centre, self.scale) for name in part if name not in FEATURES]
        if unknown or not self.weights:
            raise ValueError(f"a seed rule weighs {', '.join(FEATURES)}; got {unknown or 'nothing'}")
        numbers = [self.bias, *self.weights.values(), *self.centre.values(), *self.scale.values()]
        if not all(math.isfinite(number) for number in numbers) or any(not scale > 0 for scale in self.scale.values()):
            raise ValueError("weights, centres and the bias of a seed rule are finite numbers, scales above 0")
        if self.steps < 1 or self.masks not in ("", "first", "all"):
            raise ValueError(
                f"a seed rule looks at 1 step or more, and its masks are 'first', 'all' or ''; got {self.steps} steps, "
                f"{self.masks!r}"
            )

    def score(self, features: Mapping[str, float]) -> float:
        """The score of one run. A rule that was not fitted leaves out what could not be told; a fitted one raises
        ValueError, naming it: its score would mean nothing."""
        lost = [name for name in self.weights if math.isnan(features[name])]
        if lost and (self.fitted or len(lost) == len(self.weights)):
            raise ValueError(
                f"this seed rule needs {', '.join(lost)}, which could not be told of this run: "
                + "; ".join(FEATURES[name] for name in lost)
                + ". Give mask tracks of the instances and record both words and instances"
            )
        return self.bias + sum(
            weight * (features[name] - self.centre.get(name, 0.0)) / self.scale.get(name, 1.0)
            for name, weight in self.weights.items()
            if name not in lost
        )

    def probability(self, score: float) -> float | None:
        """Of success, for the score of a fitted rule; None for others."""
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, score)))) if self.fitted else None

    def to_json(self) -> str:
        return json.dumps({"version": 1, **asdict(self)}, indent=2, allow_nan=False)

    def check_model(self, backbone: str, v2t: Sequence[int], v2v: Sequence[int]) -> None:
        """Raises ValueError for a model of another family, and where layers that it reads are not among those of whose
        words (`v2t`) and instances (`v2v`) there are maps (none: nothing was recorded of them)."""
        if self.backbone and self.backbone != backbone:
            raise ValueError(
                f"this seed rule was fitted on {self.backbone}, and the model is {backbone}: what tells success "
                "there says nothing here. Leave the rule empty, or analyse this model"
            )
        for chosen, there in ((self.layers_v2t, v2t), (self.layers_v2v, v2v)):
            if there and (lost := [layer for layer in chosen or () if layer not in there]):
                raise ValueError(
                    f"this seed rule reads layers {ranges(lost)}, and recorded are {ranges(there)}: record "
                    "layers 'all'; where the model has none of that number, the rule is of another model"
                )

    @classmethod
    def from_json(cls, text: str) -> SeedRule:
        """Reads what `to_json` wrote; ValueError on anything else."""
        try:
            data = parse_object(text, "this", _MOST_TEXT)
            if data.pop("version") != 1:
                raise ValueError("unknown version")
            for name in ("weights", "centre", "scale", "checks"):
                data[name] = {str(key): _number(value) for key, value in data.get(name, {}).items()}
            for name in ("layers_v2t", "layers_v2v"):
                given = data.get(name)
                data[name] = None if given is None else tuple(_whole(number) for number in given)
            data["steps"], data["bias"] = _whole(data["steps"]), _number(data.get("bias", 0.0))
            texts = [data.get(name, "") for name in ("backbone", "masks", "source")]
            if not all(isinstance(text, str) for text in texts) or not isinstance(data.get("fitted", False), bool):
                raise ValueError("a text or a yes is no such thing")
            return cls(**data)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                "this is no seed rule of version 1, the text inside of seed_rule.json that training.analyse writes: "
                f"{str(error)[:200]}; got {text.strip()[:60]!r}"
            ) from None


LABEL_FREE = SeedRule(
    steps=6,
    weights={"binding": 1.0, "agreement": 1.0, "swapped": -1.0, "doubled": -1.0, "sink": -1.0, "acts": 1.0},
    source="nobody's labels: words that are bound to a place, no swap, no double, no sink, and who acts moves first",
)
"""For models that nobody has analysed. All of its features lie in [0, 1]; its score orders seeds and promises no
success."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**6:
        raise ValueError(f"{value!r} is no whole number")
    return value


def seed_features(
    capture: Capture,
    tracks: MaskTracks | None = None,
    layers_v2t: Sequence[int] | None = None,
    layers_v2v: Sequence[int] | None = None,
    stream: int = 0,
) -> dict[str, float]:
    """Every feature of `FEATURES` of what a capture recorded; NaN where it cannot be told.

    Args:
        capture: of the first steps alone (`Capture.take`).
        tracks: given masks.
        layers_v2t, layers_v2v: None for the sharpest.

    Raises ValueError for a capture without maps of words, and layers that were not captured.
    """
    own = capture.stream(stream)
    names = told_names(own, "v2t")
    at = tuple(layers_v2t) if layers_v2t is not None else sharpest_layers(capture, "v2t", stream)
    found = dict.fromkeys(FEATURES, math.nan)
    flat = capture.concentration("v2t", stream)
    columns, rows = [flat.entities.index(name) for name in names], [flat.layers.index(layer) for layer in at]
    found["binding"] = float(flat.over_steps("share")[rows][:, columns].nanmean())
    both = "v2v" in own.maps
    other = tuple(layers_v2v or sharpest_layers(capture, "v2v", stream)) if both else ()
    if both:
        shared = tuple(name for name in names if name in own.maps["v2v"].entities)
        if shared:
            heat = [
                relative_heat(step_heat(capture, shared, kind, layers, stream)).clamp_min(0).flatten(-2)
                for kind, layers in (("v2t", at), ("v2v", other))
            ]
            found["agreement"] = float(torch.cosine_similarity(heat[0], heat[1], dim=-1).nanmean())
    mix_ups = find_mix_ups(capture, tracks, layers=at, layers_v2v=other or None, stream=stream).found
    cells = len(capture.steps) * own.grid.frames
    pairs = max(1, len(list(itertools.combinations(names, 2))))
    for kind, many in (("swapped", pairs), ("doubled", len(names) * (1 + both))):
        found[kind] = sum(len(each.cells) for each in mix_ups if each.kind == kind) / (cells * many)
    sinks = find_sinks(capture, stream, tracks, ["v2t"]).found
    found["sink"] = sum(sink.share for sink in sinks) / len(own.maps["v2t"].layers)
    leads = find_motion(capture, stream=stream).leads.values() if own.grid.frames > 1 else ()
    if leads:
        found["acts"] = sum(1 / (1 + math.exp(-max(-700.0, lead))) for lead in leads) / len(leads)
    if tracks is not None:
        found |= _aligned(capture, tracks, {"v2t": at, "v2v": other}, stream)
    return found


def _aligned(
    capture: Capture, tracks: MaskTracks, layers: Mapping[MapKind, Sequence[int]], stream: int
) -> dict[str, float]:
    """The features that need given masks."""
    own = capture.stream(stream)
    spelled = tracks.spelled(phrase.name for phrase in own.binding.instances)
    grid = spelled.to_grid(own.grid)
    verbs = {verb.name for verb in own.binding.verbs}
    found: dict[str, float] = {}
    for kind, chosen in layers.items():
        known = set(own.maps[kind].entities) & {*grid.names, *verbs} if chosen else set()
        if not known:
            continue
        alignment = capture.aas(grid, kind, stream)
        gain = alignment.over_steps("gain")[[alignment.layers.index(layer) for layer in chosen]].nanmean(0)
        told = {name: float(value) for name, value in zip(alignment.entities, gain)}
        instances = [value for name, value in told.items() if name not in verbs]
        if kind == "v2v":
            found["instances"] = sum(instances) / len(instances) if instances else math.nan
            continue
        if instances:
            found["words"], found["words_least"] = sum(instances) / len(instances), min(instances)
        verbal = [value for name, value in told.items() if name in verbs]
        found["verb"] = sum(verbal) / len(verbal) if verbal else math.nan
    return found


@dataclass(frozen=True)
class Tried:
    """What a rule says of one seed after its first steps. probability: of success; None for a rule that was not
    fitted."""

    seed: int
    score: float
    probability: float | None
    features: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """For a file: NaN as None."""
        told = {name: None if math.isnan(value) else round(value, 6) for name, value in self.features.items()}
        return {"seed": self.seed, "score": self.score, "probability": self.probability, "features": told}


def tried(seed: int, capture: Capture, rule: SeedRule, tracks: MaskTracks | None = None, stream: int = 0) -> Tried:
    """The score of a seed, from the capture of its first steps.

    Raises ValueError where a rule is of another family, of layers that were not recorded, of other masks, or, fitted,
    of features that could not be told.
    """
    maps = capture.stream(stream).maps
    rule.check_model(capture.backbone, *(maps[kind].layers if kind in maps else () for kind in ("v2t", "v2v")))
    if rule.masks and tracks is not None:
        known = tracks.spelled(capture.stream(stream).binding.names).to_grid(capture.stream(stream).grid).known
        given = "all" if all(known) else "first"
        if given != rule.masks:
            raise ValueError(
                f"this seed rule was fitted with masks of {_FRAMES[rule.masks]}, and the tracks know {_FRAMES[given]}: "
                "give tracks of the same kind"
            )
    features = seed_features(capture, tracks, rule.layers_v2t, rule.layers_v2v, stream)
    score = rule.score(features)
    return Tried(seed, score, rule.probability(score), features)


def _checked(checks: Mapping[str, float]) -> str:
    """What is known of a fitted rule on clips that it was not fitted on, for people."""
    names = ("auc", "auc_low", "auc_high", "brier", "brier_base", "calibration", "useful")
    if lost := [name for name in names if name not in checks]:
        return f"! nobody knows how good its probabilities are: the rule says no {', '.join(lost)} of clips held out"
    auc, low, high, brier, base, off, useful = (checks[name] for name in names)
    return (
        f"{'' if useful else '! '}on clips that it was not fitted on: AUC {auc:.2f} [{low:.2f}, {high:.2f}], Brier "
        f"{brier:.3f} beside {base:.3f} of the share alone, calibration off by {off:.2f}"
        + ("" if useful else "; it does not tell success from failure, so its choice is one by chance")
    )


_FRAMES = {"first": "the first frame alone", "all": "every frame"}


def chosen_seeds(runs: Sequence[Tried], keep: int) -> list[Tried]:
    """The `keep` seeds with the highest scores, the best first; of equal ones the earlier."""
    return sorted(runs, key=lambda run: -run.score)[:keep]


def paying(probabilities: Sequence[float], steps: int, total: int) -> int:
    """How many seeds to keep, of those that were tried for `steps` of `total` steps, so that successes for the steps
    of all are most to be expected: 1 or more, the highest first.

    All of them make as many as plain sampling. Dropping some makes more exactly where they succeed less often than
    1 - steps / total times all that were tried. Source: ours (renewal reward).
    """
    best = sorted(probabilities, reverse=True)
    return max(
        range(1, len(best) + 1),
        key=lambda many: (sum(best[:many]) / (len(best) * steps + many * (total - steps)), many),
    )


def seeds_report(
    runs: Sequence[Tried], kept: Sequence[Tried], rule: SeedRule, steps: int, total: int, calls: int
) -> str:
    """For people: every seed, what was kept, and what it cost.

    Args:
        steps: that every seed was tried for, of `total`. calls: predictions that were made for everything.
    """
    chosen = {run.seed for run in kept}
    which = f"seed{'s' * (len(kept) > 1)} {', '.join(str(run.seed) for run in kept)}"
    lines = [f"kept {which}, of {len(runs)} that were tried for {steps} of {total} steps"]
    for run in sorted(runs, key=lambda run: -run.score):
        how = "" if run.probability is None else f", success with probability {run.probability:.2f}"
        told = ", ".join(
            f"{name} {run.features[name]:.3f}" for name in rule.weights if not math.isnan(run.features[name])
        )
        lines.append(f"{'+' if run.seed in chosen else '-'} seed {run.seed}: {run.score:.3f}{how} ({told})")
    each = calls / max(1, len(runs) * steps + len(kept) * (total - steps))
    lines.append(
        f"{calls} predictions of the model, as {calls / max(1.0, each * total):.3g} plain runs take; all {len(runs)} "
        f"seeds to the end would have taken {round(each * len(runs) * total)}"
    )
    lines.append(
        f"the rule: {rule.source or 'of unknown source'}"
        + ("" if rule.fitted else ". It was not fitted on judged runs: its score orders seeds and promises no success")
    )
    if rule.fitted:
        lines.append(_checked(rule.checks))
    if rule.fitted and steps != rule.steps:
        lines.append(f"! the rule was fitted on {rule.steps} steps and saw {steps}: its probabilities are not of these")
    lost = [name for name in rule.weights if all(math.isnan(run.features[name]) for run in runs)]
    if lost:
        lines.append(f"! not told, and left out: {', '.join(lost)} (mask tracks and maps of instances tell more)")
    return "\n".join(lines)
