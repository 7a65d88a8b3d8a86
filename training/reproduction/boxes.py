"""IVG-DA asked again: clips sampled from text alone, whose captions leave the path open, held to boxes.

N clips, F frames.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from matrix_lib.core.attention.matching import match_distribution
from matrix_lib.core.guidance.base import Guidance
from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.published import PEEKABOO_SITES
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.evaluation.mini.object_tracking import colour_masks
from matrix_lib.hosts.diffusers.batches import Branch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.mini.paths import PATHS
from matrix_lib.mini.world import Clips

from ..data.alignment_clips import named_tracks
from ..data.world import seed_of
from .bench import BoxBench, packed
from .sets import NOISE, SEED

__all__ = ["BOXED", "ON_UNETS", "PARTS", "STEERED", "UNSAMPLED", "BoxArm", "box_scores", "run_boxes"]

_FOUND = 0.25  # of an instance's own area: with less of its colour in a frame it is not there
_SIZES = (0.5, 2.0)  # times its own area: of the right size


@dataclass(frozen=True)
class BoxArm:
    """One way to hold clips to boxes. before_projection: whether outputs are matched before the output projection, or
    behind it."""

    name: str
    guidance: tuple[Guidance, ...] = ()
    intrinsic: IntrinsicDenoising | None = None
    before_projection: bool = True


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
    BoxArm("masked 6", (Partition(frozen_steps=6, match=None),)),
    BoxArm("masked 6, matched", (Partition(frozen_steps=6),)),
    BoxArm("masked 4, matched behind the projection", (Partition(frozen_steps=4),), before_projection=False),
    BoxArm("denoising, c_g 100", (), IntrinsicDenoising(strength=100.0)),
    BoxArm("denoising, c_g 1000", (), IntrinsicDenoising(strength=1000.0)),
    BoxArm("denoising, c_g 3000", (), IntrinsicDenoising(strength=3000.0)),
    BoxArm("denoising, M 1", (), IntrinsicDenoising(iterations=1)),
    BoxArm("denoising, M 3", (), IntrinsicDenoising(iterations=3)),
    BoxArm("denoising, normalised", (), IntrinsicDenoising(normalise=True)),
    BoxArm("denoising, adaptive", (), IntrinsicDenoising(share=0.5)),
)
"""In the order of how much they decide. 4 frozen steps, M 2 and c_g 10,000 are the paper's."""

STEERED = ("held to the true clip", "biased")
"""Rows that show whether these bases can be steered at all: without one that brings things into their boxes no claim on
another way to do so can be answered."""
_STEERED = (
    BoxArm(STEERED[0], (DualClockDenoising(inside=0.4, outside=0.08),)),
    BoxArm(STEERED[1], (RegionBias(2.0, 2.0, 1.0, 1.0),)),
)

ON_UNETS = (
    *(arm for arm in BOXED if arm.name in (
        "none", "masked 4", "masked 4, matched", "denoising", "masked 4, matched, denoising", "denoising, c_g 0",
        "masked 8", "masked 8, matched", "masked 4, matched behind the projection",
    )),
    _STEERED[1],
    BoxArm("peekaboo 4", (Partition(4, None, layers=PEEKABOO_SITES),)),
    BoxArm("peekaboo 4, matched", (Partition(4, layers=PEEKABOO_SITES),)),
    BoxArm("peekaboo 4, matched, denoising", (Partition(4, layers=PEEKABOO_SITES),), IntrinsicDenoising()),
)  # fmt: skip
"""Of U-Nets; the words of mini's world have no start token that could be hidden."""

PARTS: dict[str, tuple[str, str]] = {
    "boxes": ("open moves", "own"),
    "fast boxes": ("open moves", "fast"),
    "jumping boxes": ("open moves", "jumping"),
    "several boxes": ("open scenes", "own"),
}
"""What boxes are asked of: a set of clips, and the paths that they take (`matrix_lib.mini.paths`)."""

UNSAMPLED = ("true clips", "still clips", "exchanged clips")
"""Rows that no model makes: the ceiling; the first frame of the true clip repeated; and the same things on the paths of
another clip, which move as things do and know nothing of the boxes."""


def box_scores(video: Tensor, clips: Clips) -> dict[str, Tensor]:
    """How a video (N, F, 3, H, W) keeps what the caption names (the mover, or agent and recipient) in their boxes, by
    colour: no first frame is given, so that nobody can be followed from there. Means over a clip's instances.

    miou: (N,) intersection over union of the box asked for and the box found, mean over all frames, 0 without one.
    covered: (N,) bool, all found in more than half of the frames. sized: (N,) share of the frames with about its own
    area. moves: (N,) distance of the found centres of the first and last quarter, in 1/64 of the shorter side.
    """
    video, named = video.to(clips.masks.device), clips.named
    slots = [_slot_scores(video, clips, slot) for slot in range(int(named.sum(1).max()))]
    out = {}
    for score in slots[0]:
        values, there = torch.stack([each[score].float() for each in slots], 1), named[:, : len(slots)].float()
        out[score] = (values * there).sum(1) / there.sum(1)
    return out | {"covered": out["covered"] > 1 - 1e-6}


def _slot_scores(video: Tensor, clips: Clips, slot: int) -> dict[str, Tensor]:
    """`box_scores` of one instance of each clip."""
    wanted, found = clips.masks[:, slot], colour_masks(video, clips.colour[:, slot])
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


def _clips(bench: BoxBench, part: str, draw: int = 0) -> Clips:
    name, path = PARTS[part]
    clips = bench.clips(name, bench.scale.boxes, draw=draw)
    return clips if path == "own" else clips.restage(PATHS[path](clips))


