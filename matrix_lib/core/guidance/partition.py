"""Masked attention with mask normalisation (IVG-DA, arXiv 2505.24253): every instance attends to its own, background to
background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from ..attention.matching import Axis
from ..attention.regions import RegionLayout
from ..layers import Layers
from ..words.binding import PromptBinding
from .base import Branches, Edit, EditsAttention, Where, check_branches
from .scene import CallRegions, CallScene, Spans
from .schedule import Schedule

__all__ = ["Partition", "partition_layout"]

_NEVER = float("-inf")


@dataclass(frozen=True)
class Partition(EditsAttention):
    """Masked attention with mask normalisation (IVG-DA, arXiv 2505.24253), for any number of instances.

    During the first steps a video token attends only to video tokens that share an instance with it (background to
    background) and, where `words`, an instance's tokens only to its own words, background only to unbound words.

    Args:
        frozen_steps: how many steps from the first.
        match: exact feature distribution matching of the attention output to the unmasked one, "channel" or "global";
            None: off.
        words: whether words are partitioned too.
        begin: whether the start token that a text encoder puts in front (CLIP's, of ZeroScope) may be attended to, as
            all unbound words are. In Peekaboo nobody attends to it.
        schedule: steps where it is 0 are left alone; a partition has no half strength.
        branches: as in `RegionBias`.
    """

    where: ClassVar[Where] = "attention"

    frozen_steps: int = 4
    match: Axis | None = "channel"
    words: bool = True
    layers: Layers = Layers()
    schedule: Schedule = Schedule()
    branches: Branches = "both"
    begin: bool = True

    def __post_init__(self) -> None:
        if self.frozen_steps < 0:
            raise ValueError(f"frozen_steps counts steps from the first, 0 or more; got {self.frozen_steps}")
        if self.match is not None and self.match not in get_args(Axis):
            raise ValueError(f"match is 'channel', 'global' or None; got {self.match!r}")
        check_branches(self.branches)

    def check_words(self, bindings: Sequence[PromptBinding]) -> None:
        super().check_words(bindings)
        for binding in bindings:
            rows = {token.row for token in binding.tokens} | {row for phrase in binding.phrases for row in phrase.rows}
            if not self.begin and 0 in rows:
                raise ValueError(
                    "begin=False hides the token that a text encoder puts in front of the words, and the first row of "
                    "this prompt is a word: leave begin as it is"
                )

    @property
    def idle(self) -> bool:
        return self.frozen_steps == 0

    @property
    def steers_uncond(self) -> bool:
        return self.branches == "both"

    def at(self, step: float, steps: int) -> float:
        return float(step < self.frozen_steps and self.schedule.at(step, steps) > 0)

    def collapses(self, steps: int) -> list[str]:
        if self.frozen_steps >= steps and all(self.at(step, steps) for step in range(steps)):
            return [
                f"all {steps} steps are masked (frozen_steps {self.frozen_steps}), so that the model never sees the "
                f"clip as a whole; the paper masks 4 of 50: try frozen_steps {max(steps // 4, 1)}"
            ]
        return super().collapses(steps)

    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        assert scene is not None
        layout = partition_layout(scene, spans, self, text, video)
        return None if layout.neutral else Edit(layout, None, self.match)


def partition_layout(scene: CallScene, spans: Spans, guidance: Partition, words: bool, tracks: bool) -> RegionLayout:
    """Foreground to its own, background to background: see `Partition`.

    An instance without words of its own keeps the unbound ones. A token that would be left with nothing to look at
    (an all-bound prompt) keeps everything.
    """
    plan = CallRegions(scene, spans)
    bias = plan.table()
    empty = plan.members.amax(-1) == 0  # background
    if tracks and plan.has_video:
        shared = (plan.members @ plan.members.T) > 0
        allowed = shared | (empty[:, None] & empty[None])
        bias[1:, plan.video] = torch.where(allowed, 0.0, _NEVER)
    if words and guidance.words and scene.words:
        own = torch.zeros(len(empty), dtype=torch.bool)
        for column, (owners, _) in plan.texts():
            mine = (plan.members * owners).amax(-1) > 0
            bias[1:, column] = torch.where(mine, 0.0, _NEVER)
            own |= mine
        bias[1:, plan.unbound] = torch.where(own, _NEVER, 0.0)
    key = plan.key
    if words and guidance.words and not guidance.begin and scene.words and spans.text_k is not None:
        key, bias = key.clone(), torch.cat([bias, torch.full((len(bias), 1), _NEVER)], dim=1)
        key[spans.text_k[0]] = bias.shape[1] - 1
        bias[0, -1] = 0.0
    used = torch.bincount(key, minlength=bias.shape[1]) > 0
    blind = (bias[:, used] == _NEVER).all(1)
    bias[blind] = 0.0
    return RegionLayout(plan.query, key, bias)
