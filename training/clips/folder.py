"""A folder of clips, read and checked: every clip that can be trained on as samples, every other one by name and why.

A sample is one window of frames of one clip: what is seen, in which bucket, with which prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tqdm import tqdm

from matrix_lib.core.grid import Framing
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.io.clips.folder import bad_clips, scan_clips
from matrix_lib.io.clips.mask_values import MasksAre
from matrix_lib.io.clips.source import ClipSource, listed

from .buckets import Bucket, Windows, aspect_sizes, choose_size
from .files import BadFilesError, ClipFiles, read_files, read_tracks
from .prompts import PromptForm, Written, bind_written, target_of, write_prompt

if TYPE_CHECKING:
    from .encoders import Model
    from .store import Store

__all__ = ["Folder", "FolderData", "Sample", "open_folder"]


@dataclass(frozen=True)
class FolderData:
    """Clips from a folder; see docs/training-data.md.

    Args:
        folder: in the layout of MATRIX-11K, with one target mask a clip, or with one folder a clip. `training.fit`
            takes several, each with its repeats: `clips/a*3;clips/b`; or WebDataset shards of `training.shards`.
        condition: what the extra input channels show: MATRIX' ID map, TAViD's target mask, or nothing.
        prompt_form: how prompts are written, see `prompts.write_prompt`.
        frames, height, width: pixels that the model sees.
        fps: frames a second that the model sees; 0 takes every frame.
        windows: windows of a clip, spread evenly; 1 is its beginning.
        shortest: frames that a clip which is too short for `frames` may be seen with; 0 refuses such clips.
        buckets: clips keep their proportions, in sizes of no more pixels than height x width; off crops all to one.
        id_map: painted from the mask "tracks", or the dataset's own "merged" pictures.
        masks: of "all" frames, or of the "first" one at least.
        verbs: whether every clip needs one; "left_out" aligns none, as the released code of MATRIX does not.
        bystanders: masks that the prompt does not name are left aside; off refuses the clip.
        skip_bad: go on without bad clips; off stops before the run starts, and lists them.
        batch: clips that a process sees at once.
        cache: folder of latents, text rows and checks; may be shared by runs.
        captions: a text file with lines `CLIP: PROMPT`, further prompts of clips: each step draws one of a clip's.
        images: pictures are clips of one frame, in sizes of their own; off refuses them.
        workers: threads that check clips and load batches.
        masks_are: where the thing is in masks: "white", "black", or "ask", which is white, and refuses masks that look
            inverted until a person says so.
        roots: other folders, divided by commas, that links and paths of the metadata may lead to.

    `folder`, `cache` and `roots` may begin with `~` and hold `$VARIABLES`.
    """

    folder: str = ""
    condition: Literal["none", "id_map", "target_mask"] = "id_map"
    prompt_form: PromptForm = "tags"
    frames: int = 49
    height: int = 480
    width: int = 720
    fps: float = 0.0
    windows: int = 1
    shortest: int = 0
    buckets: bool = False
    id_map: Literal["tracks", "merged"] = "tracks"
    masks: Literal["all", "first"] = "all"
    verbs: Literal["required", "optional", "left_out"] = "required"
    bystanders: bool = False
    skip_bad: bool = False
    batch: int = 1
    cache: str = "runs/cache"
    workers: int = 2
    captions: str = ""
    images: bool = False
    masks_are: MasksAre = "ask"
    roots: str = ""

    def __post_init__(self) -> None:
        _ = self.seen
        if min(self.height, self.width, self.batch, self.workers) < 1:
            raise ValueError(
                f"data.height, data.width, data.batch and data.workers are at least 1; got {self.height}, "
                f"{self.width}, {self.batch}, {self.workers}"
            )
        if self.masks == "first" and self.windows > 1:
            raise ValueError("data.masks=first knows the first frame alone, so data.windows is 1")

    @property
    def seen(self) -> Windows:
        return Windows(self.frames, self.fps, self.windows, self.shortest)


@dataclass(frozen=True)
class Sample:
    """One window of one clip.

    Args:
        name: the clip's; with its first frame's number where a clip has several windows.
        files: what is known about the clip's pixels.
        numbers: frames of the clip that are seen.
        written: its prompt; binding: the same with the rows of the model's text, None where no model was given.
    """

    name: str
    clip: ClipSource
    files: ClipFiles
    numbers: tuple[int, ...]
    bucket: Bucket
    written: Written
    binding: PromptBinding | None = None

    @property
    def prompt(self) -> str:
        return self.written.prompt

    @property
    def framing(self) -> Framing:
        return Framing((self.files.height, self.files.width), (self.bucket.height, self.bucket.width))

    def tracks(self, store: Store | None = None) -> MaskTracks:
        """Tracks of the window, in pixels of the video."""
        return window_of(read_tracks(self.clip, self.files, store), self.numbers)


@dataclass(frozen=True)
class Folder:
    """Samples in the order of their names; bad clips and why; sentences for people; every clip with a name, good
    or bad."""

    samples: tuple[Sample, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()
    clips: tuple[ClipSource, ...] = ()


def window_of(tracks: MaskTracks, numbers: Sequence[int]) -> MaskTracks:
    """Tracks of these frames; of the first alone where the tracks know no other."""
    return tracks if tracks.frames == 1 else tracks.take(numbers)


def open_folder(
    data: FolderData,
    model: Model | None = None,
    store: Store | None = None,
    say: Callable[[str], object] = print,
    bar: bool = True,
    all_bad: bool = False,
) -> Folder:
    """Reads a folder and looks at every clip: its rows, its video to the last frame, every mask, its words.

    Args:
        model: also binds every prompt to the model's text rows and puts every mask on its token grid.
        store: remembers what was found about unchanged files, and their packed masks.
        bar: shows progress.
        all_bad: a folder of bad clips only is no error.

    Raises ValueError that lists every bad clip by name and why, unless `data.skip_bad`; and for settings that the model
    or the folder cannot serve.
    """
    if model is not None:
        for frames in data.seen.lengths:
            model.shape.check_size(frames, data.height, data.width)
    found = scan_clips(Path(data.folder), data.roots, data.masks_are)
    problems, notes = dict(found.problems), list(found.notes)
    samples: list[Sample] = []
    look = _Look(data, model, store)
    with _threads(data.workers) as pool:
        results = zip(found.clips, pool.map(look, found.clips))
        for clip, (made, wrong) in tqdm(results, "checking", len(found.clips), unit=" clips", disable=not bar):
            samples += made
            if wrong and made:
                notes.append(f"{clip.name}: only {len(made)} of its windows can be used: {'; '.join(wrong)}")
            elif wrong:
                problems[clip.name] = "; ".join(wrong)
    notes += _gathered(samples)
    problems = {name: problems[name] for name in sorted(problems)}
    if problems:
        _refuse(problems, len(found.clips) + len(found.problems), data.skip_bad and (all_bad or bool(samples)), say)
    for note in notes:
        say(note)
    return Folder(tuple(samples), problems, tuple(notes), found.clips)


def _gathered(samples: Sequence[Sample]) -> list[str]:
    """Notes about files, each once, with the clips that it is about."""
    clips: dict[str, dict[str, None]] = {}
    for sample in samples:
        for note in sample.files.notes:
            clips.setdefault(note, {})[sample.clip.name] = None
    return [f"{next(iter(names))}{f' and {len(names) - 1} more' * (len(names) > 1)}: {n}" for n, names in clips.items()]


def _refuse(problems: dict[str, str], count: int, go_on: bool, say: Callable[[str], object]) -> None:
    """Lists bad clips: as an error, or where the person said that the run goes on without them, as news."""
    told = bad_clips(problems, count, "trained on")
    if not go_on:
        good = count > len(problems)
        raise ValueError(f"{told}\nOr go on without them: data.skip_bad=true" if good else str(told))
    say(f"going on without bad clips, as data.skip_bad says.\n{told}")


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that, when something goes wrong or a person stops the command, do not finish what waits."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Look:
    """Looks at one clip: `(samples, what is wrong)`. It is bad where it has no samples; where it has some, the rest is
    about its other windows."""

    def __init__(self, data: FolderData, model: Model | None, store: Store | None) -> None:
        self.data, self.model, self.store = data, model, store
        multiple = 16 if model is None else model.shape.multiple
        size = (data.height, data.width)
        self.sizes = aspect_sizes(*size, multiple) if data.buckets else (size,)

    def __call__(self, clip: ClipSource) -> tuple[list[Sample], list[str]]:
        wrong = list(_said(clip, self.data))
        written, binding = None, None
        try:
            written = write_prompt(clip, self.data.prompt_form, self.data.verbs != "left_out")
            binding = None if self.model is None else self._bind(written)
        except ValueError as error:
            wrong.append(str(error))
        files: ClipFiles | None = None
        try:
            files, tracks = read_files(clip, self.data.masks, self.store)
        except BadFilesError as error:
            wrong += error.reasons
        except (ValueError, OSError) as error:
            wrong.append(str(error))
        if files is None or written is None:
            return [], wrong
        try:
            samples = [
                Sample(name, clip, files, numbers, self._bucket(files, numbers), written, binding)
                for name, numbers in self._windows(clip, files)
            ]
            faults = [self._seen(sample, window_of(tracks, sample.numbers)) for sample in samples]
        except ValueError as error:
            return [], [*wrong, str(error)]
        good = [] if wrong else [sample for sample, fault in zip(samples, faults) if not fault]
        return good, list(dict.fromkeys([*wrong, *(text for fault in faults for text in fault)]))

    def _bind(self, written: Written) -> PromptBinding:
        assert self.model is not None
        return bind_written(self.model, written, self.store)

    def _windows(self, clip: ClipSource, files: ClipFiles) -> Iterable[tuple[str, tuple[int, ...]]]:
        if not clip.is_video:
            return [(clip.name, (0,))]
        found = self.data.seen.of(files.frames, files.fps, files.times)
        return [(clip.name if len(found) == 1 else f"{clip.name}@{numbers[0]}", numbers) for numbers in found]

    def _bucket(self, files: ClipFiles, numbers: Sequence[int]) -> Bucket:
        return Bucket(len(numbers), *choose_size((files.height, files.width), self.sizes))

    def _seen(self, sample: Sample, tracks: MaskTracks) -> list[str]:
        """What is wrong with a window as the model sees it."""
        wrong = []
        if self.data.condition == "id_map" and self.data.id_map == "merged":
            number = sample.numbers[0]
            if sample.clip.id_map(number, sample.files.frames) is None:
                wrong.append(f"there is no ID map of frame {number}: merged/{number:03d}.png is missing")
        if self.data.condition == "target_mask":
            seen = sample.framing.apply(tracks.mask(sample.written.target, 0), "nearest")
            if not bool(seen.any()):
                wrong.append(f"the target {sample.written.target!r} is not in frame {sample.numbers[0]} as it is seen")
        if self.model is not None and not sample.clip.is_video and (fault := self._still(sample)):
            wrong.append(fault)
        elif self.model is not None:
            grid = self.model.shape.grid(*sample.bucket)
            hidden = [n for n, at in tracks.to_grid(grid, "nearest", sample.framing).query_frame.items() if at is None]
            if hidden:
                where = f"frames {sample.numbers[0]} to {sample.numbers[-1]} as the model sees them, {sample.bucket}"
                hint = "" if self.data.buckets else " (data.buckets=true crops less)"
                wrong.append(f"{listed(hidden)} shows on no token of {where}{hint}")
        return wrong

    def _still(self, sample: Sample) -> str:
        """Why a model cannot train on a picture, or ""."""
        assert self.model is not None
        if self.model.shape.image == "replace":
            return "it is a picture, and this model predicts all frames but the first, which it is given"
        try:
            self.model.shape.check_size(*sample.bucket)
        except ValueError as error:
            return f"it is a picture, a clip of one frame: {error}"
        return ""


def _said(clip: ClipSource, data: FolderData) -> Iterable[str]:
    """What is wrong with what a clip says, without a look at its pixels."""
    if not clip.is_video and not data.images:
        yield f"there is no video, only the picture {clip.picture.name!r} (data.images=true trains on pictures, too)"
    if data.verbs == "required" and not clip.verbs:
        said = next((note for note in clip.notes if note.startswith("no verb: ")), "")
        yield said or "no verb: say which words are the verb (a column `phrases` or `verb`; docs/training-data.md)"
    if data.condition == "target_mask" and data.prompt_form in ("plain", "tags", "tag_ids") and not target_of(clip):
        yield f"which of its instances ({listed(clip.instances)}) is the target?"
    loose = sorted({int(k) for k in re.findall(r"<id(\d+)>", clip.tagged)} - set(clip.slots.values()))
    if clip.slots and loose:
        yield f"{', '.join(f'<id{k}>' for k in loose)} is in its prompt, and no phrase says who that is"
    if clip.bystanders and not data.bystanders:
        yield f"there are masks in {', '.join(clip.bystanders)}, which the prompt does not name (data.bystanders=true)"
