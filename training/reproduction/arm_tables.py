"""Tables of arms: what each arm comes to, and what masks did to attention outputs."""

from __future__ import annotations

import math
import re

import numpy as np

from matrix_lib.evaluation.statistics import Estimate, over_bases

from .bench import MEANS
from .plan import GROUPS
from .protocol import VARIANCES
from .sittings import Rows, by_seed, short

__all__ = ["Tables", "arm_tables", "shown", "signed", "variances"]

Tables = list[tuple[str, list[str], list[list[str]]]]
_MEASURES = "KISA / SGI / SPI / IF"
_VARIANCE = re.compile(r"step (\d+),.* output ([\d.]+) masked, ([\d.]+) unmasked, ([\d.]+) matched")


def reference(claim: str, arm: str) -> str:
    """The arm that an arm of a group is compared with."""
    group = GROUPS[claim]
    if group.kind == "boxes":
        return "none"
    if group.preset == "weak_roles" and claim in ("target", "again_target", "even"):
        return "lambda 0 two masks" if "two masks" in arm else "lambda 0"
    plain = "id map" if "id map" in arm else "off"
    for ending in (" other clips", *((f" n{arm.rpartition(' n')[2]}",) if arm.rpartition(" n")[2].isdecimal() else ())):
        plain += ending if arm.endswith(ending) else ""
    return plain


def shown(claim: str) -> tuple[tuple[str, str], ...]:
    """Sets and scores of a group's table."""
    group = GROUPS[claim]
    if group.kind == "boxes":
        part = (group.sets or ("boxes",))[0]
        return tuple((part, score) for score in ("miou", "covered", "sized", "distance"))
    first = group.sets[0]
    return (*((part, "right_roles") for part in group.sets), (first, "intact"), (first, "distance"))


def arm_tables(rows: Rows) -> Tables:
    """A table a group: every arm, its means, and its differences to the reference."""
    out: Tables = []
    for claim, group in GROUPS.items():
        arms = rows.arms_of(claim)
        if not arms:
            continue
        columns = shown(claim)
        head = ["arm", "runs by base", *(f"{part}: {score.replace('_', ' ')}" for part, score in columns)]
        measures = [(columns[0][0], score) for score in MEANS] if group.kind == "arm" else []
        head += ["share on the mask, v2t; v2v", f"{columns[0][0]}: {_MEASURES}", "gradient"] if measures else []
        lines = []
        for arm in arms:
            other = reference(claim, arm)
            runs = dict.fromkeys(map(short, rows.bases_of(claim)), 0)
            for base in rows.bases_of(claim):
                runs[short(base)] += len(rows.seeds_of(claim, base, arm))
            line = [arm, " + ".join(map(str, runs.values()))]
            line += [_cell(rows, claim, arm, other, part, score) for part, score in columns]
            if measures:
                line.append("; ".join(_attention(rows, claim, arm, other, kind) for kind in ("v2t", "v2v")))
                line.append(" / ".join(_level(rows, claim, arm, *measure) for measure in measures))
                line.append(_gradient(rows, claim, arm))
            lines.append(line)
        out.append((group.about, head, lines))
    return out


def _level(rows: Rows, claim: str, arm: str, part: str, score: str) -> str:
    """Mean of the bases' means."""
    found = rows.tables(claim, (arm,), part, score)
    runs = by_seed({base: np.array([v.mean() for v in seeds.values()]) for base, seeds in found.items()})
    return f"{np.mean([table.mean() for table in runs.values()]):.3f}" if runs else "-"


def _cell(rows: Rows, claim: str, arm: str, other: str, part: str, score: str) -> str:
    """`_level`, and the difference to the reference, for these bases."""
    mean = _level(rows, claim, arm, part, score)
    change = by_seed(rows.differences(claim, (arm,), (other,), part, score))
    if arm == other or not change:
        return mean
    if next(iter(change.values())).shape[1] == 1:  # a mean a run: no prompts to draw anew
        return f"{mean}, {float(np.mean([t.mean() for t in change.values()])):+.3f}"
    return f"{mean}, {signed(over_bases(list(change.values()), bounds=(-1, 1))[0])}"


def _gradient(rows: Rows, claim: str, arm: str) -> str:
    """Share of the first gradient that came from the losses of attention, mean over runs."""
    found = [
        row.about["gradient"] for row in rows.all if (row.claim, row.arm) == (claim, arm) and "gradient" in row.about
    ]
    return f"{np.mean(found):.3f}" if found else "-"


def variances(rows: Rows) -> Tables:
    """Of what masked attention puts out, by step, as the rows' notes have it."""
    lines = []
    for claim in (name for name, group in GROUPS.items() if group.kind == "boxes"):
        for arm in rows.arms_of(claim):
            steps: dict[int, list[list[float]]] = {}
            for row in rows.all:
                for note in row.about.get("notes", ()) if (row.claim, row.arm) == (claim, arm) else ():
                    if said := _VARIANCE.match(note):
                        steps.setdefault(int(said[1]), []).append([float(said[i]) for i in (2, 3, 4)])
            means = {step: np.mean(found, axis=0) for step, found in sorted(steps.items())}
            cells = [f"{step}: {' / '.join(f'{v:.3f}' for v in mean)}" for step, mean in means.items()]
            lines += [[claim, arm, "; ".join(cells)]] if cells else []
    return [(VARIANCES, ["claim", "arm", "step: masked / unmasked / matched"], lines)] if lines else []


def _attention(rows: Rows, claim: str, arm: str, other: str, kind: str) -> str:
    """At the arm's own layers: of the reference, and of the arm."""
    pairs = []
    for base in rows.bases_of(claim):
        for seed in rows.seeds_of(claim, base, arm):
            one, two = rows.get(claim, base, arm, seed), rows.get(claim, base, other, seed)
            if one is None or two is None or "attention" not in one.about or "attention" not in two.about:
                continue
            at = one.about["settings"][kind]
            pairs.append([np.mean([row.about["attention"][kind][i] for i in at]) for row in (two, one)])
    if not pairs:
        return "-"
    before, after = np.mean(pairs, axis=0)
    return f"{before:.3f} to {after:.3f}"


def signed(found: Estimate) -> str:
    """Mean and interval with their signs."""
    if math.isnan(found.mean):
        return "-"
    if math.isnan(found.low):
        return f"{found.mean:+.3f} [not known]"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