def run_boxes(name: str, bench: BoxBench, part: str = "boxes", seed: int = 0) -> dict[str, Any]:
    """One row: a way to hold clips to boxes, or a row of `UNSAMPLED`. seed: of the sampling noise.

    Raises ValueError for an unknown name."""
    scale = bench.scale
    clips = _clips(bench, part)
    began = time.monotonic()
    notes: dict[str, None] = {}
    if name in UNSAMPLED:
        video = _unsampled(name, clips)
    else:
        known = {arm.name: arm for arm in (*BOXED, *ON_UNETS, *_STEERED)}
        if name not in known:
            raise ValueError(f"there is no row {name!r}; there are {', '.join([*UNSAMPLED, *known])}")
        arm = known[name]
        video = _sampled(arm, bench, clips, notes, seed)
    found = box_scores(video, clips)
    reference = _clips(bench, part, draw=1)
    return {
        "arm": name,
        "seed": seed,
        "settings": {"clips": len(clips), "steps": scale.box_sampling, "cfg": scale.box_cfg},
        "seconds": {"all": round(time.monotonic() - began, 1)},
        "sets": {
            part: {
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
def _sampled(arm: BoxArm, bench: BoxBench, clips: Clips, notes: dict[str, None], draw: int) -> Tensor:
    scale, pipeline = bench.scale, bench.pipeline
    cpu = clips.to("cpu")
    found = []
    for start in range(0, len(clips), scale.batch):
        part = clips.select(slice(start, start + scale.batch))
        places = range(start, start + len(part))
        tracks = [named_tracks(cpu, i).boxed() for i in places]
        bindings = [bench.encoders.bind(clips.prompts[i], clips.phrases[i]) for i in places]
        seed = seed_of(SEED, NOISE, start, *([draw] if draw else []))
        more: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            acting: list[Any] = []
            if arm.guidance:
                pipeline.scheduler.set_timesteps(scale.box_sampling)  # guidance reads the number of steps there
                branches: tuple[Branch, ...] = ("uncond", "cond") if scale.box_cfg != 1 else ("cond",)
                told: dict[str, Any] = {}
                if any(each.needs_reference for each in arm.guidance):
                    told["reference"] = [one.transpose(0, 1) for one in bench.encoders.encode(part.video).float()]
                    more["scheduler"] = pipeline.scheduler  # it acts before the steps of this one
                acting = stack.enter_context(
                    steer(pipeline, list(arm.guidance), bindings, tracks, branches=branches, seed=seed, **told)
                )
                if not arm.before_projection:
                    stack.enter_context(matched_behind(pipeline.transformer or pipeline.unet, acting))
            video = bench.from_text(part.prompts, seed, arm.intrinsic, tracks, **more)
            notes.update(dict.fromkeys(note for actor in acting for note in actor.notes))
            notes.update(dict.fromkeys(line for actor in acting for line in actor.figures()) if start == 0 else {})
        found.append(video)
    return torch.cat(found)


@contextlib.contextmanager
def matched_behind(model: Any, acting: Sequence[Any]) -> Iterator[None]:
    """While open, mask normalisation matches what the output projection makes of the masked output to what it makes of
    the unmasked one, in place of the heads' outputs before it. Of mini (its text stands in front) and U-Nets.

    Raises ValueError, in the forward pass, where matched rows are not among the projected ones.
    """
    heard: list[tuple[Tensor, Tensor, Tensor]] = []

    def hear(masked: Tensor, unmasked: Tensor, matched: Tensor) -> None:
        heard.append((masked, unmasked, matched))

    def project(module: torch.nn.Linear, inputs: Any, output: Tensor) -> Tensor | None:
        if not heard:
            return None
        masked, unmasked, matched = (torch.cat(each).transpose(1, 2).flatten(2) for each in zip(*heard, strict=True))
        heard.clear()
        text = output.shape[1] - masked.shape[1]
        at = _rows_of(inputs[0][:, text:], matched)
        made = [functional.linear(each.to(output), module.weight, module.bias)[:, None] for each in (masked, unmasked)]
        whole = output.clone()
        whole[at, text:] = match_distribution(made[0], made[1])[:, 0]
        return whole

    blocks = [module for module in model.modules() if hasattr(module, "attn1")]
    attentions = [getattr(block, name, None) for block in blocks for name in ("attn1", "attn2")]
    handles = [each.to_out[0].register_forward_hook(project) for each in attentions if each is not None]
    for actor in acting:
        actor.listeners.append(hear)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for actor in acting:
            actor.listeners.remove(hear)


def _rows_of(whole: Tensor, some: Tensor) -> Tensor:
    """Which rows of (B, N, C) are those of (b, N, C), in order and to the bit: a U-Net's row without a mask is none."""
    bits = torch.int16 if whole.element_size() == 2 else torch.int32
    weights = torch.randint(1 << 62, (whole[0].numel(),), generator=torch.Generator().manual_seed(0)).to(whole.device)
    sums = [(each.to(whole).flatten(1).contiguous().view(bits) * weights).sum(1) for each in (whole, some)]
    at = torch.isin(sums[0], sums[1]).nonzero()[:, 0]  # integers wrap around, in any order alike
    if len(at) != len(some) or not torch.equal(sums[0][at], sums[1]):
        raise ValueError(
            f"{len(some)} rows of attention were matched, and {len(at)} of {len(whole)} projected ones are these"
        )
    return at


def _picture(video: Tensor, clips: Clips) -> str:
    from .pictures import strip

    boxes = torch.stack([_filled(clips.masks[:3, slot]) for slot in range(int(clips.named[:3].sum(1).max()))])
    return strip(video[:3], boxes.any(0))
