"""WebDataset shards of clips: tar files that copy, stream and store better than many small files.

    NAME-000000.tar
        000000.mp4                  the video or picture
        000000.json                 "name" of the clip, and what its row or its text files say
        000000.masks.safetensors    tracks of its instances, as MATRIX Save Tracks writes them

`write_shards` makes them of a folder's good clips. Where `data.folder` names shards they are unpacked once, into the
cache, as a folder of the layout that they were made from: so a run sees the same clips and the same batches.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from matrix_lib.io.clips.choice import PICTURES, VIDEOS, seen
from matrix_lib.io.clips.rows import read_rows
from matrix_lib.io.clips.source import ClipSource
from matrix_lib.io.clips.text import read_text
from matrix_lib.io.files import expanded
from matrix_lib.io.tracks import save_tracks

from .files import read_tracks
from .folder import Folder, Sample
from .store import Store, key_of

__all__ = ["are_shards", "shards_of", "unpacked", "write_shards"]

MASKS = "masks.safetensors"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LARGEST_TEXT = 1 << 24
_DONE = "whole"


# --- which files


def shards_of(text: str) -> tuple[Path, ...]:
    """The tar files that a path means: one, a range (`clips-{000000..000003}.tar`), or those of a folder; () where it
    means no shards. Raises ValueError for one that is not there."""
    path = expanded(text)
    if path.is_dir():
        return tuple(p for p in seen(path) if p.suffix == ".tar" and p.is_file())
    if path.suffix != ".tar":
        return ()
    found = tuple(Path(name) for name in _spelled(str(path)))
    if missing := [name for name in found if not name.is_file()]:
        raise ValueError(f"there is no shard {str(missing[0])!r} ({len(missing)} of {len(found)} are missing)")
    return found


def are_shards(text: str) -> bool:
    return bool(shards_of(text))


def _spelled(name: str) -> list[str]:
    found = _RANGE.search(name)
    if found is None:
        return [name]
    first, last, digits = int(found[1]), int(found[2]), len(found[1])
    return [
        each
        for number in range(first, last + 1)
        for each in _spelled(f"{name[: found.start()]}{number:0{digits}d}{name[found.end() :]}")
    ]


# --- reading


def unpacked(text: str, cache: str | os.PathLike[str]) -> Path:
    """The folder of clips that shards hold, unpacked into the cache by whichever process comes first.

    Raises ValueError for files that are no shards of clips.
    """
    shards = shards_of(text)
    stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
    home = expanded(cache) / "shards" / key_of("shards", stats)
    if (home / _DONE).is_file():
        return home / "clips"
    home.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home.parent, prefix=".unpacking-") as draft:
        _unpack(shards, Path(draft) / "clips")
        (Path(draft) / _DONE).touch()
        try:
            Path(draft).rename(home)
        except OSError:  # another process was first
            if not (home / _DONE).is_file():
                raise
        else:
            Path(draft).mkdir()  # what the context removes
    return home / "clips"


def _unpack(shards: Iterable[Path], folder: Path) -> None:
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    folder.mkdir()
    for shard in shards:
        for key, parts in _samples(shard):
            try:
                row = _placed(parts, folder, names)
            except (ValueError, OSError) as error:
                raise ValueError(f"{shard.name}, sample {key}: {error}") from None
            rows += [] if row is None else [row]
    if rows:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class _Part:
    """A file in a shard that is open."""

    tar: tarfile.TarFile
    member: tarfile.TarInfo

    def open(self) -> IO[bytes]:
        file = self.tar.extractfile(self.member)
        assert file is not None  # it is a plain file
        return file


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, _Part]]]:
    """Samples of a shard: key, and its files by suffix. Files of one sample follow each
    other, as WebDataset wants it."""
    try:
        with tarfile.open(shard) as tar:
            key, parts = "", dict[str, _Part]()
            for member in tar:
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                stem, _, suffix = member.name.removeprefix("./").rpartition("/")[2].partition(".")
                if parts and stem != key:
                    yield key, parts
                    parts = {}
                key = stem
                parts[suffix.lower()] = _Part(tar, member)
            if parts:
                yield key, parts
    except tarfile.TarError as error:
        raise ValueError(f"{shard.name} is no whole tar file: {error}") from None


def _placed(parts: Mapping[str, _Part], folder: Path, names: set[str]) -> dict[str, Any] | None:
    """Writes the files of one sample; its row, None for a clip with a folder of its own."""
    media = [suffix for suffix in parts if f".{suffix}" in (*VIDEOS, *PICTURES)]
    if len(media) != 1 or "json" not in parts or MASKS not in parts:
        held = ", ".join(sorted(parts))
        raise ValueError(f"it holds {held}; expected one video or picture, json and {MASKS} (training.shards)")
    told = _told(parts["json"])
    name = str(told.pop("name", ""))
    if not name or Path(name).name != name or name.startswith(".") or "\\" in name or name in names:
        raise ValueError(f"its name {name!r} is " + ("there twice" if name in names else "no file name"))
    names.add(name)
    file = f"{name}.{media[0]}"
    if "entities" in told:
        home = folder / name
        kind = "video" if f".{media[0]}" in VIDEOS else "image"
        _copy(parts[media[0]], home / f"{kind}.{media[0]}")
        _copy(parts[MASKS], home / "tracks.safetensors")
        for text in ("prompt", "entities"):
            (home / f"{text}.txt").write_text(str(told.get(text, "")), encoding="utf-8")
        (home / "masks_are.txt").write_text("white", encoding="utf-8")
        return None
    tags = bool(told.pop("tags", False))
    _copy(parts[media[0]], folder / "videos" / file)
    _copy(
        parts[MASKS], folder / (f"mask_annotation/{name}/tracks.safetensors" if tags else f"masks/{name}.safetensors")
    )
    return {**told, "video": file, "masks_are": "white"}


def _told(part: _Part) -> dict[str, Any]:
    if part.member.size > _LARGEST_TEXT:
        raise ValueError(f"its json has {part.member.size} bytes")
    with part.open() as file:
        found = json.loads(file.read().decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("its json is no object")
    return found


def _copy(part: _Part, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open() as source, path.open("xb") as target:
        shutil.copyfileobj(source, target)


# --- writing


@dataclass
class _Writer:
    """Tar files of at most `size` bytes, but for one sample that is larger."""

    out: Path
    stem: str
    size: int
    paths: list[Path]
    tar: tarfile.TarFile | None = None
    held: int = 0

    def add(self, key: str, files: Mapping[str, bytes | Path]) -> None:
        sizes = [len(data) if isinstance(data, bytes) else data.stat().st_size for data in files.values()]
        if self.tar is None or (self.held and self.held + sum(sizes) > self.size):
            self.close()
            self.paths.append(self.out / f"{self.stem}-{len(self.paths):06d}.tar")
            self.tar = tarfile.open(f"{self.paths[-1]}.part", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self.held = 0
        for (suffix, data), size in zip(files.items(), sizes):
            member = tarfile.TarInfo(f"{key}.{suffix}")  # without owners and times: the same clips are the same bytes
            member.size = size
            with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
                self.tar.addfile(member, file)
        self.held += sum(sizes)

    def close(self) -> None:
        if self.tar is not None:
            self.tar.close()
            Path(f"{self.paths[-1]}.part").replace(self.paths[-1])
            self.tar = None


def write_shards(
    folder: Path, found: Folder, out: Path, size: int, store: Store | None = None, tick: Callable[[], object] = int
) -> list[Path]:
    """Writes the good clips of a folder as shards of about `size` bytes; returns them.

    Args:
        folder: that `found` was read from. tick: called after each clip.

    Raises ValueError where `out` holds shards already, OSError where it cannot be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    if shards_of(str(out)):
        raise ValueError(f"{str(out)!r} holds shards already: give another folder")
    rows = {row.name: row.values for row in read_rows(folder) or ()}
    firsts: dict[str, Sample] = {}
    for sample in found.samples:
        firsts.setdefault(sample.clip.name, sample)
    writer = _Writer(out, out.resolve().name, size, [])
    with TemporaryDirectory() as draft:
        for number, sample in enumerate(firsts.values()):
            clip = sample.clip
            tracks = read_tracks(clip, sample.files, store)
            slots = {name: f"id{k}" for name, k in clip.slots.items()}
            masks = save_tracks(tracks.rename(slots), Path(draft) / "masks.safetensors")
            told = json.dumps(_said(folder, clip, rows.get(clip.name)), ensure_ascii=False).encode()
            kind = clip.picture.suffix.lower().removeprefix(".")
            writer.add(f"{number:06d}", {kind: clip.picture, "json": told, MASKS: masks})
            tick()
        writer.close()
    return writer.paths


def _said(folder: Path, clip: ClipSource, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a sample says of its clip, so that the clip is read from it as it was read here."""
    if row is None:
        texts = {text: read_text(folder / clip.name / f"{text}.txt") for text in ("prompt", "entities")}
        return {"name": clip.name, **texts}
    left = {name: value for name, value in row.items() if name not in ("video", "mask", "masks_are")}
    return {**left, "name": clip.name, "tags": bool(clip.slots)}
