"""Contact sheets: clips of the mini world as rows of frames, with what was said and when they touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ..draw.style import INK, fit_text, page, write
from .world import Clips

__all__ = ["contact_sheet"]

_GAP, _EDGE, _LABEL = 6, 24, 22
_SIDE = 96  # pixels of a frame's shorter side on the sheet, at least


def contact_sheet(
    clips: Clips,
    shown: Sequence[int] | None = None,
    columns: int = 9,
    versions: Mapping[str, Tensor] | None = None,
    title: str = "",
) -> Image.Image:
    """One row of frames for each of the clips at ``shown`` (all by default), its prompt above it.

    Args:
        columns: frames in a row, spread evenly from the first to the last.
        versions: several rows for each clip, one per entry: name -> video (N, F, 3, H, W) uint8 or float in [0, 1],
            for instance {"truth": clips.video, "generated": ...}. By default the truth alone.
        title: a line on top.

    A bright line below a frame of the first version marks contact between agent and recipient.
    """
    rows = list(range(len(clips))) if shown is None else list(shown)
    if not rows or not 0 <= min(rows) <= max(rows) < len(clips):
        raise ValueError(f"shown is {rows}; choose clips from 0 to {len(clips) - 1}")
    if columns < 2:
        raise ValueError(f"columns is {columns}; show at least the first and the last frame")
    videos = {"": clips.video} if versions is None else dict(versions)
    for name, video in videos.items():
        if video.shape != clips.video.shape:
            raise ValueError(
                f"version {name!r} has shape {tuple(video.shape)}; the clips have {tuple(clips.video.shape)}"
            )
    frames = np.linspace(0, clips.config.frames - 1, columns).round().astype(int).tolist()
    zoom = max(1, round(_SIDE / min(clips.config.height, clips.config.width)))
    width, height = clips.config.width * zoom, clips.config.height * zoom
    margin = 90 if versions else 0
    block = _LABEL + len(videos) * (height + _GAP) + 14
    top = _EDGE + (34 if title else 0)
    picture, ink = page(2 * _EDGE + margin + columns * (width + _GAP) - _GAP, top + len(rows) * block + _EDGE - 14)
    write(ink, (_EDGE, _EDGE + 8), title, 22, INK["text"])
    for line, index in enumerate(rows):
        y = top + line * block
        write(ink, (_EDGE, y + 8), fit_text(clips.prompts[index], 15, picture.width - 2 * _EDGE), 15, INK["soft"])
        for version, (name, video) in enumerate(videos.items()):
            upper = y + _LABEL + version * (height + _GAP)
            write(ink, (_EDGE, upper + height / 2), fit_text(name, 14, margin - _GAP), 14, INK["faint"])
            for column, frame in enumerate(frames):
                left = _EDGE + margin + column * (width + _GAP)
                picture.paste(
                    _frame(video[index, frame]).resize((width, height), Image.Resampling.NEAREST), (left, upper)
                )
                if version == 0 and bool(clips.contact[index, frame]):
                    ink.rectangle((left, upper + height + 1, left + width - 1, upper + height + 3), fill=INK["accent"])
    return picture


def _frame(frame: Tensor) -> Image.Image:
    pixels = frame.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.float().clamp(0, 1) * 255).round()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
