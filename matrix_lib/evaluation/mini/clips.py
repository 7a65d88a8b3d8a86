"""Clips of the mini world as clips to analyse, with the judge beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.tracks.tracks import MaskTracks
from ...core.words.phrases import PhraseSpec, parse_phrases
from ...mini.export import mask_tracks
from ...mini.world import Clips, WorldConfig, make_clips
from .judges import judge
from .object_tracking import look

__all__ = ["CRITERIA", "MiniClip", "mini_clips"]

CRITERIA = ("right_path", "right_roles", "intact")
_SEED = 72_000_000  # far from every seed that training or the evaluation draws
_SOURCE = re.compile(r"mini:(\d+)(?::(train|heldout_pairs|all|look_alikes))?$")


@dataclass(frozen=True, eq=False)
class MiniClip:
    """One clip and its whole truth (`Clips` of length 1)."""

    name: str
    truth: Clips

    @property
    def prompt(self) -> str:
        return self.truth.prompts[0]

    @property
    def phrases(self) -> tuple[PhraseSpec, ...]:
        return parse_phrases(self.truth.phrases[0])

    def frames(self, count: int) -> Tensor:
        """(n, H, W, 3) uint8."""
        return self.truth.video[0, :count].permute(0, 2, 3, 1)

    def tracks(self) -> MaskTracks:
        named = [spec.name for spec in self.phrases if spec.role != "verb"]
        return mask_tracks(self.truth, 0).select(named)

    def seen(self, frames: NDArray[np.uint8]) -> MaskTracks:
        """Tracks of the named instances as they are seen in a generated clip (F, H, W, 3) uint8, by the judge's eyes.

        Raises ValueError where one of them is in no frame."""
        sight = look(torch.from_numpy(frames).permute(0, 3, 1, 2)[None], self.truth)
        return mask_tracks(replace(self.truth, masks=sight.masks), 0).select(self.tracks().names)

    def judge(self, frames: NDArray[np.uint8]) -> dict[str, float]:
        """The judge's answers about a generated clip (F, H, W, 3) uint8."""
        verdict: Any = judge(torch.from_numpy(frames).permute(0, 3, 1, 2)[None], self.truth)
        names = (*CRITERIA, "kisa", "sgi", "spi", "interaction_fidelity")
        return {name: round(float(getattr(verdict, name)[0]), 6) for name in names}


def mini_clips(source: str, frames: int, height: int, width: int) -> list[MiniClip]:
    """Clips that `mini:COUNT` or `mini:COUNT:SPLIT` asks for: interactions whose prompt tells everybody apart, or with
    the split look_alikes those in which somebody looks just like a named instance, so that only masks tell them apart.

    Always the same for equal arguments, and clip i does not depend on COUNT. Raises ValueError for another text.
    """
    match = _SOURCE.match(source)
    if match is None or not int(match[1]):
        raise ValueError(
            "clips of the mini world are asked for as mini:200, or mini:200:SPLIT with train, heldout_pairs, all or "
            f"look_alikes; got {source!r}"
        )
    count, split = int(match[1]), match[2] or "all"
    alike = split == "look_alikes"
    world = WorldConfig(
        height=height,
        width=width,
        frames=frames,
        single_motion_share=0.0,
        distractor_share=1.0 if alike else 0.0,
        split="all" if alike else split,  # type: ignore[arg-type]
    )
    clips = make_clips(_SEED, 2 * count if alike else count, world)
    kept = clips.ambiguous.cpu().nonzero()[:, 0].tolist() if alike else list(range(count))  # some find no room
    if len(kept) < count:
        raise ValueError(f"only {len(kept)} of {len(clips)} clips have look-alikes; {count} are wanted")
    return [MiniClip(f"mini_{i:05d}", clips.select([i])) for i in kept[:count]]
