"""Measurements of steering on disk: one JSON file for each condition under each kind of tracks, whole or not at all.

FOLDER/plan.json             what every measurement in the folder has in common
FOLDER/cells/NAME.json       settings, and each clip's value of every measure
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io.files import whole_file
from ...io.strict_json import own_object
from ..statistics import Estimate, bootstrap, wilson
from .measures import MEASURES
from .plan import Condition

__all__ = [
    "YES_OR_NO",
    "Measured",
    "cell_path",
    "fingerprint",
    "is_done",
    "keep_plan",
    "load_cells",
    "read_cell",
    "write_cell",
]

FORMAT = 1
YES_OR_NO = ("follows", "intact")
_SHARES = ("iou", "iou_named", "iou_end", "iou_habit", "fidelity", "fidelity_habit", "spi", *YES_OR_NO)  # in [0, 1]


@dataclass(frozen=True, eq=False)
class Measured:
    """One condition under one kind of tracks. values: per measure (N,) float64, nan where a clip has none; seconds: of
    sampling and decoding, a clip; settings: everything about the condition; said: what of it is not as it comes."""

    condition: str
    tracks: str
    settings: str
    fingerprint: str
    seconds: float
    values: dict[str, NDArray[np.float64]]
    notes: tuple[str, ...] = ()
    said: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def mean(self, measure: str) -> float:
        values = self.values[measure]
        return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan

    def estimate(self, measure: str) -> Estimate:
        """Mean and 95 % interval: Wilson's for yes or no, else the bootstrap over clips."""
        values = self.values[measure]
        if measure in YES_OR_NO:
            return wilson(int(np.nansum(values)), int(np.isfinite(values).sum()))
        return bootstrap(values, bounds=(0, 1) if measure in _SHARES else None)

    def against(self, other: Measured, measure: str) -> Estimate:
        """Mean and 95 % bootstrap interval of the difference to `other` on the same prompts and seeds.

        Raises ValueError where the two were not measured on the same clips."""
        if self.fingerprint != other.fingerprint or len(self) != len(other):
            raise ValueError(f"{self.condition!r} and {other.condition!r} were measured on different clips")
        return bootstrap(self.values[measure] - other.values[measure], bounds=(-1, 1) if measure in _SHARES else None)


def fingerprint(plan: Mapping[str, Any]) -> str:
    """What two measurements have to share to be compared clip by clip."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:24]


def keep_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Writes the plan, or checks that it is the one that is there. Raises ValueError, naming what differs."""
    path, plan = folder / "plan.json", json.loads(json.dumps(plan))
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        return
    before = own_object(path)
    keys = sorted({*before, *plan})
    if differ := [f"{k}: {before.get(k)!r} before, {plan.get(k)!r} now" for k in keys if before.get(k) != plan.get(k)]:
        raise ValueError(
            f"{str(folder)!r} holds measurements of other settings ({'; '.join(differ)}): use another --out, or remove "
            "that folder"
        )


def cell_path(folder: Path, condition: str, tracks: str) -> Path:
    plain = re.sub(r"[^a-z0-9]+", "-", condition.lower()).strip("-")
    mark = hashlib.sha256(condition.encode()).hexdigest()[:6]
    return folder / "cells" / f"{tracks}__{plain[:60]}-{mark}.json"


def write_cell(folder: Path, found: Measured) -> Path:
    """Writes one measurement and returns its path."""
    path = cell_path(folder, found.condition, found.tracks)
    values = {name: [None if math.isnan(v) else round(float(v), 6) for v in row] for name, row in found.values.items()}
    content = {
        "format": FORMAT,
        "condition": found.condition,
        "tracks": found.tracks,
        "settings": found.settings,
        "said": found.said,
        "fingerprint": found.fingerprint,
        "seconds": round(found.seconds, 4),
        "notes": list(found.notes),
        "values": values,
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return path


def read_cell(path: Path) -> Measured:
    """One measurement. Raises ValueError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        rows = {name: np.array(content["values"][name], dtype=np.float64) for name in MEASURES}
        if len({row.shape for row in rows.values()}) != 1 or next(iter(rows.values())).ndim != 1:
            raise ValueError("rows of different lengths")
        texts = {name: str(content[name]) for name in ("condition", "tracks", "settings", "fingerprint", "said")}
        notes = tuple(map(str, content["notes"]))
        return Measured(**texts, seconds=float(content["seconds"]), values=rows, notes=notes)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is no measurement of this version ({error!r}): remove it and run again") from error


def is_done(folder: Path, condition: Condition, tracks: str, mark: str) -> bool:
    """Whether this very measurement is there."""
    try:
        found = read_cell(cell_path(folder, condition.name, tracks))
    except ValueError:
        return False
    return found.settings == condition.settings and found.fingerprint == mark


def load_cells(folder: Path) -> list[Measured]:
    """Every measurement in a folder, in the order of their names. Raises ValueError where there is none."""
    paths = sorted(path for path in (folder / "cells").glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"there are no measurements in {str(folder)!r}: run `python -m training.steer --out` first")
    return [read_cell(path) for path in paths]
