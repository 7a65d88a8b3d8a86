"""Edits of instances as a person types them: which stay, what they are called, which role they have.

person                     stays
cup (object)               stays, and is an object
instance 3 -> dog (subject)    stays under another name
"""

from __future__ import annotations

import re
from dataclasses import replace

from ..names import twice
from .text import parse_name
from .tracks import MaskTracks

__all__ = ["edited"]


def edited(tracks: MaskTracks, text: str, others_stay: bool = True) -> MaskTracks:
    """The tracks after the edits in `text`, one a line or separated by commas; masks are as they were.

    Args:
        others_stay: instances that are not named stay as they are, and everybody in their place. Else only the named
            ones are kept, in the order in which they are named. Without any edits all stay.

    Raises ValueError for an instance that is not there, one that is named twice, and names that would be one.
    """
    edits: dict[str, tuple[str, str]] = {}
    for part in filter(str.strip, re.split(r"[\n,;]", text)):
        old, arrow, new = part.replace("\u2192", "->").partition("->")
        name, role = parse_name(old)
        track = tracks.track(name)
        if track.name in edits:
            raise ValueError(f"{track.name!r} is edited twice; write what becomes of it in one line")
        called, other = parse_name(new) if arrow else (track.name, None)
        edits[track.name] = called, other or role or track.role
    kept = tracks.names if others_stay or not edits else tuple(edits)
    made = []
    for track in (tracks.track(name) for name in kept):
        name, role = edits.get(track.name, (track.name, track.role))
        made.append(replace(track, name=name, role=role))
    if same := twice(track.name for track in made):
        raise ValueError(f"two instances would be called {same[0]!r} and {same[1]!r}, which is one name")
    return replace(tracks, tracks=tuple(made))
