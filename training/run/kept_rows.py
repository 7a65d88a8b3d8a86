"""Rows of a measurement that is kept arm by arm, so that the same command goes on where it was stopped.

FOLDER/asked.json    what was asked
FOLDER/rows.csv      a row a clip and arm
"""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrix_lib.io.files import whole_file
from matrix_lib.io.strict_json import own_object

__all__ = ["goes_on", "read_rows", "write_rows"]


def goes_on(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the folder holds rows of the same question; where it holds none, what is asked is written there.

    Raises ValueError where it holds rows that were asked otherwise: names what differs.
    """
    path = folder / "asked.json"
    if not (folder / "rows.csv").exists():
        with whole_file(path) as place:
            place.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        return False
    held = own_object(path) if path.exists() else {}
    if differ := [name for name, value in asked.items() if held.get(name) != value]:
        raise ValueError(
            f"{folder} holds rows that were asked with other {', '.join(differ)}: give the same again to go on, or "
            "another --out"
        )
    return True


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, whole or not at all. Columns are those of any row; a row that lacks one is empty there."""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as place, place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, packed (.xz) or not, as texts."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
