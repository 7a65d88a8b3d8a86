"""Capture files: safetensors with the maps of every stream and kind, and a JSON header (docs/captures.md).

A loaded capture is a view of the file: nothing is read before it is asked for, so a file of a gigabyte opens at once,
and one layer is read without the others. While a run is sampled, its finished steps may be kept as a folder of parts,
each a capture file; `load_capture` opens such a folder as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..instrument.capture import Capture, Stream
from ..instrument.joining import extend
from ..instrument.maps import Maps
from .capture_headers import FORMAT, VERSION, MapsHeader, StreamHeader, grid_values, read_header
from .files import said, whole_file
from .strict_json import parse_json

__all__ = ["PARTS", "CaptureParts", "load_capture", "save_capture"]

_SUFFIX = ".safetensors"
PARTS = ".parts"  # how the name of a folder of parts ends
_PART = re.compile(r"(\d{6})-(\d{6})\.safetensors")
# A header has a page for the run, and may be as long as the data that it describes: bindings of many prompts make it
# long, and they come with maps. What is parsed is then bounded by what is there.
_HEADER, _LONGEST_HEADER = 64 * 1024, 4 * 1024 * 1024
_MOST_PARTS, _MOST_GROWTH = 100_000, 64
_TYPES = {"F16": torch.float16, "U8": torch.uint8, "I32": torch.int32, "F32": torch.float32}


def save_capture(capture: Capture, path: str | os.PathLike[str]) -> Path:
    """Writes a capture file, whole or not at all: an older file of that name stays until the new one is complete.

    Raises ValueError where the name does not end in .safetensors or `capture.meta` is not JSON.
    """
    target = Path(path)
    if target.suffix != _SUFFIX:
        raise ValueError(f"capture files end in {_SUFFIX}; got {target.name!r}")
    bindings = list(dict.fromkeys(stream.binding.to_json() for stream in capture.streams))
    header = {
        "version": VERSION,
        "backbone": capture.backbone,
        "branch": capture.branch,
        "steps": [
            {"index": s.index, "sigma": float(s.sigma), "calls": s.calls, "model": s.model, "skipped": list(s.skipped)}
            for s in capture.steps
        ],
        "bindings": bindings,
        "streams": [_stream_header(stream, bindings) for stream in capture.streams],
        "meta": capture.meta,
    }
    try:
        metadata = {"format": FORMAT, "header": json.dumps(header, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"a capture's sigmas and meta have to be JSON values: {error}") from None
    tensors = _tensors(capture)
    size = sum(part.numel() * part.element_size() for part in tensors.values())
    if len(json.dumps(metadata)) > _most_header(size) - _HEADER // 2:
        raise ValueError(
            f"the header of this capture would take {len(metadata['header']) / 1e3:.0f} kB, more than a file of "
            f"{size / 1e3:.0f} kB may have: shorten what `meta` holds"
        )
    with whole_file(target) as temporary:
        save_file(tensors, temporary, metadata)
    return target


def _tensors(capture: Capture) -> dict[str, Tensor]:
    """All tensors by their names in the file."""
    tensors: dict[str, Tensor] = {}
    held: set[int] = set()
    for i, stream in enumerate(capture.streams):
        for kind, maps in stream.maps.items():
            for name, part in {"values": maps.values, "counts": maps.counts, "scale": maps.scale}.items():
                if part is not None:
                    own = part.detach().cpu().contiguous()
                    own = own.clone() if own.untyped_storage().data_ptr() in held else own  # files share no tensors
                    held.add(own.untyped_storage().data_ptr())
                    tensors[f"{i}/{kind}/{name}"] = own
    return tensors


def _stream_header(stream: Stream, bindings: Sequence[str]) -> dict[str, Any]:
    return {
        "key": stream.key if isinstance(stream.key, str | int) else str(stream.key),
        "grid": grid_values(stream.grid),
        "binding": bindings.index(stream.binding.to_json()),
        "maps": {
            kind: {
                "layers": list(maps.layers),
                "entities": list(maps.entities),
                "heads": list(maps.heads),
                "points": {name: list(place) for name, place in maps.points.items()},
                "error": None if maps.error is None else asdict(maps.error),
                **({} if maps.over is None else {"over": asdict(maps.over)}),
            }
            for kind, maps in stream.maps.items()
        },
    }


class CaptureParts:
    """A folder in which the steps of a run are kept while it is sampled: `NAME.parts`, beside where `NAME.safetensors`
    will be. A run that is killed leaves it, and `load_capture` opens it.

    Call it with each bin as it is done (it is a recorder's sink), and `finish` with the whole capture.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.target = Path(path)
        if self.target.suffix != _SUFFIX:
            raise ValueError(f"capture files end in {_SUFFIX}; got {self.target.name!r}")
        self.folder = self.target.with_name(self.target.stem + PARTS)
        if _parts(self.folder):
            raise ValueError(f"{self.folder} holds the parts of another run: choose another name, or move it away")

    def __call__(self, first: int, part: Capture) -> None:
        last = first + len(part.steps) - 1
        made = save_capture(part, self.folder / f"{first:06}-{last:06}{_SUFFIX}")
        for path, (start, end) in _parts(self.folder).items():
            if path != made and first <= start and end <= last:
                path.unlink()

    def finish(self, capture: Capture) -> Path:
        """Writes the whole capture as one file and removes the folder."""
        made = save_capture(capture, self.target)
        for path in _parts(self.folder):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        return made


def _parts(folder: Path) -> dict[Path, tuple[int, int]]:
    """The parts of a folder, and the first and last bin of each, in their order."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if name := _PART.fullmatch(path.name):
            found[path] = (int(name[1]), int(name[2]))
            if len(found) > _MOST_PARTS:
                raise ValueError(f"{folder.name!r} holds more than {_MOST_PARTS} parts of a capture")
    return dict(sorted(found.items(), key=lambda item: (item[1][0], -item[1][1])))


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Opens a capture file, of version 1 or 2, or the folder of parts of a run that was broken off. It is checked that
    header and tensors agree before any map is touched.

    The maps stay in the file (memory-mapped): do not overwrite it in place while the capture is in use. Parts are put
    together in main memory.

    Raises ValueError for anything that is not a whole capture file of these versions: missing, truncated, another kind
    of safetensors file, a pickle, names, sizes, types or counts that differ from the header's, numbers without end, a
    header that is longer than a file of its size may have.
    """
    source = Path(path)
    if source.is_dir():
        return _load_parts(source)
    if not source.is_file():
        raise ValueError(f"there is no capture file {str(source)!r}")
    try:
        listed = _listed_tensors(source)
        header = read_header(listed.pop("__metadata__", {}))
        with safe_open(str(source), framework="pt") as file:
            streams = [_read_stream(file, listed, stream) for stream in header.streams]
        if listed:
            raise ValueError(f"it holds tensors {sorted(listed)[:8]} that its header does not name")
        return Capture(streams, header.backbone, header.steps, header.branch, header.meta)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{_no_capture(source)}: {_what_it_is(source)} ({said(error)})") from None
    except ValueError as error:
        raise ValueError(f"{_no_capture(source)}: {error}") from None


def _load_parts(folder: Path) -> Capture:
    found, size = [], 0
    parts = _parts(folder)
    owner = {bin_: path for path, (start, end) in parts.items() for bin_ in range(start, end + 1)}  # the last to begin
    for path, (start, _) in parts.items():
        part, size = load_capture(path), size + path.stat().st_size
        mine = [step.index for i, step in enumerate(part.steps) if owner.get(start + i) == path]
        found += [part.take(mine)] if mine else []
    if not found:
        raise ValueError(f"the folder {folder.name!r} holds no parts of a capture")
    steps = sum(len(part.steps) for part in found)
    largest: dict[str, int] = {}
    for part in found:
        for stream in part.streams:
            each = stream.nbytes // max(1, len(part.steps))
            largest[str(stream.key)] = max(largest.get(str(stream.key), 0), each)
    if steps * sum(largest.values()) > _MOST_GROWTH * size + 2**20:
        raise ValueError(f"the parts in {folder.name!r} do not belong together: as one capture they would be too large")
    try:
        return extend(*found)
    except ValueError as error:
        raise ValueError(f"the parts in {folder.name!r} do not belong together: {error}") from None


def _most_header(data: int) -> int:
    """The most bytes that a header may take in a file with so many bytes of tensors."""
    return _HEADER + min(max(data, 0), _LONGEST_HEADER)


def _listed_tensors(source: Path) -> dict[str, Any]:
    """The head of a safetensors file: tensors by name with type and shape, and "__metadata__". Every type, size and
    offset is checked against the file's own size."""
    size = source.stat().st_size
    with open(source, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError(_what_it_is(source))
        if length > _most_header(size - 8 - length):
            raise ValueError(f"its header takes {length} bytes, more than a file of {size} bytes may have")
        raw = file.read(length)
    if raw[:1] != b"{":
        raise ValueError(_what_it_is(source))
    try:
        listed = parse_json(raw)
    except ValueError as error:
        raise ValueError(f"{_what_it_is(source)} ({said(error)})") from None
    metadata = listed.get("__metadata__", {})
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError("it is a safetensors file of another kind, without our header")
    return listed


def _read_stream(file: Any, listed: dict[str, Any], header: StreamHeader) -> Stream:
    """A stream whose tensors have the names, types and sizes that the header says; they are taken off `listed`."""
    maps = {}
    for kind, told in header.maps.items():
        maps[kind] = _read_maps(file, listed, kind, told)
    for name in header.unused:
        if listed.pop(name, None) is None:
            raise ValueError(f"it holds no tensor {name}, which its header names")
    return Stream(header.key, header.binding, header.grid, {kind: m for kind, m in maps.items() if m is not None})


def _read_maps(file: Any, listed: dict[str, Any], kind: str, told: MapsHeader) -> Maps:
    found: dict[str, Tensor] = {}
    for part, name in told.tensors.items():
        entry = listed.pop(name, None)
        if not isinstance(entry, Mapping):
            if part == "scale":
                continue
            raise ValueError(f"it holds no tensor {name}, which its header names")
        dtype, shape = entry.get("dtype"), entry.get("shape")
        want = told.shapes[part]
        if dtype not in told.types[part] or shape != want:
            raise ValueError(f"{name} is {dtype} {shape}, and the header says {' or '.join(told.types[part])} {want}")
        found[part] = file.get_tensor(name)
        assert found[part].dtype == _TYPES[dtype]
    counts = found.get("counts")
    if counts is None:
        return Maps.whole(found["values"], told.layers, told.entities, told.calls)
    if counts.numel() and int(counts.min()) < 0:
        raise ValueError(f"counts of {kind} are below 0")
    return Maps(
        found["values"],
        told.layers,
        told.entities,
        counts,
        found.get("scale"),
        told.heads,
        told.points,
        told.error,
        told.over,
    )


def _no_capture(source: Path) -> str:
    return f"{source.name!r} is not a capture file that can be read"


def _what_it_is(source: Path) -> str:
    """A guess at what a file is that safetensors refuses."""
    with open(source, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return "it looks like a pickle or PyTorch checkpoint, and captures are never read from those"
    return "it is truncated, damaged or of another kind. Save the capture again with MatrixSaveCapture"
