"""Boxes, points and names as a person types them: one line per instance, or JSON.

    cyclist (subject): 0: 347 10 520 272; 28: 350 10 525 272
    van (object): 0 30 300 272
    bag: 12: 530 165 600 240; 20: off

A line is a name, perhaps a role in brackets, a colon, and key frames separated by semicolons; a key without a frame
number is of frame 0. Numbers are pixels, or percent of the frame with a % behind them; blanks and commas separate them.
"off" says that the instance leaves. Lines that begin with # are notes. Digits are 0 to 9.

`web/js/editor/grammar.js` reads and prints the same text in the page; `tests/data/tracks_text.json` and generated cases
hold the two together.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray

from ..names import name_key, twice
from .boxes import Box
from .checks import MOST_NAMES, check_name, shorten
from .painted import fitted_mask, is_mask, parse_mask
from .tracks import ROLES

__all__ = ["Prompt", "parse_boxes", "parse_masks", "parse_name", "parse_names", "parse_prompts"]

T = TypeVar("T")
# Each takes time in proportion to a text of any kind: no two repeats that meet could share its characters.
_COORDINATE = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)%?"
_NUMBER = rf"[-+]?{_COORDINATE}"
_ROLE = re.compile(r"[(\uff08](?P<role>[^()\uff08\uff09]*)(?P<end>[)\uff09]?)$")  # wide brackets, too
_OFF = ("off", "none", "absent", "gone")
_LIKE_A_ROLE = 0.6  # of difflib: from there on words in brackets are a role with a mistake in it
_KEY = re.compile(r"(?:(?:frame\s*)?(?P<frame>[0-9]+)\s*[:=]\s*)?(?P<value>.*)", re.IGNORECASE | re.DOTALL)
_POINT = re.compile(rf"(?P<sign>[-+!]?) ?(?<![0-9.])(?P<x>{_COORDINATE}) ?, ?(?P<y>{_COORDINATE})")
_LONGEST, _MOST_DIGITS, _LARGEST = 1_000_000, 9, 1e9


@dataclass
class Prompt:
    """What SAM is told about one instance in one frame: points (x, y, inside) and perhaps a box, in pixels; or its mask
    (H, W) bool."""

    points: list[tuple[float, float, bool]] = field(default_factory=list)
    box: Box | None = None
    mask: NDArray[Any] | None = None


def parse_names(text: str) -> tuple[list[str], dict[str, str]]:
    """Names, one per line or separated by commas, each perhaps with a role: "cyclist (subject), van".

    Raises ValueError for names that are one (`core.names`), and for a role with a mistake in it."""
    names: dict[str, str | None] = {}
    keys: dict[str, str] = {}
    for part in re.split(r"[\n,;]", text):
        if part.strip():
            name, role = parse_name(part)
            if name_key(name) in keys:
                raise ValueError(_both(keys[name_key(name)], name))
            names[name], keys[name_key(name)] = role, name
        if len(names) > MOST_NAMES:
            raise ValueError(f"there are more than {MOST_NAMES} names, beginning with {', '.join(list(names)[:3])}")
    return list(names), {name: role for name, role in names.items() if role}


def parse_name(text: str) -> tuple[str, str | None]:
    """A name, perhaps with a role in brackets: "cyclist (subject)". Raises ValueError as `parse_names` does."""
    return _head(text.strip(), shorten(text.strip(), 60))


def _both(one: str, other: str) -> str:
    spelled = "" if one == other else f" and {other!r}, which are one name"
    return f"two instances are called {one!r}{spelled}; give each a name of its own"


def parse_boxes(text: str, width: int, height: int) -> tuple[dict[str, dict[int, Box | None]], dict[str, str]]:
    """Key-framed boxes {name: {frame: (x0, y0, x1, y1) or None}} and roles {name: role}.

    JSON has the same shape: {"van": {"0": [0, 30, 300, 272], "20": null}}. Raises ValueError with the line that is
    wrong.
    """

    def one(value: str, line: str) -> Box | None:
        if value.lower() in _OFF:
            return None
        return _box(value.strip("[]() "), width, height, line)

    def plain(value: Any, where: str) -> Box | None:
        return None if value is None else _numbers(value, 4, where)  # type: ignore[return-value]

    keys, roles = _parse(text, one, plain)
    if not keys:
        raise ValueError("there are no boxes. Write one line for each instance, like  cyclist: 0: 347 10 520 272")
    return keys, roles


def parse_prompts(text: str, width: int, height: int) -> tuple[dict[str, dict[int, Prompt | None]], dict[str, str]]:
    """Points and boxes for SAM: {name: {frame: Prompt, or None where it leaves}} and roles {name: role}.

    Lines as for boxes, with "x,y" for a point inside, "-x,y" for one outside, "[x0,y0,x1,y1]" for a box, any number of
    points and at most one box a frame, and "off" where it is gone until it is prompted again:
    cyclist (subject): 0: 420,120 -300,200 [347,10,520,272]; 40: off
    In place of points and box a frame may have a painted mask (`painted`): cyclist: 0: mask 720x480 CODE
    JSON: {"cyclist": {"0": {"points": [[420, 120], [300, 200]], "labels": [1, 0], "box": [347, 10, 520, 272]},
    "40": null}}, and {"mask": "720x480 CODE"}.
    """

    def one(value: str, line: str) -> Prompt | None:
        return None if value.lower() in _OFF else _prompt(value, width, height, line)

    def plain(value: Any, where: str) -> Prompt | None:
        if isinstance(value, dict) and "mask" in value:
            return _painted(_json_mask(value, where), width, height, where)
        return None if value is None else _json_prompt(value, where)

    keys, roles = _parse(text, one, plain)
    if not keys:
        raise ValueError("there are no points or boxes. Write one line for each instance, like  cyclist: 420,120")
    return keys, roles


def parse_masks(text: str) -> tuple[dict[str, dict[int, NDArray[Any] | None]], dict[str, str]]:
    """Painted masks {name: {frame: (H, W) bool in the size that it was painted in, or None where it is not there}} and
    roles {name: role}; nothing for an empty text. Lines and JSON as for prompts, with masks alone."""

    def one(value: str, line: str) -> NDArray[Any] | None:
        return None if value.lower() in _OFF else _mask(value, line)

    def plain(value: Any, where: str) -> NDArray[Any] | None:
        return None if value is None else _json_mask(value, where)

    return _parse(text, one, plain)


def _parse(
    text: str, one: Callable[[str, str], T], plain: Callable[[Any, str], T]
) -> tuple[dict[str, dict[int, T]], dict[str, str]]:
    if len(text) > _LONGEST:
        raise ValueError(f"this text has {len(text)} characters; {_LONGEST} are the most")
    found: dict[str, dict[int, T]] = {}
    roles: dict[str, str] = {}
    names: list[str] = []
    for head, line, keys in _json(text, plain) if text.lstrip().startswith("{") else _lines(text, one):
        name, role = _head(head, line)
        names.append(name)
        found[name] = keys
        roles.update({name: role} if role else {})
    if same := twice(names):
        raise ValueError(f"{_both(*same).partition(';')[0]}; write all key frames of one instance on its one line")
    return found, roles


def _lines(text: str, one: Callable[[str, str], T]) -> Iterator[tuple[str, str, dict[int, T]]]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        head, colon, rest = line.partition(":")
        if not colon or not rest.strip():
            raise ValueError(
                f"line {number} needs a name, a colon and numbers, like  van: 0 30 300 272; got {shorten(line, 80)!r}"
            )
        keys: dict[int, T] = {}
        for part in filter(str.strip, rest.split(";")):
            match = _KEY.match(part.strip())
            assert match is not None
            if len(match["frame"] or "") > _MOST_DIGITS:
                raise ValueError(f"line {number} has a frame number of {len(match['frame'])} digits")
            frame = int(match["frame"] or 0)
            if frame in keys:
                raise ValueError(f"line {number} has two keys for frame {frame}: {shorten(line, 80)!r}")
            keys[frame] = one(match["value"], f"line {number}")
        yield head.strip(), f"line {number}", keys


def _json(text: str, plain: Callable[[Any, str], T]) -> Iterator[tuple[str, str, dict[int, T]]]:
    try:
        parsed = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this begins like JSON but is none: {error}") from None
    for head, keys in parsed.items():
        if not isinstance(keys, dict) or not all(re.fullmatch(r"[0-9]{1,9}", key) for key in keys):
            raise ValueError(f'{head!r} needs key frames: {{"{head}": {{"0": ..., "12": ...}}}}; got {str(keys)[:80]}')
        if len({int(frame) for frame in keys}) < len(keys):
            raise ValueError(f"{head!r} has two keys for one frame: {', '.join(keys)}"[:200])
        yield head, repr(head), {int(frame): plain(value, repr(head)) for frame, value in keys.items()}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON objects with a key twice would silently lose one."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"two entries are called {next(n for n in names if names.count(n) > 1)!r}")
    return dict(pairs)


def _head(text: str, where: str) -> tuple[str, str | None]:
    """Name and role of "name (role)". Brackets that hold no role belong to the name; ValueError for a mistyped role."""
    text = text.strip()
    match = _ROLE.search(text, 1)
    before, role = (text[: match.start()].strip(), match["role"].strip().lower()) if match else (text, None)
    meant = difflib.get_close_matches(role, ROLES, 1, _LIKE_A_ROLE) if match and role else []
    if match and meant and (role not in ROLES or not match["end"]):
        raise ValueError(
            f"{where}: ({shorten(role, 40)}) is no role; write {shorten(before, 80)} ({meant[0]}). Roles are "
            f"{', '.join(ROLES)}; where the brackets belong to the name, put a role in brackets of its own behind them"
        )
    name = before if role in ROLES else text
    try:
        check_name(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return name, role if role in ROLES else None


def _pixel(number: str, whole: int, where: str) -> float:
    percent = number.endswith("%")
    value = float(number[:-1] if percent else number)
    if abs(value) > _LARGEST:
        raise ValueError(f"{where}: these numbers are no pixels: {shorten(number, 40)}")
    return value / 100 * whole if percent else value


def _box(text: str, width: int, height: int, line: str) -> Box:
    numbers = re.findall(_NUMBER, text)
    if len(numbers) != 4 or re.sub(rf"{_NUMBER}|[\s,]", "", text):
        raise ValueError(
            f"{line}: a box is four numbers x0 y0 x1 y1 (left, top, right, bottom); got {shorten(text, 80)!r}"
        )
    x0, y0, x1, y1 = (_pixel(n, size, line) for n, size in zip(numbers, (width, height, width, height)))
    return x0, y0, x1, y1


def _mask(text: str, where: str) -> NDArray[Any]:
    try:
        return parse_mask(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; got {shorten(text, 40)!r}") from None


def _json_mask(value: Any, where: str) -> NDArray[Any]:
    if not isinstance(value, dict) or set(value) != {"mask"} or not isinstance(value["mask"], str):
        raise ValueError(f'{where}: a painted mask is {{"mask": "WIDTHxHEIGHT CODE"}}; got {str(value)[:80]}')
    return _mask(f"mask {value['mask']}", where)


def _painted(mask: NDArray[Any], width: int, height: int, where: str) -> Prompt:
    try:
        return Prompt(mask=fitted_mask(mask, height, width))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _prompt(text: str, width: int, height: int, line: str) -> Prompt:
    if is_mask(text):
        return _painted(_mask(text, line), width, height, line)
    found, rest = Prompt(), text
    boxes = re.findall(r"\[([^\[\]]*)\]", text)
    if len(boxes) > 1:
        raise ValueError(f"{line}: at most one box a frame; got {shorten(text, 80)!r}")
    if boxes:
        found.box, rest = _box(boxes[0], width, height, line), re.sub(r"\[[^\[\]]*\]", " ", text)
    rest = " ".join(rest.split())
    for point in _POINT.finditer(rest):
        x, y = _pixel(point["x"], width, line), _pixel(point["y"], height, line)
        found.points.append((x, y, point["sign"] not in ("-", "!")))
    if _POINT.sub("", rest).strip(" ,") or (not found.points and found.box is None):
        raise ValueError(
            f"{line}: points are x,y (inside) or -x,y (outside), a box is [x0,y0,x1,y1]; got {shorten(text, 80)!r}"
        )
    return found


def _json_prompt(value: Any, where: str) -> Prompt:
    if not isinstance(value, dict) or not set(value) <= {"points", "labels", "box"} or not value:
        raise ValueError(f"{where}: a prompt has points, labels and box; got {str(value)[:80]}")
    listed: list[Any] = [[] if value.get(key) is None else value[key] for key in ("points", "labels")]
    if not all(isinstance(each, list) for each in listed):
        raise ValueError(f"{where}: points and labels are lists; got {str(value)[:80]}")
    points = [_numbers(point, 2, where) for point in listed[0]]
    labels = listed[1] or [1] * len(points)
    if len(labels) != len(points) or not all(type(each) is not bool and each in (0, 1, "0", "1") for each in labels):
        raise ValueError(
            f"{where}: there are {len(points)} points, so {len(points)} labels of 1 (inside) or 0; got {labels}"
        )
    box = None if value.get("box") is None else _numbers(value["box"], 4, where)
    if not points and box is None:
        raise ValueError(f"{where}: a prompt needs a point or a box")
    return Prompt([(x, y, bool(int(label))) for (x, y), label in zip(points, labels)], box)  # type: ignore[arg-type]


def _numbers(value: Any, count: int, where: str) -> tuple[float, ...]:
    ok = isinstance(value, list) and len(value) == count
    if not ok or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise ValueError(f"{where}: {count} numbers are needed here; got {str(value)[:80]}")
    if not all(abs(v) <= _LARGEST for v in value):  # one that is no number either
        raise ValueError(f"{where}: these numbers are no pixels: {str(value)[:80]}")
    return tuple(float(v) for v in value)
