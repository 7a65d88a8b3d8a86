"""Tables of results in the forms of the papers, each as Markdown, LaTeX and CSV.

MATRIX (arXiv 2510.07310): KISA, SGI, IF. IVG-DA (arXiv 2505.24253): mIoU, coverage, centre distance, AP50. TAViD (arXiv
2503.18950): contact score, and the share of a user study. A cell is a mean with its 95 % interval over prompts; CSV has
the three numbers in columns of their own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..agreement import Agreement
from ..preference import Preference
from ..statistics import Estimate

__all__ = ["IVG_DA", "MATRIX", "TAVID", "Table", "agreement_table", "paper_table", "preference_table"]

Cell = str | int | Estimate
MATRIX = {"kisa": "KISA ↑", "sgi": "SGI ↑", "fidelity": "IF ↑"}
IVG_DA = {"box_iou": "mIoU ↑", "coverage": "Cov. ↑", "centre_distance": "CD ↓", "ap50": "AP50 ↑"}
TAVID = {"contact": "contact ↑"}
_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_ESCAPES |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}


@dataclass(frozen=True)
class Table:
    """heads: of the columns. rows: a cell for each. note: what a reader has to know."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _row(map(_bars, self.heads)), "|---" * len(self.heads) + "|"]
        lines += [_row(_bars(_text(cell)) for cell in row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"

    def latex(self) -> str:
        """With booktabs. Intervals are small, behind the mean."""
        lines = [f"% {line}" for line in (self.title, *self.note.splitlines()) if line]
        lines += [r"\begin{tabular}{l" + "r" * (len(self.heads) - 1) + "}"]
        lines += [r"\toprule", " & ".join(map(_escaped, self.heads)) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_latex, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        wide = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.heads))]
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        heads = zip(self.heads, wide, strict=True)
        lines.writerow([name for head, three in heads for name in ([head, "low", "high"] if three else [head])])
        for row in self.rows:
            lines.writerow([value for cell, three in zip(row, wide, strict=True) for value in _plain(cell, three)])
        return out.getvalue()


def paper_table(
    title: str, columns: Mapping[str, str], runs: Mapping[str, Mapping[str, Estimate]], note: str = ""
) -> Table:
    """A row a model. columns: heads by measure; runs: estimates by model and measure."""
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    rows: list[tuple[Cell, ...]] = []
    for name, found in runs.items():
        rows.append((name, *(found.get(measure, nothing) for measure in columns)))
    return Table(title, ("model", *columns.values()), tuple(rows), note)


def preference_table(found: Mapping[str, Preference]) -> Table:
    """A row for each question and model, best first."""
    rows: list[tuple[Cell, ...]] = []
    for question, one in found.items():
        rows += [(question, model, share, one.strength[model], share.count) for model, share in one.share.items()]
    note = "Share of comparisons that are won (a tie is half), Bradley-Terry strength with mean 0; 95 % over prompts."
    for question, one in found.items():
        leads = "; ".join(f"{p.one} over {p.other} {p.lead.interval}, p {_p(p.p)}" for p in one.pairs)
        note += f"\n\n{question}: {one.votes} votes on {one.prompts} prompts, {one.ties} ties. Lead: {leads}."
    note += "\n\np is corrected for all pairs of a question (Holm)."
    return Table("Preference", ("question", "model", "preferred ↑", "strength ↑", "comparisons"), tuple(rows), note)


def agreement_table(found: Mapping[str, Sequence[Agreement]]) -> Table:
    """A row for each subject and set of judges."""
    rows = [
        (subject, " and ".join(each.judges), f"{each.agreed:.3f}", each.kappa, each.count)
        for subject, some in found.items()
        for each in some
    ]
    note = (
        "kappa: agreement beyond chance (Cohen for two, Fleiss for more), 95 % over videos. Not known where everybody "
        "says one thing."
    )
    return Table("Agreement of judges", ("about", "judges", "same answer", "kappa", "answers"), tuple(rows), note)


def _text(cell: Cell) -> str:
    if not isinstance(cell, Estimate):
        return str(cell)
    if math.isnan(cell.mean):
        return "not known"
    return f"{cell.mean:.3f}" if math.isnan(cell.low) else f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]"


def _latex(cell: Cell) -> str:
    if not isinstance(cell, Estimate) or math.isnan(cell.mean):
        return "--" if isinstance(cell, Estimate) else _escaped(str(cell))
    spread = "" if math.isnan(cell.low) else rf" {{\scriptsize [{cell.low:.3f}, {cell.high:.3f}]}}"
    return f"{cell.mean:.3f}{spread}"


def _plain(cell: Cell, three: bool) -> list[str | int | float]:
    if not isinstance(cell, Estimate):
        return [cell, "", ""] if three else [cell]
    return ["" if math.isnan(value) else round(value, 9) for value in (cell.mean, cell.low, cell.high)]


def _row(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]


def _bars(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def _p(value: float) -> str:
    return "not known" if math.isnan(value) else f"{value:.3g}"
