"""The header of a capture file, read and checked: versions 1 and 2. No tensors.

Nothing of it is believed: types, ranges and lengths are checked, and the shapes that it asks for are compared with what
the file holds before anything is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.grid import Grid
from ..core.words.binding import PromptBinding
from ..instrument.capture import StepInfo
from ..instrument.maps import CodeError, Over
from .strict_json import parse_json

__all__ = ["FORMAT", "VERSION", "Header", "MapsHeader", "StreamHeader", "grid_values", "read_header"]

FORMAT, VERSION = "matrix-capture", 2
_GRID_KEYS = ("frames", "height", "width", "patch", "temporal_stride", "spatial_stride", "lead")
_PREFIX = "prefix_frames"  # of a `Grid`; the files call it "lead"
_PIXELS = "pixels"  # of a `Grid`; in files only where tokens reach over the edge of frames
_CYCLE = "cycle"  # of a `Grid`; in files only where time goes in cycles
_MOST_STRIDE = 64  # pixels per latent element or latent elements per token, along one axis
_MOST_TOKENS = 2**24  # of a clip; the longest known have a few hundred thousand
_MOST_NAME = 4096  # letters of a name


@dataclass(frozen=True)
class MapsHeader:
    """What a header says of the maps of a kind. tensors, shapes, types: of "values", "counts" and "scale".
    calls: of each step, where the file has no counts (version 1)."""

    layers: tuple[int, ...]
    entities: tuple[str, ...]
    tensors: Mapping[str, str]
    shapes: Mapping[str, list[int]]
    types: Mapping[str, tuple[str, ...]]
    heads: tuple[int, ...] = ()
    points: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    error: CodeError | None = None
    calls: tuple[int, ...] = ()
    over: Over | None = None


@dataclass(frozen=True)
class StreamHeader:
    """What a header says of a stream. unused: names of tensors of size 0: version 1 has them for kinds without maps."""

    key: str | int
    binding: PromptBinding
    grid: Grid
    maps: Mapping[str, MapsHeader]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a capture file says of itself."""

    backbone: str
    branch: str
    steps: tuple[StepInfo, ...]
    streams: tuple[StreamHeader, ...]
    meta: dict[str, Any]


def grid_values(grid: Grid) -> dict[str, Any]:
    """A grid as the header has it."""
    known = asdict(grid)
    del known["fps"], known["start"]  # what the model makes, and no part of what was seen
    if known[_PIXELS] is None:
        del known[_PIXELS]
    if not known[_CYCLE]:
        del known[_CYCLE]
    return {"lead" if name == _PREFIX else name: value for name, value in known.items()}


def read_header(metadata: Mapping[str, Any]) -> Header:
    """The header in the metadata of a safetensors file. Raises ValueError, saying what is wrong, where it is not one of
    versions 1 and 2."""
    try:
        header = parse_json(str(metadata.get("header", "")))
    except ValueError as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    try:
        version = header["version"]
        if version not in (1, 2) or isinstance(version, bool):
            raise ValueError(f"it is of version {repr(version)[:20]}, and this release reads versions 1 and 2")
        _check_common(header)
        return (_read_1 if version == 1 else _read_2)(header)
    except KeyError as error:
        raise ValueError(f"its header lacks {error}") from None
    except (TypeError, AttributeError, RecursionError):
        raise ValueError("its header is damaged: a value in it is of another type than captures have there") from None


def _check_common(header: Mapping[str, Any]) -> None:
    ok = (
        isinstance(header["backbone"], str)
        and isinstance(header["branch"], str)
        and isinstance(header["meta"], dict)
        and _all(header["meta"].get("notes", []), str)
        and isinstance(header["meta"].get("prompts", 1), int)
        and _all(header["streams"], dict)
        and isinstance(header["steps"], list)
        and len(header["steps"]) > 0
    )
    if not ok:
        raise ValueError("its header holds values of the wrong type")


