"""One clip of a folder: its prompt, what the words mean, its first frame or video, and its masks.

F frames, H rows, W columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...core.tracks.palette import Colour, distinct_colours
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import Phrase, locate
from ...core.words.phrases import PhraseSpec, time_text
from ..tracks import load_tracks
from ..video import frame_times, read_video
from .choice import VIDEOS, listed
from .mask_files import BadMasksError, Fitted, Key, MaskFiles, fitted_masks, is_whole
from .mask_values import MASKS_ARE, MasksAre, as_asked
from .order import in_order, place

__all__ = ["INSTANCES", "ClipMasks", "ClipSource", "answer", "listed", "located"]

INSTANCES = ("subject", "object", "instance")


@dataclass(frozen=True)
class ClipSource:
    """One clip of a folder: where its parts are. Nothing is decoded before it is asked for.

    Args:
        prompt: without `<idK>` tags. phrases: what its words mean.
        picture: first frame or video.
        masks: per name the files of its masks, see `mask_files`; or `tracks_file`, one file of tracks.
        keys: per name which part of files of several instances is its own.
        tagged: the prompt as it was written, with its tags; the prompt where it has none.
        slots: per instance the K of its `<idK>`, in the layout of MATRIX-11K.
        bystanders: folders of masks that no phrase names.
        merged: palette pictures of the frames (the ID map), in the layout of MATRIX-11K.
        target: the instance that is TAViD's target, or "".
        notes: what a person should know about how it was read.
        masks_are: where the thing is in its masks, see `mask_values`.
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
    keys: Mapping[str, Key] = field(default_factory=dict)
    masks_are: MasksAre = "ask"

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
        masks = list(dict.fromkeys(path for name in self.instances for path in self.masks.get(name, ())))
        tracks = [] if self.tracks_file is None else [self.tracks_file]
        return (self.picture, *masks, *tracks, *self.merged)

    def frames(self, count: int) -> Tensor:
        """(n, H, W, 3) uint8: the first `count` frames, fewer where the clip ends; a picture has one."""
        if not self.is_video:
            with Image.open(self.picture) as picture:
                return torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert("RGB")))[None]
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

    def id_map(self, frame: int, frames: int) -> Path | None:
        """The picture of a frame's ID map, of a clip of `frames` frames; None where there is none."""
        paths, numbers = in_order(self.merged)
        if not paths:
            return None
        first = place(numbers, frames, "ID maps").first if len(paths) > 1 else numbers[0] if numbers[0] < 2 else 0
        return next((path for path, number in zip(paths, numbers) if number - first == frame), None)

    def tracks(self) -> MaskTracks:
        """Tracks of the named instances, with the roles that the phrases give them.

        Raises ValueError for masks that are missing, empty or of different sizes, and where it cannot be known what
        they show.
        """
        roles = {spec.name: spec.role for spec in self.phrases if spec.role in INSTANCES}
        if self.tracks_file is not None:
            own = {name: str(self.keys.get(name, name)) for name in roles}
            found = load_tracks(self.tracks_file).select(own.values())
            found = found.rename({theirs: name for name, theirs in own.items()}).with_roles(roles)
            return _as_asked(found, self.masks_are)
        size = self.frames(1).shape[1:3]
        frames = len(frame_times(self.picture)) or None if self.is_video else None
        fitted = self.fitted(frames, (int(size[0]), int(size[1])), first_too=True)
        edges = {name: made.edges for name, made in fitted.masks.items()}
        tracks = MaskTracks.from_edges(edges, fitted.frames, int(size[0]), int(size[1]), roles)
        return tracks.with_palette(self.palette)

    def fitted(self, frames: int | None, size: tuple[int, int], first_too: bool) -> ClipMasks:
        """The masks of its instances from their files, as those of a clip of `frames` frames of `size` (H, W).

        Args:
            first_too: where somebody has no mask of every frame, those of frame 0 alone will do.

        Raises BadMasksError with every reason.
        """
        files = [MaskFiles(name, self.masks[name], self.keys.get(name)) for name in self.instances]
        alone = first_too and frames is not None and not all(is_whole(own, frames) for own in files)
        made: dict[str, Fitted] = {}
        wrong: list[str] = []
        for own in files:
            try:
                made[own.name] = fitted_masks(own, frames, size, self.masks_are, alone)
            except BadMasksError as error:
                wrong += error.reasons
        counts = {name: len(found.edges) for name, found in made.items()}
        if not wrong and len(set(counts.values())) > 1:
            told = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            wrong.append(f"its instances have masks of different numbers of frames: {told}")
        if wrong:
            raise BadMasksError(wrong)
        return ClipMasks(made, next(iter(counts.values()), 0))


@dataclass(frozen=True)
class ClipMasks:
    """Packed masks of every instance, over `frames` frames."""

    masks: Mapping[str, Fitted]
    frames: int

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for made in self.masks.values() for note in made.notes))


def _as_asked(tracks: MaskTracks, masks_are: MasksAre) -> MaskTracks:
    """Tracks of a file as a person says that they are. ValueError for masks that look inverted until somebody does."""
    made = []
    for track in tracks.tracks:
        frames = [track.frame(i) for i in range(tracks.frames)]
        size = tracks.height, tracks.width
        made.append(track.with_frames(as_asked(frames, *size, masks_are, f"the masks of {track.name!r}")))
    return replace(tracks, tracks=tuple(made))


def located(prompt: str, phrases: Sequence[PhraseSpec]) -> tuple[Phrase, ...]:
    """Where the words of phrases stand in a prompt. Raises ValueError as `locate`, with the prompt, and for words in
    time: those of a clip that is there hold for all of it."""
    try:
        for spec in phrases:
            if spec.time is not None:
                raise ValueError(
                    f"{spec.where()} has a time, {time_text(spec.time)}, which nothing reads here: take it away"
                )
        return locate(prompt, phrases)[0]
    except ValueError as error:
        raise ValueError(f"{error} (the prompt is {shorten(prompt, 160)!r})") from None


def answer(said: str, otherwise: MasksAre) -> MasksAre:
    """What a person says that masks are: "white", "black", or nothing. ValueError for other words."""
    found = next((known for known in MASKS_ARE if known == said.strip().lower()), None)
    if said.strip() and found is None:
        raise ValueError(f"masks_are is {' or '.join(MASKS_ARE)}; got {said.strip()[:40]!r}")
    return found or otherwise
