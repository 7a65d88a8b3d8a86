"""What a person may ask of steered attention: which bias, partition or perturbation, on which steps and layers.

Configurations only: frozen, checked when made, equal when they say the same. `scenes.py` turns one into regions of a
call.
Biases are logits; positions in a run are shares of its steps, 0 the first and 1 the last.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .matching import Axis
from .sites import AttentionSite

__all__ = [
    "GradientGuidance",
    "Guidance",
    "Layers",
    "Partition",
    "Perturbation",
    "RegionBias",
    "Schedule",
    "check_names",
    "parse_points",
    "parse_weights",
]

Branches = Literal["both", "cond"]
Easing = Literal["linear", "smooth", "step"]


@dataclass(frozen=True)
class Schedule:
    """A strength over the steps of a run.

    Args:
        points: (position, value) with positions ascending in [0, 1]; the first and the last value hold to the ends.
        easing: how it goes from one point to the next: "linear", "smooth" (half a cosine) or "step" (the value
            before).
        start, end: outside of [start, end] the strength is 0.

    Raises ValueError for anything else.
    """

    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    easing: Easing = "linear"
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"start and end are shares of the run with start <= end; got {self.start}, {self.end}")
        positions = [position for position, _ in self.points]
        if not positions or positions != sorted(set(positions)) or not 0 <= positions[0] <= positions[-1] <= 1:
            raise ValueError(f"a curve's positions ascend from 0 (first step) to 1 (last step); got {positions}")
        if not all(math.isfinite(value) and value >= 0 for _, value in self.points):
            raise ValueError(f"a curve's values are 0 or more; got {[value for _, value in self.points]}")
        if self.easing not in get_args(Easing):
            raise ValueError(f"easing is one of {', '.join(get_args(Easing))}; got {self.easing!r}")

    def at(self, step: int, steps: int) -> float:
        """The strength at one of `steps` steps."""
        position = step / (steps - 1) if steps > 1 else 0.0
        if not self.start <= position <= self.end:
            return 0.0
        place = bisect_right([at for at, _ in self.points], position) - 1
        if place < 0 or place == len(self.points) - 1:
            return self.points[max(place, 0)][1]
        (left, low), (right, high) = self.points[place : place + 2]
        share = (position - left) / (right - left)
        if self.easing == "step":
            share = 0.0
        elif self.easing == "smooth":
            share = (1 - math.cos(math.pi * share)) / 2
        return low + (high - low) * share


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """Key points from what a person wrote, such as "0: 1, 0.3: 0.5, 1: 0". Raises ValueError with what is accepted."""
    found = []
    for part in filter(str.strip, text.replace("\n", ",").replace(";", ",").split(",")):
        position, colon, value = part.partition(":")
        try:
            if not colon:
                raise ValueError
            found.append((float(position), float(value)))
        except ValueError:
            raise ValueError(
                f"key points are written as 'position: strength', for example '0: 1, 0.3: 0.5, 1: 0'; got {part!r}"
            ) from None
    return tuple(found)


def parse_weights(text: str) -> tuple[tuple[str, float], ...]:
    """Factors of instances from what a person wrote, one "name: factor" a line. Raises ValueError on anything else."""
    found: dict[str, float] = {}
    for line in filter(str.strip, text.replace(";", "\n").splitlines()):
        name, colon, value = line.rpartition(":")
        try:
            if not colon or not name.strip():
                raise ValueError
            found[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"weights are written 'NAME: factor', one a line; got {line.strip()!r}") from None
    return tuple(found.items())


@dataclass(frozen=True)
class Layers:
    """Where to act: layers whose video-to-text attention is edited, and layers whose video-to-video attention is.

    Global layer numbers; None is all of them, () none.
    """

    v2t: tuple[int, ...] | None = None
    v2v: tuple[int, ...] | None = None

    @classmethod
    def only(cls, layers: Iterable[int] | None) -> Layers:
        """The same layers for both."""
        chosen = None if layers is None else tuple(layers)
        return cls(chosen, chosen)

    def words(self, site: AttentionSite) -> bool:
        return site.has_v2t and (self.v2t is None or site.layer in self.v2t)

    def tracks(self, site: AttentionSite) -> bool:
        own = site.has_v2v or site.kind in ("spatial", "temporal")
        return own and (self.v2v is None or site.layer in self.v2v)

    def check(self, known: Iterable[int]) -> None:
        """Raises ValueError where a layer is named that the model does not have."""
        have = set(known)
        if unknown := sorted({*(self.v2t or ()), *(self.v2v or ())} - have):
            raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(have)}")


@dataclass(frozen=True)
class RegionBias:
    """Raises the attention of an instance's video tokens to its words and its own track, and lowers it elsewhere.

    The default amounts are what mini bears at a guidance scale of 4 without losing anything (docs/guidance.md).

    Args:
        words_up, words_down: logits for a bound word: up where its instance is (a verb: where its subject or object
            is), down everywhere else in the video.
        track_up, track_down: logits between video tokens: up where both are of one instance, down from an instance's
            tokens to all the rest of the video.
        weights: (name, factor) of instances that want more or less than 1.
        soft: biases follow the covered share of each token, instead of a border at one half.
        schedule: factor on everything, over the steps.
        branches: "cond" leaves the unconditional prediction alone; "both" steers its video-to-video attention too (its
            text has no bound words).
    """

    words_up: float = 0.5
    words_down: float = 0.5
    track_up: float = 0.25
    track_down: float = 0.25
    weights: tuple[tuple[str, float], ...] = ()
    soft: bool = False
    layers: Layers = Layers()
    schedule: Schedule = Schedule()
    branches: Branches = "cond"

    def __post_init__(self) -> None:
        amounts = {name: getattr(self, name) for name in ("words_up", "words_down", "track_up", "track_down")}
        for name, amount in (*amounts.items(), *self.weights):
            if not (math.isfinite(amount) and 0 <= amount <= 100):
                raise ValueError(f"{name} is 0 to 100 logits; got {amount}")
        _check_branches(self.branches)

    @property
    def idle(self) -> bool:
        """Whether it changes nothing at any step."""
        return not (self.words_up or self.words_down or self.track_up or self.track_down)

    def strength(self, step: int, steps: int) -> float:
        return 0.0 if self.idle else self.schedule.at(step, steps)

    def weight(self, name: str) -> float:
        return dict(self.weights).get(name, 1.0)


@dataclass(frozen=True)
class Partition:
    """Masked attention with mask normalisation (IVG-DA, arXiv 2505.24253), for any number of instances.

    During the first steps a video token attends only to video tokens that share an instance with it (background to
    background) and, where `words`, an instance's tokens only to its own words, background only to unbound words.

    Args:
        frozen_steps: how many steps from the first.
        match: exact feature distribution matching of the attention output to the unmasked one, "channel" or "global";
            None: off.
        words: whether words are partitioned too.
        schedule: steps where it is 0 are left alone; a partition has no half strength.
        branches: as in `RegionBias`.
    """

    frozen_steps: int = 4
    match: Axis | None = "channel"
    words: bool = True
    layers: Layers = Layers()
    schedule: Schedule = Schedule()
    branches: Branches = "both"

    def __post_init__(self) -> None:
        if self.frozen_steps < 0:
            raise ValueError(f"frozen_steps counts steps from the first, 0 or more; got {self.frozen_steps}")
        if self.match is not None and self.match not in get_args(Axis):
            raise ValueError(f"match is 'channel', 'global' or None; got {self.match!r}")
        _check_branches(self.branches)

    @property
    def idle(self) -> bool:
        return self.frozen_steps == 0

    def strength(self, step: int, steps: int) -> float:
        return float(step < self.frozen_steps and self.schedule.at(step, steps) > 0)


@dataclass(frozen=True)
class Perturbation:
    """Perturbation guidance of the MATRIX paper (arXiv 2510.07310): a second prediction whose attention is broken on
    the chosen layers, and a step away from it: result + scale * (conditional - perturbed).

    Args:
        target: probabilities set to 0 after the softmax, for every video token: those of words ("words", CMG), those of
            video tokens ("tracks", CAG), or both. `layers.v2t` counts for words, `layers.v2v` for tracks.
        scale: how far; 0 makes no second prediction.
        bound: only bound words and tracked tokens are zeroed, instead of all text and all video.
    """

    target: Literal["words", "tracks", "both"] = "both"
    scale: float = 1.0
    bound: bool = False
    layers: Layers = Layers()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.target not in ("words", "tracks", "both"):
            raise ValueError(f"the target is 'words', 'tracks' or 'both'; got {self.target!r}")
        if not (math.isfinite(self.scale) and 0 <= self.scale <= 100):
            raise ValueError(f"the scale is 0 to 100; got {self.scale}")

    @property
    def idle(self) -> bool:
        return self.scale == 0

    def strength(self, step: int, steps: int) -> float:
        return self.scale * self.schedule.at(step, steps)


@dataclass(frozen=True)
class GradientGuidance:
    """Gradient guidance: before a step the latent descends MATRIX's alignment losses, through the network.

    x <- x - strength * sigma * g / rms(g), with g the gradient of sga * L_SGA + spa * L_SPA with respect to x. The
    losses compare attention maps with the masks on the token grid, without a decoder. The papers use them in training
    only; the update is ours.

    Args:
        strength: size of one update, as a share of the noise in x.
        iterations: updates before each step; each takes a forward and a backward pass of the conditional prediction.
        sga, spa: weights of grounding (words look where their instance is) and of propagation (an instance's first
            tokens look along its track); `layers.v2t` counts for the first, `layers.v2v` for the second.
        scores: maps of "probabilities" or of "logits".
        checkpoint: keeps one block's activations at a time and runs blocks again, instead of keeping all.
        schedule: factor on the strength over the steps; steps where it is 0 cost nothing.
    """

    strength: float = 0.1
    iterations: int = 1
    sga: float = 1.0
    spa: float = 1.0
    scores: Literal["probabilities", "logits"] = "probabilities"
    checkpoint: bool = True
    layers: Layers = Layers()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        for name in ("strength", "sga", "spa"):
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 1000):
                raise ValueError(f"{name} is 0 to 1000; got {getattr(self, name)}")
        if not 0 <= self.iterations <= 100:
            raise ValueError(f"iterations before each step are 0 to 100; got {self.iterations}")
        if self.scores not in ("probabilities", "logits"):
            raise ValueError(f"scores are 'probabilities' or 'logits'; got {self.scores!r}")

    @property
    def idle(self) -> bool:
        """Whether it changes nothing at any step."""
        return not (self.strength and self.iterations and (self.sga or self.spa))

    def size(self, step: int, steps: int) -> float:
        """The size of an update at a step; 0: the step is left alone."""
        return 0.0 if self.idle else self.strength * self.schedule.at(step, steps)


Guidance = RegionBias | Partition | Perturbation


def check_names(guidance: Guidance, names: Iterable[str]) -> None:
    """Raises ValueError where a weight is given to an instance that has no track."""
    have = list(names)
    weights = guidance.weights if isinstance(guidance, RegionBias) else ()
    if strange := [name for name, _ in weights if name not in have]:
        raise ValueError(
            f"weights are given to {', '.join(map(repr, strange))}, but the tracks are named "
            f"{', '.join(map(repr, have)) or '(none)'}"
        )


def _check_branches(branches: str) -> None:
    if branches not in get_args(Branches):
        raise ValueError(f"branches is 'cond' (the prompt's prediction alone) or 'both'; got {branches!r}")
