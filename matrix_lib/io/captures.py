"""Capture files: safetensors with `v2t` and `v2v` [layer, step, entity, F, h, w] float16 and a JSON header.

The maps of the first stream are called `v2t` and `v2v`, those of stream n `v2t.n` and `v2v.n`. A loaded capture is a
view of the file: nothing is read before it is asked for, so a file of a gigabyte opens at once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.grid import Grid
from ..core.words.binding import PromptBinding
from ..instrument.capture import Capture, StepInfo, Stream
from .files import whole_file

__all__ = ["VERSION", "load_capture", "save_capture"]

FORMAT, VERSION = "matrix-capture", 1
_SUFFIX = ".safetensors"
_GRID_KEYS = ("frames", "height", "width", "patch", "temporal_stride", "spatial_stride", "lead")
_PREFIX = "prefix_frames"  # of a `Grid`; the files call it "lead"
_PIXELS = "pixels"  # of a `Grid`; in files only where tokens reach over the edge of frames


def _stream_header(stream: Stream) -> dict[str, Any]:
    return {
        "key": stream.key if isinstance(stream.key, str | int) else str(stream.key),
        "entities": {"v2t": list(stream.entities), "v2v": list(stream.entities_v2v)},
        "layers": {"v2t": list(stream.layers_v2t), "v2v": list(stream.layers_v2v)},
        "grid": _grid_header(stream.grid),
        "binding": stream.binding.to_json(),
    }


def _grid_header(grid: Grid) -> dict[str, Any]:
    known = asdict(grid)
    if known[_PIXELS] is None:
        del known[_PIXELS]
    return {"lead" if name == _PREFIX else name: value for name, value in known.items()}


def _read_grid(i: int, header: dict[str, Any]) -> Grid:
    grid = {name: value for name, value in dict(header).items() if name != _PIXELS}
    pixels = header.get(_PIXELS)
    numbers = [*grid["patch"], *(pixels or ()), *(value for key, value in grid.items() if key != "patch")]
    sized = _PIXELS not in header or (isinstance(pixels, list) and len(pixels) == 2)
    if set(grid) != set(_GRID_KEYS) or len(grid["patch"]) != 3 or not sized or not _all(numbers, int):
        raise ValueError(f"{i}: its token grid is not a grid: {str(header)[:200]}")
    named = {_PREFIX if name == "lead" else name: value for name, value in grid.items()}
    return Grid(**named | {"patch": tuple(grid["patch"]), _PIXELS: tuple(pixels) if pixels else None})


def save_capture(capture: Capture, path: str | os.PathLike[str]) -> Path:
    """Writes a capture file, whole or not at all: an older file of that name stays until the new one is complete.

    Raises ValueError where the name does not end in .safetensors or `capture.meta` is not JSON.
    """
    target = Path(path)
    if target.suffix != _SUFFIX:
        raise ValueError(f"capture files end in {_SUFFIX}; got {target.name!r}")
    header = {
        "version": VERSION,
        "backbone": capture.backbone,
        "branch": capture.branch,
        "steps": [step.index for step in capture.steps],
        "sigmas": [float(step.sigma) for step in capture.steps],
        "calls": [step.calls for step in capture.steps],
        "streams": [_stream_header(stream) for stream in capture.streams],
        "meta": capture.meta,
    }
    try:
        metadata = {"format": FORMAT, "header": json.dumps(header, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"a capture's sigmas and meta have to be JSON values: {error}") from None
    tensors: dict[str, Tensor] = {}
    for i, stream in enumerate(capture.streams):
        tensors[_name("v2t", i)] = stream.v2t.detach().cpu().contiguous()
        tensors[_name("v2v", i)] = stream.v2v.detach().cpu().contiguous()
    with whole_file(target) as temporary:
        save_file(tensors, temporary, metadata)
    return target


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Opens a capture file and checks that its header and its tensors agree before any map is touched.

    The maps stay in the file (memory-mapped): do not overwrite it in place while the capture is in use.

    Raises ValueError for anything that is not a whole capture file of this version: missing, truncated, another kind of
    safetensors file, a pickle, names, sizes, types or counts that differ from the header's.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no capture file {str(source)!r}")
    try:
        with safe_open(str(source), framework="pt") as file:
            header = _read_header(file.metadata() or {}, source)
            streams = _read_streams(file, header, source)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{_no_capture(source)}: {_what_it_is(source)} ({error})") from None
    try:
        steps = tuple(StepInfo(*step) for step in zip(header["steps"], header["sigmas"], header["calls"], strict=True))
        return Capture(streams, header["backbone"], steps, header["branch"], header["meta"])
    except ValueError as error:
        raise ValueError(f"{_no_capture(source)}: {error}") from None


def _name(kind: str, stream: int) -> str:
    return kind if stream == 0 else f"{kind}.{stream}"


def _no_capture(source: Path) -> str:
    return f"{source.name!r} is not a capture file that can be read"


def _what_it_is(source: Path) -> str:
    """A guess at what a file is that safetensors refuses."""
    with open(source, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return "it looks like a pickle or PyTorch checkpoint, and captures are never read from those"
    return "it is truncated, damaged or of another kind. Save the capture again with MatrixSaveCapture"


def _read_header(metadata: dict[str, str], source: Path) -> dict[str, Any]:
    """The parsed and type-checked JSON header."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{_no_capture(source)}: it is a safetensors file of another kind, without our header")
    try:
        header = json.loads(metadata.get("header", ""))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        version = header["version"]
        if version != VERSION:
            raise ValueError(f"it is of version {repr(version)[:20]}, and this release reads version {VERSION}")
        ok = (
            _all(header["steps"], int)
            and _all(header["calls"], int)
            and _all(header["sigmas"], (int, float))
            and all(count >= 0 for count in header["calls"])
            and isinstance(header["backbone"], str)
            and isinstance(header["branch"], str)
            and isinstance(header["meta"], dict)
            and _all(header["meta"].get("notes", []), str)
            and _all(header["streams"], dict)
        )
        if not ok:
            raise ValueError("its header holds values of the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{_no_capture(source)}: {_reason(error)}") from None
    return header


