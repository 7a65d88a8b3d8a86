"""Masks of one instance from whatever files they are in: pictures, a video, an array, run lengths.

F frames, H rows, W columns of pixels.
"""

from __future__ import annotations

import json
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...core.tracks import runs
from ..video import each_frame
from .choice import PICTURES, VIDEOS
from .mask_values import MasksAre, Pixels, Readings, as_asked, coloured, pixels_of
from .order import in_order, place
from .rle import decode_rle, is_rle
from .text import read_text

__all__ = [
    "ARRAYS",
    "MASK_FILES",
    "BadMasksError",
    "Fitted",
    "Key",
    "MaskFiles",
    "fitted_masks",
    "has_part",
    "is_whole",
    "read_mask",
]

ARRAYS = (".npy", ".npz")
MASK_FILES = (*PICTURES, *VIDEOS, *ARRAYS, ".json")
Key = int | str | None
_Made = tuple[str, Any]
"""Which part of files of several instances is whose: a label's number, a name inside of the file, or None for all."""
_MOST_BYTES = 16 << 30
_PARSING = threading.Lock()
"""Held while numpy parses a header: CPython 3.11 may raise SystemError where two threads do so at once."""


class BadMasksError(ValueError):
    """Everything that is wrong with an instance's masks, one reason each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class MaskFiles:
    """The files of an instance's masks: one picture a frame, or one file of another kind."""

    name: str
    paths: tuple[Path, ...]
    key: Key = None

    @property
    def what(self) -> str:
        return f"the masks of {self.name!r}"


@dataclass(frozen=True)
class Fitted:
    """`runs.pack` of a mask in each frame of a clip, in its size, and sentences about how they were read."""

    edges: tuple[NDArray[Any], ...]
    height: int
    width: int
    notes: tuple[str, ...] = ()


def fitted_masks(
    files: MaskFiles,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    masks_are: MasksAre = "ask",
    first_alone: bool = False,
) -> Fitted:
    """The masks of an instance as those of a clip.

    Args:
        frames: of the clip, None where it is not known: then as many as there are masks.
        size: (H, W) of the clip in pixels; masks of the same proportions are scaled to it (nearest). None: their own.
        masks_are: see `mask_values.as_asked`.
        first_alone: wants the mask of frame 0 only.

    Raises BadMasksError with every reason: masks that cannot be read, have holes, reach beyond the clip, are of other
    sizes, empty, or such that it cannot be known what they show.
    """
    numbers, source = _opened(files)
    if first_alone:
        source = _first(files, numbers, source, frames)
    readings = Readings(files.what, files.key if isinstance(files.key, int) else None)
    sizes: list[tuple[str, tuple[int, ...]]] = []
    unread: list[str] = []
    refused: list[str] = []
    for name, made in source:
        try:
            seen = made()
        except ValueError as error:
            unread.append(str(error))
            continue
        sizes.append((name, seen.values.shape))
        try:
            if not refused:
                readings.add(seen, name)
        except ValueError as error:
            refused.append(f"{name}: {error}")
    placed = place(numbers or range(len(sizes) + len(unread) or 1), frames, files.what)
    wrong = [placed.wrong + _between(files, numbers)] if placed.wrong and not first_alone else []
    wrong += [unread[0] + _more(unread)] if unread else []
    wrong += refused
    wrong += _odd_sizes(files, sizes, size)
    if wrong or not sizes:
        raise BadMasksError(wrong or [f"{files.what} are in no file"])
    notes = [note for note in (placed.note, _by_number(files)) if note]
    height, width = sizes[0][1]
    return _decided(files, readings, (height, width), size, masks_are, notes)


def _between(files: MaskFiles, numbers: Sequence[int]) -> str:
    """Which pictures a hole lies between, and what a mask is where the thing is not seen; "" where there is no hole."""
    if files.paths[0].suffix.lower() not in PICTURES:
        return ""
    names = [path.name for path in in_order(files.paths).paths]
    hole = next((n for n, (a, b) in enumerate(pairwise(numbers)) if b > a + 1), None)
    return (
        ""
        if hole is None
        else f", between {names[hole]} and {names[hole + 1]}. Add it; where the thing is not seen, "
        "its mask is a picture that is all black"
    )


