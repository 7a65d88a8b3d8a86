"""What a comparison found: means over seeds, paired differences, pictures.

S seeds, P prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.draw.svg import Mark, curves, intervals_by_group, stand_alone
from matrix_lib.evaluation.statistics import Estimate, holm, over_seeds_and_prompts
from matrix_lib.io.files import whole_file
from matrix_lib.io.strict_json import own_object

from .jobs import RESULT

__all__ = ["CONTRASTS", "report"]

Array = NDArray[np.float64]
ALL = "all"
SHOWN = ("right_roles", "right_path", "intact", "interaction_fidelity", "kisa", "sgi", "trajectory_iou")
CONTRASTS = (
    ("off", "base"),
    ("off", "plain"),
    ("sga", "off"),
    ("spa", "off"),
    ("both", "off"),
    ("flow", "off"),
    ("mix", "both"),
    ("tavid", "tavid_off"),
    ("elsewhere", "elsewhere_off"),
    ("both", "elsewhere"),
)
"""(arm, what it is compared with), for as far as both were run."""


def collect(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished jobs by arm, in the order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob(f"*/{RESULT}")):
        result = own_object(path)
        found.setdefault(result["arm"], []).append(result)
    return {arm: sorted(results, key=lambda r: r["seed"]) for arm, results in found.items()}


def table_of(results: Sequence[Mapping[str, Any]], score: str) -> dict[str, Array]:
    """(S, P) per set, and of all sets together."""
    sets = list(results[0]["scores"])
    found = {name: np.array([r["scores"][name][score] for r in results], dtype=np.float64) for name in sets}
    return {ALL: np.concatenate(list(found.values()), axis=1), **found}


def paired(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], score: str) -> dict[str, Array]:
    """Differences of two arms on the same prompts, seed by seed; a single run is compared with every seed."""
    mine, theirs = {r["seed"]: r for r in one}, {r["seed"]: r for r in other}
    seeds = sorted(set(mine) & set(theirs)) if min(len(mine), len(theirs)) > 1 else sorted(set(mine) | set(theirs))

    def rows(runs: dict[int, Any]) -> list[Any]:
        return [next(iter(runs.values())) if len(runs) == 1 else runs[seed] for seed in seeds]

    a, b = table_of(rows(mine), score), table_of(rows(theirs), score)
    return {name: a[name] - b[name] for name in a}


def summary(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means by arm, score and set; differences by contrast, score and set."""
    means = {
        arm: {s: {n: over_seeds_and_prompts(v, bounds=(0, 1)) for n, v in table_of(results, s).items()} for s in SHOWN}
        for arm, results in jobs.items()
    }
    there = [(a, b) for a, b in CONTRASTS if a in jobs and b in jobs]
    changes = {
        f"{a} - {b}": {
            s: {n: over_seeds_and_prompts(v, bounds=(-1, 1)) for n, v in paired(jobs[a], jobs[b], s).items()}
            for s in SHOWN
        }
        for a, b in there
    }
    return {"means": means, "differences": changes}


def report(out: Path, order: Sequence[str] = ()) -> str:
    """Writes `report.md`, `report.json`, `comparison.svg` and `curves.svg` into `out`; returns the text.

    Raises ValueError where no job has finished."""
    found = collect(out)
    if not found:
        raise ValueError(f"no job in {out} has finished")
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    jobs = {name: found[name] for name in names}
    made = summary(jobs)
    text = _text(jobs, made)
    pictures = {
        "comparison.svg": _comparison(made),
        "curves.svg": _curves(jobs),
        "report.md": text,
        "report.json": json.dumps({kind: _plain(values) for kind, values in made.items()}, indent=1),
    }
    for name, content in pictures.items():
        with whole_file(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text


def _plain(values: Any) -> Any:
    if isinstance(values, Estimate):
        return [round(x, 4) for x in (values.mean, values.low, values.high)]
    return {name: _plain(value) for name, value in values.items()}


def _text(jobs: Mapping[str, Sequence[Mapping[str, Any]]], made: Mapping[str, Any]) -> str:
    """Markdown tables: means, then paired differences, bold where they are not 0 after correction (Holm, .05)."""
    lines = []
    for kind, title in (("means", "Means over seeds"), ("differences", "Paired differences")):
        for score in SHOWN[:4]:
            rows = made[kind]
            if not rows:
                continue
            sets = list(next(iter(rows.values()))[score])
            lines += ["", f"{title}, {score.replace('_', ' ')}, with 95 % intervals over seeds and prompts:", ""]
            lines += ["| | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
            cells = {(name, n): v[score][n] for name, v in rows.items() for n in sets}
            sure = _sure(cells) if kind == "differences" else set()
            lines += [
                f"| {name} | " + " | ".join(_cell(cells[name, n], (name, n) in sure) for n in sets) + " |"
                for name in rows
            ]
    lines += ["", "| arm | seeds | prompts a set | device | training, s | judging, s |", "|---|---|---|---|---|---|"]
    for name, results in jobs.items():
        first = results[0]
        seeds = ", ".join(str(r["seed"]) for r in results)
        count = first["settings"]["judging"]["prompts"]
        times = [f"{np.mean([r[key] for r in results]):.0f}" for key in ("train_seconds", "judge_seconds")]
        lines.append(f"| {name} | {seeds} | {count} | {first['device']} | {times[0]} | {times[1]} |")
    return "\n".join(lines).strip() + "\n"


def _sure(cells: Mapping[tuple[str, str], Estimate]) -> set[tuple[str, str]]:
    """Differences that are not 0 after correction for all comparisons of the table (Holm)."""
    p = dict(zip(cells, holm([found.p for found in cells.values()]), strict=True))
    return {at for at, found in cells.items() if p[at] <= 0.05 and (found.low > 0 or found.high < 0)}


def _cell(found: Estimate, sure: bool) -> str:
    return f"**{found.interval}**" if sure else found.interval


def _comparison(made: Mapping[str, Any]) -> str:
    plots = {}
    for score in SHOWN[:4]:
        title = score.replace("_", " ")
        for kind, ending, reference in (("means", "", None), ("differences", ", paired differences", 0.0)):
            rows = made[kind]
            if not rows:
                continue
            sets = list(next(iter(rows.values()))[score])
            groups = {
                n: [Mark(a, v[score][n].mean, v[score][n].low, v[score][n].high) for a, v in rows.items()] for n in sets
            }
            plots[title + ending] = intervals_by_group(groups, reference)
    return stand_alone(plots)


def _curves(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One plot a loss, a line a run."""
    names = ("diffusion", "sga", "spa", "target")
    plots = {}
    for loss in names:
        series = {
            arm: [[(row["step"], row[loss]) for row in r["curve"] if loss in row] for r in results if r["curve"]]
            for arm, results in jobs.items()
        }
        series = {arm: [run for run in runs if run] for arm, runs in series.items()}
        if any(series.values()):
            plots[f"{loss} loss"] = curves({arm: runs for arm, runs in series.items() if runs})
    return stand_alone(plots)
