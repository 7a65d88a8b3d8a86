"""The set that is there before a run writes: its rows, and which clips it has already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix_lib.io.clips.writing import METADATA

__all__ = ["Holdings", "rows_in"]


def rows_in(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of a set by the stems of their videos; {} where there is none. Raises ValueError for a table of another
    form, which cannot grow."""
    path = out / METADATA
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {Path(str(row["video"])).stem: row for row in rows}
    others = sorted(p.name for p in out.iterdir() if p.name.startswith("metadata.")) if out.is_dir() else []
    if others:
        raise ValueError(f"{out} has {others[0]}, and a set that grows has {METADATA}: choose an empty folder")
    return {}


class Holdings:
    """Which parts of which files a set's rows are."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._shots: dict[str, list[tuple[str, list[int]]]] = {}
        for stem, row in rows.items():
            if row.get("sha256"):
                self._shots.setdefault(row["sha256"], []).append((stem, row.get("shot") or [0, 1 << 60]))

    def __bool__(self) -> bool:
        return bool(self._shots)

    def same(self, facts: Mapping[str, Any]) -> str:
        """The clip of the set that shares frames with this one (`sha256`, `shot`), "" for none."""
        found = ""
        for stem, shot in self._shots.get(facts["sha256"], []):
            if shot[0] < facts["shot"][1] and facts["shot"][0] < shot[1]:
                found = stem
        return found
