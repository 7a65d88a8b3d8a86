"""Several folders of clips as one, each as often as its repeats say: `clips/a*3;clips/b`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from matrix_lib.io.clips.source import ClipSource
from matrix_lib.io.files import expanded

from .folder import Folder, FolderData, Sample, open_folder
from .shards import are_shards, unpacked

if TYPE_CHECKING:
    from .encoders import Model
    from .store import Store

__all__ = ["Place", "open_folders", "places_of"]

_REPEATS = re.compile(r"^(?P<folder>.+?)\s*\*\s*(?P<repeats>\d+)$")


@dataclass(frozen=True)
class Place:
    """A folder, how often an epoch sees each of its samples, and what its clips are called by before their names."""

    folder: str
    repeats: int = 1
    prefix: str = ""


def places_of(text: str) -> tuple[Place, ...]:
    """What `data.folder` names. A folder whose own name has a `;` or a `*` in it is that folder.

    Raises ValueError for repeats of 0 and for one folder twice.
    """
    if expanded(text).is_dir() or not any(mark in text for mark in ";*"):
        return (Place(text),)
    found = []
    for part in filter(None, (each.strip() for each in text.split(";"))):
        said = None if expanded(part).is_dir() else _REPEATS.match(part)
        found.append(Place(said["folder"], int(said["repeats"])) if said else Place(part))
    if any(place.repeats < 1 for place in found):
        raise ValueError(f"data.folder={text!r}: repeats are 1 or more; leave a folder out instead")
    real = [str(expanded(place.folder).resolve()) for place in found]
    if len(set(real)) < len(real):
        raise ValueError(f"data.folder={text!r} names a folder twice: say how often with FOLDER*N")
    return tuple(replace(place, prefix=prefix) for place, prefix in zip(found, _prefixes(real)))


def _prefixes(folders: list[str]) -> list[str]:
    """As much of the end of each path as tells it from the others; nothing where there is one."""
    if len(folders) == 1:
        return [""]
    for count in range(1, max(len(Path(folder).parts) for folder in folders) + 1):
        ends = ["/".join(Path(folder).parts[-count:]).lstrip("/") for folder in folders]
        if len(set(ends)) == len(ends):
            break
    return [f"{end}/" for end in ends]


def open_folders(
    data: FolderData,
    model: Model | None,
    store: Store | None,
    say: Callable[[str], object] = print,
    bar: bool = True,
    all_bad: bool = False,
) -> tuple[Folder, dict[str, int]]:
    """Every folder of `data.folder` by `open_folder`, and the repeats of each clip that has any."""
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    notes: list[str] = []
    repeats: dict[str, int] = {}
    clips: list[ClipSource] = []
    for place in places_of(data.folder):
        folder = str(unpacked(place.folder, data.cache)) if are_shards(place.folder) else place.folder
        found = open_folder(replace(data, folder=folder), model, store, say, bar, all_bad)
        mine = [_called(sample, place.prefix) for sample in found.samples]
        repeats |= {sample.clip.name: place.repeats for sample in mine if place.repeats > 1}
        samples += mine
        skipped |= {place.prefix + name: why for name, why in found.skipped.items()}
        notes += found.notes
        clips += [replace(clip, name=place.prefix + clip.name) for clip in found.clips]
    return Folder(tuple(samples), skipped, tuple(notes), tuple(clips)), repeats


def _called(sample: Sample, prefix: str) -> Sample:
    if not prefix:
        return sample
    return replace(sample, name=prefix + sample.name, clip=replace(sample.clip, name=prefix + sample.clip.name))
