"""Clips of the mini world that go wrong in known ways, with the exact tracks of what each of them shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.paint import paint
from matrix_lib.mini.shapes import MAX_REACH
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

KINDS = ("good", "wrong", "swapped", "vanishing", "doubled")


@dataclass(frozen=True)
class FailingClip:
    """One clip: its whole truth (`Clips` of length 1), what a model made of it, and exact tracks of that."""

    kind: str
    truth: Clips
    video: Tensor  # (F, 3, H, W) uint8
    seen: MaskTracks

    @property
    def given(self) -> MaskTracks:
        return mask_tracks(self.truth, 0)

    def frames(self) -> Tensor:
        """(F, H, W, 3) uint8."""
        return self.video.permute(0, 2, 3, 1)


def whole_truth(seed: int, count: int, **world: Any) -> Clips:
    """The clips of interactions that `failing_clips` makes go wrong, together."""
    config = WorldConfig(split="all", single_motion_share=0.0, distractor_share=0.0, max_instances=4, **world)
    return make_clips(seed, count, config)


def failing_clips(seed: int, count: int, **world: Any) -> list[FailingClip]:
    """`count` clips of interactions; kinds take turns, and how far each goes wrong is drawn."""
    clips = whole_truth(seed, count, **world)
    chance = torch.Generator().manual_seed(seed)
    return [_fail(KINDS[i % len(KINDS)], clips.select([i]), chance, tracked=i % 2 == 0) for i in range(count)]


def _fail(kind: str, truth: Clips, chance: torch.Generator, tracked: bool) -> FailingClip:
    paths, frames = truth.trajectories.clone(), truth.config.frames
    since = int(torch.randint(2, frames - 1, (), generator=chance))
    there = torch.ones(frames, dtype=torch.bool)
    there[since:] = False
    if kind == "wrong":
        start = paths[:, :, :1]
        # Too little, too much, and somewhat aside.
        share = float(torch.rand((), generator=chance)) * 1.2
        paths = start + (paths - start) * share
        aside = (torch.rand(2, generator=chance) - 0.5) * 12
        paths[:, 0] += aside * torch.linspace(0, 1, frames)[:, None]
    if kind == "swapped":
        share = float(torch.rand((), generator=chance))
        paths[:, :2] = paths[:, :2] * (1 - share) + truth.swapped * share
    if kind == "vanishing":
        lost = int(torch.randint(0, int(truth.parts), (), generator=chance))
        video, masks = _mixed(truth, paths, lost, there)
        return FailingClip(kind, truth, video, _named(truth, masks))
    if kind == "doubled":
        return _doubled(truth, chance, there, tracked)
    video, masks = _painted(truth, paths, truth.present)
    return FailingClip(kind, truth, video, _named(truth, masks))


def _painted(truth: Clips, paths: Tensor, present: Tensor, **looks: Tensor) -> tuple[Tensor, Tensor]:
    """(F, 3, H, W) and (K, F, H, W) of one clip."""
    own = {name: looks.get(name, getattr(truth, name)) for name in ("shape", "colour", "radius", "depth")}
    size = (truth.config.height, truth.config.width)
    video, masks = paint(paths.float(), *own.values(), present, truth.camera, truth.backdrop, size)
    return video[0], masks[0]


def _mixed(truth: Clips, paths: Tensor, slot: int, there: Tensor) -> tuple[Tensor, Tensor]:
    """One slot is there in the frames `there` alone."""
    present = truth.present.clone()
    present[0, slot] = False
    whole, without = _painted(truth, paths, truth.present), _painted(truth, paths, present)
    video = torch.where(there[:, None, None, None], whole[0], without[0])
    return video, torch.where(there[None, :, None, None], whole[1], without[1])


def _doubled(truth: Clips, chance: torch.Generator, there: Tensor, tracked: bool) -> FailingClip:
    """A second one of a named instance stands where there is room for it, from some frame on."""
    which = int(torch.randint(0, int(truth.parts), (), generator=chance))
    place = _room(truth, which)
    looks = {
        name: torch.cat([getattr(truth, name), getattr(truth, name)[:, which : which + 1]], 1)
        for name in ("shape", "colour", "radius")
    }
    looks["depth"] = torch.cat([truth.depth + 1, torch.zeros_like(truth.depth[:, :1])], 1)
    double = place.expand(1, 1, truth.config.frames, 2)
    paths = torch.cat([truth.trajectories, double], 1)
    present = torch.cat([truth.present, torch.ones(1, 1, dtype=torch.bool)], 1)
    alone = torch.cat([truth.present, torch.zeros(1, 1, dtype=torch.bool)], 1)
    (whole, masks), (plain, without) = _painted(truth, paths, present, **looks), _painted(truth, paths, alone, **looks)
    video = torch.where(there[:, None, None, None], plain, whole)
    masks = torch.where(there[None, :, None, None], without, masks)
    seen = _named(truth, masks[:-1])
    if tracked:
        seen = seen.merge(MaskTracks.from_masks({"somebody else": masks[-1]}, fps=seen.fps))
    return FailingClip("doubled", truth, video, seen)


def _room(truth: Clips, which: int) -> Tensor:
    """The place that is farthest from everybody at all times."""
    edge = float(truth.radius[0, which]) * MAX_REACH + 2
    grid = torch.linspace(edge, truth.config.width - edge, 9)
    places = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    others = truth.trajectories[0][truth.present[0]].reshape(-1, 2).float()
    return places[torch.cdist(places, others).amin(1).argmax()]


def _named(truth: Clips, masks: Tensor) -> MaskTracks:
    slots = truth.present[0].nonzero()[:, 0].tolist()
    named = {name: masks[slot] for name, slot in zip(truth.names[0], slots)}
    return MaskTracks.from_masks(named, roles=truth.roles[0], fps=truth.config.fps, allow_empty=True)
