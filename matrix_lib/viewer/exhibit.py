"""What one viewer shows: a capture, the clip that came of it as pictures for a page, and the mask tracks.

Clips are kept as JPEG: 81 frames of 480x832 pixels take 2 MB that way, and 97 MB as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..core.grid import Fit
from ..instrument.capture import Capture

if TYPE_CHECKING:
    from ..core.tracks.tracks import MaskTracks

__all__ = ["Exhibit", "Film", "film_of"]

LONGEST_SIDE = 640
QUALITY = 82
_MOST_FRAMES = 4096


@dataclass(frozen=True)
class Film:
    """A clip for a page: `frames` are JPEG files of one size (`width` x `height` pixels), `fps` frames a second."""

    frames: tuple[bytes, ...] = ()
    width: int = 0
    height: int = 0
    fps: float = 8.0

    @cached_property
    def nbytes(self) -> int:
        return sum(map(len, self.frames))


@dataclass(eq=False)
class Exhibit:
    """What one viewer shows.

    Args:
        capture: its maps.
        film: the decoded clip; without frames heat is shown on black.
        tracks: where the instances are, for scores beside chance and outlines.
        label: what a person calls it where several are compared.
        against: says how near masks that were read are to the tracks (`evaluation.trajectories.against`); None: nobody
            is asked.
    """

    capture: Capture
    film: Film = field(default_factory=Film)
    tracks: MaskTracks | None = None
    label: str = ""
    against: Callable[[MaskTracks, MaskTracks], Sequence[str]] | None = None

    @property
    def fit(self) -> Fit:
        """How frames of another shape were brought to the model's."""
        return "center" if self.tracks is None else self.tracks.fit

    @property
    def nbytes(self) -> int:
        """Bytes of its own beside those of the capture."""
        return self.film.nbytes + (0 if self.tracks is None else self.tracks.nbytes)


def film_of(
    frames: Tensor | NDArray[np.uint8] | Sequence[Image.Image] | None,
    fps: float = 8.0,
    longest: int = LONGEST_SIDE,
    quality: int = QUALITY,
) -> Film:
    """A clip as a page shows it.

    Args:
        frames: (n, H, W, 3 or more) float in [0, 1] or uint8, or n pictures; None for no clip.
        longest: longer sides are made that many pixels.

    Raises ValueError for frames of another form, and for more than 4096.
    """
    if frames is None:
        return Film(fps=fps)
    count = len(frames)
    if not 0 < count <= _MOST_FRAMES:
        raise ValueError(f"a clip to look at has 1 to {_MOST_FRAMES} frames; got {count}")
    files: list[bytes] = []
    size = (0, 0)
    for picture in _pictures(frames):
        picture.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        size = size if files else picture.size
        if picture.size != size:
            raise ValueError(f"frames of a clip have one size; got {size} and {picture.size} (width, height)")
        files.append(_jpeg(picture, quality))
    return Film(tuple(files), *size, fps)


def _pictures(frames: Tensor | NDArray[np.uint8] | Sequence[Image.Image]) -> Iterator[Image.Image]:
    for frame in frames:
        if isinstance(frame, Image.Image):
            yield frame.convert("RGB")
            continue
        array = torch.as_tensor(frame)
        if array.ndim != 3 or array.shape[-1] < 3 or 0 in array.shape:
            raise ValueError(f"frames are (height, width, 3); got {tuple(array.shape)}")
        if array.dtype != torch.uint8:
            array = (array[..., :3].float().nan_to_num().clamp(0, 1) * 255).round().byte()
        yield Image.fromarray(np.ascontiguousarray(array[..., :3].cpu().numpy()))


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
