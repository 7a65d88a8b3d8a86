"""What is said about a clip of the mini world: a caption, the same with tags, and which words mean what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .verbs import Verb

__all__ = ["CAMERA_MOVES", "Caption", "caption"]

# What the camera does, how the caption says it, and the way the picture then moves (x right, y down).
CAMERA_MOVES: dict[str, tuple[str, tuple[float, float]]] = {
    "still": ("", (0, 0)),
    "left": ("the camera pans left", (1, 0)),
    "right": ("the camera pans right", (-1, 0)),
    "up": ("the camera tilts up", (0, 1)),
    "down": ("the camera tilts down", (0, -1)),
}


@dataclass(frozen=True)
class Caption:
    """``prompt`` in plain words; ``tagged`` with ``<idK>`` as MATRIX writes it, "the <id1> red circle" (K counts
    slots from 1).

    ``names`` has one name per instance, unique in the clip; ``roles`` gives each name its role; ``phrases`` is the text
    form of `core.phrases`: which words name which instance, which are the verb.
    """

    prompt: str
    tagged: str
    names: tuple[str, ...]
    roles: dict[str, str]
    phrases: str


def _unique(looks: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    names = []
    for look in looks:
        seen[look] = seen.get(look, 0) + 1
        names.append(look if seen[look] == 1 else f"{look} {seen[look]}")
    return tuple(names)


def caption(verb: Verb, looks: Sequence[str], camera: str = "still") -> Caption:
    """Says what ``verb`` does with the instances that look like ``looks`` ("red circle"), named parts first."""
    names = _unique(looks)
    said = [f"the {look}" for look in looks[: verb.parts]]

    def sentence(parts: Sequence[str]) -> str:
        text = f"{parts[0]} {verb.words}"
        if verb.parts > 1:
            text += f" {parts[1]}"
        if verb.parts > 2:
            text += f" {verb.preposition} {parts[2]}"
        pan = CAMERA_MOVES[camera][0]
        return f"{text}, {pan}" if pan else text

    roles = dict.fromkeys(names, "instance")
    roles[names[0]] = "subject"
    if verb.parts > 1:
        roles[names[1]] = "object"
    lines = [f"{name}: {words} [{roles[name]}]" for name, words in zip(names, said)]
    ends = names[0] if verb.parts == 1 else f"{names[0]} -> {names[1]}"
    lines.append(f"{verb.name}: {verb.words} = verb({ends})")
    return Caption(
        prompt=sentence(said),
        tagged=sentence([f"the <id{slot + 1}> {look}" for slot, look in enumerate(looks[: verb.parts])]),
        names=names,
        roles=roles,
        phrases="\n".join(lines),
    )
