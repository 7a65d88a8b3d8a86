"""How near masks that were read off a capture are to given ones, for people."""

from __future__ import annotations

from ...core.grid import Framing
from ...core.tracks.tracks import MaskTracks
from .score import score_tracks

__all__ = ["as_made", "told_against"]


def as_made(tracks: MaskTracks, masks: MaskTracks) -> MaskTracks:
    """Given tracks in the pixels of the clip that was made, by the names of its masks."""
    given = tracks.spelled(masks.names)
    source, target = (given.height, given.width), (masks.height, masks.width)
    return given if source == target else given.framed(Framing(source, target, given.fit))


def told_against(tracks: MaskTracks, masks: MaskTracks) -> list[str]:
    """J&F of masks against given ones, or why there is none; the first line begins with ! then."""
    given = as_made(tracks, masks)
    both = [name for name in masks.names if name in given.names]
    if not both:
        return ["! no mask is scored: no name of the tracks has a mask here"]
    if given.frames < masks.frames:
        return [f"! masks are not scored: the tracks have {given.frames} of the clip's {masks.frames} frames"]
    if not any(masks.areas(name).any() for name in both):
        return ["! masks are not scored: none of them is anywhere"]
    scores = score_tracks(given.select(both).take(range(masks.frames)), masks.select(both), pairs=[])
    lines = [f"against the given masks: J&F {scores.values['j_and_f']:.3f}"]
    return lines + [f"- {who}: J {each['j']:.3f}, F {each['f']:.3f}" for who, each in scores.instances.items()]
