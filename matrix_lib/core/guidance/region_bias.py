"""Region bias: attention of an instance's tokens is raised to its own words and track, and lowered elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..attention.regions import LabelColumns, RegionLayout
from ..layers import Layers
from ..near import did_you_mean
from .base import Branches, Edit, EditsAttention, Where, check_branches
from .scene import CallRegions, CallScene, Spans
from .schedule import Schedule

__all__ = ["RegionBias", "bias_columns", "bias_layout", "parse_weights"]


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
            raise ValueError(f"weights are written 'NAME: factor', one a line; got {line.strip()[:80]!r}") from None
    return tuple(found.items())


@dataclass(frozen=True)
class RegionBias(EditsAttention):
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

    where: ClassVar[Where] = "attention"

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
        check_branches(self.branches)

    @property
    def idle(self) -> bool:
        return not (self.words_up or self.words_down or self.track_up or self.track_down)

    @property
    def steers_uncond(self) -> bool:
        return self.branches == "both"

    def at(self, step: float, steps: int) -> float:
        return 0.0 if self.idle else self.schedule.at(step, steps)

    def weight(self, name: str) -> float:
        return dict(self.weights).get(name, 1.0)

    def check_names(self, names: Iterable[str]) -> None:
        have = list(names)
        if strange := [name for name, _ in self.weights if name not in have]:
            raise ValueError(
                f"weights are given to {', '.join(map(repr, strange))}, but the tracks are named "
                f"{', '.join(map(repr, have)) or '(none)'}{did_you_mean(strange[0], have)}"
            )

    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        assert scene is not None
        if self.soft:
            columns = bias_columns(scene, spans, self, strength, text, video)
            return None if columns is None or not (columns.query.any() and columns.key.any()) else Edit(None, columns)
        layout = bias_layout(scene, spans, self, strength, text, video)
        return None if layout.neutral else Edit(layout)


def bias_layout(
    scene: CallScene, spans: Spans, guidance: RegionBias, strength: float, words: bool, tracks: bool
) -> RegionLayout:
    """Region bias with borders: see `RegionBias`. `words`, `tracks`: which halves this site takes part in."""
    plan = CallRegions(scene, spans)
    weight = torch.tensor([guidance.weight(name) for name in scene.names])
    bias = plan.table()
    held = plan.members * weight  # (R, E)
    if tracks and plan.has_video:
        both = (held[:, None] * plan.members[None]).amax(-1)
        bias[1:, plan.video] = torch.where(
            both > 0, guidance.track_up * both, -guidance.track_down * held.amax(-1, keepdim=True)
        )
    if words:
        for column, (owners, _) in plan.texts():
            inside = (held * owners).amax(-1)
            here = (plan.members * owners).amax(-1) > 0
            outside = guidance.words_down * (weight * owners).amax()
            bias[1:, column] = torch.where(here, guidance.words_up * inside, -outside)
    return RegionLayout(plan.query, plan.key, bias * strength)


def bias_columns(
    scene: CallScene, spans: Spans, guidance: RegionBias, strength: float, words: bool, tracks: bool
) -> LabelColumns | None:
    """Region bias with soft edges: borders become the covered share. Over binary masks that do not overlap it is the
    bias of `bias_layout`; where instances overlap, their shares of the track bias add. None where nothing is biased."""
    assert spans.video_q is not None
    query, key = [], []
    known = scene.known.float()
    weight = torch.tensor([guidance.weight(name) for name in scene.names])[:, None]

    def add(of_video: Tensor, start: int, at: Sequence[int] | slice, value: Tensor | float) -> None:
        left, right = torch.zeros(spans.queries), torch.zeros(spans.keys)
        assert spans.video_q is not None
        left[spans.video_q[0] : sum(spans.video_q)] = of_video * known * strength
        right[start:][at] = value
        query.append(left)
        key.append(right)

    if words and spans.text_k is not None:
        for owners, rows in scene.words:
            cover, factor = scene.cover[owners].amax(0), float(weight[owners].amax())
            height = guidance.words_up + guidance.words_down
            add(factor * (cover * height - guidance.words_down), spans.text_k[0], list(rows), 1.0)
    if tracks and spans.video_k is not None:
        whole = slice(0, spans.video_k[1])
        for cover, factor in zip(scene.cover, weight[:, 0].tolist()):
            height = factor * (guidance.track_up + guidance.track_down)
            add(cover * height, spans.video_k[0], whole, cover * known)
        most = (scene.cover * weight).amax(0)
        add(-guidance.track_down * most, spans.video_k[0], whole, known)
    return LabelColumns(torch.stack(query, 1), torch.stack(key, 1)) if query else None
