"""Perturbation guidance (MATRIX, arXiv 2510.07310): a step away from a prediction whose attention is broken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..attention.regions import RegionLayout
from ..layers import Layers
from .base import Edit, EditsAttention, Where
from .scene import CallScene, Spans
from .schedule import Schedule

__all__ = ["Perturbation", "perturbed_layout"]


@dataclass(frozen=True)
class Perturbation(EditsAttention):
    """Perturbation guidance of the MATRIX paper (arXiv 2510.07310): a second prediction whose attention is broken on
    the chosen layers, and a step away from it: result + scale * (conditional - perturbed).

    Args:
        target: probabilities set to 0 after the softmax, for every video token: those of words ("words", CMG), those of
            video tokens ("tracks", CAG), or both. `layers.v2t` counts for words, `layers.v2v` for tracks.
        scale: how far; 0 makes no second prediction.
        bound: only bound words and tracked tokens are zeroed, instead of all text and all video.
    """

    where: ClassVar[Where] = "prediction"

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

    @property
    def needs_tracks(self) -> bool:
        return self.bound

    def at(self, step: float, steps: int) -> float:
        return self.scale * self.schedule.at(step, steps)

    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        layout = perturbed_layout(scene, spans, self, text, video)
        return None if layout.neutral else Edit(layout)


def perturbed_layout(
    scene: CallScene | None, spans: Spans, guidance: Perturbation, words: bool, tracks: bool
) -> RegionLayout:
    """Probabilities of all text, all video, or what is bound and tracked, set to 0 for every video query."""
    assert spans.video_q is not None
    query, key = torch.zeros(spans.queries).long(), torch.zeros(spans.keys).long()
    query[spans.video_q[0] : sum(spans.video_q)] = 1
    if words and guidance.target != "tracks" and spans.text_k is not None:
        text = key[spans.text_k[0] : sum(spans.text_k)]
        if scene is None or not guidance.bound:
            text[:] = 1
        else:
            text[[row for _, rows in scene.words for row in rows]] = 1
    if tracks and guidance.target != "words" and spans.video_k is not None:
        video = key[spans.video_k[0] : sum(spans.video_k)]
        if scene is None or not guidance.bound:
            video[:] = 1
        else:
            video[scene.inside.any(0) & scene.known] = 1
    zeroed = torch.tensor([[False, False], [False, True]])
    return RegionLayout(query, key, torch.zeros(2, 2), zeroed)
