"""One slice of a capture: the map of one word or instance over the layers and steps that somebody looks at.

A slice is bytes, little-endian: a float32 peak, F bytes (1: that token frame was recorded), then F*h*w codes. A value
is peak * (code / 255)^2, as in capture files of type U8. A map of a 5B model (13x30x45 tokens) takes 17.6 kB.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..draw.capture import choose_numbers
from ..instrument.capture import Capture, Stream
from ..instrument.maps import Maps, encode

__all__ = ["Wanted", "narrowed", "of_entity", "packed", "slice_of", "unpacked"]


@dataclass(frozen=True)
class Wanted:
    """What somebody looks at.

    Args:
        stream: which prompt and sample, from 0. kind: "v2t", "v2v" or another that was recorded.
        layers, steps: as a person writes them: "all", "7, 11-13"; steps also by the name of an expert.
        head: a head's number, where heads were recorded apart; None for their mean.
        sinkless: whether attention sinks are left out of readings.
    """

    stream: int = 0
    kind: str = "v2t"
    layers: str = "all"
    steps: str = "all"
    head: int | None = None
    sinkless: bool = False


def slice_of(capture: Capture, wanted: Wanted, entity: int) -> bytes:
    """The slice of the entity at place `entity`. Token frames of which nothing was recorded are marked as such. Raises
    ValueError, saying what there is, for what the capture does not hold."""
    return packed(_mean(capture, wanted, entity))


def packed(maps: Tensor) -> bytes:
    """(F, h, w) values >= 0, NaN in frames that were not recorded, as a slice."""
    seen = ~maps.flatten(1).isnan().any(1)
    codes, peak = encode(maps.nan_to_num(0.0))
    return struct.pack("<f", float(peak)) + seen.to(torch.uint8).numpy().tobytes() + codes.numpy().tobytes()


def unpacked(data: bytes, shape: tuple[int, int, int]) -> Tensor:
    """(F, h, w) float32 of a slice, NaN in frames that were not recorded."""
    frames = shape[0]
    (peak,) = struct.unpack_from("<f", data)
    raw = torch.frombuffer(bytearray(data[4:]), dtype=torch.uint8)
    values = peak * (raw[frames:].float() / 255).square().reshape(shape)
    return torch.where(raw[:frames, None, None] > 0, values, torch.nan)


def narrowed(stream: Stream, kind: str, entity: int, head: int | None = None) -> Maps:
    """The maps of one entity alone. Raises ValueError for one, or a head, that there is not."""
    maps = stream.get(kind)
    if maps.over is not None:
        raise ValueError(f"{kind} has no places in the clip: it is no map that can be laid over it")
    if not 0 <= entity < len(maps.entities):
        raise ValueError(f"there is no {kind} map {entity}: they are numbered 0 to {len(maps.entities) - 1}")
    return maps.only(entity, head)


def of_entity(capture: Capture, stream: int, kind: str, entity: int, head: int | None = None) -> Capture:
    """The capture with one entity's maps of one kind alone (and of one head): what is asked of it reads no others."""
    own = capture.stream(stream)
    return replace(capture, streams=[replace(own, maps={kind: narrowed(own, kind, entity, head)})])


def _mean(capture: Capture, wanted: Wanted, entity: int) -> Tensor:
    stream = capture.stream(wanted.stream)
    maps = narrowed(stream, wanted.kind, entity, wanted.head)
    experts = capture.experts if len(capture.experts) > 1 else {}
    layers = choose_numbers(wanted.layers, "layer", maps.layers)
    steps = choose_numbers(wanted.steps, "step", [step.index for step in capture.steps], experts)
    return maps.mean(_places(layers, maps.layers), _places(steps, [s.index for s in capture.steps]), 0)


def _places(chosen: Sequence[int], existing: Sequence[int]) -> list[int]:
    at = {number: place for place, number in enumerate(existing)}
    return [at[number] for number in chosen]
