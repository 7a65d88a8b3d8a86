"""Track scores of many clips: files that a run goes on from, tables, and means with intervals.

FOLDER/track_scores.jsonl      one line a clip: values, instances, events, notes, and what it was made from
FOLDER/track_scores.parquet    one row a clip
FOLDER/track_summary.json      means and intervals; what is missing, by name
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...io.files import whole_file
from ...io.tables import write_table
from ..statistics import Estimate, estimate
from .measures import MEASURES
from .score import TrackScores

__all__ = ["Row", "add_rows", "parts", "read_rows", "summarise", "summary_table", "write_scores"]


@dataclass(frozen=True)
class Row:
    """Scores of one video. sample: what it was made for; seed: "" where there is one video. key: what was scored.
    why: why there are no scores."""

    sample: str
    seed: str
    key: str
    scores: TrackScores | None
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.sample}.{self.seed}" if self.seed else self.sample


def write_scores(folder: Path, rows: Sequence[Row], parquet: bool = True) -> dict[str, Estimate]:
    """Writes the three files into `folder`, whole or not at all, and returns the means."""
    means = summarise(rows)
    summary = {
        "videos": len(rows),
        "scored": sum(row.scores is not None for row in rows),
        "missing": {row.name: row.why for row in rows if row.scores is None},
        "means": {name: _numbers(found) for name, found in means.items()},
        "measures": {name: {"better": MEASURES[name].better, "said": MEASURES[name].said} for name in means},
    }
    texts = {
        "track_scores.jsonl": "".join(json.dumps(_line(row), ensure_ascii=False) + "\n" for row in rows),
        "track_summary.json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if parquet:
        scored = [row for row in rows if row.scores is not None]
        columns: dict[str, Any] = {"sample": [row.sample for row in scored], "seed": [row.seed for row in scored]}
        columns |= {name: [row.scores.values[name] for row in scored if row.scores] for name in MEASURES}
        write_table(folder / "track_scores.parquet", columns)
    return means


def read_rows(folder: Path) -> dict[str, Row]:
    """Rows that an earlier run left, its parts included, by their keys. Lines that cannot be read are made anew."""
    found = {}
    for path in (folder / "track_scores.jsonl", *parts(folder)):
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = _row(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if row.scores is not None:
                found[row.key] = row
    return found


def add_rows(folder: Path, place: int, rows: Sequence[Row]) -> None:
    """Appends rows to the part of a process, for the one that writes what all have found."""
    with open(folder / f"track_scores.part-{place}.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(_line(row), ensure_ascii=False) + "\n" for row in rows)


def parts(folder: Path) -> list[Path]:
    """The parts that processes have left in a folder."""
    return sorted(folder.glob("track_scores.part-*.jsonl"))


def summarise(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Mean over samples of each measure, seeds averaged within a sample first; samples without a value are left out,
    and `Estimate.count` says how many there are."""
    means = {}
    for name, measure in MEASURES.items():
        by_sample: dict[str, list[float]] = {}
        for row in rows:
            value = row.scores.values[name] if row.scores is not None else math.nan
            if not math.isnan(value):
                by_sample.setdefault(row.sample, []).append(value)
        if by_sample:
            bounds = None if math.isinf(measure.high) else (measure.low, measure.high)
            means[name] = estimate(np.array([np.mean(values) for values in by_sample.values()]), 0.95, bounds)
    return means


def summary_table(runs: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A Markdown table: a row a measure, a column a model."""
    lines = ["| measure | better | " + " | ".join(runs) + " |", "|---" * (len(runs) + 2) + "|"]
    for name, measure in MEASURES.items():
        cells = [str(means[name]) if name in means else "not known" for means in runs.values()]
        if any(name in means for means in runs.values()):
            lines.append(f"| {name} | {measure.better} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> dict[str, Any]:
    head = {"sample": row.sample, "seed": row.seed, "key": row.key}
    return head | ({"why": row.why} if row.scores is None else row.scores.as_json())


def _row(line: Mapping[str, Any]) -> Row:
    if "values" not in line:
        return Row(line["sample"], line["seed"], line["key"], None, line["why"])
    return Row(line["sample"], line["seed"], line["key"], TrackScores.from_json(line))


def _numbers(found: Estimate) -> dict[str, float | int | None]:
    known = {name: getattr(found, name) for name in ("mean", "low", "high")}
    return {name: None if math.isnan(value) else value for name, value in known.items()} | {"n": found.count}
