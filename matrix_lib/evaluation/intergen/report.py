"""What a judgement comes to: a line for each video, a table for each model, paired differences between models.

VIDEOS/intergen/scores.jsonl   one line a video: values, answers with their frames, who disappeared, what is missing
VIDEOS/intergen/scores.parquet, summary.json, report.md
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...io.files import whole_file
from ...io.tables import write_table
from ..statistics import Estimate, bootstrap, holm, smallest_difference
from ..verdicts import verdict
from .run import OUT, Options
from .scores import MEASURES, RunScores, VideoScores, per_sample, summarise
from .suite import Suite

__all__ = ["HEADS", "Difference", "as_line", "compare", "differences", "table", "write_scores"]

_SHOWN = ("kisa", "sgi", "spi", "fidelity", "spi_released", "fidelity_released")
HEADS = {
    "kisa": "KISA",
    "sgi": "SGI",
    "spi": "SPI (clamped)",
    "fidelity": "IF (clamped)",
    "spi_released": "SPI (as released)",
    "fidelity_released": "IF (as released)",
}
_RAW = ("kisa_raw", "sgi_raw", "spi", "fidelity")


@dataclass(frozen=True)
class Difference:
    """Of a measure between two models. mean: over the samples that both have, one less other, paired; p: corrected for
    all comparisons. outcome: in words. alone: samples that one of them lacks."""

    one: str
    other: str
    measure: str
    mean: Estimate
    p: float
    outcome: str
    alone: tuple[str, ...] = ()


def write_scores(
    folder: Path,
    videos: Sequence[VideoScores],
    suite: Suite,
    options: Options,
    judges: Sequence[str],
    parquet: bool = True,
) -> RunScores:
    """Writes everything about one model into `folder`/intergen and returns its means. parquet: also as such a table,
    which needs pyarrow."""
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
    if parquet:
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
    lines = ["| model | videos | " + " | ".join(HEADS.values()) + " |", "|---" * (len(_SHOWN) + 2) + "|"]
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


def differences(runs: Mapping[str, Sequence[VideoScores]], margin: float = 0.05) -> list[Difference]:
    """Between every two models, over the samples that both have; p corrected for all of them (Holm).

    margin: the smallest difference that would matter. Raises ValueError for one that is not above 0.
    """
    found, alone, beside = [], [], list[float]()
    for one, other in itertools.combinations(runs, 2):
        for measure in _RAW:
            mine, theirs = (per_sample(runs[name], measure) for name in (one, other))
            both = sorted(mine.keys() & theirs.keys())
            values = np.array([mine[name] - theirs[name] for name in both])
            found.append((one, other, measure, bootstrap(values, bounds=(-1, 1))))
            sides = (bootstrap(side * values - margin, bounds=(-1 - margin, 1 - margin)).p for side in (1, -1))
            beside.append(max(sides))  # as good is what is smaller on both
            alone.append(tuple(sorted(mine.keys() ^ theirs.keys())))
    p, small = holm([each[3].p for each in found]), holm(beside)
    return [
        Difference(one, other, measure, each, value, _outcome(one, other, each, value, within, margin), others)
        for (one, other, measure, each), value, within, others in zip(found, p, small, alone, strict=True)
    ]


def _outcome(one: str, other: str, found: Estimate, p: float, p_margin: float, margin: float) -> str:
    """What a difference comes to, asked in both directions. p_margin: the larger one of both."""
    turned = replace(found, mean=-found.mean, low=-found.high, high=-found.low)
    up, down = (verdict(each, margin, p=p, p_margin=p_margin).word for each in (found, turned))
    if up == "holds" or down == "holds":
        return f"{one if up == 'holds' else other} is better"
    if up == down == "does not hold":
        return f"as good, within {margin:g}"
    least = smallest_difference(found)
    return "open" if math.isnan(least) else f"open: a difference of {least:.3f} could have been seen"


def compare(found: Sequence[Difference]) -> str:
    """Paired differences between models as a Markdown table; what two do not share stands below it."""
    lines = ["| difference | measure | mean [95 %] | samples | p (Holm) | outcome |", "|---|---|---|---|---|---|"]
    for each in found:
        said = f"{each.p:.3g}" if not math.isnan(each.p) else "not known"
        cells = (f"{each.one} - {each.other}", each.measure, _cell(each.mean), str(each.mean.count), said, each.outcome)
        lines.append(f"| {' | '.join(cells)} |")
    apart = {
        f"{each.one} and {each.other} do not share {', '.join(each.alone[:20])}": None for each in found if each.alone
    }
    return "\n".join([*lines, "", *apart]).rstrip() + "\n"


def _cell(found: Estimate) -> str:
    return "not known" if math.isnan(found.mean) else found.interval


def as_line(video: VideoScores) -> dict[str, Any]:
    """One video for a file: nan as None."""
    line = {
        "id": video.id,
        "seed": video.seed,
        "values": {name: _number(value) for name, value in video.values.items()},
        "missing": list(video.missing),
    }
    line |= {"judges": {name: _said(each) for name, each in video.judges.items()}} if video.judges else _said(video)
    return line | {"implausible": _number(video.implausible), "agreement": _number(video.agreement)}


def _said(video: VideoScores) -> dict[str, Any]:
    """What one judge answered, and who was there."""
    presence = video.presence
    answers = [
        None
        if each is None
        else {
            str(q): {"yes": answer.yes, "frame": answer.frame, "implausible": answer.implausible}
            for q, answer in sorted(each.items())
        }
        for each in video.answers
    ]
    there = None
    if presence is not None:
        there = {
            "sampled": presence.sampled,
            "disappearance": list(presence.disappearance),
            "emergence": None if presence.emergence is None else list(presence.emergence),
            "who": [list(each) for each in presence.who],
        }
    return {"answers": answers, "presence": there}


def _numbers(found: Estimate) -> list[float | None]:
    return [_number(value) for value in (found.mean, found.low, found.high)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 9)
