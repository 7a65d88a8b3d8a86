"""Contact sheets of a folder that was checked: every clip as it will be seen, every bad one as far as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.clip_sheets import ClipRow, Still, clip_sheets
from matrix_lib.io.clips.source import ClipSource
from matrix_lib.io.files import expanded, whole_file

from .cache import framed
from .folder import Folder, FolderData, Sample
from .store import Store

__all__ = ["save_sheets"]

_STILLS = 4
_EACH = 20


def save_sheets(
    found: Folder, data: FolderData, store: Store | None, out: Path | None = None, tick: Callable[[], object] = int
) -> list[Path]:
    """Draws sheets of a checked folder as PNG files and returns their paths.

    Args:
        out: of the first page; the others get numbers behind the name. By default in the cache, under the folder's
            name.
        tick: called after each clip.
    """
    name = expanded(data.folder).resolve().name
    out = expanded(data.cache) / "sheets" / f"{name}.png" if out is None else out
    rows = list(_rows(found, store, tick))
    told = f"{len({s.clip.name for s in found.samples})} good, {len(found.skipped)} bad"
    paths = []
    for number, sheet in enumerate(clip_sheets(rows, name, told, _EACH), 1):
        path = out if number == 1 else out.with_name(f"{out.stem}-{number}.png")
        with whole_file(path) as temporary:
            sheet.save(temporary, format="PNG")
        paths.append(path)
    return paths


def _rows(found: Folder, store: Store | None, tick: Callable[[], object]) -> Iterator[ClipRow]:
    """Bad clips first: they are what a person looks for."""
    clips = {clip.name: clip for clip in found.clips}
    for name, why in found.skipped.items():
        yield _bad(name, why, clips.get(name))
        tick()
    seen: set[str] = set()
    for sample in found.samples:
        if sample.clip.name not in seen:
            seen.add(sample.clip.name)
            yield _good(sample, store)
            tick()


def _good(sample: Sample, store: Store | None) -> ClipRow:
    numbers = sample.numbers
    chosen = sorted({round(n * (len(numbers) - 1) / (_STILLS - 1)) for n in range(_STILLS)})
    tracks = sample.tracks(store)
    frames = framed(sample.clip.window([numbers[n] for n in chosen]), sample.framing).numpy()
    stills = []
    for place, frame in zip(chosen, frames):
        known = {} if place >= tracks.frames else {n: tracks.mask(n, place) for n in tracks.names}
        seen = {name: sample.framing.apply(mask, "nearest").numpy() for name, mask in known.items()}
        stills.append(Still(numbers[place], frame, seen))
    files = sample.files
    about = f"{files.frames} frames of {files.width}x{files.height} at {files.fps:.4g} fps, seen as {sample.bucket}"
    colours = dict(zip(tracks.names, tracks.palette))
    text = " ".join((sample.prompt, *(f"! {note}" for note in files.notes)))
    return ClipRow(sample.name, about, stills, colours, text)


def _bad(name: str, why: str, clip: ClipSource | None) -> ClipRow:
    """As much as can be seen: the first frame, and its masks as they are."""
    if clip is None:
        return ClipRow(name, "", wrong=why)
    try:
        picture = clip.frames(1)[0].numpy()
    except (ValueError, OSError):
        return ClipRow(name, clip.picture.name, text=clip.prompt, wrong=why)
    masks: dict[str, np.ndarray] = {}
    colours = {}
    try:
        tracks: MaskTracks = replace(clip, masks_are="white").tracks()
        if (tracks.height, tracks.width) == picture.shape[:2]:
            masks = {n: tracks.mask(n, 0).numpy() for n in tracks.names}
            colours = dict(zip(tracks.names, tracks.palette))
    except (ValueError, OSError):
        pass  # what is wrong with them stands in `why`
    return ClipRow(name, clip.picture.name, [Still(0, picture, masks)], colours, clip.prompt, why)
