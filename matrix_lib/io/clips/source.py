"""One clip of a folder: its prompt, what the words mean, its first frame or video, and its masks.

F frames, H rows, W columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.tracks.palette import Colour, distinct_colours
from ...core.tracks.tracks import MaskTracks
from ...core.words.phrases import PhraseSpec
from ..tracks import load_tracks
from ..video import read_video

__all__ = ["INSTANCES", "PICTURES", "VIDEOS", "ClipSource", "listed", "mask_numbers", "pictures_in", "read_mask"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
INSTANCES = ("subject", "object", "instance")


@dataclass(frozen=True)
class ClipSource:
    """One clip of a folder: where its parts are. Nothing is decoded before it is asked for.

    Args:
        prompt: without `<idK>` tags. phrases: what its words mean.
        picture: first frame or video. masks: per name the pictures of its mask, one a frame; or `tracks`, a file.
        tagged: the prompt as it was written, with its tags; the prompt where it has none.
        slots: per instance the K of its `<idK>`, in the layout of MATRIX-11K.
        bystanders: folders of masks that no phrase names.
        merged: palette pictures of the frames (the ID map), in the layout of MATRIX-11K.
        target: the instance that is TAViD's target, or "".
        notes: what a person should know about how it was read.
    """

    name: str
    prompt: str
    phrases: tuple[PhraseSpec, ...]
    picture: Path
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    tracks_file: Path | None = None
    tagged: str = ""
    slots: Mapping[str, int] = field(default_factory=dict)
    bystanders: tuple[str, ...] = ()
    merged: tuple[Path, ...] = ()
    target: str = ""
    notes: tuple[str, ...] = ()

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.phrases if spec.role in INSTANCES)

    @property
    def verbs(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.phrases if spec.role == "verb")

    @property
    def is_video(self) -> bool:
        return self.picture.suffix.lower() in VIDEOS

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that its pixels come from."""
        masks = [path for name in self.instances for path in self.masks.get(name, ())]
        tracks = [] if self.tracks_file is None else [self.tracks_file]
        return (self.picture, *masks, *tracks, *self.merged)

    def frames(self, count: int) -> Tensor:
        """(n, H, W, 3) uint8: the first `count` frames, fewer where the clip ends; a picture has one."""
        if not self.is_video:
            with Image.open(self.picture) as picture:
                return torch.from_numpy(np.array(picture.convert("RGB")))[None]
        try:
            return read_video(self.picture, 0, count).frames
        except ValueError:
            return read_video(self.picture).frames[:count]

    def window(self, numbers: Sequence[int]) -> Tensor:
        """(n, H, W, 3) uint8, the frames of these numbers. ValueError where the clip has not all of them."""
        first = min(numbers)
        if not self.is_video:
            if max(numbers) > 0:
                raise ValueError(f"{self.picture.name!r} is a picture, and frames up to {max(numbers)} are wanted")
            return self.frames(1).repeat(len(numbers), 1, 1, 1)
        frames = read_video(self.picture, first, max(numbers) + 1).frames
        return frames[torch.as_tensor([number - first for number in numbers])]

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Colour of each instance: that of its `<idK>` where it has one, else that of its place."""
        if not self.slots:
            return distinct_colours(len(self.instances))
        colours = distinct_colours(max(self.slots.values()))
        return tuple(colours[self.slots[name] - 1] for name in self.instances)

    def tracks(self) -> MaskTracks:
        """Tracks of the named instances, with the roles that the phrases give them.

        Raises ValueError for masks that are missing, empty or of different sizes.
        """
        roles = {spec.name: spec.role for spec in self.phrases if spec.role in INSTANCES}
        if self.tracks_file is not None:
            return load_tracks(self.tracks_file).select(roles).with_roles(roles)
        found = {name: (read_mask(path) for path in self.masks[name]) for name in roles}
        return MaskTracks.from_masks(found, roles=roles, palette=self.palette)


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Pictures of a folder in the order of their numbers (then of their names)."""
    if not folder.is_dir():
        return ()

    def place(path: Path) -> tuple[bool, int, str]:
        number = path.stem.isdecimal()
        return not number, int(path.stem) if number else 0, path.name

    return tuple(sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=place))


def mask_numbers(paths: Sequence[Path]) -> list[int]:
    """Frame number of each picture: its name where all names are numbers, else its place."""
    if all(path.stem.isdecimal() for path in paths):
        return [int(path.stem) for path in paths]
    return list(range(len(paths)))


def read_mask(path: Path) -> Tensor:
    """(H, W) bool of a black and white picture. ValueError, with its name, where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("L")) > 127)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        empty = path.is_file() and not path.stat().st_size
        why = "it is empty, 0 bytes" if empty else str(error)
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read as a mask: {why}") from None


def listed(names: Iterable[str]) -> str:
    """'a', 'b', 'c'"""
    return ", ".join(map(repr, names))
