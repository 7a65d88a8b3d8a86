"""Success labels of clips from a CSV: `clip` (or `video`), `success` and, where seeds differ, `seed`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["Labels", "read_labels"]

_WORDS = {"true": 1.0, "yes": 1.0, "success": 1.0, "false": 0.0, "no": 0.0, "failure": 0.0, "fail": 0.0}


class Labels:
    """Looks up whether a run succeeded."""

    def __init__(self, found: Mapping[tuple[str, int | None], bool]) -> None:
        self.found = dict(found)

    def of(self, clip: str, seed: int) -> bool | None:
        """The label of this seed, else of the clip whatever the seed, else None."""
        return self.found.get((clip, seed), self.found.get((clip, None)))

    def check(self, runs: Iterable[tuple[str, int]], least: int) -> None:
        """Raises ValueError unless every run has a label, and there are `least` successes and failures."""
        every = list(runs)
        if missing := sorted({clip for clip, seed in every if self.of(clip, seed) is None}):
            raise ValueError(
                f"{len(missing)} clips have no label: {', '.join(missing)}. Add them to the CSV, take them out of the "
                "input, or analyse without labels (--labels none)"
            )
        good = sum(bool(self.of(*run)) for run in every)
        if min(good, len(every) - good) < least:
            raise ValueError(
                f"the labels count {good} successes and {len(every) - good} failures; a gap between them needs at "
                f"least {least} of each. Label more clips, lower --least, or analyse without labels (--labels none)"
            )


def read_labels(path: Path, column: str = "success", threshold: float = 0.5) -> Labels:
    """Reads a CSV. A value is a word (yes, no, true, false, success, failure) or a number, which succeeds from
    `threshold` on; so the scores of an evaluation serve as well, by the name of their `column`.

    Raises ValueError for a file that is missing or lacks columns, and for values that are neither.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} with labels")
    found: dict[tuple[str, int | None], bool] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        key = next((name for name in ("clip", "video", "name") if name in names), None)
        if key is None or column not in names:
            raise ValueError(f"{path.name} has the columns {', '.join(names)}; wanted are `clip` and `{column}`")
        for row in reader:
            clip = Path(str(row[key]).strip()).stem if key == "video" else str(row[key]).strip()
            seed = str(row.get("seed") or "").strip()
            try:
                found[clip, int(seed) if seed else None] = _value(str(row[column])) >= threshold
            except ValueError as error:
                raise ValueError(f"{path.name}, line {reader.line_num} ({clip}): {error}") from None
    return Labels(found)


def _value(text: str) -> float:
    word = text.strip().lower()
    try:
        value = _WORDS[word] if word in _WORDS else float(word)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"a label is yes or no, true or false, success or failure, or a number; got {text!r}")
    return value
