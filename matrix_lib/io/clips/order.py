"""Frames that are one file each: their order, and which frame each one is. The numbers in their names decide."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Numbered", "Placed", "in_order", "place", "spans"]

_MOST_LISTED = 6


class Numbered(NamedTuple):
    """Files in the order of the numbers in their names, and those numbers."""

    paths: tuple[Path, ...]
    numbers: tuple[int, ...]


class Placed(NamedTuple):
    """`first`: the number that frame 0 has. `wrong`: why the numbers cannot be those of a clip, or "". `note`: what a
    person should know about the reading, or ""."""

    first: int
    wrong: str = ""
    note: str = ""


def in_order(paths: Sequence[Path]) -> Numbered:
    """The files of a folder in the order of their frames.

    The number is the one part of the names that differs: `frame_2.png` comes before `frame_10.png`, and
    `take3_0007.png` is number 7. One file alone is number 0 where its name has none.

    Raises ValueError where names have no number, are of several kinds, have several numbers that could be the frame's,
    or where two files have one number.
    """
    if len(paths) < 2:
        return Numbered(tuple(paths), tuple(_last_number(path) for path in paths))
    split = [re.split(r"(\d+)", unicodedata.normalize("NFC", path.stem)) for path in paths]
    kinds: dict[tuple[str, ...], list[Path]] = {}
    for path, parts in zip(paths, split):
        kinds.setdefault(tuple(parts[::2]), []).append(path)
    if len(kinds) > 1 or len(split[0]) == 1:
        told = [f"{found[0].name}{f' and {len(found) - 1} more' if found[1:] else ''}" for found in kinds.values()]
        said = ", ".join(sorted(told)[:_MOST_LISTED])
        raise ValueError(
            f"in {paths[0].parent.name!r} are files of which no common number says the order: {said}. Name the frames "
            "alike, with the number of the frame (000.png, 001.png, ...), and take out what is no frame"
        )
    columns = list(zip(*([int(number) for number in parts[1::2]] for parts in split)))
    numbers = columns[_column(paths, columns)]
    found = sorted(zip(numbers, paths), key=lambda pair: (pair[0], pair[1].name))
    _refuse_doubled(found)
    return Numbered(tuple(path for _, path in found), tuple(number for number, _ in found))


def _last_number(path: Path) -> int:
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else 0


def _column(paths: Sequence[Path], columns: Sequence[tuple[int, ...]]) -> int:
    """Which of the numbers in the names is the frame's: the one that differs; of several the one that counts."""
    differing = [n for n, column in enumerate(columns) if len(set(column)) > 1] or [len(columns) - 1]
    if len(differing) > 1:
        whole = [
            n for n in differing if sorted(columns[n]) == list(range(min(columns[n]), min(columns[n]) + len(paths)))
        ]
        differing = whole or [n for n in differing if len(set(columns[n])) == len(paths)] or differing
    if len(differing) > 1:
        raise ValueError(
            f"the names in {paths[0].parent.name!r} have several numbers that change ({paths[0].name}, "
            f"{paths[-1].name}), and either could be the frame's: leave one number in them"
        )
    return differing[0]


def _refuse_doubled(found: Sequence[tuple[int, Path]]) -> None:
    seen: dict[int, list[str]] = {}
    for number, path in found:
        seen.setdefault(number, []).append(path.name)
    twice = [(number, names) for number, names in seen.items() if len(names) > 1]
    if twice:
        number, names = twice[0]
        more = f", and for {len(twice) - 1} other frames" if twice[1:] else ""
        raise ValueError(
            f"there are several files for frame {number} in {found[0][1].parent.name!r} ({', '.join(names)}){more}: "
            "leave one for each frame"
        )


def place(numbers: Sequence[int], frames: int | None, what: str) -> Placed:
    """Which frame of a clip each number is, for growing `numbers` and a clip of `frames` frames (None: not known).

    Frames count from 0. Numbers that begin later are those of frame 0 on where there are as many as frames, without a
    hole; or where the last one can only be counted from 1.
    """
    low, high = numbers[0], numbers[-1]
    whole = high - low + 1 == len(numbers)
    if frames is None:
        frames = len(numbers) if whole or low > 1 else high + 1 - low
    note = f"{what} are numbered from {low}: that is the first frame" if low else ""
    if whole and len(numbers) == frames:
        return Placed(low, "", note)
    first = 1 if low and high == frames else 0
    if high >= first + frames:
        beyond = spans([n for n in numbers if n >= first + frames])
        return Placed(first, f"there are {what} for frame {beyond}, and the video has {frames} frames, from 0")
    missing = spans(sorted(set(range(first, first + frames)) - set(numbers)))
    counted = ", numbered from 1," if first else ""
    hint = f" (or they are numbered from 1, and {frames} is missing)" if low == 1 and not first else ""
    return Placed(first, f"{what}{counted} have holes: frame {missing} of {frames} is missing{hint}")


def spans(numbers: Sequence[int]) -> str:
    """3, 7 to 9, 12"""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    told = [" to ".join(map(str, span)) for span in found[:_MOST_LISTED]]
    return ", ".join(told) + (f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else "")
