"""Alignment scores of one run (a clip and a seed), small enough to keep for hundreds of runs, in one file each.

L layers, St steps, E entities, H heads, F token frames. raw = sum of A * m, mass = sum of A (see
`instrument.alignment`). What is kept are the marginals: over steps (mean of heads, sum of frames), over heads (mean of
steps, sum of frames) and over frames (mean of steps and heads); all of them at once would take 60 MB a run on a 5B
model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...instrument.scores import LayerAlignment
from ...io.files import whole_file

__all__ = ["SCORES", "KindScores", "RunScores", "Score", "load_run", "reduce_alignment", "save_run"]

Array = NDArray[np.float32]
Score = Literal["above", "share", "raw"]
SCORES: dict[str, str] = {
    "above": "share of attention on the mask, above chance",
    "share": "share of attention on the mask",
    "raw": "attention on the mask (raw AAS)",
}
_FORMAT = "matrix-analysis-run-1"
_ARRAYS = ("steps_raw", "steps_mass", "heads_raw", "heads_mass", "frames_raw", "frames_mass", "chance")


@dataclass(frozen=True)
class KindScores:
    """Scores of one kind of map.

    steps_*: (L, St, E), NaN where a layer was not seen in a step; heads_*: (L, E, H); frames_*: (L, E, F); all float32.
    chance: (E, F), the mask's share of each token frame. known: (F,) whether the tracks say anything about it.
    steps: (index, timestep or sigma, calls) of each; steps of 0 calls were not seen.
    """

    kind: str
    layers: tuple[int, ...]
    entities: tuple[str, ...]
    roles: tuple[str, ...]
    steps: tuple[tuple[int, float, int], ...]
    known: tuple[bool, ...]
    steps_raw: Array
    steps_mass: Array
    heads_raw: Array
    heads_mass: Array
    frames_raw: Array
    frames_mass: Array
    chance: Array

    def over_steps(self, score: Score) -> Array:
        """(L, E): the step-averaged AAS. raw is MATRIX's own; share is raw over mass; above is share - chance."""
        raw, mass = (np.nanmean(values[:, self.seen], 1) for values in (self.steps_raw, self.steps_mass))
        return self._score(raw, mass, score, self.area)

    def each_step(self, score: Score) -> Array:
        """(L, St, E); nan where a step was not seen."""
        found = self._score(self.steps_raw, self.steps_mass, score, self.area)
        found[:, ~self.seen] = np.nan
        return found

    def each_head(self, score: Score) -> Array:
        """(L, E, H)."""
        return self._score(self.heads_raw, self.heads_mass, score, self.area[:, None])

    def each_frame(self, score: Score) -> Array:
        """(L, E, F); nan in frames that the tracks do not know."""
        found = self._score(self.frames_raw, self.frames_mass, score, self.chance)
        found[..., ~np.asarray(self.known)] = np.nan
        return found

    @property
    def seen(self) -> NDArray[np.bool_]:
        return np.array([calls > 0 for _, _, calls in self.steps])

    @property
    def area(self) -> Array:
        """(E,): the mask's share of the known frames, which a flat map would score."""
        return self.chance[:, np.asarray(self.known)].mean(1)

    @staticmethod
    def _score(raw: Array, mass: Array, score: Score, chance: Array) -> Array:
        if score == "raw":
            return raw.copy()
        share = raw / np.maximum(mass, 1e-30)
        return (share - chance if score == "above" else share).astype(np.float32)


@dataclass(frozen=True)
class RunScores:
    """One run: which clip and seed, its scores by kind, and what is known of its success.

    experts: by the name of each of two transformers that take turns (Wan 2.2 A14B) the scores of its own steps.
    fingerprint: of everything that made it. success: None where nobody judged it. judged: the judge's answers.
    """

    clip: str
    seed: int
    prompt: str
    kinds: Mapping[str, KindScores]
    fingerprint: str = ""
    success: bool | None = None
    judged: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    experts: Mapping[str, Mapping[str, KindScores]] = field(default_factory=dict)

    def of_expert(self, name: str) -> RunScores:
        """The same run, of the steps of one transformer alone."""
        return replace(self, kinds=self.experts[name], experts={})

    @property
    def name(self) -> str:
        return f"{self.clip}__seed{self.seed}"


