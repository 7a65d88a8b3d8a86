"""An analysis as Parquet tables: every number of the report, and what it was made from.

runs: one row a run. layers: one a kind and layer, with all statistics; of two transformers that take turns also one for
each in its own steps (expert, "" over all steps). steps, heads, frames: one for each run, kind, entity, layer and step
(head, token frame), with raw AAS, the share of attention on the mask, and chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io.tables import write_table
from .scores import KindScores, RunScores
from .study import KindStudy, Study

__all__ = ["write_tables"]

_PARTS = {"steps": "step", "heads": "head", "frames": "frame"}


def write_tables(runs: Sequence[RunScores], found: Study, folder: Path) -> list[Path]:
    """Writes the five tables and returns their paths. Raises ValueError where pyarrow is missing."""
    notes = {"backbone": found.backbone, "score": found.options.score, "source": found.preset.source}
    every = sorted(runs, key=lambda run: (run.clip, run.seed))
    made: dict[str, Any] = {"runs": _runs(every), "layers": _layers(found)}
    made |= {part: _long(every, part) for part in _PARTS}
    return [write_table(folder / f"{name}.parquet", table, notes) for name, table in made.items()]


def _runs(runs: Sequence[RunScores]) -> dict[str, list[Any]]:
    judged = sorted({name for run in runs for name in run.judged})
    table: dict[str, list[Any]] = {
        "clip": [run.clip for run in runs],
        "seed": [run.seed for run in runs],
        "prompt": [run.prompt for run in runs],
        "success": [run.success for run in runs],
    }
    return table | {name: [run.judged.get(name) for run in runs] for name in judged}


def _layers(found: Study) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    for expert, each in {"": found, **found.experts}.items():
        for kind, one in each.kinds.items():
            preset = {"v2t": each.preset.v2t, "v2v": each.preset.v2v}[kind]
            own = {"expert": expert} if found.experts else {}
            rows += [_layer(one, place) | own | {"preset": layer in preset} for place, layer in enumerate(one.layers)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _layer(one: KindStudy, place: int) -> dict[str, Any]:
    layer = one.layers[place]
    row: dict[str, Any] = {
        "kind": one.kind,
        "layer": layer,
        "mean": float(one.mean[place]),
        "low": float(one.low[place]),
        "high": float(one.high[place]),
        "dummy": layer in one.dummies,
        "influential": layer in one.influence.chosen,
    }
    ranked = one.influence.layers.index(layer) if layer in one.influence.layers else None
    row["top_frequency"] = None if ranked is None else float(one.influence.frequency[ranked])
    row["rank_sum"] = None if ranked is None else float(one.influence.rank_sum[ranked])
    gap = one.dominance
    for name in ("success_gap", "failure_gap", "separation", "low", "high", "p", "p_adjusted"):
        key = f"separation_{name}" if name in ("low", "high") else name
        at = None if gap is None or ranked is None else ranked
        row[key] = None if at is None else float(getattr(gap, name)[at])
    row["dominant"] = gap is not None and layer in gap.chosen
    for name in ("auc", "auc_low", "auc_high"):
        values = getattr(one, name)
        row[name] = None if values is None else float(values[place])
    return row


def _long(runs: Sequence[RunScores], part: str) -> dict[str, np.ndarray]:
    blocks: dict[str, list[np.ndarray]] = {}
    for run in runs:
        for scores in run.kinds.values():
            for name, column in _block(run, scores, part).items():
                blocks.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in blocks.items()}


def _block(run: RunScores, scores: KindScores, part: str) -> dict[str, np.ndarray]:
    raw, mass = getattr(scores, f"{part}_raw"), getattr(scores, f"{part}_mass")
    if part == "steps":  # to (L, E, X), as the others are
        raw, mass = raw.transpose(0, 2, 1), mass.transpose(0, 2, 1)
    chance = scores.chance if part == "frames" else np.broadcast_to(scores.area[:, None], raw.shape[1:])
    keep = np.ones(raw.shape, dtype=bool)
    if part == "steps":
        keep &= scores.seen & ~np.isnan(raw)
    if part == "frames":
        keep &= np.asarray(scores.known)
    layer, entity, at = np.nonzero(keep)
    count = len(layer)
    row: dict[str, np.ndarray] = {
        "clip": np.full(count, run.clip, dtype=object),
        "seed": np.full(count, run.seed),
        "kind": np.full(count, scores.kind, dtype=object),
        "entity": np.array(scores.entities, dtype=object)[entity],
        "role": np.array(scores.roles, dtype=object)[entity],
        "layer": np.array(scores.layers)[layer],
        _PARTS[part]: at,
    }
    if part == "steps":
        row["step"] = np.array([step for step, _, _ in scores.steps])[at]
        row["timestep"] = np.array([sigma for _, sigma, _ in scores.steps])[at]
    row["raw"] = raw[keep]
    row["share"] = (raw / np.maximum(mass, 1e-30))[keep]
    row["chance"] = np.broadcast_to(chance, raw.shape)[keep]
    return row
