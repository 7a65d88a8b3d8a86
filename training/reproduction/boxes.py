"""IVG-DA asked again: clips sampled from text alone, whose captions leave the path open, held to boxes.

N clips, F frames.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.guidance.base import Guidance
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.published import PEEKABOO_SITES
from matrix_lib.evaluation.mini.object_tracking import colour_masks
from matrix_lib.hosts.diffusers.batches import Branch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.mini.world import Clips

from ..data.alignment_clips import named_tracks
from ..data.world import seed_of
from .bench import BoxBench, packed
from .sets import NOISE, SEED

__all__ = ["BOXED", "ON_UNETS", "UNSAMPLED", "BoxArm", "box_scores", "run_boxes"]

_FOUND = 0.25  # of an instance's own area: with less of its colour in a frame it is not there
_SIZES = (0.5, 2.0)  # times its own area: of the right size


@dataclass(frozen=True)
class BoxArm:
    """One way to hold clips to boxes."""

    name: str
    guidance: tuple[Guidance, ...] = ()
    intrinsic: IntrinsicDenoising | None = None


_OWN = IntrinsicDenoising(on="clean", share=0.5)
BOXED = (
    BoxArm("none"),
    BoxArm("masked 4", (Partition(frozen_steps=4, match=None),)),
    BoxArm("masked 4, matched", (Partition(frozen_steps=4),)),
    BoxArm("denoising", (), IntrinsicDenoising()),
    BoxArm("denoising, c_g 0", (), IntrinsicDenoising(strength=0.0)),
    BoxArm("masked 4, matched, denoising", (Partition(frozen_steps=4),), IntrinsicDenoising()),
    BoxArm("masked 8", (Partition(frozen_steps=8, match=None),)),
    BoxArm("masked 8, matched", (Partition(frozen_steps=8),)),
    BoxArm("masked 2", (Partition(frozen_steps=2, match=None),)),
    BoxArm("masked 2, matched", (Partition(frozen_steps=2),)),
    BoxArm("denoising, own scale", (), _OWN),
    BoxArm("masked 4, matched, denoising, own scale", (Partition(frozen_steps=4),), _OWN),
    BoxArm("masked 4, matched over all", (Partition(frozen_steps=4, match="global"),)),
    BoxArm("masked 12", (Partition(frozen_steps=12, match=None),)),
    BoxArm("masked 12, matched", (Partition(frozen_steps=12),)),
    BoxArm("masked 4, words left", (Partition(frozen_steps=4, match=None, words=False),)),
    BoxArm("denoising, M 4", (), IntrinsicDenoising(iterations=4)),
)
"""In the order of how much they decide. 4 frozen steps, M 2 and c_g 10,000 are the paper's."""

ON_UNETS = (
    *(arm for arm in BOXED if arm.name in (
        "none", "masked 4", "masked 4, matched", "denoising", "masked 4, matched, denoising", "denoising, c_g 0",
        "masked 8", "masked 8, matched",
    )),
    BoxArm("peekaboo 4", (Partition(4, None, layers=PEEKABOO_SITES),)),
    BoxArm("peekaboo 4, matched", (Partition(4, layers=PEEKABOO_SITES),)),
    BoxArm("peekaboo 4, matched, denoising", (Partition(4, layers=PEEKABOO_SITES),), IntrinsicDenoising()),
)  # fmt: skip
"""Of U-Nets; the words of mini's world have no start token that could be hidden."""

UNSAMPLED = ("true clips", "still clips", "exchanged clips")
"""Rows that no model makes: the ceiling; the first frame of the true clip repeated; and the same things on the paths of
another clip, which move as things do and know nothing of the boxes."""