def reduce_alignment(found: LayerAlignment) -> KindScores:
    """The marginals of what was streamed. Words without a mask have no score and are not in it."""
    if lost := [layer for layer, seen in zip(found.layers, (found.counts > 0).flatten(1).any(1)) if not seen]:
        raise ValueError(
            f"nothing was recorded of {found.kind} in layers {lost}: something skips them in every step (a cache of "
            "the pipeline, say). Switch it off for an analysis"
        )
    seen = (found.counts > 0).any(-1)  # (L, St, E)
    known = tuple(bool(k) for k in (found.mass.sum((0, 1, 2, 3)) > 0))

    def marginal(values: torch.Tensor, to: str) -> Array:
        heads = values.shape[3]
        if to == "lse":
            return torch.where(seen, values.sum(-1).mean(-1), torch.nan).numpy()
        whole = found.over_steps(values).nan_to_num()
        return whole.sum(-1).numpy() if to == "leh" else (whole.sum(2) / heads).numpy()

    parts = {"steps": "lse", "heads": "leh", "frames": "lef"}
    both = {"raw": found.raw, "mass": found.mass}
    arrays = {f"{part}_{name}": marginal(both[name], to) for part, to in parts.items() for name in both}
    steps = tuple((step.index, float(step.sigma), int(step.calls)) for step in found.steps)
    chance = found.chance.numpy()
    return KindScores(
        found.kind, found.layers, found.entities, found.roles, steps, known, **arrays, chance=chance
    )  # fmt: skip


def save_run(run: RunScores, path: Path) -> Path:
    """Writes one run, whole or not at all."""
    tensors: dict[str, Any] = {}
    head: dict[str, Any] = {"format": _FORMAT, "kinds": {}}
    for f in fields(run):
        if f.name not in ("kinds", "experts"):
            head[f.name] = getattr(run, f.name)
    head["judged"] = dict(run.judged)
    every = dict(run.kinds)
    every |= {f"{expert}/{kind}": scores for expert, kinds in run.experts.items() for kind, scores in kinds.items()}
    for kind, scores in every.items():
        tensors |= {f"{kind}.{name}": np.ascontiguousarray(getattr(scores, name)) for name in _ARRAYS}
        head["kinds"][kind] = {name: value for name, value in asdict(scores).items() if name not in _ARRAYS}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, {"run": json.dumps(head, sort_keys=True)})
    return path


def load_run(path: Path) -> RunScores:
    """Reads what `save_run` wrote. Raises ValueError for anything else."""
    try:
        with safe_open(path, "numpy") as file:
            head = json.loads((file.metadata() or {})["run"])
            if head.pop("format") != _FORMAT:
                raise ValueError("another format")
            kinds: dict[str, KindScores] = {}
            experts: dict[str, dict[str, KindScores]] = {}
            for kind, rest in head.pop("kinds").items():
                arrays = {name: file.get_tensor(f"{kind}.{name}") for name in _ARRAYS}
                rest["steps"] = tuple((int(i), float(t), int(c)) for i, t, c in rest["steps"])
                listed = {name: tuple(rest[name]) for name in ("layers", "entities", "roles", "known")}
                expert = kind.rpartition("/")[0]
                of = experts.setdefault(expert, {}) if expert else kinds
                of[rest["kind"]] = KindScores(**{**rest, **listed, **arrays})
            head["notes"] = tuple(head["notes"])
            return RunScores(kinds=kinds, experts=experts, **head)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no result of an analysis ({error}): remove it and run again") from None
