"""What was measured on held-out clips, and which checkpoint is the best by a figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix_lib.io.files import whole_file

from .config import Validation

__all__ = ["BEST", "HELD", "Best", "append_row", "cut_rows"]

BEST = "best.json"
HELD = "validation."
"""What figures of held-out clips are called by: `validation.diffusion`."""


class Best:
    """The best step so far by `validation.best`.

    Args:
        kept: what a checkpoint says of it; {} at the start of a run.

    Attributes:
        found: {"figure", "value", "step"}, or {} where there is none.
    """

    def __init__(self, settings: Validation, kept: Mapping[str, Any] = {}) -> None:
        self.figure, self.sign = settings.best, -1.0 if settings.best_is == "highest" else 1.0
        self.found = dict(kept) if kept.get("figure") == self.figure else {}

    def check(self, names: Mapping[str, Any]) -> None:
        """ValueError where no figure is called so; `names` are all that are logged."""
        if self.figure and self.figure not in names:
            raise ValueError(f"validation.best is one of {', '.join(sorted(names))}; got {self.figure!r}")

    def offer(self, step: int, figures: Mapping[str, float]) -> bool:
        """Takes the figures of a step; whether it is the best so far. A figure that is not a number never is."""
        value = figures.get(self.figure)
        if value is None or value != value:
            return False
        if self.found and self.sign * value >= self.sign * self.found["value"]:
            return False
        self.found = {"figure": self.figure, "value": value, "step": step}
        return True

    def write(self, folder: Path, checkpoint: Path) -> None:
        """Says in `best.json` which checkpoint it is."""
        with whole_file(folder / BEST) as temporary:
            temporary.write_text(json.dumps({**self.found, "checkpoint": checkpoint.name}, indent=1) + "\n")


def cut_rows(path: Path, step: int) -> None:
    """Drops rows of steps that the run will take again: it was killed after them, but before a checkpoint."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [row for i, row in enumerate(rows) if i == 0 or (row and row[0].isdecimal() and int(row[0]) <= step)]
    if step == 0:
        path.unlink()
    elif kept != rows:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(kept)


def append_row(path: Path, head: Mapping[str, object], values: Mapping[str, float]) -> None:
    """Adds a row, and before the first one the names."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([*head, *values])
        writer.writerow([*head.values(), *(f"{value:.6g}" for value in values.values())])