def _by_number(files: MaskFiles) -> str:
    """A sentence where the order of the numbers in names is not the order of the names."""
    names = [path.name for path in in_order(files.paths).paths] if files.paths[0].suffix.lower() in PICTURES else []
    if names == sorted(names):
        return ""
    return f"{files.what} go by the number in their names: {names[0]}, {names[1]}, ... {names[-1]}"


def _first(files: MaskFiles, numbers: Sequence[int], source: Iterator[_Made], frames: int | None) -> Iterator[_Made]:
    """The mask of frame 0 alone. One picture alone is of frame 0, unless its name says that it is of another."""
    if len(numbers) == 1 and 1 < numbers[0] < (frames or 0):
        only = f"the only one has number {numbers[0]}; call it 000 if it is"
        raise BadMasksError([f"there is no mask of {files.name!r} in frame 0: {only}"])
    first = place(numbers, frames, files.what).first if len(numbers) > 1 else (*numbers, 0)[0]
    if numbers and first not in numbers:
        raise BadMasksError([f"there is no mask of {files.name!r} in frame 0"])
    at = numbers.index(first) if numbers else 0
    return islice(source, at, at + 1)


def is_whole(files: MaskFiles, frames: int) -> bool:
    """Whether there is a mask for every one of so many frames."""
    numbers, source = _opened(files)
    return not place(numbers or range(sum(1 for _ in source) or 1), frames, files.what).wrong


def _decided(
    files: MaskFiles,
    readings: Readings,
    own: tuple[int, int],
    size: tuple[int, int] | None,
    masks_are: MasksAre,
    notes: list[str],
) -> Fitted:
    try:
        edges = as_asked(readings.decide(), *own, masks_are, files.what)
    except ValueError as error:
        raise BadMasksError([str(error)]) from None
    if not any(len(found) for found in edges):
        raise BadMasksError([f"{files.what} are empty: it is in no frame"])
    if size is not None and size != own:
        notes.append(f"masks of {own[0]}x{own[1]} pixels are scaled to their video's {size[0]}x{size[1]}")
        edges = [_scaled(found, own, size) for found in edges]
    return Fitted(tuple(edges), *(size or own), tuple(notes))