def _read_streams(file: Any, header: dict[str, Any], source: Path) -> list[Stream]:
    """Streams whose tensors have the names, types and sizes that the header says."""
    wanted = {_name(kind, i) for i in range(len(header["streams"])) for kind in ("v2t", "v2v")}
    if wanted != set(file.keys()):
        raise ValueError(f"{_no_capture(source)}: it holds tensors {sorted(file.keys())}, its header {sorted(wanted)}")
    try:
        return [_read_stream(file, i, stream, len(header["steps"])) for i, stream in enumerate(header["streams"])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{_no_capture(source)}: stream {_reason(error)}") from None


def _read_stream(file: Any, i: int, header: dict[str, Any], steps: int) -> Stream:
    parsed = _read_grid(i, header["grid"])
    for kind in ("v2t", "v2v"):
        names, layers = header["entities"][kind], header["layers"][kind]
        if not _all(names, str) or not _all(layers, int):
            raise ValueError(
                f"{i}: entities are names and layers whole numbers; got {str(names)[:100]} and {str(layers)[:100]}"
            )
        part = file.get_slice(_name(kind, i))
        want = [len(layers), steps, len(names), *parsed.shape]
        if part.get_dtype() != "F16" or list(part.get_shape()) != want:
            raise ValueError(
                f"{i}: {_name(kind, i)} is {part.get_dtype()} {list(part.get_shape())}, and the header says F16 {want}"
            )
    return Stream(
        key=header["key"] if isinstance(header["key"], str | int) else str(header["key"]),
        binding=PromptBinding.from_json(header["binding"]),
        grid=parsed,
        entities=tuple(header["entities"]["v2t"]),
        v2t=file.get_tensor(_name("v2t", i)),
        layers_v2t=tuple(header["layers"]["v2t"]),
        v2v=file.get_tensor(_name("v2v", i)),
        layers_v2v=tuple(header["layers"]["v2v"]),
        entities_v2v=tuple(header["entities"]["v2v"]),
    )


def _all(values: Any, kind: Any) -> bool:
    """Whether this is a list of `kind` alone (a bool is no number here)."""
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"its header lacks {error}"
    if isinstance(error, RecursionError):
        return "its header is nested too deeply"
    return (
        f"its header is damaged ({str(error)[:300]})"
        if isinstance(error, json.JSONDecodeError | TypeError)
        else str(error)
    )
