"""Numbers as people read and write them: "0, 3-5, 9"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["parse_numbers", "ranges"]

_PIECE = re.compile(r"(\d{1,6})(?:\s*(?:-|\.\.|to|–)\s*(\d{1,6}))?")


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers, neighbours joined: "0, 3-5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_numbers(text: str, what: str, words: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Sequence[int]]]:
    """The pieces of a text such as "7, 11-13, last", in their order: each as it is written, and the numbers that it
    stands for. Both ends of a range belong to it; an empty text is "all".

    Args:
        what: what is counted, for errors: "layers".
        words: what each word stands for.

    Raises ValueError at a piece that is neither a word nor a number nor a range.
    """
    for piece in [part.strip().lower() for part in text.split(",") if part.strip()] or ["all"]:
        found = _PIECE.fullmatch(piece)
        if piece in words:
            yield piece, words[piece]
        elif found:
            yield piece, range(int(found[1]), int(found[2] or found[1]) + 1)
        else:
            accepted = ", ".join(map(repr, words))
            raise ValueError(f"{what} are written as {accepted}, '7' or '7, 11-13'; got {text[:60]!r}")
