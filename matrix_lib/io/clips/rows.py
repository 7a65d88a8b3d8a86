"""The metadata of a folder of clips as rows, whatever delimiter, encoding and names of columns it has."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .choice import PICTURES, VIDEOS, seen
from .text import read_table, read_text

__all__ = ["Row", "other_rows", "other_tables", "read_rows"]

_FILES = ("metadata.jsonl", "metadata.json", "metadata.csv", "metadata.tsv")
_OTHER_NAMES = {
    "video": ("file_name", "filename", "file", "video_path", "video_file", "video_name", "media_path", "path", "clip"),
    "prompt": ("text", "caption", "captions", "description"),
}
"""What others call the columns that every row has to have: of Hugging Face's folders, of trainers."""


@dataclass(frozen=True)
class Row:
    """One row: its number in the file from 1, its values by our names of columns, and what is wrong with it, or ""."""

    number: int
    values: Mapping[str, Any]
    wrong: str = ""

    @property
    def name(self) -> str:
        """The clip's name; a row without one is called by its number."""
        said = str(self.values.get("video") or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
        stem, dot, suffix = said.rpartition(".")
        return (stem if f"{dot}{suffix}".lower() in (*VIDEOS, *PICTURES) else said) or f"row {self.number}"

    def text(self, column: str) -> str:
        """What a column says, "" where it is empty. ValueError for a list and the like."""
        value = self.values.get(column)
        if isinstance(value, list | dict):
            raise ValueError(f"its {column!r} is {json.dumps(value)[:60]}, and one text is wanted")
        return "" if value is None else str(value).strip()


def read_rows(folder: Path) -> list[Row] | None:
    """Rows of the first metadata file that is there, None where there is none. ValueError where it is no such file."""
    path = next(iter(_found(folder)), None)
    if path is None:
        return None
    try:
        rows, columns = _parse(read_text(path), path.suffix.lower())
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not rows or not any({"video", "prompt"} <= row.values.keys() for row in rows):
        wrong = next((row.wrong for row in rows if row.wrong), "")
        found = f"its columns are {', '.join(map(repr, columns))}" if columns else "it has no row"
        found += f"; {wrong}" if wrong else ""
        raise ValueError(
            f"{path} has to have one row a clip with `video` and `prompt`; {found} (these may also be called "
            f"{', '.join(_OTHER_NAMES['video'])}; {', '.join(_OTHER_NAMES['prompt'])})"
        )
    return rows


def _found(folder: Path) -> list[Path]:
    """Metadata files of a folder in the order in which they count."""
    names = {path.name.lower(): path for path in seen(folder) if path.is_file()}
    return [names[name] for name in _FILES if name in names]


def other_rows(folder: Path, rows: Iterable[Row]) -> str:
    """A sentence where another metadata file of the folder has other clips, else ""."""
    mine, files = {row.name for row in rows}, _found(folder)
    for path in files[1:]:
        try:
            others = {row.name for row in _parse(read_text(path), path.suffix.lower())[0]}
        except (ValueError, csv.Error, RecursionError):
            return f"{files[0].name} is read; {path.name} beside it cannot be"
        if others != mine:
            return f"{files[0].name} is read; {path.name} beside it has other clips: {len(others)}, not {len(mine)}"
    return ""


def other_tables(folder: Path) -> str:
    """What to do with tables of a folder that has no metadata file, or ""."""
    found = [p.name for p in seen(folder) if p.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl")]
    return f"; if {found[0]} is the list of clips, call it metadata{Path(found[0]).suffix}" if found else ""


def _parse(text: str, suffix: str) -> tuple[list[Row], list[str]]:
    """Rows, and the columns that the file itself has."""
    if suffix in (".csv", ".tsv"):
        return _table(text)
    rows = _json(text, suffix)
    columns = {str(name): None for row in rows for name in row.values}
    return [_named(row) for row in rows], list(columns)


def _table(text: str) -> tuple[list[Row], list[str]]:
    columns, rows = read_table(text, lambda found: {"video", "prompt"} <= set(_our_names(found).values()))
    names = [_normal(column) for column in columns]
    if doubled := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"it has several columns {doubled[0]!r}; its columns are {', '.join(map(repr, columns))}")
    blanks = min((len(cells) for cells in rows), default=0) - len(columns)  # every row ends with delimiters: no fault
    made = []
    for number, cells in enumerate(rows, 1):
        extra = cells[len(columns) :]
        fine = len(extra) <= max(blanks, 0) and not any(cell.strip() for cell in extra)
        wrong = (
            f"its row has {len(cells)} cells and the header {len(columns)}: put texts that hold the delimiter into "
            f'quotes, "like, this"; it was read as {" | ".join(cell[:30] for cell in cells[:8])!r}'
        )
        made.append(_named(Row(number, dict(zip(columns, cells)), "" if fine else wrong)))
    return made, columns


def _json(text: str, suffix: str) -> list[Row]:
    """Rows of a list of objects, or of one object a line: whichever it is, called .json or .jsonl."""
    lines = [(n, line) for n, line in enumerate(text.split("\n" if "\n" in text else "\r"), 1) if line.strip()]
    try:
        whole = json.loads(text)
    except ValueError:
        by_line = [_json_row(n, line) for n, line in lines]
        if suffix == ".json" and any(row.wrong for row in by_line):
            raise
        return by_line
    if isinstance(whole, list):
        return [Row(n, v) if isinstance(v, dict) else Row(n, {}, "it is no object") for n, v in enumerate(whole, 1)]
    if suffix == ".jsonl" and isinstance(whole, dict):
        return [Row(lines[0][0], whole)]
    raise ValueError("it has to be a list of objects, one a clip")


def _json_row(number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Row(number, {}, f"it is no JSON: {error}")
    return Row(number, row) if isinstance(row, dict) else Row(number, {}, "it is no JSON object")


# --- names of columns


def _normal(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _our_names(columns: Iterable[str]) -> dict[str, str]:
    """Our name for each column. Another's name counts where no column has ours, and only one has it."""
    ours = {column: _normal(column) for column in columns}
    for name, others in _OTHER_NAMES.items():
        found = [column for column, normal in ours.items() if normal in others]
        if name not in ours.values() and len(found) == 1:
            ours[found[0]] = name
    return ours


def _named(row: Row) -> Row:
    names = _our_names(map(str, row.values))
    wrong = row.wrong
    for name, others in _OTHER_NAMES.items():
        found = [column for column, ours in names.items() if ours in others]
        if name not in names.values() and len(found) > 1 and not wrong:
            wrong = f"which of its columns {', '.join(map(repr, found))} is the {name}? Call it {name}"
    return Row(row.number, {names[str(column)]: value for column, value in row.values.items()}, wrong)
