"""Batches of clips from a folder, for alignment training: which clips a step sees follows from the seed and the step.

    clips = open_clips(data, ModelFiles("mini"), seed=0, batch=8)     # stops here, and lists them, where clips are bad
    clips.fill()                                                      # latents and text rows, made once
    batch = clips.batch(step).to(device, dtype)

B rows, T latent frames, h x w latents, C latent channels, I channels of the first frame, E extra channels, D text rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from matrix_lib.core.grid import Framing, Grid
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import PromptBinding

from .buckets import Bucket, Order
from .cache import Cache, Parts
from .encoders import Model
from .files import read_tracks
from .folder import FolderData, Sample
from .folders import open_folders
from .held_out import HoldOut
from .store import Store, key_of
from .teacher import Sam2Teacher
from .words import Speaker

__all__ = ["ClipBatch", "ClipBatches", "open_clips"]


@dataclass(frozen=True)
class ClipBatch:
    """One batch, all of one bucket.

    Args:
        names: the sample of each row. rows: its place in the whole batch of the step, which noise is drawn by.
        latents: (B, T, C, h, w) clean, scaled as the transformer sees them; with CogVideoX 1.5's prefix_frames.
        image: (B, T, I, h, w) channels of the first frame; extra: (B, T, E, h, w) ID map or target mask. The network's
            input is noisy latents, image, extra, in this order.
        text: "rows" (B, D, width); HunyuanVideo's "mask" (B, D) and "pooled" (B, P), "glyphs" and "glyph_mask" of 1.5;
            "image_rows" of Wan 2.1 and HunyuanVideo 1.5.
        bindings, tracks, framings, targets: of each row. target_names: TAViD's target in each row, or "".
        grid: tokens of the batch. size: its pixels.
        features: (B, C, F, h, w) of a teacher, on the tokens; None where there is none.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    latents: Tensor
    image: Tensor
    extra: Tensor
    text: dict[str, Tensor]
    bindings: tuple[PromptBinding, ...]
    tracks: tuple[MaskTracks, ...]
    framings: tuple[Framing, ...]
    targets: tuple[Targets, ...]
    target_names: tuple[str, ...]
    grid: Grid
    size: Bucket
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ClipBatch:
        """With its tensors on a device, floating ones in `dtype`."""

        def moved(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        text = {name: moved(value) for name, value in self.text.items()}
        features = None if self.features is None else moved(self.features)
        now = replace(self, latents=moved(self.latents), image=moved(self.image), extra=moved(self.extra), text=text)
        return replace(now, features=features)


class ClipBatches:
    """Clips of a folder in the order of a seed. Make it with `open_clips`.

    Attributes:
        samples: every sample that is trained on, as often as an epoch sees it. held: held-out ones. words: held-out
            ones under other words, for previews. captions: by name samples with the clip's further prompts.
        skipped: bad clips and why, where the settings say to go on without them.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        cache: Cache,
        seed: int,
        batch: int,
        skipped: dict[str, str] | None = None,
        held: Sequence[Sample] = (),
        words: Sequence[Sample] = (),
        captions: Mapping[str, tuple[Sample, ...]] | None = None,
    ) -> None:
        self.samples, self.skipped, self.cache = tuple(samples), skipped or {}, cache
        self.held, self.words, self.captions, self.seed = tuple(held), tuple(words), captions or {}, seed
        self.order = Order([sample.bucket for sample in self.samples], batch, seed)
        self._pool = ThreadPoolExecutor(cache.data.workers)
        self._coming: dict[tuple[int, int, int], list[Future[tuple[Sample, Parts, Targets]]]] = {}

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps

    @property
    def empty(self) -> dict[str, Tensor]:
        """The text of the empty prompt, like `ClipBatch.text` with one row."""
        return {name: value[None] for name, value in self.cache.empty().items()}

    def fill(self, bar: bool = True) -> int:
        """Encodes what is missing, together with every other process that calls this; see `Cache.fill`."""
        return self.cache.fill((*self.samples, *self.held, *self.words, *self._further()), bar)

    def _further(self) -> tuple[Sample, ...]:
        return tuple(sample for others in self.captions.values() for sample in others)

    def shown(self, clips: int) -> tuple[Sample, ...]:
        """What previews show: the first held-out samples (of a run without any, the first ones), and every one with
        words of its own."""
        return (*(self.held or self.samples)[:clips], *self.words)

    def fingerprint(self, samples: Sequence[Sample]) -> dict[str, dict[str, str]]:
        """By sample what it is made of, as short hashes: its video's content, its masks, its words, and the frames and
        the size that are seen."""
        tracks: dict[str, str] = {}
        found = {}
        times = Counter(sample.name for sample in samples)
        for sample in samples:
            clip = sample.clip.name
            if clip not in tracks:
                tracks[clip] = read_tracks(sample.clip, sample.files, self.cache.store).digest
            every = (sample, *self.captions.get(sample.name, ()))
            words = [[s.prompt, [asdict(phrase) for phrase in s.written.phrases], s.written.target] for s in every]
            found[sample.name] = {
                "video": sample.files.video[:16],
                "masks": tracks[clip][:16],
                "words": key_of(words)[:16],
                "repeats": str(times[sample.name]),
                "frames": f"{sample.numbers[0]} to {sample.numbers[-1]} as {sample.bucket}",
            }
        return found

    def expect(self, step: int, part: int = 0, parts: int = 1) -> None:
        """Begins to load a batch that will be asked for."""
        if (step, part, parts) not in self._coming:
            rows, places = self.order.part(step, part, parts)
            samples = [self._worded(self.samples[row], step, place) for row, place in zip(rows, places)]
            self._coming[step, part, parts] = [self._pool.submit(self._load, sample) for sample in samples]

    def _worded(self, sample: Sample, step: int, place: int) -> Sample:
        """With one of its clip's prompts, as seed, step and the place in the whole batch say."""
        every = (sample, *self.captions.get(sample.name, ()))
        return every[int(key_of("caption", self.seed, step, place)[:12], 16) % len(every)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> ClipBatch:
        """One of the equal parts that a step's batch is split into over processes and accumulation; on the CPU.

        The whole batch of a step is the same however it is split, and however the run came to this step.
        """
        self.expect(step, part, parts)
        loaded = [future.result() for future in self._coming.pop((step, part, parts))]
        self._coming = {key: value for key, value in self._coming.items() if key[0] >= step}
        return _collate(loaded, tuple(self.order.part(step, part, parts)[1]), self.cache)

    def alone(self, sample: Sample) -> ClipBatch:
        """The batch of one sample."""
        return _collate([self._load(sample)], (0,), self.cache)

    def preview(self, index: int) -> tuple[Tensor, ClipBatch]:
        """A sample's frames (F, H, W, 3) uint8 as the model sees them, and the batch of it alone."""
        sample = self.samples[index]
        return self.cache.frames(sample), self.alone(sample)

    def close(self) -> None:
        """Stops loading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, sample: Sample) -> tuple[Sample, Parts, Targets]:
        parts = self.cache.parts(sample)
        assert sample.binding is not None
        grid = self.cache.model.shape.grid(*sample.bucket)
        return sample, parts, Targets.of(sample.binding, parts.tracks, grid, sample.framing)


def _collate(loaded: Sequence[tuple[Sample, Parts, Targets]], rows: tuple[int, ...], cache: Cache) -> ClipBatch:
    samples, parts, targets = zip(*loaded)
    return ClipBatch(
        names=tuple(sample.name for sample in samples),
        rows=rows,
        latents=torch.stack([part.latents for part in parts]),
        image=torch.stack([part.image for part in parts]),
        extra=torch.stack([part.extra for part in parts]),
        text={name: torch.stack([part.text[name] for part in parts]) for name in parts[0].text},
        bindings=tuple(sample.binding for sample in samples),
        tracks=tuple(part.tracks for part in parts),
        framings=tuple(sample.framing for sample in samples),
        targets=tuple(targets),
        target_names=tuple(sample.written.target for sample in samples),
        grid=cache.model.shape.grid(*samples[0].bucket),
        size=samples[0].bucket,
        features=None if parts[0].features is None else torch.stack([part.features for part in parts]),
    )


def open_clips(
    data: FolderData,
    model: Model,
    seed: int = 0,
    batch: int | None = None,
    say: Callable[[str], object] = print,
    bar: bool = True,
    hold: HoldOut | None = None,
    teacher: Sam2Teacher | None = None,
) -> ClipBatches:
    """Reads and checks a folder of clips for a model; nothing is encoded yet.

    Args:
        batch: samples of one step, over all processes and accumulated parts; None takes `data.batch`.
        hold: which clips are held out. teacher: whose features batches have, too.

    Raises ValueError as `open_folder`: every bad clip by name and why; and for sizes that the model cannot take.
    """
    store = Store(data.cache)
    if hasattr(model, "hash_file"):
        model.hash_file = store.file_hash
    if model.shape.spec.one_clip and data.batch > 1:
        raise ValueError(
            f"{model.shape.spec.title}'s transformer takes one clip at a time, and data.batch={data.batch} asks for "
            f"more: set data.batch=1, and optim.accumulate={data.batch} for steps of as many clips"
        )
    found, repeats = open_folders(data, model, store, say, bar)
    _check_sizes(found.samples, model)
    trained, held = (hold or HoldOut()).split(found.samples)
    speaker = Speaker(data.prompt_form, model, store, data.verbs != "left_out")
    words = hold.shown(held, speaker) if hold else ()
    captions: dict[str, tuple[Sample, ...]] = {}
    if data.captions:
        away = {sample.clip.name for sample in held} | set(found.skipped)
        for _, sample in speaker.read(data.captions, "data.captions", trained, away):
            captions[sample.name] = (*captions.get(sample.name, ()), sample)
    cache = Cache(data, model, store, say, teacher)
    trained = tuple(sample for sample in trained for _ in range(repeats.get(sample.clip.name, 1)))
    return ClipBatches(trained, cache, seed, batch or data.batch, found.skipped, held, words, captions)


def _check_sizes(samples: Sequence[Sample], model: Model) -> None:
    """ValueError that names every bucket of a size that the model cannot take, and clips that are in it."""
    wrong = []
    for bucket in sorted({sample.bucket for sample in samples}):
        try:
            model.shape.check_size(*bucket)
        except ValueError as error:
            names = [sample.name for sample in samples if sample.bucket == bucket]
            wrong.append(f"  {bucket}: {len(names)} samples, such as {names[0]}: {error}")
    if wrong:
        raise ValueError(
            "clips of some sizes cannot be trained on (data.buckets=false crops all to one size; or other data.height, "
            "data.width, data.shortest):\n" + "\n".join(wrong)
        )
