"""Scores of every layer and step for one word or instance: what the chart of a viewer shows.

L layers, St step bins.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.names import find_name
from ..draw.capture import Choice, scores_of
from ..instrument.capture import Capture
from ..instrument.readings.sinks import find_sinks
from .exhibit import Exhibit
from .slices import of_entity

if TYPE_CHECKING:
    from ..core.tracks.tracks import MaskTracks

__all__ = ["ABSENT", "LEVELS", "scores_json"]

LEVELS, ABSENT = 65534, 65535
"""A score in [0, 1] is a whole number of 65534ths; 65535 says that nothing was recorded."""


def scores_json(
    exhibit: Exhibit, stream: int, kind: str, entity: int, head: int | None = None, sinkless: bool = False
) -> dict[str, Any]:
    """The chart's values of one entity (of one head where `head` names it): `values`, [L, St] little-endian uint16 as
    base64 (see `LEVELS`); `weights`, [L, St] calls as uint16 likewise; `chance`, what a flat map would score;
    `aligned`, whether the score is the share of attention on the entity's mask or, without one, how concentrated its
    map is. sinkless: leaves attention sinks out of map, mask and area, where there is a mask (`Capture.aas`).

    Raises ValueError for an entity or a head that there is not.
    """
    capture = of_entity(exhibit.capture, stream, kind, entity, head)
    masked = _has_mask(capture, exhibit.tracks)
    sinks = find_sinks(exhibit.capture, stream, exhibit.tracks).left_out if sinkless else {}
    found = scores_of(capture, Choice(kind=kind), exhibit.tracks if masked else None, sinks.get(kind))
    values = found.values[..., 0]
    codes = np.where(np.isnan(values), ABSENT, np.round(np.nan_to_num(values).clip(0, 1) * LEVELS)).astype("<u2")
    weights = np.clip(np.round(found.weights[..., 0] * 16), 0, 65535).astype("<u2")
    chance = None if found.chance is None else found.chance[0]
    return {
        "values": base64.b64encode(codes.tobytes()).decode(),
        "weights": base64.b64encode(weights.tobytes()).decode(),
        "chance": None if chance is None or chance != chance else round(chance, 6),
        "aligned": found.chance is not None,
    }


def _has_mask(capture: Capture, tracks: MaskTracks | None) -> bool:
    """Whether the one entity of a capture has a mask: its own, or those of a verb's subject and object."""
    if tracks is None:
        return False
    binding = capture.stream().binding
    ((name,),) = [maps.entities for maps in capture.stream().maps.values()]
    phrase = next((each for each in binding.phrases if each.name == name), None)
    verb = phrase is not None and phrase.role == "verb"
    parts = [part for part in (phrase.subject, phrase.object) if part] if phrase and verb else [name]
    own = find_name(name, tracks.names) is not None
    return own or (bool(parts) and all(find_name(part, tracks.names) is not None for part in parts))
