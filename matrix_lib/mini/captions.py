"""What is said about a clip of the mini world: a caption, the same with tags, and which words mean what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .verbs import Verb

__all__ = ["CAMERA_MOVES", "FORMS", "Caption", "Form", "caption"]

Form = Literal["full", "exchanged", "untold", "passive", "undetermined"]
FORMS: dict[Form, str] = {
    "full": "who does what to whom",
    "exchanged": "agent and recipient are named in each other's place, so that the caption is wrong about them",
    "untold": "who is there and what happens, in an order that says nothing about who does it",
    "passive": "the recipient comes first: is pushed by",
    "undetermined": "who acts on whom, or who moves, and not how",
}
"""How much a caption says."""

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


def _action(verb: Verb, form: Form) -> str:
    """The words of a caption that say what happens."""
    if form == "undetermined":
        return "acts on" if verb.interaction else "moves"
    return verb.passive if form == "passive" and verb.interaction else verb.words


def _sentence(verb: Verb, parts: Sequence[str], form: Form, turned: bool) -> str:
    """The caption of ``parts`` (agent, recipient, third), without the camera."""
    action = _action(verb, form)
    if not verb.interaction:
        return f"{parts[0]} {action}"
    pair = [parts[1], parts[0]] if turned else list(parts[:2])
    place = "near" if form == "undetermined" else verb.preposition
    end = f" {place} {parts[2]}" if verb.parts > 2 else ""
    if form == "untold":
        return f"{pair[0]} and {pair[1]}: {action}{end}"
    return f"{pair[0]} {action} {pair[1]}{end}"


def caption(
    verb: Verb,
    looks: Sequence[str],
    camera: str = "still",
    form: Form = "full",
    turned: bool = False,
    second: Verb | None = None,
) -> Caption:
    """Says what ``verb`` does with the instances that look like ``looks`` ("red circle"), named parts first.

    form: see `FORMS`; single motions have no roles to hide, and all forms but "undetermined" say them in full.
    turned: in "untold", whether the recipient is named first. Names, roles and phrases tell the truth in every form.
    second: another verb of two, what the next two instances do at the same time.
    """
    if second is not None:
        return _both(verb, second, looks, camera, form, turned)
    names = _unique(looks)
    said = [f"the {look}" for look in looks[: verb.parts]]
    backwards = turned if form == "untold" else form in ("exchanged", "passive")
    action = _action(verb, form)

    def sentence(parts: Sequence[str]) -> str:
        text = _sentence(verb, parts, form, backwards)
        pan = CAMERA_MOVES[camera][0]
        return f"{text}, {pan}" if pan else text

    roles = dict.fromkeys(names, "instance")
    roles[names[0]] = "subject"
    if verb.parts > 1:
        roles[names[1]] = "object"
    lines = [f"{name}: {words} [{roles[name]}]" for name, words in zip(names, said)]
    ends = names[0] if verb.parts == 1 else f"{names[0]} -> {names[1]}"
    lines.append(f"{verb.name}: {action} = verb({ends})")
    return Caption(
        prompt=sentence(said),
        tagged=sentence([f"the <id{slot + 1}> {look}" for slot, look in enumerate(looks[: verb.parts])]),
        names=names,
        roles=roles,
        phrases="\n".join(lines),
    )


def _both(first: Verb, second: Verb, looks: Sequence[str], camera: str, form: Form, turned: bool) -> Caption:
    """Two interactions at once, of the first two instances and of the next two."""
    one = caption(first, looks, "still", form, turned)
    other = caption(second, looks[2:4], "still", form, turned)
    names = _unique(looks)
    pan = CAMERA_MOVES[camera][0]
    actors = dict(zip(names[:4], ("subject", "object") * 2))
    said = [f"the {look}" for look in looks[:4]]
    turned = turned if form == "untold" else form in ("exchanged", "passive")
    order = (1, 0, 3, 2) if turned else (0, 1, 2, 3)  # in which they stand in the sentence
    heard = [said[at] for at in order]
    places = [f"{said[at]}#{heard[: order.index(at) + 1].count(said[at])}" for at in range(4)]
    lines = [f"{name}: {words} [{actors[name]}]" for name, words in zip(names, places)]
    actions = [_action(first, form), _action(second, form)]
    alike = actions[0] == actions[1]
    called = first.name, second.name if second.name != first.name else f"{second.name} 2"
    for name, action, mark, pair in zip(called, actions, ("", "#2" * alike), (names[:2], names[2:4])):
        lines.append(f"{name}: {action}{mark} = verb({pair[0]} -> {pair[1]})")
    tagged = re.sub(r"<id([12])>", lambda tag: f"<id{int(tag[1]) + 2}>", other.tagged)
    ends = f", {pan}" if pan else ""
    return Caption(
        prompt=f"{one.prompt} and {other.prompt}{ends}",
        tagged=f"{one.tagged} and {tagged}{ends}",
        names=names,
        roles={**dict.fromkeys(names, "instance"), **actors},
        phrases="\n".join(lines),
    )
