"""Whose maps are read: a head of a layer, or the mean over the heads of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...core.ranges import ranges
from ..capture import Capture
from ..maps import Maps

__all__ = ["Reader", "check_readers", "parse_readers", "readers_of", "readers_text", "steps_of"]

_READER = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,4}))?")

Reader = tuple[int, int | None]
"""(global layer number, number of a head that was kept apart or None for the mean over heads)."""


def readers_of(maps: Maps) -> tuple[Reader, ...]:
    """Every head of every layer, or every layer where heads were not kept apart."""
    heads: tuple[int | None, ...] = maps.heads or (None,)
    return tuple((layer, head) for layer in maps.layers for head in heads)


def check_readers(readers: Sequence[Reader], maps: Maps) -> None:
    """Raises ValueError, listing what there is, for readers that are not in the maps, and where there is none."""
    have = {(layer, head) for layer in maps.layers for head in (None, *maps.heads)}
    unknown = [each for each in readers if each not in have]
    if not readers or unknown:
        heads = f"heads {ranges(maps.heads)} apart" if maps.heads else "the mean over heads alone"
        raise ValueError(
            f"{readers_text(unknown) if readers else 'nobody'} was to be read and was not captured: this capture has "
            f"layers {ranges(maps.layers)}, {heads}"
        )


def parse_readers(text: str) -> tuple[Reader, ...]:
    """Readers as people write them: "8.0, 10.2" (layer and head), "7" for the mean over heads of a layer; none for an
    empty text. Raises ValueError for anything else."""
    found = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        match = _READER.fullmatch(piece)
        if match is None:
            raise ValueError(
                f"heads are written as layer.head, such as '8.0, 10.2', or '7' for a whole layer; got {piece[:60]!r}"
            )
        found.append((int(match[1]), None if match[2] is None else int(match[2])))
    return tuple(dict.fromkeys(found))


def readers_text(readers: Sequence[Reader]) -> str:
    """For people: "layer 8 head 0, layer 10 head 2"; whole layers as a range."""
    if all(head is None for _, head in readers):
        return f"layer{'s' * (len(readers) > 1)} {ranges(sorted(layer for layer, _ in readers))}"
    return ", ".join(f"layer {layer}" + ("" if head is None else f" head {head}") for layer, head in readers)


def steps_of(capture: Capture, steps: Iterable[int] | None) -> list[int]:
    """Places along St of these steps (`StepInfo.index`), None for all. Raises ValueError for others."""
    existing = [step.index for step in capture.steps]
    chosen = existing if steps is None else list(dict.fromkeys(steps))
    unknown = [step for step in chosen if step not in existing]
    if unknown or not chosen:
        raise ValueError(f"step {unknown or '(none)'} was not captured: this capture has steps {ranges(existing)}")
    return [existing.index(step) for step in chosen]
