"""Latents and text rows of samples, made once: what there is to make, who makes it, and what a batch then reads.

Processes share the work, however many start and whenever they end; `training.cache` is the command.

T latent frames, h x w latents, C channels; F pixel frames, H x W pixels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from matrix_lib.core.grid import Framing
from matrix_lib.core.tracks.tracks import MaskTracks

from .encoders import Encoders, Model
from .folder import FolderData, Sample
from .store import Entry, Store, key_of
from .teacher import Sam2Teacher

__all__ = ["Cache", "Job", "Parts", "framed", "target_channel"]

_AT_ONCE = 8  # frames that are resized at a time


@dataclass(frozen=True)
class Job:
    """One entry: where it lies in the store, whose it is, and how it is made."""

    kind: str
    key: str
    name: str
    make: Callable[[Encoders], dict[str, Tensor]]


@dataclass(frozen=True)
class Parts:
    """What is kept of one sample. latents (T, C, h, w), image (T, I, h, w), extra (T, E, h, w), text by name; features
    of a teacher on the token grid, where there is one."""

    latents: Tensor
    image: Tensor
    extra: Tensor
    text: dict[str, Tensor]
    tracks: MaskTracks
    features: Tensor | None = None


class Cache:
    """Latents and text rows of samples, each made once for all runs and processes that share the store.

    teacher: whose features are kept beside them.
    """

    def __init__(
        self,
        data: FolderData,
        model: Model,
        store: Store,
        say: Callable[[str], object] = print,
        teacher: Sam2Teacher | None = None,
    ) -> None:
        self.data, self.model, self.store, self.say, self.teacher = data, model, store, say, teacher
        if teacher is not None:
            teacher.hash_file = store.file_hash
        self._opening = threading.Lock()

    # --- what there is to make

    def jobs(self, sample: Sample) -> list[Job]:
        """Every entry that a sample needs."""
        jobs = [self._video(sample), self._text(sample.prompt, sample)]
        jobs += [self._taught(sample, self.teacher)] if self.teacher else []
        return [*jobs, self._id_map(sample)] if self.data.condition == "id_map" else jobs

    def _video(self, sample: Sample) -> Job:
        framing = sample.framing
        seen = [sample.files.video, sample.numbers, framing.source, framing.target, framing.crop]
        key = key_of("video", self.model.video_id, self.model.shape.image, seen)
        return Job("video", key, sample.name, lambda encoders: encoders.video(self.frames(sample)))

    def _taught(self, sample: Sample, teacher: Sam2Teacher) -> Job:
        """The teacher's features of a window, on the tokens of the model."""
        framing, grid = sample.framing, self.model.shape.grid(*sample.bucket)
        seen = [sample.files.video, sample.numbers, framing.source, framing.target, framing.crop, str(grid)]
        key = key_of("features", teacher.identity, seen)
        return Job("features", key, sample.name, lambda _: {"features": teacher.features(self.frames(sample), grid)})

    def _id_map(self, sample: Sample, tracks: MaskTracks | None = None) -> Job:
        """The ID map of a window's first frame; it depends on the masks of that frame, not on the video."""
        if self.data.id_map == "tracks":
            shown = (tracks or sample.tracks(self.store)).take([0]).digest
        else:
            shown = self.store.file_hash(self._merged(sample))
        framing, frames = sample.framing, sample.bucket.frames
        seen = [self.data.id_map, shown, framing.source, framing.target, framing.crop, frames]
        key = key_of("id_map", self.model.video_id, self.model.shape.image, seen)
        return Job(
            "id_map", key, sample.name, lambda encoders: {"extra": encoders.id_map(self.picture(sample), frames)}
        )

    def _text(self, prompt: str, sample: Sample | None) -> Job:
        """The rows of a prompt. Where the text encoder looks at the first frame, they are the sample's own."""
        shape = self.model.shape
        looks = shape.image in shape.spec.text_sees_image
        first = self._video(sample).key if looks and sample else ""
        key = key_of("text", self.model.text_id, shape.text_rows, shape.image if looks else "", prompt, first)

        def make(encoders: Encoders) -> dict[str, Tensor]:
            black = torch.zeros(64, 64, 3, dtype=torch.uint8)
            return encoders.text(prompt, self.frames(sample, 1)[0] if looks and sample else black)

        return Job("text", key, sample.name if sample else "the empty prompt", make)

    def frames(self, sample: Sample, count: int | None = None) -> Tensor:
        """(F, H, W, 3) uint8, the window as the model sees it. ValueError where the video changed since the check."""
        if self.store.file_hash(sample.clip.picture) != sample.files.video:
            raise ValueError(f"{sample.clip.picture} was changed while this was running: start again")
        return framed(sample.clip.window(sample.numbers[:count]), sample.framing)

    def picture(self, sample: Sample) -> Tensor:
        """(H, W, 3) uint8, the ID map of the window's first frame as the model sees it."""
        framing = sample.framing
        if self.data.id_map == "tracks":
            return sample.tracks(self.store).id_map(0, framing)
        path = self._merged(sample)
        with Image.open(path) as picture:
            made = torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert("RGB")))
        if tuple(made.shape[:2]) != framing.source:
            raise ValueError(f"{path} is {tuple(made.shape[:2])} pixels (h, w), and its video {framing.source}")
        return framing.apply(made.movedim(-1, 0), "nearest").movedim(0, -1).contiguous()

    def _merged(self, sample: Sample) -> Path:
        found = sample.clip.id_map(sample.numbers[0], sample.files.frames)
        assert found is not None  # the check of the folder asked for it
        return found

    # --- making it

    def fill(self, samples: Sequence[Sample], bar: bool = True) -> int:
        """Makes every entry that is missing, together with whoever else is at it; returns how many this process made.

        The encoders are opened where something is missing, and closed again. Raises ValueError naming the clip that
        could not be encoded, OSError where the disk is full: everything that was made stays.
        """
        every = self._every(samples)
        left = [job for job in every.values() if not self.store.has(job.kind, job.key)]
        if not left:
            return 0
        turn = os.getpid() * 7919 % len(left)  # processes begin in different places
        left, made = left[turn:] + left[:turn], 0
        left.sort(key=lambda job: job.kind == "text")  # one encoder after the other: with offload they change places
        progress = tqdm(
            total=len(every), initial=len(every) - len(left), desc="encoding", unit=" parts", disable=not bar
        )
        with self.model.open() as encoders, progress:
            while left:
                busy: list[Job] = []
                for job in left:
                    result = self.store.claim(job.kind, job.key, partial(self._made, job, encoders))
                    made += result == "made"
                    if result == "busy":
                        busy.append(job)
                    else:
                        progress.update()
                if busy:
                    self.store.wait(busy[0].key)
                left = busy
        if self.teacher is not None:
            self.teacher.close()
        return made

    def _every(self, samples: Sequence[Sample]) -> dict[tuple[str, str], Job]:
        """Jobs by entry: clips that share a prompt share its rows."""
        jobs = [self._text("", None), *(job for sample in samples for job in self.jobs(sample))]
        return {(job.kind, job.key): job for job in jobs}

    def _made(self, job: Job, encoders: Encoders) -> Entry:
        try:
            return Entry(job.make(encoders), {"of": job.name})
        except ValueError as error:
            raise ValueError(f"{job.name} cannot be encoded: {error}") from error

    # --- reading it

    def _get(self, job: Job) -> dict[str, Tensor]:
        def again() -> Entry:
            with self._opening, self.model.open() as encoders:
                made = self._made(job, encoders)
                if self.teacher is not None:
                    self.teacher.close()
                return made

        return dict(self.store.get(job.kind, job.key, again, self.say).tensors)

    def parts(self, sample: Sample) -> Parts:
        """Everything of one sample, checked against its hashes; what is missing or damaged is made anew."""
        video, text = self._get(self._video(sample)), self._get(self._text(sample.prompt, sample))
        latents, tracks = video["latents"], sample.tracks(self.store)
        extra = latents.new_zeros(len(latents), 0, *latents.shape[2:])
        if self.data.condition == "id_map":
            extra = self._get(self._id_map(sample, tracks))["extra"]
        elif self.data.condition == "target_mask":
            extra = target_channel(tracks, sample, latents)
        text |= {name: value for name, value in video.items() if name not in ("latents", "image")}
        features = self._get(self._taught(sample, self.teacher))["features"] if self.teacher else None
        return Parts(latents, video["image"], extra, text, tracks, features)

    def empty(self) -> dict[str, Tensor]:
        """The text of the empty prompt."""
        return self._get(self._text("", None))


def framed(frames: Tensor, framing: Framing) -> Tensor:
    """(F, H, W, 3) uint8 cropped and resized as the model sees them."""
    out = []
    for part in frames.split(_AT_ONCE):
        seen = framing.apply(part.movedim(-1, 1).float(), "bilinear")
        out.append(seen.round().clamp(0, 255).to(torch.uint8).movedim(1, -1))
    return torch.cat(out).contiguous()


def target_channel(tracks: MaskTracks, sample: Sample, latents: Tensor) -> Tensor:
    """TAViD's (T, 1, h, w): the target's mask in the first frame, nearest x1/8, in the first latent frame."""
    seen = sample.framing.apply(tracks.mask(sample.written.target, 0).float(), "nearest")
    small = torch.nn.functional.interpolate(seen[None, None], tuple(latents.shape[2:]), mode="nearest")[0]
    out = latents.new_zeros(len(latents), 1, *latents.shape[2:])
    out[0] = small.to(out)
    return out