# -- version 2 --------------------------------------------------------------------------------------------------------
def _read_2(header: Mapping[str, Any]) -> Header:
    steps = tuple(_step(step) for step in header["steps"])
    if not _all(header["bindings"], str):
        raise ValueError("its header holds values of the wrong type")
    bindings = [_binding(text) for text in header["bindings"]]
    streams = tuple(_stream_2(i, told, bindings, len(steps)) for i, told in enumerate(header["streams"]))
    return Header(header["backbone"], header["branch"], steps, streams, header["meta"])


def _step(told: Any) -> StepInfo:
    ok = (
        isinstance(told, dict)
        and _all([told["index"], told["calls"]], int)
        and _all([told["sigma"]], (int, float))
        and isinstance(told["model"], str)
        and _all(told["skipped"], int)
        and told["calls"] >= 0
    )
    if not ok:
        raise ValueError(f"its header holds a step of the wrong type: {str(told)[:200]}")
    return StepInfo(told["index"], float(told["sigma"]), told["calls"], told["model"], tuple(told["skipped"]))


def _stream_2(i: int, told: Mapping[str, Any], bindings: list[PromptBinding], steps: int) -> StreamHeader:
    grid, number, kinds = _grid(told["grid"]), told["binding"], told["maps"]
    if not _all([number], int) or not 0 <= number < len(bindings):
        raise ValueError(f"stream {i} has binding {str(number)[:20]}, and the file holds {len(bindings)}")
    if not isinstance(kinds, dict) or any("/" in kind or not kind for kind in kinds):
        raise ValueError(f"the kinds of stream {i} are no names: {str(kinds)[:200]}")
    maps = {kind: _maps_2(f"{i}/{kind}", part, grid, steps) for kind, part in kinds.items()}
    return StreamHeader(_key(told["key"]), bindings[number], grid, maps)


def _maps_2(name: str, told: Mapping[str, Any], grid: Grid, steps: int) -> MapsHeader:
    layers, entities = _layers_and_names(name, told["layers"], told["entities"])
    heads, points, error = told["heads"], told["points"], told["error"]
    if not _all(heads, int) or not all(_all(place, int) and len(place) == 3 for place in points.values()):
        raise ValueError(f"{name}: heads are whole numbers and points three of them")
    if error is not None and not _all([error["largest"], error["mean"]], (int, float)):
        raise ValueError(f"{name}: the error of its codes is no number")
    axes, over = [len(layers), steps, len(entities), *([len(heads)] if heads else [])], _over(name, told.get("over"))
    shape = grid.shape if over is None else over.shape
    return MapsHeader(
        layers,
        entities,
        {part: f"{name}/{part}" for part in ("values", "counts", "scale")},
        {"values": [*axes, *shape], "counts": [*axes[:3], shape[0]], "scale": axes},
        {"values": ("F16", "U8"), "counts": ("I32",), "scale": ("F32",)},
        tuple(heads),
        {entity: (place[0], place[1], place[2]) for entity, place in points.items()},
        None if error is None else CodeError(float(error["largest"]), float(error["mean"])),
        over=over,
    )


def _over(name: str, told: Any) -> Over | None:
    """What a kind is over that has no place in the clip: optional in the header."""
    if told is None:
        return None
    shape, columns, chance = told["shape"], told["columns"], told["chance"]
    if not (_all(shape, int) and _all(columns, str) and _all(chance, (int, float))) or len(shape) != 3:
        raise ValueError(f"{name}: what it is over is no shape with names and numbers: {str(told)[:200]}")
    if min(shape) < 1 or max(shape) > _MOST_TOKENS or any(len(each) > _MOST_NAME for each in columns):
        raise ValueError(f"{name}: what it is over is larger than any clip: {str(told)[:200]}")
    return Over((shape[0], shape[1], shape[2]), tuple(columns), tuple(float(each) for each in chance))