def box_scores(video: Tensor, clips: Clips) -> dict[str, Tensor]:
    """How a video (N, F, 3, H, W) keeps the mover of each clip in its boxes, by colour: no first frame is given, so
    that nobody can be followed from there.

    miou: (N,) intersection over union of the box asked for and the box found, mean over all frames, 0 without one.
    covered: (N,) bool, found in more than half of the frames. sized: (N,) share of the frames with about its own area.
    moves: (N,) distance of the found centres of the first and last quarter, in 1/64 of the shorter side.
    """
    wanted, found = clips.masks[:, 0], colour_masks(video.to(clips.masks.device), clips.colour[:, 0])
    area = wanted.sum((-2, -1)).float()
    ratio = found.sum((-2, -1)).float() / area.clamp_min(1)
    there = ratio >= _FOUND
    asked, seen = _filled(wanted), _filled(found & there[..., None, None])
    both, either = (asked & seen).sum((-2, -1)).float(), (asked | seen).sum((-2, -1)).float()
    quarter = max(1, video.shape[1] // 4)
    centres = _centres(found)
    way = (centres[:, -quarter:].nanmean(1) - centres[:, :quarter].nanmean(1)).norm(dim=-1) / clips.config.unit
    return {
        "miou": (both / either.clamp_min(1)).mean(1),
        "covered": there.float().mean(1) > 0.5,
        "sized": ((ratio > _SIZES[0]) & (ratio < _SIZES[1])).float().mean(1),
        "moves": way.nan_to_num(0.0),
    }


def _filled(masks: Tensor) -> Tensor:
    """The boxes around masks (..., H, W), as masks."""

    def between(line: Tensor) -> Tensor:
        flags = line.int()
        return (flags.cummax(-1).values * flags.flip(-1).cummax(-1).values.flip(-1)).bool()

    return between(masks.any(-1))[..., None] & between(masks.any(-2))[..., None, :]


def _centres(masks: Tensor) -> Tensor:
    """(..., 2) x, y of masks (..., H, W); nan where they are empty."""
    height, width = masks.shape[-2:]
    mass = masks.sum((-2, -1)).float()
    x = (masks.sum(-2).float() * torch.arange(width, device=masks.device)).sum(-1)
    y = (masks.sum(-1).float() * torch.arange(height, device=masks.device)).sum(-1)
    return torch.stack([x, y], -1) / torch.where(mass > 0, mass, torch.nan)[..., None]


def run_boxes(name: str, bench: BoxBench) -> dict[str, Any]:
    """One row: a way to hold clips to boxes, or a row of `UNSAMPLED`. Raises ValueError for an unknown name."""
    scale = bench.scale
    clips = bench.clips("open moves", scale.boxes)
    began = time.monotonic()
    notes: dict[str, None] = {}
    if name in UNSAMPLED:
        video = _unsampled(name, clips)
    else:
        known = {arm.name: arm for arm in (*BOXED, *ON_UNETS)}
        if name not in known:
            raise ValueError(f"there is no row {name!r}; there are {', '.join([*UNSAMPLED, *known])}")
        arm = known[name]
        video = _sampled(arm, bench, clips, notes)
    found = box_scores(video, clips)
    reference = bench.clips("open moves", scale.boxes, draw=1)
    return {
        "arm": name,
        "seed": 0,
        "settings": {"clips": len(clips), "steps": scale.box_sampling, "cfg": scale.box_cfg},
        "seconds": {"all": round(time.monotonic() - began, 1)},
        "sets": {
            "boxes": {
                "miou": [round(float(x), 3) for x in found["miou"].tolist()],
                "covered": packed(found["covered"]),
                "sized": [round(float(x), 2) for x in found["sized"].tolist()],
                "moves": round(float(found["moves"].mean()), 2),
                "distance": bench.distance(video, reference.video),
            }
        },
        "notes": list(notes),
        "picture": _picture(video, clips),
    }


def _unsampled(name: str, clips: Clips) -> Tensor:
    if name == "true clips":
        return clips.video
    if name == "still clips":
        return clips.video[:, :1].expand_as(clips.video)
    return clips.repaint(trajectories=clips.trajectories.roll(1, 0))


@torch.no_grad()
def _sampled(arm: BoxArm, bench: BoxBench, clips: Clips, notes: dict[str, None]) -> Tensor:
    scale, pipeline = bench.scale, bench.pipeline
    cpu = clips.to("cpu")
    found = []
    for start in range(0, len(clips), scale.batch):
        part = clips.select(slice(start, start + scale.batch))
        places = range(start, start + len(part))
        tracks = [named_tracks(cpu, i).boxed() for i in places]
        bindings = [bench.encoders.bind(clips.prompts[i], clips.phrases[i]) for i in places]
        seed = seed_of(SEED, NOISE, start)
        with contextlib.ExitStack() as stack:
            acting: list[Any] = []
            if arm.guidance:
                pipeline.scheduler.set_timesteps(scale.box_sampling)  # guidance reads the number of steps there
                branches: tuple[Branch, ...] = ("uncond", "cond") if scale.box_cfg != 1 else ("cond",)
                acting = stack.enter_context(
                    steer(pipeline, list(arm.guidance), bindings, tracks, branches=branches, seed=seed)
                )
            video = bench.from_text(part.prompts, seed, arm.intrinsic, tracks)
            notes.update(dict.fromkeys(note for actor in acting for note in actor.notes))
        found.append(video)
    return torch.cat(found)


def _picture(video: Tensor, clips: Clips) -> str:
    from .pictures import strip

    return strip(video[:3], _filled(clips.masks[:3, 0]))
