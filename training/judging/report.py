"""`training.judge report`: everything about one model or several in one folder, for people and for programs.

OUT/report.html        one page with videos, boxes, questions, answers; films beside it where they are many
OUT/tables.md, .tex    every table; OUT/TABLE.csv each by itself
OUT/results.json       the same numbers; OUT/videos.parquet a row a video
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrix_lib.evaluation.intergen.page import Shown, write_page
from matrix_lib.evaluation.intergen.report import HEADS, Difference
from matrix_lib.evaluation.intergen.run import Options, prepare
from matrix_lib.evaluation.intergen.scores import MEASURES
from matrix_lib.evaluation.intergen.tables import IVG_DA, MATRIX, TAVID, Table, agreement_table, paper_table
from matrix_lib.evaluation.statistics import Estimate
from matrix_lib.evaluation.trajectories.report import read_rows
from matrix_lib.evaluation.trajectories.report import summarise as track_means
from matrix_lib.io.files import whole_file
from matrix_lib.io.tables import write_table
from training.judging.people import preferences
from training.judging.scoring import Scored, add_scoring, parquet_known, score_all

__all__ = ["add_report", "report"]

_PAPERS = ("matrix", "matrix_released")  # the same numbers as in the table of scores, in another form
_RELEASED = {"kisa_released": "KISA ↑", "sgi_released": "SGI ↑", "fidelity_released": "IF ↑"}


def report(given: argparse.Namespace, options: Options) -> int:
    """Scores all folders, and writes the report. 0 where nothing is missing, else 2."""
    scored = score_all(given, options)
    out = given.out or (given.videos[0] / "intergen" if len(given.videos) == 1 else given.suite / "report")
    tables = _tables(scored, given)
    _write(out, tables, scored)
    missing = {
        f"Missing of {name} (not in its means): {len(run.missing)} of {run.of} videos": [
            f"{video}: {'; '.join(why)}" for video, why in run.missing.items()
        ]
        for name, run in scored.means.items()
    }
    title = f"Interactions in {', '.join(scored.runs)}"
    problems = write_page(
        out / "report.html", title, _about(scored, options),
        [table for name, table in tables.items() if name not in _PAPERS], missing, _shown(scored), given.embed << 20,
    )  # fmt: skip
    for problem in problems:
        print(f"not shown: {problem}", file=sys.stderr)
    print("\n".join(table.markdown() for table in tables.values()))
    print(out / "report.html")
    if given.complete and scored.missing:
        raise ValueError("videos are missing from the means (see the report), and --complete asks for all of them")
    return 2 if scored.missing else 0


def _tables(scored: Scored, given: argparse.Namespace) -> dict[str, Table]:
    """By name of their file."""
    means = {name: run.estimates for name, run in scored.means.items()}
    counts = ", ".join(f"{name} {run.complete} of {run.of}" for name, run in scored.means.items())
    found = {
        "scores": paper_table(
            "InterGenEval",
            {f"{measure}": head for measure, head in HEADS.items()},
            means,
            f"Means over samples with 95 % intervals. Videos: {counts}. SPI and IF in both forms; only the released "
            "form may stand beside the paper's numbers.",
        ),
        "matrix": paper_table("As in MATRIX, clamped SPI", MATRIX, means),
        "matrix_released": paper_table("As in MATRIX, SPI as its code has it", _RELEASED, means),
    }
    if scored.differences:
        found["differences"] = _differences(scored.differences)
    if any(scored.agreements.values()):
        found["agreement"] = agreement_table(scored.agreements)
    kinds = sorted({kind for run in scored.means.values() for kind in run.by_type})
    if len(kinds) > 1:
        found["by_kind"] = _by_kind(scored, kinds)
    paths = {name: track_means(list(read_rows(run.folder).values())) for name, run in scored.runs.items()}
    if any(paths.values()):
        note = "From `python -m training.score_tracks`."
        found["ivg_da"] = paper_table("Paths, as in IVG-DA", IVG_DA, paths, note)
        found["tavid"] = paper_table("Contact, as in TAViD", TAVID, paths, note)
    if (table := preferences(given.suite, given.preference, given.videos)) is not None:
        found["preference"] = table
    return found


def _differences(some: Sequence[Difference]) -> Table:
    rows: list[tuple[str | int | Estimate, ...]] = []
    for e in some:
        p = "not known" if math.isnan(e.p) else f"{e.p:.3g}"
        rows.append((f"{e.one} - {e.other}", e.measure, e.mean, e.mean.count, p, e.outcome))
    note = "Paired over the samples that both have; p is corrected for all comparisons of this table (Holm)."
    for text in dict.fromkeys(f"{e.one} and {e.other} do not share {', '.join(e.alone[:20])}" for e in some if e.alone):
        note += f"\n{text}"
    return Table("Differences", ("difference", "measure", "mean", "samples", "p", "outcome"), tuple(rows), note)


def _by_kind(scored: Scored, kinds: Sequence[str]) -> Table:
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    rows: list[tuple[str | int | Estimate, ...]] = []
    for name, run in scored.means.items():
        for kind in kinds:
            rows.append((name, kind, *(run.by_type.get(kind, {}).get(measure, nothing) for measure in MATRIX)))
    return Table("By kind of interaction", ("model", "kind", *MATRIX.values()), tuple(rows))


def _about(scored: Scored, options: Options) -> dict[str, str]:
    judges = list(dict.fromkeys(judge for run in scored.runs.values() for judge in run.judges))
    return {
        "judged by": ", ".join(judges) or "nobody yet",
        "suite": scored.suite.hash,
        "frames": f"the first, the last, and each {scored.suite.stride}-th between",
        "repeats": str(options.repeats),
        "what is new": {"judge": "asked of the judge", "detector": "a detector's boxes", "off": "not asked"}[
            options.emergence
        ],
    }


def _shown(scored: Scored) -> list[Shown]:
    sheets = prepare(scored.suite)
    return [
        Shown(
            run.name,
            scored.suite.sample(video.id),
            video,
            {judge: said[name] for judge, said in run.said.items() if (name := _name(video)) in said},
            run.files.get(_name(video)),
            sheets.get(video.id),
        )
        for run in scored.runs.values()
        for video in run.videos
    ]


def _name(video: Any) -> str:
    return f"{video.id}.{video.seed}" if video.seed else str(video.id)


def _write(out: Path, tables: Mapping[str, Table], scored: Scored) -> None:
    texts = {f"{name}.csv": table.csv() for name, table in tables.items()}
    texts["tables.md"] = "\n".join(table.markdown() for table in tables.values())
    texts["tables.tex"] = "\n".join(table.latex() for table in tables.values())
    texts["results.json"] = json.dumps(_plain(tables, scored), indent=1, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if not parquet_known():
        return
    every = [(name, video) for name, run in scored.runs.items() for video in run.videos]
    columns: dict[str, Any] = {
        "model": [name for name, _ in every],
        "id": [video.id for _, video in every],
        "seed": [video.seed for _, video in every],
        "type": [scored.suite.sample(video.id).type for _, video in every],
        "complete": [video.complete for _, video in every],
    }
    columns |= {measure: [video.values.get(measure, math.nan) for _, video in every] for measure in MEASURES}
    write_table(out / "videos.parquet", columns, {"suite_hash": scored.suite.hash})


def _plain(tables: Mapping[str, Table], scored: Scored) -> dict[str, Any]:
    def cell(value: Any) -> Any:
        if not isinstance(value, Estimate):
            return value
        numbers = {name: getattr(value, name) for name in ("mean", "low", "high")}
        return {name: None if math.isnan(each) else round(each, 9) for name, each in numbers.items()} | {
            "n": value.count
        }

    return {
        "suite_hash": scored.suite.hash,
        "judges": {name: run.judges for name, run in scored.runs.items()},
        "videos": {name: {"n": run.of, "complete": run.complete} for name, run in scored.means.items()},
        "tables": {
            name: [dict(zip(table.heads, map(cell, row), strict=True)) for row in table.rows]
            for name, table in tables.items()
        },
    }


def add_report(parser: argparse.ArgumentParser) -> None:
    """Settings of `report`."""
    add_scoring(parser)
    parser.add_argument("--out", type=Path, help="default: VIDEOS/intergen of one model, SUITE/report of several")
    parser.add_argument("--embed", type=int, default=48, help="MB of films inside the page; more lie beside it (48)")
    parser.add_argument("--preference", type=Path, help="votes of `prefer` (default: SUITE/preference)")
