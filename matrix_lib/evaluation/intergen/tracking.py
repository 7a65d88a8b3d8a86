"""Tracks of generated videos: each instance's mask in the suite's first frame, followed by a tracker.

SUITE/masks/ID.tracks.safetensors      frame 0 of a track file counts
SUITE/masks/ID/NAME.png                or a picture for each instance, white where it is
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.tracks.text import Prompt
from ...core.tracks.tracks import MaskTracks
from ...io.files import inside
from ...io.sam2 import track_prompts
from ...io.tracks import load_tracks
from ...io.video import read_video
from .suite import Sample, Suite

__all__ = ["first_masks", "fitted", "track_video"]

Mask = NDArray[np.bool_]


def first_masks(suite: Suite, sample: Sample) -> dict[str, Mask]:
    """{name: (H, W) bool} of a sample's first frame.

    Raises ValueError, naming file and instance, for a mask that is missing, empty, no picture, or of another size than
    the others.
    """
    folder = suite.folder / "masks"
    path = folder / f"{sample.id}.tracks.safetensors"
    if path.is_file():
        tracks = load_tracks(path)
        if absent := [name for name in sample.names if name not in tracks.names]:
            raise ValueError(f"{path} has no track of {', '.join(map(repr, absent))}; it has {', '.join(tracks.names)}")
        found = {name: tracks.mask(name, 0).numpy() for name in sample.names}
    else:
        found = {name: _picture(inside(f"{name}.png", [folder / sample.id]), path) for name in sample.names}
    if empty := [name for name, mask in found.items() if not mask.any()]:
        raise ValueError(f"the masks of {sample.id!r} are empty for {', '.join(map(repr, empty))}")
    if len({mask.shape for mask in found.values()}) > 1:
        sizes = {name: f"{mask.shape[1]}x{mask.shape[0]}" for name, mask in found.items()}
        raise ValueError(f"the masks of {sample.id!r} have several sizes: {sizes}")
    return found


def fitted(mask: Mask, height: int, width: int) -> Mask:
    """A mask at a video's size: scaled to cover it, and cut at its middle where the shape is another one."""
    scale = max(height / mask.shape[0], width / mask.shape[1])
    size = max(width, round(mask.shape[1] * scale)), max(height, round(mask.shape[0] * scale))
    scaled = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) >= 128
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return scaled[top : top + height, left : left + width]


def track_video(
    predictor: Any,
    video: Path,
    masks: dict[str, Mask],
    roles: dict[str, str],
    progress: Callable[[], None] | None = None,
) -> tuple[MaskTracks, str]:
    """(tracks of a video, a note for people or ""). masks: of its first frame, at any size, by name.

    Raises ValueError for a file that is no video, and for an instance that the video's cut leaves nothing of.
    """
    clip = read_video(video)
    height, width = clip.frames.shape[1:3]
    placed = {name: fitted(mask, height, width) for name, mask in masks.items()}
    if lost := [name for name, mask in placed.items() if not mask.any()]:
        raise ValueError(f"{video.name} shows {width}x{height} pixels of the first frame, and nothing of {lost[0]!r}")
    tracks, unseen = track_prompts(
        predictor,
        (frame.numpy() for frame in clip.frames),
        {name: {0: Prompt(mask=mask)} for name, mask in placed.items()},
        roles,
        clip.fps,
        progress=progress,
    )
    if unseen:
        raise ValueError("; ".join(unseen))
    down, across = next(iter(masks.values())).shape
    cut = abs(down * width / (across * height) - 1) > 0.02
    note = f"its shape is not that of the first frame ({across}x{down}): masks were cut at their middle" if cut else ""
    return tracks, note


def _picture(path: Path, other: Path) -> Mask:
    if not path.is_file():
        raise ValueError(f"{path} is missing, and so is {other}: one of them says where the instance is")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L")) >= 128
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a mask: {error}") from None
