"""What a judgement comes to: a line for each video, a table for each model, paired differences between models.

VIDEOS/intergen/scores.jsonl   one line a video: values, answers with their frames, who disappeared, what is missing
VIDEOS/intergen/scores.parquet, summary.json, report.md
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io.files import whole_file
from ...io.tables import write_table
from ..statistics import Estimate, bootstrap, holm
from .run import OUT, Options
from .scores import MEASURES, RunScores, VideoScores, per_sample, summarise
from .suite import Suite

__all__ = ["as_line", "compare", "table", "write_scores"]

_SHOWN = ("kisa", "sgi", "spi", "fidelity", "spi_released", "fidelity_released")
_HEADS = {
    "kisa": "KISA",
    "sgi": "SGI",
    "spi": "SPI (clamped)",
    "fidelity": "IF (clamped)",
    "spi_released": "SPI (as released)",
    "fidelity_released": "IF (as released)",
}
_RAW = ("kisa_raw", "sgi_raw", "spi", "fidelity")


def write_scores(
    folder: Path, videos: Sequence[VideoScores], suite: Suite, options: Options, judges: Sequence[str]
) -> RunScores:
    """Writes everything about one model into `folder`/intergen and returns its means."""
    run = summarise(videos, {sample.id: sample.type for sample in suite.samples})
    out = folder / OUT
    lines = [json.dumps(as_line(video), ensure_ascii=False) for video in videos]
    summary = {
        "suite_hash": suite.hash,
        "judges": sorted(judges),
        "stride": suite.stride,
        "options": vars(options),
        "n": run.of,
        "complete": run.complete,
        "missing": {name: list(why) for name, why in run.missing.items()},
        "estimates": {name: _numbers(found) for name, found in run.estimates.items()},
        "by_type": {
            kind: {name: _numbers(found) for name, found in each.items()} for kind, each in run.by_type.items()
        },
    }
    for name, text in (
        ("scores.jsonl", "\n".join(lines) + "\n"),
        ("summary.json", json.dumps(summary, indent=1) + "\n"),
        ("report.md", table({folder.name: run})),
    ):
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    columns: dict[str, Any] = {
        "id": [video.id for video in videos],
        "seed": [video.seed for video in videos],
        "complete": [video.complete for video in videos],
    }
    columns |= {name: [video.values.get(name, math.nan) for video in videos] for name in MEASURES}
    write_table(out / "scores.parquet", columns, {"suite_hash": suite.hash})
    return run


def table(runs: Mapping[str, RunScores]) -> str:
    """A Markdown table, a row a model; what is missing stands below it by name."""
    lines = ["| model | videos | " + " | ".join(_HEADS.values()) + " |", "|---" * (len(_SHOWN) + 2) + "|"]
    for name, run in runs.items():
        cells = [_cell(run.estimates[measure]) for measure in _SHOWN]
        lines.append(f"| {name} | {run.complete} of {run.of} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Means over samples with 95 % intervals. Only the released form may stand beside the paper's numbers.",
    ]
    for name, run in runs.items():
        if run.missing:
            lines += ["", f"Missing of {name} (not in its means):", ""]
            lines += [f"- {video}: {'; '.join(why)}" for video, why in run.missing.items()]
    return "\n".join(lines) + "\n"


def compare(runs: Mapping[str, Sequence[VideoScores]]) -> str:
    """Paired differences between every two models, over the samples that both have; p corrected for all of them."""
    cells: dict[tuple[str, str, str], Estimate] = {}
    apart: list[str] = []
    for one, other in itertools.combinations(runs, 2):
        for measure in _RAW:
            mine, theirs = (per_sample(runs[name], measure) for name in (one, other))
            both = sorted(mine.keys() & theirs.keys())
            differences = np.array([mine[name] - theirs[name] for name in both])
            cells[one, other, measure] = bootstrap(differences, bounds=(-1, 1))
            if measure == _RAW[0] and (alone := sorted(mine.keys() ^ theirs.keys())):
                apart.append(f"{one} and {other} do not share {', '.join(alone[:20])}")
    p = holm([found.p for found in cells.values()])
    lines = ["| difference | measure | mean [95 %] | samples | p (Holm) |", "|---|---|---|---|---|"]
    for ((one, other, measure), found), value in zip(cells.items(), p, strict=True):
        said = f"{value:.3g}" if not math.isnan(value) else "not known"
        lines.append(f"| {one} - {other} | {measure} | {_cell(found)} | {found.count} | {said} |")
    return "\n".join([*lines, "", *apart]).rstrip() + "\n"


def _cell(found: Estimate) -> str:
    return "not known" if math.isnan(found.mean) else found.interval


def as_line(video: VideoScores) -> dict[str, Any]:
    """One video for a file: nan as None."""
    presence = video.presence
    return {
        "id": video.id,
        "seed": video.seed,
        "values": {name: _number(value) for name, value in video.values.items()},
        "missing": list(video.missing),
        "answers": [
            None
            if each is None
            else {
                str(q): {"yes": answer.yes, "frame": answer.frame, "implausible": answer.implausible}
                for q, answer in sorted(each.items())
            }
            for each in video.answers
        ],
        "presence": None
        if presence is None
        else {
            "sampled": presence.sampled,
            "disappearance": list(presence.disappearance),
            "emergence": None if presence.emergence is None else list(presence.emergence),
            "who": [list(each) for each in presence.who],
        },
        "implausible": _number(video.implausible),
        "agreement": _number(video.agreement),
    }


def _numbers(found: Estimate) -> list[float | None]:
    return [_number(value) for value in (found.mean, found.low, found.high)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 9)
