"""Text files as people's programs write them: with and without a byte order mark, in UTF-8 and UTF-16; and tables."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["read_table", "read_text"]

_LARGEST_TEXT = 200_000_000
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", ";", "\t", "|")


def read_text(path: Path) -> str:
    """A text file in UTF-8, UTF-16 or UTF-32; ValueError for one that is far too large or no text."""
    if path.stat().st_size > _LARGEST_TEXT:
        raise ValueError(f"{path.name} is {path.stat().st_size} bytes, far more than text of this kind has")
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), _without_mark(data))
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is no text in UTF-8 or UTF-16 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def _without_mark(data: bytes) -> str:
    """UTF-16 writes every other byte of most text as 0; UTF-8 never has one."""
    start = data[:4000]
    if 0 in start and len(data) % 2 == 0:
        return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    return "utf-8"


def read_table(text: str, fits: Callable[[Sequence[str]], bool]) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of a table, whatever divides its cells.

    Args:
        fits: whether these are columns that such a table has: the first delimiter with which they are is taken.

    A first line `sep=;` says the delimiter itself. Empty rows are left out. Where no delimiter fits, the columns are
    those of the delimiter that finds most.
    """
    first, _, rest = text.partition("\n")
    said = first.rstrip("\r").strip('" ')
    if said.lower().startswith("sep=") and len(said) == 5:
        return _split(rest, said[4])
    tried = {mark: _header(text, mark) for mark in _DELIMITERS}
    mark = next((m for m, columns in tried.items() if fits(columns)), max(tried, key=lambda m: len(tried[m])))
    return _split(text, mark)


def _header(text: str, delimiter: str) -> list[str]:
    return next(iter(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])


def _split(text: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    rows = [
        row
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
        if any(cell.strip() for cell in row)
    ]
    return (rows[0], rows[1:]) if rows else ([], [])
