"""How a diffusers pipeline brings a first frame of another shape to its clip: tracks have to follow the picture.

It is asked, with a test picture, so that pipelines and processors that nobody has written down here are known as well.
"""

from __future__ import annotations

import inspect
import logging
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...backbones import REGISTRY
from ...core.grid import FITS, Fit, Framing
from ...core.tracks.tracks import MaskTracks

__all__ = ["fit_of", "frame_tracks", "tell_unknown", "why_unknown"]

_SOURCE, _TARGET = (32, 128), (64, 64)
_ALIKE = 0.02
"""Mean difference from what a fit makes of the test picture, of 1; the fits differ by .1 and more."""


def frame_tracks(pipe: Any, tracks: MaskTracks, fit: Fit | None = None) -> MaskTracks:
    """Tracks that are brought to the clip as a pipeline brings its first frame there.

    Args:
        pipe: a diffusers pipeline or a bare transformer.
        tracks: in pixels of the picture that the pipeline is given.
        fit: how, where you know better: you have cropped the picture yourself, say. None asks the pipeline; one that
            takes no picture, or does not tell, leaves the tracks' own `fit`.
    """
    found = fit or fit_of(pipe)
    return tracks if found is None else tracks.fitted(found)


def fit_of(pipe: Any) -> Fit | None:
    """How a pipeline fits pictures of another shape; None where it takes none, and where it does not tell."""
    if not _takes_picture(pipe):
        return None
    if (known := _known(pipe)) is not None:
        return known
    seen = _asked(pipe)
    if seen is None:
        return None
    ramps = _ramps()
    off = {fit: _difference(seen, ramps, Framing(_SOURCE, _TARGET, fit)) for fit in FITS}
    best = min(off, key=lambda fit: off[fit])
    return best if off[best] < _ALIKE else None


def why_unknown(pipe: Any) -> str:
    """Why it is not known how a pipeline fits its picture, for people; "" where it is, or where there is none."""
    if not _takes_picture(pipe) or fit_of(pipe) is not None:
        return ""
    if getattr(pipe, "video_processor", None) is None:
        return f"{type(pipe).__name__} has no video_processor that could be asked"
    if _asked(pipe) is None:
        return f"the video_processor of {type(pipe).__name__} does not resize a test picture"
    return f"the video_processor of {type(pipe).__name__} neither crops about the centre nor stretches nor pads"


def tell_unknown(pipe: Any, tracks: MaskTracks, size: tuple[int, int]) -> None:
    """Logs a warning where tracks are of another shape than the clip (height, width) and it is not known what the
    pipeline does with a picture of that shape."""
    height, width = size
    if tracks.height * width == tracks.width * height or not (why := why_unknown(pipe)):
        return
    logging.getLogger(__name__).warning(
        "MATRIX: tracks of %dx%d pixels (width x height) are brought to a clip of %dx%d by %r, and the picture perhaps "
        "is not: %s. Give picture and tracks the proportions of the clip, or say how with fit=",
        tracks.width, tracks.height, width, height, tracks.fit, why,
    )  # fmt: skip


def _known(pipe: Any) -> Fit | None:
    """Of pipelines that fit a picture before they give it to their processor."""
    names = [cls.__name__ for cls in type(pipe).__mro__]
    fits = (spec.picture_fit for spec in REGISTRY.values() if any(re.match(spec.pipelines, name) for name in names))
    return next((fit for fit in fits if fit is not None), None)


def _takes_picture(pipe: Any) -> bool:
    if isinstance(pipe, torch.nn.Module) or not callable(pipe):
        return False
    return "image" in inspect.signature(type(pipe).__call__).parameters


def _ramps() -> Tensor:
    """(3, rows, columns) in [0, 1]: one colour grows to the right, one downwards."""
    height, width = _SOURCE
    across, down = torch.linspace(0, 1, width), torch.linspace(0, 1, height)
    return torch.stack([across.expand(height, -1), down[:, None].expand(-1, width), torch.full(_SOURCE, 0.5)])


def _asked(pipe: Any) -> Tensor | None:
    """(3, rows, columns) in [0, 1], what the pipeline's processor makes of the test picture; None where it makes no
    picture of the size that was asked for."""
    ask = getattr(getattr(pipe, "video_processor", None), "preprocess", None)
    if ask is None:
        return None
    pixels = (_ramps() * 255).round().byte().movedim(0, -1).numpy()
    try:
        made = torch.as_tensor(np.asarray(ask(Image.fromarray(pixels), height=_TARGET[0], width=_TARGET[1])))
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return None
    if tuple(made.shape) != (1, 3, *_TARGET):
        return None
    seen = made[0].float()
    return seen / 2 + 0.5 if float(seen.min()) < 0 else seen


def _difference(seen: Tensor, ramps: Tensor, framing: Framing) -> float:
    """Mean difference where the framing shows the picture; bars are filled as a processor likes."""
    top, left, height, width = framing.window()
    rows, columns = slice(top + 1, top + height - 1), slice(left + 1, left + width - 1)
    return float((seen - framing.apply(ramps))[:2, rows, columns].abs().mean())
