"""How well a video of the mini world follows given tracks, and what following them costs.

Tracks may want something else than the prompt. So every video is measured against two truths that share their first
frame: the one that the tracks tell (`given`) and the one that the prompt tells (`habit`).

N clips, K instance slots, F frames, H, W pixels. Frame 0 is the given picture and counts nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...mini.shapes import PALETTE
from ...mini.world import Clips
from ..mini.judges import Tolerances, judge, visible_centres
from ..mini.object_tracking import Sight, look

__all__ = ["MEASURES", "measure"]

MEASURES = {
    "iou": "trajectory IoU: given masks and those found in the pixels, mean over frames and the instances that move "
    "by the tracks or by the prompt",
    "iou_named": "the same over everybody whom the tracks name, at rest or not",
    "iou_end": "the same as iou, in the last frame alone",
    "iou_habit": "as iou, with the masks that the prompt alone asks for",
    "error": "mean distance from the given path of the instances that move, in 1/64 of the frame's shorter side",
    "follows": "everybody named keeps to the given path (mean distance up to 4, at the end up to 6 of the same unit)",
    "fidelity": "interaction fidelity (IF) of what the tracks tell: the judge's ten questions times SPI",
    "fidelity_habit": "interaction fidelity of what the prompt tells",
    "spi": "semantic preservation (SPI): 1 where nothing emerges and nothing disappears",
    "intact": "nothing lost and nothing new, but for one frame",
    "colour": "mean distance of an instance's inside from its own colour, in shares of the scale of a channel",
    "background": "PSNR in dB of what nobody covers against the exact background (50 where it is better)",
    "sharpness": "squared differences of neighbouring pixels, as a share of the first frame's: 1 is as crisp as that",
}
_BEST_PSNR = 50.0


def measure(video: Tensor, given: Clips, habit: Clips, sight: Sight | None = None) -> dict[str, Tensor]:
    """`MEASURES` of ``video`` (N, F, 3, H, W) uint8: each (N,) float32, 0 or 1 for what is true or false.

    ``sight`` is `look(video, habit)` where that is known already. Raises ValueError where shapes do not fit.
    """
    if given.trajectories.shape != habit.trajectories.shape or given.prompts != habit.prompts:
        raise ValueError("given and habit are the same clips on different paths; make one from the other with `given`")
    sight = sight or look(video, habit)
    told, asked = judge(video, given, sight=sight), judge(video, habit, sight=sight)
    slots = torch.arange(given.present.shape[1], device=given.present.device)
    named = (slots < given.parts[:, None]) & given.present
    moving = named & (given.moving | habit.moving)
    overlap, other = _overlap(sight.masks, given.masks), _overlap(sight.masks, habit.masks)
    error, follows = _off(sight, given, named, moving)
    found = {
        "iou": _over(overlap.nanmean(-1), moving),
        "iou_named": _over(overlap.nanmean(-1), named),
        "iou_end": _over(overlap[..., -1], moving),
        "iou_habit": _over(other.nanmean(-1), moving),
        "error": error,
        "follows": follows,
        "fidelity": told.interaction_fidelity,
        "fidelity_habit": asked.interaction_fidelity,
        "spi": told.spi,
        "intact": told.intact,
        **_quality(video.to(sight.masks.device), habit, sight),
    }
    return {name: found[name].float() for name in MEASURES}


def _overlap(seen: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of masks (N, K, F, H, W) in each frame after the first, nan where the truth shows
    nothing: (N, K, F - 1)."""
    seen, truth = seen[:, :, 1:], truth[:, :, 1:]
    both, either = (seen & truth).sum((-2, -1)).float(), (seen | truth).sum((-2, -1)).float()
    return (both / either.clamp_min(1)).masked_fill(~truth.flatten(3).any(-1), torch.nan)


def _over(values: Tensor, who: Tensor) -> Tensor:
    """Mean of values (N, K) over those of ``who`` (N, K) that have one: (N,)."""
    return values.masked_fill(~who, torch.nan).nanmean(1)


def _off(sight: Sight, given: Clips, named: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    limits = Tolerances()
    off = (sight.centres - visible_centres(given)).norm(dim=-1)[:, :, 1:] / given.config.unit
    near = (off.mean(-1) <= limits.path_mean) & (off[..., -1] <= limits.path_end)
    return _over(off.mean(-1), moving), (near | ~named).all(1)


def _quality(video: Tensor, clips: Clips, sight: Sight) -> dict[str, Tensor]:
    """What needs no truth about the motion, a few clips at a time: inside colours, the background, crispness."""
    empty = clips.repaint(present=torch.zeros_like(clips.present))
    paints = torch.tensor(list(PALETTE.values()), dtype=torch.float32, device=video.device) / 255
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(clips), 16):
        some = slice(start, start + 16)
        frames, masks = video[some].float() / 255, sight.masks[some]
        off = (frames[:, None, 1:] - paints[clips.colour[some]][:, :, None, :, None, None]).abs().mean(3)
        inside = _shrunk(masks[:, :, 1:])
        colour = (off * inside).sum((1, 2, 3, 4)) / inside.sum((1, 2, 3, 4)).clamp_min(1)
        free = ~_grown(masks.any(1)[:, 1:], max(2, round(2 * clips.config.unit)))
        wrong = (frames[:, 1:] - empty[some, 1:].float() / 255).square().mean(2)
        noise = (wrong * free).sum((1, 2, 3)) / free.sum((1, 2, 3)).clamp_min(1)
        crisp = frames.diff(dim=-1).square().sum((2, 3, 4)) + frames.diff(dim=-2).square().sum((2, 3, 4))
        parts.append((colour, noise, crisp[:, 1:].mean(1) / crisp[:, 0].clamp_min(1e-6)))
    colour, noise, crisp = (torch.cat(part) for part in zip(*parts))
    psnr = (-10 * noise.clamp_min(1e-12).log10()).clamp_max(_BEST_PSNR)
    return {"colour": colour, "background": psnr, "sharpness": crisp}


def _grown(masks: Tensor, reach: int) -> Tensor:
    """(N, F, H, W) bool, grown by ``reach`` pixels."""
    return functional.max_pool2d(masks.float(), 2 * reach + 1, 1, reach) > 0


def _shrunk(masks: Tensor) -> Tensor:
    """(N, K, F, H, W) bool without the two outermost pixels, which blend with what is around."""
    flat = masks.flatten(0, 1)
    return ~_grown(~flat, 2).view(masks.shape)