# -- version 1 --------------------------------------------------------------------------------------------------------
def _read_1(header: Mapping[str, Any]) -> Header:
    indices, sigmas, calls = header["steps"], header["sigmas"], header["calls"]
    if not (_all(indices, int) and _all(calls, int) and _all(sigmas, (int, float)) and min(calls, default=0) >= 0):
        raise ValueError("its header holds values of the wrong type")
    if not len(indices) == len(sigmas) == len(calls):
        raise ValueError(f"it lists {len(indices)} steps, {len(sigmas)} sigmas and {len(calls)} calls")
    steps = tuple(StepInfo(i, float(sigma), count) for i, sigma, count in zip(indices, sigmas, calls))
    streams = tuple(_stream_1(i, told, calls) for i, told in enumerate(header["streams"]))
    return Header(header["backbone"], header["branch"], steps, streams, header["meta"])


def _stream_1(i: int, told: Mapping[str, Any], calls: list[int]) -> StreamHeader:
    grid, maps, unused = _grid(told["grid"]), {}, []
    for kind in ("v2t", "v2v"):
        name = kind if i == 0 else f"{kind}.{i}"
        layers, entities = _layers_and_names(name, told["layers"][kind], told["entities"][kind], empty=True)
        if not layers or not entities:
            unused.append(name)
            continue
        shape = {"values": [len(layers), len(calls), len(entities), *grid.shape]}
        maps[kind] = MapsHeader(layers, entities, {"values": name}, shape, {"values": ("F16",)}, calls=tuple(calls))
    return StreamHeader(_key(told["key"]), _binding(told["binding"]), grid, maps, tuple(unused))


# -- parts of both ----------------------------------------------------------------------------------------------------
def _layers_and_names(name: str, layers: Any, names: Any, empty: bool = False) -> tuple[tuple[int, ...], Any]:
    if not _all(names, str) or not _all(layers, int) or any(len(each) > _MOST_NAME for each in names):
        raise ValueError(
            f"{name}: entities are names and layers whole numbers; got {str(names)[:100]} and {str(layers)[:100]}"
        )
    if not empty and (not names or not layers):
        raise ValueError(f"{name}: it has no layers or no entities, so it should not be there")
    return tuple(layers), tuple(names)


def _key(key: Any) -> str | int:
    return key if isinstance(key, str | int) else str(key)[:_MOST_NAME]


def _binding(text: Any) -> PromptBinding:
    if not isinstance(text, str):
        raise ValueError(f"a prompt binding is a JSON text; got {str(text)[:40]!r}")
    parse_json(text)  # its numbers are bounded like all others
    return PromptBinding.from_json(text)


def _grid(told: Any) -> Grid:
    every = told.items() if isinstance(told, dict) else ()
    own = {name: value for name, value in every if name not in (_PIXELS, _CYCLE)}
    pixels = told.get(_PIXELS) if own else None
    listed = pixels if isinstance(pixels, list) else ()
    cycle = told.get(_CYCLE, 0) if own else 0
    numbers = [cycle, *listed, *(value for key, value in own.items() if key != "patch")]
    sized = pixels is None or (isinstance(pixels, list) and len(pixels) == 2)
    if set(own) != set(_GRID_KEYS) or not _all(own["patch"], int) or len(own["patch"]) != 3 or not sized:
        raise ValueError(f"a stream's token grid is not a grid: {str(told)[:200]}")
    if not _all(numbers, int):
        raise ValueError(f"a stream's token grid is not a grid: {str(told)[:200]}")
    named = {_PREFIX if name == "lead" else name: own[name] for name in _GRID_KEYS}
    grid = Grid(**named | {"patch": tuple(own["patch"]), _PIXELS: tuple(pixels) if pixels else None, _CYCLE: cycle})
    strides = (*grid.patch, *grid.strides)
    if max(strides) > _MOST_STRIDE or grid.size > _MOST_TOKENS:
        raise ValueError(
            f"a stream's token grid is larger than any clip: {grid.shape} tokens, patch {grid.patch}, strides "
            f"{grid.temporal_stride} and {grid.spatial_stride}"
        )
    return grid


def _all(values: Any, kind: Any) -> bool:
    """Whether this is a list of `kind` alone (a bool is no number here)."""
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