def _scaled(edges: NDArray[Any], own: tuple[int, int], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest, at the centre of each pixel."""
    rows = ((np.arange(size[0]) + 0.5) * own[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * own[1] / size[1]).astype(int)
    return runs.pack(np.ascontiguousarray(runs.unpack(edges, *own)[rows][:, columns]))


def _odd_sizes(
    files: MaskFiles, sizes: Sequence[tuple[str, tuple[int, ...]]], size: tuple[int, int] | None
) -> list[str]:
    """What is wrong with the sizes: masks of one instance have one size, of the video's proportions."""
    if not sizes:
        return []
    found_sizes = [found for _, found in sizes]
    own = size if size in found_sizes else Counter(found_sizes).most_common(1)[0][0]
    odd = [(name, found) for name, found in sizes if found != own]
    if not odd and (size is None or _alike(own, size)):
        return []
    name, found = (odd or sizes)[0]
    said = f"{name} of {files.name!r} is {found[0]}x{found[1]}{_more(odd or sizes)} pixels (height x width)"
    there = f"and the video {size[0]}x{size[1]}" if size else f"and others {own[0]}x{own[1]}"
    return [f"{said}, {there}: save it anew. Masks of one instance have one size, of the video's proportions"]


def _alike(own: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a size has the video's proportions, to half a pixel, and is no more than 8 times as fine or coarse."""
    scale = size[0] / own[0]
    near = abs(own[1] - size[1] / scale) <= 0.5 or abs(own[0] - size[0] * own[1] / size[1]) <= 0.5
    return own == size or (1 / 8 <= scale <= 8 and near)


def _more(found: Sequence[Any]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


# --- kinds of files


def _opened(files: MaskFiles) -> tuple[list[int], Iterator[_Made]]:
    """Frame numbers where they are known at once, and for each frame what it is called and a function that reads it."""
    kind = files.paths[0].suffix.lower()
    if kind in PICTURES:
        try:
            paths, numbers = in_order(files.paths)
        except ValueError as error:
            raise BadMasksError([str(error)]) from None
        return list(numbers), ((f"mask {path.name}", lambda path=path: _picture(path)) for path in paths)
    if len(files.paths) > 1:
        raise BadMasksError([f"{files.what} are in several files: {', '.join(p.name for p in files.paths[:6])}"])
    try:
        if kind in VIDEOS:
            return [], _video(files.paths[0])
        found = _array(files) if kind in ARRAYS else _run_lengths(files)
    except (ValueError, OSError) as error:
        raise BadMasksError([f"{files.paths[0].name} cannot be read as masks: {error}"]) from None
    name = files.paths[0].name
    return list(range(len(found))), (
        (f"mask {n} in {name}", lambda n=n: Pixels(np.asarray(found[n]))) for n in range(len(found))
    )


def _video(path: Path) -> Iterator[_Made]:
    for n, frame in enumerate(each_frame(path)):
        yield f"frame {n} of {path.name}", lambda frame=frame: coloured(frame)


def _picture(path: Path) -> Pixels:
    try:
        with Image.open(path) as picture:
            return pixels_of(ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        empty = path.is_file() and not path.stat().st_size
        why = "it is empty, 0 bytes" if empty else str(error)
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read as a mask: {why}") from None


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(H, W) bool of one picture alone. ValueError, with its name, where it cannot be read as a mask."""
    seen = _picture(path)
    readings = Readings(f"{path.parent.name}/{path.name}")
    readings.add(seen)
    return runs.unpack(readings.decide()[0], *seen.values.shape)


def _array(files: MaskFiles) -> NDArray[Any]:
    """(F, H, W) of an .npy or .npz, never unpickled."""
    path = files.paths[0]
    if path.suffix.lower() == ".npy":
        with _PARSING:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        with zipfile.ZipFile(path) as packed:
            if sum(part.file_size for part in packed.infolist()) > _MOST_BYTES:
                raise ValueError("it unpacks to more memory than masks of a clip take")
        with _PARSING, np.load(path, allow_pickle=False) as arrays:
            names = list(arrays)
            name = files.key if isinstance(files.key, str) else names[0] if len(names) == 1 else None
            if name not in names:
                raise ValueError(f"it has arrays {', '.join(names)}, and none is called {files.name!r}")
            found = arrays[name]
    if found.ndim == 4 and 1 in (found.shape[1], found.shape[-1]):
        found = found[:, 0] if found.shape[1] == 1 else found[..., 0]
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or 0 in found.shape or found.dtype.kind not in "buif":
        raise ValueError(f"masks are numbers (frames, height, width); it has {found.dtype} {found.shape}")
    return np.asarray(found)


def _run_lengths(files: MaskFiles) -> list[NDArray[np.bool_]]:
    """(H, W) of each frame of a JSON file: a run-length mask, a list of them (null: not there), or by frame number."""
    value = json.loads(read_text(files.paths[0]))
    if isinstance(files.key, str):
        value = value[files.key]
    if isinstance(value, dict) and isinstance(value.get("segmentations"), list):  # as YouTube-VIS has it
        value = value["segmentations"]
    if is_rle(value):
        value = [value]
    if isinstance(value, dict) and value and all(str(name).isdecimal() for name in value):
        if sorted(map(int, value)) != list(range(len(value))):
            raise ValueError("its frame numbers do not count from 0 without a hole")
        value = [value[name] for name in sorted(value, key=int)]
    if not isinstance(value, list) or not any(is_rle(part) for part in value):
        raise ValueError(
            'it holds no run-length masks: one {"size": [height, width], "counts": ...} a frame, null where the '
            "instance is not there (polygons are not read)"
        )
    shape = next(part["size"] for part in value if is_rle(part))
    if wrong := [part for part in value if not (part is None or is_rle(part))]:
        raise ValueError(f"one of its frames is {str(wrong[0])[:40]}, no run-length mask and not null")
    return [np.zeros(shape, bool) if part is None else decode_rle(part) for part in value]


def has_part(path: Path) -> tuple[str, ...]:
    """Names of the instances in a file of several: arrays of an .npz, keys of a JSON object."""
    if path.suffix.lower() == ".npz":
        try:
            with zipfile.ZipFile(path) as packed:
                return tuple(name.removesuffix(".npy") for name in packed.namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name} cannot be read as masks: {error}") from None
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read as masks: {error}") from None
    return tuple(value) if isinstance(value, dict) and not is_rle(value) else ()
