"""What the claims come to, as Markdown and as one HTML page that holds everything and asks the network for nothing."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matrix_lib.draw.svg import Mark, curves, forest
from matrix_lib.evaluation.statistics import Estimate, smallest_difference
from matrix_lib.io.files import whole_file

from .arm_tables import Tables, arm_tables, shown, signed, variances
from .claims import CLAIMS, Found, asked
from .plan import GROUPS, jobs_of
from .protocol import ARMS, BY_BASE, COLUMNS, NOTES, PROTOCOL, READING
from .rules import layer_rules
from .sittings import Row, Rows, place, short
from .summary import SHORT, counted, summary

__all__ = ["fill_page", "write_report"]

_HEAD = (
    *("verdict", "claim", "paper's figure", "contrast, set, score", "level"),
    *("bases like these", "these bases", "least", "n", "p; of the margin"),
)
_MARK, _FIRST = "<!-- written by training.reproduce -->", "## How to read the rows"


def write_report(rows: Rows, out: Path) -> str:
    """Writes `report.md` and `report.html` into ``out``; returns the Markdown."""
    found = asked(rows)
    tables = [
        *(_claims(found), _by_base(rows, found), *arm_tables(rows), *variances(rows), *_rules(rows), _bases(rows)),
        _sittings(rows),
        _missing(rows, found),
    ]
    points = "\n".join(f"{i}. {point}" for i, point in enumerate(PROTOCOL, 1))
    columns = "\n".join(f"- **{name}**: {said}" for name, said in COLUMNS.items())
    text = f"{_short(found)}\n{_FIRST}\n\n{READING} Columns of the table of claims:\n\n{columns}\n\n"
    text += "\n".join(_markdown(*table) for table in tables if table[0] != BY_BASE)
    text += f"\n## Whether attention moved\n\n{_attention_points(found)}\n## Protocol\n\n{points}\n"
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("report.md", text), ("report.html", _page(rows, found, tables))):
        with whole_file(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text


def fill_page(page: Path, report: str) -> None:
    """Writes a report into a page that people wrote: what it says in short between its first two marks, the rest behind
    the third.

    Raises ValueError where the page has other marks."""
    text = page.read_text(encoding="utf-8")
    parts = text.split(_MARK)
    if len(parts) != 4:
        raise ValueError(
            f"{page} has {len(parts) - 1} lines {_MARK!r}; three are wanted: two around what the report says in"
            " short, one in front of its rows"
        )
    short, rows = report[: (at := report.index(_FIRST))], report[at:]
    with whole_file(page) as temporary:
        temporary.write_text(_MARK.join((parts[0], f"\n\n{short}", parts[2], f"\n\n{rows}")), encoding="utf-8")


def _short(found: Sequence[Found]) -> str:
    lines = ["## In short", "", SHORT, ""]
    for paper, parts in summary(found).items():
        lines += [f"**{paper}**: {counted(parts)}", ""]
        lines += [f"- *{word}*: {one}" for word, every in parts for one in every]
        lines.append("")
    return "\n".join(lines)


# --- tables


def _claims(found: Sequence[Found]) -> tuple[str, list[str], list[list[str]]]:
    lines = []
    for each in found:
        claim = each.claim
        if each.outcome is None:
            continue
        bases, runs = len(each.seeds), sum(each.seeds.values())
        lines.append(
            [
                f"**{each.outcome.word}**",
                f"{claim.paper}{' (check of ours)' if claim.own else ''}: {claim.said}",
                claim.figure,
                f"{claim.contrast}; {claim.part}; {claim.score.replace('_', ' ')}{' (less)' if claim.sign < 0 else ''}",
                f"{each.level:.3f}",
                signed(each.like),
                signed(each.these),
                f"{_number(smallest_difference(each.like if bases > 1 else each.these))}; {_number(each.least)}",
                f"{bases} bases, {sum(mean > 0 for mean in each.by_base.values())} up; {runs} runs; looks: "
                f"{each.looks}",
                f"{_number(each.p)}; {_number(each.p_margin)}",
            ]
        )
    return "Claims", list(_HEAD), lines


def _by_base(rows: Rows, found: Sequence[Found]) -> tuple[str, list[str], list[list[str]]]:
    """By seed of the base, as the table of bases has them; on the page alone."""
    lines = []
    for each in found:
        if each.outcome is not None:
            claim, means = each.claim, each.by_base.items()
            cells = [f"{base.split()[-1]}: {mean:+.3f}" for base, mean in means]
            presets = sorted({base.split()[0] for base, _ in means})
            lines.append([claim.contrast, f"{claim.part}, {claim.score.replace('_', ' ')}", *presets, "; ".join(cells)])
    return BY_BASE, ["contrast", "set, score", "preset", "seed of the base: difference"], lines


def _bases(rows: Rows) -> tuple[str, list[str], list[list[str]]]:
    lines = []
    parts = list(dict.fromkeys(part for base in rows.bases.values() for part in base.get("sets", {})))
    for name, base in sorted(rows.bases.items(), key=lambda found: place(found[0])):
        scores = base.get("sets", {})
        cells = [_bits(scores.get(part, {}).get("right_roles")) for part in parts]
        lines.append([name, str(base["base"]["steps"]), *cells])
    return "Bases before anything (floor): right roles", ["base", "steps", *parts], lines


def _rules(rows: Rows) -> Tables:
    """Whether what a base's analysis says of layers foretells what training on them gives."""
    lines = [
        [
            each.name,
            f"{each.like.mean:+.2f} [{each.like.low:+.2f}, {each.like.high:+.2f}]",
            "; ".join(f"{base.split()[-1]}: {value:+.2f}" for base, value in each.by_base.items()),
            f"{each.pick:+.3f}",
            _number(each.p),
        ]
        for each in layer_rules(rows)
    ]
    head = ["rule", "rank correlation with the gain, bases like these", "seed of the base: correlation", "pick", "p"]
    return [("Is there a rule that names good layers?", head, lines)] if lines else []


