"""Masks of instances through a clip, from a box, points or a mask in one frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from matrix_lib.core.tracks.text import Prompt
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.sam2 import track_prompts
from matrix_lib.io.sam2_checkpoints import load_sam2
from matrix_lib.mini.following import follow, painted, spot_box

from ..frames import Frame
from ..stage import Place

__all__ = ["MiniTracker", "Prompts", "Sam2Tracker", "Tracker", "TrackerSource"]

Prompts = Mapping[str, Mapping[int, Prompt]]


class Tracker(Protocol):
    """Follows instances."""

    def follow(
        self, frames: Iterator[Frame], prompts: Prompts, fps: float, words: Mapping[str, str]
    ) -> tuple[MaskTracks, list[str]]:
        """(tracks of all who are prompted, sentences for people). frames: (H, W, 3) uint8, in order and once.
        prompts: {name: {frame: Prompt}}. words: what each is, "man", for trackers that read. Raises ValueError where
        nobody is found."""


class TrackerSource(Protocol):
    """Names a tracker; it travels to workers. `identity` is what its masks depend on."""

    gpu: bool

    @property
    def identity(self) -> Any: ...

    def open(self, place: Place) -> Tracker:
        """The tracker, in a worker. Raises ValueError with what is missing."""


@dataclass(frozen=True)
class Sam2Tracker:
    """SAM 2 or 2.1, from a checkpoint of Meta's form; every instance by itself, forwards and backwards."""

    checkpoint: Path
    gpu = True

    @property
    def identity(self) -> Any:
        """The file's name, size and beginning, and its own configuration where it has one."""
        own = self.checkpoint.with_suffix(".yaml")
        config = hashlib.sha256(own.read_bytes()).hexdigest()[:16] if own.is_file() else ""
        if not self.checkpoint.is_file():
            return ["sam2", self.checkpoint.name]
        with open(self.checkpoint, "rb") as file:
            start = hashlib.sha256(file.read(1 << 20)).hexdigest()[:16]
        return ["sam2", self.checkpoint.name, self.checkpoint.stat().st_size, start, config]

    def open(self, place: Place) -> Tracker:
        """See `TrackerSource`."""
        if not self.checkpoint.is_file():
            raise ValueError(f"there is no checkpoint {str(self.checkpoint)!r}")
        return _Sam2(load_sam2(self.checkpoint, place.device))


class _Sam2:
    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor

    def follow(
        self, frames: Iterator[Frame], prompts: Prompts, fps: float, words: Mapping[str, str]
    ) -> tuple[MaskTracks, list[str]]:
        """See `Tracker`."""
        tracks, notes = track_prompts(self.predictor, frames, prompts, fps=fps)
        return tracks, list(notes)


@dataclass(frozen=True)
class MiniTracker:
    """For clips of the mini world alone, by their paints: a curation without any model (`mini.following`)."""

    gpu = False
    identity = "mini"

    def open(self, place: Place) -> Tracker:
        """See `TrackerSource`."""
        return _Mini()


class _Mini:
    def follow(
        self, frames: Iterator[Frame], prompts: Prompts, fps: float, words: Mapping[str, str]
    ) -> tuple[MaskTracks, list[str]]:
        """See `Tracker`."""
        clip = painted(frames)
        masks, notes = {}, []
        for name, keys in prompts.items():
            at, prompt = min(keys.items())
            if len(keys) > 1:
                notes.append(f"{name!r} is followed from frame {at} alone: this tracker takes one")
            box = prompt.box or spot_box(clip, next((x, y) for x, y, inside in prompt.points if inside), at)
            found = follow(clip, box, at)
            if any(mask.any() for mask in found):
                masks[name] = [torch.from_numpy(mask) for mask in found]
            else:
                notes.append(f"nothing was found for {name!r}")
        if not masks:
            raise ValueError(f"nothing was found for {', '.join(map(repr, prompts))}")
        return MaskTracks.from_masks(masks, fps=fps), notes
