"""Cut and drag: a rough animation of what mask tracks tell, made of the first frame alone.

Each instance is cut out where the first frame shows it and put where its mask is in every other frame; what it leaves
behind is filled from around. Nothing turns, blinks or casts a shadow: it is a sketch for `dual_clock` to hold a model
to, after Time-to-Move (arXiv 2511.08633), whose users draw such sketches by hand.

F frames, H rows, W columns, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..tracks.packing import Progress
from ..tracks.tracks import MaskTracks

__all__ = ["cut_and_drag"]

_EXPLAINED = 0.9  # share of a moved mask that must be seen, or hidden by somebody, to believe that it only moved
_Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
_MARGIN = 2  # pixels around an instance that still hold some of its colour


def cut_and_drag(first: Tensor, tracks: MaskTracks, progress: Progress | None = None) -> Tensor:
    """(F, H, W, C) like `first`: the first frame with every instance moved along its mask.

    An instance only moves where its first mask, moved, explains the mask of a frame: all of it is seen, or hidden by
    another instance, or outside. Else it is stretched from box to box. Pixels of a mask that the first frame does not
    have go on in the instance's nearest colours; later instances lie on top. Who is not in the first frame has no looks
    to move and is left out, but hides others.

    Args:
        first: (H, W, C) uint8 or float on any device, as large as the tracks.
        progress: called after each frame; may raise to interrupt.

    Raises ValueError for a frame of another size or type.
    """
    size = (tracks.height, tracks.width)
    if not isinstance(first, Tensor) or first.ndim != 3 or tuple(first.shape[:2]) != size:
        given = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(
            f"the first frame is a tensor [height, width, channels] of the tracks' size {size}; got {given}: resize "
            "the frame, or frame the tracks as the frame is"
        )
    if not first.is_floating_point() and first.dtype != torch.uint8:
        raise ValueError(f"the first frame is of uint8 or a float type; got {first.dtype}")
    picture, place = first.permute(2, 0, 1).float(), first.device
    cuts = {name: mask for name in tracks.names if (mask := tracks.mask(name).to(place)).any()}
    gone = torch.stack([*cuts.values()]).any(0) if cuts else torch.zeros(size, dtype=torch.bool, device=place)
    looks = {}
    for number, (name, mask) in enumerate(cuts.items()):  # what lies on top of it is not its own
        own = mask & ~torch.stack([*list(cuts.values())[number + 1 :], torch.zeros_like(mask)]).any(0)
        looks[name] = _filled(picture, own if own.any() else mask)
    ground = _ground(picture, gone)
    clip = first.new_empty(tracks.frames, *first.shape)
    clip[0] = first
    for index in range(1, tracks.frames):
        here = {name: tracks.mask(name, index).to(place) for name in tracks.names}
        frame = ground.clone()
        for name, before in cuts.items():
            mask = here[name]
            if mask.any():
                others = torch.stack([other for key, other in here.items() if key != name] or [torch.zeros_like(mask)])
                frame = torch.where(mask, _moved(looks[name], before, mask, others.any(0)), frame)
        clip[index] = _like(frame.permute(1, 2, 0), first)
        if progress is not None:
            progress()
    return clip


def _ground(picture: Tensor, gone: Tensor) -> Tensor:
    """(C, H, W) the picture without what moves; its mean colour where nothing else is left to carry on."""
    for known in (~_grown(gone, _MARGIN), ~gone):
        if known.any():
            return _filled(picture, known)
    return picture.mean((1, 2), keepdim=True).expand_as(picture)


def _like(frame: Tensor, first: Tensor) -> Tensor:
    return frame.to(first.dtype) if first.is_floating_point() else frame.round().clamp(0, 255).to(first.dtype)


def _moved(looks: Tensor, before: Tensor, after: Tensor, others: Tensor) -> Tensor:
    """(C, H, W) an instance's looks, moved from the mask `before` to `after`."""
    old, new = _box(before), _box(after)
    ways = [
        (dx, dy)
        for dx in dict.fromkeys((_middle(new[0] + new[2] - old[0] - old[2]), new[0] - old[0], new[2] - old[2]))
        for dy in dict.fromkeys((_middle(new[1] + new[3] - old[1] - old[3]), new[1] - old[1], new[3] - old[3]))
    ]

    def fit(way: tuple[int, int]) -> tuple[int, int]:
        """Pixels of the new mask that it covers, and its own that are seen, hidden or outside."""
        there = _shifted(before, *way)
        outside = int(before.sum()) - int(there.sum())
        return int((there & after).sum()), int((there & (after | others)).sum()) + outside

    fits = {way: fit(way) for way in ways}
    best = max(fits, key=fits.__getitem__)
    covered, explained = fits[best]
    if explained >= _EXPLAINED * int(before.sum()) and covered >= _EXPLAINED * int(after.sum()):
        dx, dy = best
        height, width = before.shape
        rows = (torch.arange(height, device=looks.device) - dy).clamp(0, height - 1)
        columns = (torch.arange(width, device=looks.device) - dx).clamp(0, width - 1)  # the border's colours go on
        return looks[:, rows][:, :, columns]
    return _stretched(looks, old, new)


def _box(mask: Tensor) -> _Box:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _middle(twice: int) -> int:
    return round(twice / 2)


def _shifted(plane: Tensor, dx: int, dy: int) -> Tensor:
    """(H, W) moved by whole pixels, with nothing behind it."""
    height, width = plane.shape
    out = torch.zeros_like(plane)
    if abs(dx) >= width or abs(dy) >= height:
        return out
    to = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    of = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
    out[to] = plane[of]
    return out


def _stretched(looks: Tensor, old: _Box, new: _Box) -> Tensor:
    """(C, H, W) with the box `old` resized to the box `new`; only what is inside of `new` means anything."""
    cut = looks[None, :, old[1] : old[3], old[0] : old[2]]
    size = (new[3] - new[1], new[2] - new[0])
    out = torch.zeros_like(looks)
    out[:, new[1] : new[3], new[0] : new[2]] = functional.interpolate(cut, size, mode="bilinear", antialias=True)[0]
    return out


def _grown(mask: Tensor, by: int) -> Tensor:
    wide = functional.max_pool2d(mask[None, None].float(), 2 * by + 1, 1, by)
    return wide[0, 0] > 0


def _filled(picture: Tensor, known: Tensor) -> Tensor:
    """(C, H, W) with the colours of what is known (H, W) carried on where it is not, ever coarser away from it."""
    if bool(known.all()) or not bool(known.any()):
        return picture
    weight = known[None, None].float()
    pool = dict(kernel_size=2, ceil_mode=True, count_include_pad=False)
    share = functional.avg_pool2d(weight, **pool)  # type: ignore[arg-type]
    mean = functional.avg_pool2d(picture[None] * weight, **pool) / share.clamp_min(1e-6)  # type: ignore[arg-type]
    coarse = _filled(mean[0], share[0, 0] > 0)
    wide = functional.interpolate(coarse[None], picture.shape[-2:], mode="bilinear")[0]
    return torch.where(known, picture, wide)