def _bits(found: str | float | None) -> str:
    if found is None:
        return "-"
    return f"{np.mean([float(c) for c in found]) if isinstance(found, str) else found:.3f}"


def _sittings(rows: Rows) -> tuple[str, list[str], list[list[str]]]:
    lines = [
        [s.name, *(str(s.manifest.get(key, "-")) for key in ("date", "commit", "device", "torch")), str(len(s.rows))]
        for s in rows.sittings
    ]
    return "Sittings", ["name", "date", "commit", "device", "torch", "runs"], lines


def _missing(rows: Rows, found: Sequence[Found]) -> tuple[str, list[str], list[list[str]]]:
    """What the plan has and no sitting ran: by paper the number of claims without rows, and by group and number of
    finished runs the arms."""
    unasked: dict[str, set[str]] = {}
    for each in found:
        if each.missing:
            unasked.setdefault(each.claim.paper, set()).add(each.claim.said)
    lines = (
        [["no rows", "; ".join(f"{paper}: {len(said)} claims" for paper, said in unasked.items())]] if unasked else []
    )
    ran = {(row.claim, short(row.base), row.arm, row.seed) for row in rows.all}
    for claim in GROUPS:
        runs: dict[str, list[bool]] = {}
        for job in jobs_of([claim]):
            if job.kind != "base":
                there = (claim, f"{job.base.preset} {job.base.seed}", job.arm, job.seed) in ran
                runs.setdefault(job.arm, []).append(there)
        if not any(map(any, runs.values())):
            lines.append([f"{claim}: nothing of {sum(map(len, runs.values()))} planned runs", GROUPS[claim].about])
            continue
        counts: dict[tuple[int, int], list[str]] = {}
        for arm, flags in runs.items():
            if not all(flags):
                counts.setdefault((sum(flags), len(flags)), []).append(arm)
        lines += [[f"{claim}: {n} of {of} planned runs", "; ".join(arms)] for (n, of), arms in counts.items()]
    return "What is missing", ["there is", "of"], lines


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _markdown(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
    return "\n".join([f"## {title}", "", *([_note(title), ""] if _note(title) else []), *rows, ""])


# --- the page

_STYLE = """
body { background: #15161a; color: #e6e6ea; font: 15px/1.5 system-ui, sans-serif; max-width: 1340px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; } p, ol, ul { max-width: 72em; }
b.word { color: #e69f00; }
div.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 4px 9px; border-bottom: 1px solid #33353d; text-align: left; vertical-align: top; }
th { color: #a5a7b2; font-weight: 500; } svg { width: 100%; height: auto; }
td:first-child, .whole { white-space: nowrap; }
details { margin: 1em 0; } summary { cursor: pointer; }
figure { display: inline-block; margin: 0 14px 14px 0; width: 320px; vertical-align: top; }
figure img { width: 100%; } figcaption { font-size: 13px; color: #a5a7b2; }
"""


def _page(rows: Rows, found: Sequence[Found], tables: Tables) -> str:
    parts = [f"<h1>The claims, asked again</h1><p>{_plain(SHORT)}</p>"]
    for paper, verdicts in summary(found).items():
        lines = "".join(
            f'<li><b class="word">{word}</b> {_plain(one)}</li>' for word, every in verdicts for one in every
        )
        parts.append(f"<h2>{html.escape(paper)}</h2><p>{counted(verdicts)}</p><ul>{lines}</ul>")
    columns = "".join(f"<li><b>{html.escape(name)}</b>: {_plain(said)}</li>" for name, said in COLUMNS.items())
    points = "".join(f"<li>{_plain(point)}</li>" for point in PROTOCOL)
    parts.append(
        f"<details><summary>What the columns say</summary><p>{_plain(READING)}</p><ul>{columns}</ul></details>"
    )
    parts.append(f"<details><summary>Protocol</summary><ol>{points}</ol></details>")
    parts += [_table(*tables[0]), _reasons(found)]
    parts += [f"<h2>{html.escape(title)}</h2>{plot}" for title, plot in _plots(rows, found).items()]
    parts += [_table(*table) for table in tables[1:]]
    parts.append(_clips(rows))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The claims, asked again</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{_cell_text(cell)}</{kind}>" for cell in cells) + "</tr>"

    body = "".join(row(line, "td") for line in lines)
    note = f"<p>{_plain(_note(title))}</p>" if _note(title) else ""
    return f'<h2>{html.escape(title)}</h2>{note}<div class="table"><table>{row(head, "th")}{body}</table></div>'


def _note(title: str) -> str:
    """What stands under the title of a table."""
    return ARMS if title in {group.about for group in GROUPS.values()} else NOTES.get(title, "")


def _plain(text: str) -> str:
    """Without Markdown's marks; intervals are not broken."""
    return _cell_text(text.replace("`", ""))


def _cell_text(cell: str) -> str:
    """Without Markdown's stars; intervals are not broken."""
    return re.sub(r"\[[^]]*\d\]", r'<span class="whole">\g<0></span>', html.escape(cell).replace("*", ""))


def _why(each: Found) -> str:
    said = [str(each.outcome), *(check.said for check in each.checks if check.said not in str(each.outcome))]
    return f"{each.claim.contrast}, {each.claim.part}, {each.claim.score.replace('_', ' ')}: {'; '.join(said)}"


def _attention_points(found: Sequence[Found]) -> str:
    """The same for all sets of a contrast."""
    asked_of = [each for each in found if each.claim.moved and each.outcome is not None]
    said = [f"- {each.claim.contrast}: {each.checks[-1].said}\n" for each in asked_of]
    return "".join(dict.fromkeys(said))


def _reasons(found: Sequence[Found]) -> str:
    lines = "".join(f"<li>{html.escape(_why(each))}</li>" for each in found if each.outcome is not None)
    return f"<details><summary>Why, and the checks</summary><ul>{lines}</ul></details>"


def _plots(rows: Rows, found: Sequence[Found]) -> dict[str, str]:
    """Differences by paper, and scores over steps."""
    out: dict[str, str] = {}
    for paper in dict.fromkeys(claim.paper for claim in CLAIMS):
        groups: dict[str, list[tuple[Mark, Mark]]] = {}
        for each in found:
            if each.claim.paper == paper and each.outcome is not None:
                pair = _mark(each.claim.contrast, each.these), _mark(each.claim.contrast, each.like)
                groups.setdefault(f"{each.claim.part}, {each.claim.score}", []).append(pair)
        for title, pairs in groups.items():
            name = f"{paper}: differences, {title.replace('_', ' ')}"
            said = "thick: these bases; thin: bases like these, cut at the border"
            out[f"{name} ({said})"] = forest([these for these, _ in pairs], [like for _, like in pairs])
    for claim in (name for name, group in GROUPS.items() if group.kind == "arm" and rows.arms_of(name)):
        for part, score in shown(claim)[:2]:
            series = {arm: _learning(rows, claim, arm, part, score) for arm in rows.arms_of(claim)[:7]}
            series = {arm: lines for arm, lines in series.items() if lines}
            if series:
                out[f"{GROUPS[claim].about}: {part}, {score.replace('_', ' ')} over steps"] = curves(series)
    return out


def _mark(name: str, found: Estimate) -> Mark:
    ends = [end if not math.isnan(end) else found.mean for end in (found.low, found.high)]
    return Mark(name, found.mean, *ends)


def _learning(rows: Rows, claim: str, arm: str, part: str, score: str) -> list[list[tuple[float, float]]]:
    """A line a run, from the base on; only of runs with several checkpoints."""
    lines = []
    for row in rows.all:
        if (row.claim, row.arm) != (claim, arm) or len(row.curve) < 2:
            continue
        points = [(float(step), _mean(row, part, score, step)) for step in sorted(row.curve)]
        points = [point for point in points if not math.isnan(point[1])]
        if len(points) < 2:
            continue
        start = rows.bases.get(row.base, {}).get("sets", {}).get(part, {}).get(score)
        lines.append(([(0.0, float(_bits(start)))] if start is not None else []) + points)
    return lines


def _mean(row: Row, part: str, score: str, step: int) -> float:
    values = row.values(part, score, step)
    return float("nan") if values is None else float(values.mean())


def _clips(rows: Rows) -> str:
    pictures: Mapping[str, Any] = {name: url for s in rows.sittings for name, url in s.pictures.items()}
    shown = "".join(
        f'<figure><img src="{url}" alt=""><figcaption>{html.escape(name)}</figcaption></figure>'
        for name, url in sorted(pictures.items())
        if url.startswith("data:image/")
    )
    return f"<h2>Clips</h2>{shown}" if shown else ""
