"""Tables and pictures of what was measured of steering: Markdown for people, CSV and Parquet for everything else.

FOLDER/report.md            per kind of tracks a table, each way of steering beside no guidance
FOLDER/table.csv, .parquet  every mean, interval and paired difference
FOLDER/clips.parquet        every clip's value of every measure
FOLDER/*.svg                trade-off of trajectory IoU and SPI, ablation curves
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io.files import whole_file
from ...io.strict_json import own_object
from ...io.tables import write_table
from ...mini.paths import PATHS
from ..statistics import Estimate, holm
from .choice import MARGIN, best_of, chosen
from .measures import MEASURES
from .plan import PLAIN, SETS, UNSAMPLED, Condition, conditions
from .plots import curves, trade_off
from .results import Measured

__all__ = ["rows", "write_report"]

_SHOWN = ("iou", "fidelity", "spi")
_BESIDE = ("follows", "intact", "colour", "background", "sharpness")
_HEADS = {
    "iou": "IoU",
    "fidelity": "IF",
    "spi": "SPI",
    "follows": "follows",
    "intact": "intact",
    "colour": "colour error",
    "background": "background, dB",
    "sharpness": "sharpness",
}
_TITLES = {
    "swapped": "Tracks against the prompt: roles exchanged",
    "own": "Tracks that say what the prompt says",
    "static": "Static tracks",
    "slow": "Slow tracks",
    "fast": "Fast tracks",
    "jumping": "Jumping tracks",
}


def write_report(folder: Path, found: Sequence[Measured], page: Path | None = None) -> Path:
    """Writes everything beside the measurements and returns the path of `report.md`. With `page` the text goes there,
    too, and its pictures into the folder `images` beside it.

    Raises ValueError where measurements of different clips are mixed, and where pyarrow is missing.
    """
    marks = {one.fingerprint for one in found}
    if len(marks) > 1:
        raise ValueError(f"{str(folder)!r} mixes measurements of {len(marks)} settings: keep those of one in a folder")
    found = _ordered(found)
    table = rows(found)
    columns = {name: [row[name] for row in table] for name in table[0]}
    write_table(folder / "table.parquet", columns)
    write_table(folder / "clips.parquet", _clips(found))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    _write(folder / "table.csv", text.getvalue())
    pictures = _pictures(folder, found)
    how = _how(folder)
    _write(folder / "report.md", _markdown(found, pictures, how))
    if page is not None:
        label = page.parent.name if page.stem == "README" else page.stem
        copies = {f"images/{label}-{name}": what for name, what in pictures.items()}
        for name, copy in zip(pictures, copies):
            _write(page.parent / copy, (folder / name).read_text(encoding="utf-8"))
        _write(page, _markdown(found, copies, how))
    return folder / "report.md"


def rows(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """One row for each condition and kind of tracks: means, 95 % intervals, and paired differences to no guidance."""
    plain = {one.tracks: one for one in found if one.condition == PLAIN}
    out = []
    for one in found:
        row: dict[str, Any] = {"condition": one.condition, "tracks": one.tracks, "clips": len(one)}
        row["seconds_per_clip"] = one.seconds
        for measure in MEASURES:
            row |= _cells(measure, one.estimate(measure))
            if one.tracks in plain and not one.condition.startswith(UNSAMPLED):
                row |= _cells(f"{measure}_gain", one.against(plain[one.tracks], measure))
            else:
                row |= _cells(f"{measure}_gain", Estimate(math.nan, math.nan, math.nan, 0))
        out.append(row)
    return out


def _ordered(found: Sequence[Measured]) -> list[Measured]:
    """In the order of the plan; what it does not know comes last."""
    names = [c.name for which in SETS for c in conditions(which, 12)]
    order = {name: at for at, name in enumerate(dict.fromkeys(names))}
    for name in {one.condition for one in found} - set(names):  # chosen by a sweep: beside the mode as it comes
        order[name] = order.get(name.split(",")[0], len(order))
    kinds = list(_TITLES)
    return sorted(found, key=lambda one: (kinds.index(one.tracks), order[one.condition], one.condition))


def _cells(name: str, found: Estimate) -> dict[str, float]:
    return {name: round(found.mean, 5), f"{name}_low": round(found.low, 5), f"{name}_high": round(found.high, 5)}


def _clips(found: Sequence[Measured]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "condition": [one.condition for one in found for _ in range(len(one))],
        "tracks": [one.tracks for one in found for _ in range(len(one))],
        "clip": [at for one in found for at in range(len(one))],
    }
    return columns | {name: np.concatenate([one.values[name] for one in found]) for name in MEASURES}


def _pictures(folder: Path, found: Sequence[Measured]) -> dict[str, str]:
    """Writes the pictures that there are numbers for; file name -> what it shows."""
    out = {}
    for tracks in dict.fromkeys(one.tracks for one in found):
        some = [one for one in found if one.tracks == tracks]
        if len(some) > 2:
            name = f"trade-off-{tracks}.svg"
            _write(folder / name, trade_off(some, _TITLES[tracks]))
            out[name] = f"Trajectory IoU against SPI. {_TITLES[tracks]}."
    for name, (title, text) in curves([one for one in found if one.tracks == "swapped"]).items():
        _write(folder / name, text)
        out[name] = title
    return out


def _how(folder: Path) -> list[str]:
    """How the clips were sampled, where the folder knows."""
    path = folder / "plan.json"
    if not path.is_file():
        return []
    plan = own_object(path)
    return [
        f"{plan['prompts']} prompts, {plan['steps']} steps, guidance scale {plan['cfg']:g}, {plan['precision']}.",
        "",
    ]


def _markdown(found: Sequence[Measured], pictures: dict[str, str], how: Sequence[str]) -> str:
    lines = ["# How well each way of steering follows mask tracks", "", *how]
    lines += [
        "Means with 95 % intervals; below them the paired difference to no guidance on the same prompts and seeds,"
    ]
    lines += ["bold where it differs from 0 after correction for all comparisons of the table (Holm, .05).", ""]
    for tracks in dict.fromkeys(one.tracks for one in found):
        some = [one for one in found if one.tracks == tracks]
        lines += [f"## {_TITLES[tracks]} (`{tracks}`)", "", *_table(some), "", *_said(some, tracks), ""]
    lines += [f"![{what}]({name})\n" for name, what in pictures.items()]
    lines += [*_settings(found), "## What the columns are", ""]
    lines += [f"- **{_HEADS.get(name, name)}** (`{name}`): {what}." for name, what in MEASURES.items()]
    lines += ["", f"Kinds of tracks: {', '.join(PATHS)}. Every video is judged by its pixels alone."]
    notes = list(dict.fromkeys(f"{one.condition}, {one.tracks}: {note}" for one in found for note in one.notes))
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes[:40])] if notes else []
    return "\n".join(lines).rstrip() + "\n"


def _table(found: Sequence[Measured]) -> list[str]:
    plain = next((one for one in found if one.condition == PLAIN), None)
    heads = ["", "n", *(_HEADS[name] for name in (*_SHOWN, *_BESIDE)), "s / clip"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    compared = [one for one in found if plain is not None and not (one is plain or one.condition.startswith(UNSAMPLED))]
    gains = {(one.condition, name): one.against(plain, name) for one in compared for name in _SHOWN if plain}
    p = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    for one in found:
        cells = [one.condition, str(len(one))]
        for name in _SHOWN:
            cell = _short(one.estimate(name))
            if gain := gains.get((one.condition, name)):
                sure = (gain.low > 0 or gain.high < 0) and p[one.condition, name] <= 0.05
                said = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
                cell += f"<br>{'**' if sure else ''}{said}{'**' if sure else ''}"
            cells.append(cell)
        cells += [f"{one.mean(name):.{1 if name == 'background' else 3}f}" for name in _BESIDE]
        lines.append("| " + " | ".join([*cells, f"{one.seconds:.2f}" if one.seconds else ""]) + " |")
    return lines


def _settings(found: Sequence[Measured]) -> list[str]:
    """What each condition was, and what a sweep chose of each mode."""
    said = {one.condition: one.said for one in found if one.said and not one.condition.startswith(UNSAMPLED)}
    lines = ["## Settings", "", "What differs from the library's defaults, as Python has it.", ""]
    lines += [f"- {name}: `{text}`" for name, text in said.items()]
    names = {one.condition for one in found}
    sweep = [c for c in conditions("sweep", 12) if c.name in names]
    if len(sweep) > 1 and any(one.condition == PLAIN and one.tracks == "swapped" for one in found):
        best = best_of(found, sweep, "swapped")
        lines += [
            "",
            "Of each mode: the setting that follows best at no loss of SPI (gentle), by the same rule, and the one",
        ]
        lines += ["with the greatest interaction fidelity (faithful), where they are better than no guidance:", ""]
        for mode in _modes(sweep):
            lines += [f"- {mode}, {kind}: {one.name}" for (of, kind), one in best.items() if of == mode]
            lines += [f"- {mode}: none"] * all(of != mode for of, _ in best)
    return [*lines, ""]


def _modes(plan: Sequence[Condition]) -> list[str]:
    return list(dict.fromkeys(condition.mode for condition in plan if condition.mode))


def _short(found: Estimate) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _said(found: Sequence[Measured], tracks: str) -> list[str]:
    """What the table says, by rule."""
    plain = next((one for one in found if one.condition == PLAIN), None)
    if plain is None:
        return ["Without measurements of no guidance there is nothing to compare with."]
    twice = [
        one.condition
        for one in found
        if one.condition != PLAIN
        and not one.condition.startswith(UNSAMPLED)
        and one.mean("iou") >= 2 * plain.mean("iou")
        and one.against(plain, "spi").high >= 0
    ]
    best = chosen(found, tracks)
    return [
        "Trajectory IoU at least doubles without a significant loss of SPI: " + (", ".join(twice) or "nothing") + ".",
        f"Greatest trajectory IoU at a mean SPI that is less than {MARGIN} lower, or not significantly lower: "
        + (best.condition if best is not None else "nothing")
        + ".",
    ]


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
