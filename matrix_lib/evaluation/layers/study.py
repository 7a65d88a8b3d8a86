"""From the scores of many runs to what they say: which layers and heads align, which decide success, how surely.

N runs, L layers, St steps, H heads. Statistics are those of `core.analysis`; a run is a clip and a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...core.layers import LayerSet
from ..statistics import Estimate
from .dominance import Dominance, Influence, auc, auc_bounds, dominant_layers, influential_layers, varied_layers
from .held_out import held_out_auc
from .scores import SCORES, RunScores, Score

__all__ = ["ROLES", "KindStudy", "Options", "Study", "study"]

Array = NDArray[np.float64]
ROLES = ("subject", "object", "instance", "verb")
_CHUNK = 250  # bootstrap draws at a time


@dataclass(frozen=True)
class Options:
    """How the runs are read.

    Args:
        score: "above" (share above chance), "share" or "raw" (the paper's sum).
        top, keep: influential layers: top of each clip that counts, and how many are kept. 0 takes a quarter of the
            layers, at most 10, which is the paper's 10 for its models of 40 layers and more.
        preset: how many influential layers of each kind the preset takes where no layer is dominant.
        alpha: family-wise error of dominant layers. least: smallest set of successes or failures worth a test.
        draws: of bootstrap and permutation. seed: of both.
    """

    score: Score = "above"
    top: int = 0
    keep: int = 0
    preset: int = 3
    alpha: float = 0.005
    least: int = 5
    draws: int = 10000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"the score is one of {', '.join(SCORES)}; got {self.score!r}")
        if min(self.top, self.keep) < 0 or min(self.preset, self.draws) < 1 or self.least < 2 or not 0 < self.alpha < 1:
            raise ValueError(
                "top and keep are 0 or more, preset and draws 1 or more, least 2 or more, alpha between 0 and 1; got "
                f"{self.top}, {self.keep}, {self.preset}, {self.draws}, {self.least}, {self.alpha}"
            )

    def top_of(self, layers: int) -> int:
        """How many of `layers` layers are a clip's top."""
        return min(self.top or max(1, min(10, layers // 4)), layers)

    def kept_of(self, layers: int) -> int:
        """How many of `layers` layers are kept as influential."""
        return min(self.keep or max(self.preset, min(10, layers // 4)), layers)


@dataclass(frozen=True)
class KindStudy:
    """One kind of map. Arrays are nan where nothing was measured.

    layers: all, L of them; dummies: those whose score hardly varies over clips, left out of the rankings.
    mean, low, high: (L,) over runs, with its 95 % bootstrap interval; runs: (N, L) behind it, a mean over entities.
    by_role: per role (L,) means. by_step: per role (L, St). by_frame: (L, F). by_head: (L, H).
    influence, dominance: of the layers that vary. no_gap: why there is no dominance, "" where there is.
    auc, auc_low, auc_high: (L,) how well one layer's score tells success from failure, None without labels.
    held_out: the AUC of layers that were chosen on other runs. heads: the best (layer, head) pairs by rank-sum.
    head_separation: (L, H) success minus failure, None without labels; strong_heads: pairs of p_adjusted <= alpha.
    """

    kind: str
    layers: tuple[int, ...]
    dummies: tuple[int, ...]
    runs: Array
    mean: Array
    low: Array
    high: Array
    by_role: Mapping[str, Array]
    by_step: Mapping[str, Array]
    by_frame: Array
    by_head: Array
    influence: Influence
    paper_layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    dominance: Dominance | None = None
    no_gap: str = ""
    auc: Array | None = None
    auc_low: Array | None = None
    auc_high: Array | None = None
    held_out: Estimate | None = None
    head_separation: Array | None = None
    strong_heads: tuple[tuple[int, int], ...] = ()

    def preset(self, count: int) -> tuple[int, ...]:
        """Dominant layers where there are any, else the `count` most influential ones."""
        if self.dominance is not None and self.dominance.chosen:
            return self.dominance.chosen
        return self.influence.chosen[:count]


@dataclass(frozen=True)
class Study:
    """What all runs together say. success: of each run, None where it is not known. experts: what they say of each of
    two transformers that take turns, by its name, in its own steps."""

    backbone: str
    options: Options
    names: tuple[str, ...]
    success: tuple[bool | None, ...]
    steps: tuple[tuple[int, float], ...]
    kinds: Mapping[str, KindStudy]
    preset: LayerSet
    notes: tuple[str, ...] = field(default=())
    experts: Mapping[str, Study] = field(default_factory=dict)

    @property
    def labelled(self) -> tuple[int, int]:
        """(successes, failures)."""
        return sum(s is True for s in self.success), sum(s is False for s in self.success)


def study(runs: Sequence[RunScores], backbone: str, options: Options = Options(), title: str = "") -> Study:
    """Reads the runs. Raises ValueError where there are none, or they are of different models."""
    if not runs:
        raise ValueError("there are no results to study")
    every = sorted(runs, key=lambda run: (run.clip, run.seed))
    kinds: dict[str, KindStudy] = {}
    notes: list[str] = []
    for kind in ("v2t", "v2v"):
        having = [run for run in every if kind in run.kinds]
        if not having:
            continue
        if len(having) < len(every):
            notes.append(f"{len(every) - len(having)} of {len(every)} runs have no {kind} scores")
        kinds[kind] = _kind(kind, having, options)
    notes += _cautions(every)
    first = next(iter(every[0].kinds.values()))
    names = dict.fromkeys(name for run in every for name in run.experts)
    if names and (without := sum(not run.experts for run in every)):
        notes.append(f"{without} of {len(every)} runs have no scores of each transformer apart")
    experts: dict[str, Study] = {}
    for name in names:
        own = [run.of_expert(name) for run in every if name in run.experts]
        experts[name] = study(own, backbone, options, f"{title}, {name} in its own steps".lstrip(", "))
    preset = _preset(kinds, backbone, options, len(every), title)
    return Study(
        backbone,
        options,
        tuple(run.name for run in every),
        tuple(run.success for run in every),
        tuple((index, sigma) for index, sigma, _ in first.steps),
        kinds,
        replace(preset, experts={name: each.preset for name, each in experts.items()}),
        tuple(dict.fromkeys(notes)),
        experts,
    )


def _cautions(runs: Sequence[RunScores]) -> list[str]:
    found = list(dict.fromkeys(note for run in runs for note in run.notes))
    notes = found[:8] + ([f"and {len(found) - 8} notes more"] if len(found) > 8 else [])
    clips = len({run.clip for run in runs})
    if clips < len(runs):
        notes.append(
            f"{len(runs)} runs are of {clips} clips with several seeds: they are not independent, so intervals are "
            "too narrow and p-values too small"
        )
    if len(runs) < 20:
        notes.append(f"{len(runs)} runs are few: read the order of layers as a hint, not as a finding")
    return notes


def _kind(kind: str, runs: Sequence[RunScores], options: Options) -> KindStudy:
    layers = runs[0].kinds[kind].layers
    if any(run.kinds[kind].layers != layers for run in runs):
        raise ValueError("the results are of models with different layers: analyse each model in a folder of its own")
    score = options.score
    table = np.stack([run.kinds[kind].over_steps(score).mean(1) for run in runs]).astype(np.float64)
    raw = np.stack([run.kinds[kind].over_steps("raw").mean(1) for run in runs]).astype(np.float64)
    kept = varied_layers(table, layers) if len(runs) > 1 else layers
    kept = kept or layers
    columns = [layers.index(layer) for layer in kept]
    top = options.top_of(len(layers)), options.kept_of(len(layers))
    heads = np.stack([run.kinds[kind].each_head(score).mean(1) for run in runs]).astype(np.float64)
    low, high = _intervals(table, options)
    found = KindStudy(
        kind=kind,
        layers=layers,
        dummies=tuple(layer for layer in layers if layer not in kept),
        runs=table,
        mean=table.mean(0),
        low=low,
        high=high,
        by_role={role: mean for role in ROLES if (mean := _by_role(runs, kind, role, score)) is not None},
        by_step={role: mean for role in ROLES if (mean := _by_step(runs, kind, role, score)) is not None},
        by_frame=_frames(runs, kind, score),
        by_head=heads.mean(0),
        influence=influential_layers(table[:, columns], kept, *top),
        paper_layers=influential_layers(raw[:, columns], kept, *top).chosen,
        heads=_best_heads(heads, layers),
    )
    return _with_success(found, heads, [run.success for run in runs], columns, options)


def _by_role(runs: Sequence[RunScores], kind: str, role: str, score: Score) -> Array | None:
    found = []
    for run in runs:
        scores = run.kinds[kind]
        if places := [i for i, r in enumerate(scores.roles) if r == role]:
            found.append(scores.over_steps(score)[:, places].mean(1))
    return np.mean(found, axis=0, dtype=np.float64) if found else None


def _by_step(runs: Sequence[RunScores], kind: str, role: str, score: Score) -> Array | None:
    found = []
    for run in runs:
        scores = run.kinds[kind]
        if places := [i for i, r in enumerate(scores.roles) if r == role]:
            found.append(scores.each_step(score)[..., places].mean(-1))
    return np.mean(found, axis=0, dtype=np.float64) if found else None


def _frames(runs: Sequence[RunScores], kind: str, score: Score) -> Array:
    """(L, F) over the runs that know the frame; nan where none does."""
    each = np.stack([run.kinds[kind].each_frame(score).mean(1) for run in runs]).astype(np.float64)
    known = np.isfinite(each)
    total = np.where(known, each, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _best_heads(heads: Array, layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    count = heads.shape[2]
    flat = influential_layers(heads.reshape(len(heads), -1), range(heads.shape[1] * count), 10, 10)
    return tuple((layers[place // count], place % count) for place in flat.chosen)


def _intervals(table: Array, options: Options) -> tuple[Array, Array]:
    """95 % bootstrap interval of the mean of each column."""
    rng = np.random.default_rng(options.seed)
    n = len(table)
    share = rng.multinomial(n, np.full(n, 1 / n), size=min(options.draws, 4000)) / n
    low, high = np.quantile(share @ table, [0.025, 0.975], axis=0)
    return low, high


# --- success and failure
def _with_success(
    found: KindStudy, heads: Array, success: Sequence[bool | None], columns: Sequence[int], options: Options
) -> KindStudy:
    known = np.array([s is not None for s in success])
    label = np.array([bool(s) for s in success])[known]
    good, bad = int(label.sum()), int((~label).sum())
    if not known.any():
        return replace(found, no_gap="No run has a label of success, so there are influential layers only")
    if min(good, bad) < options.least:
        return replace(
            found,
            no_gap=f"{good} successes and {bad} failures: a gap needs at least {options.least} of each. "
            "Run more clips, or harder ones where failures are missing",
        )
    table = found.runs[known]
    kept = [found.layers[i] for i in columns]
    settings = {"alpha": options.alpha, "seed": options.seed, "least": options.least}
    dominance = dominant_layers(table[:, columns], label, kept, draws=options.draws, **settings)  # type: ignore[arg-type]
    each = [auc(table[:, i], label) for i in range(len(found.layers))]
    low, high = _auc_intervals(table, label, options)
    flat = heads[known].reshape(len(table), -1)
    pairs = [(layer, head) for layer in found.layers for head in range(heads.shape[2])]
    by_head = dominant_layers(flat, label, range(len(pairs)), draws=min(options.draws, 2000), **settings)  # type: ignore[arg-type]
    return replace(
        found,
        dominance=dominance,
        auc=np.array(each),
        auc_low=low,
        auc_high=high,
        held_out=held_out_auc(table[:, columns], label, options.preset, seed=options.seed),
        head_separation=by_head.separation.reshape(heads.shape[1:]),
        strong_heads=tuple(pairs[place] for place in by_head.chosen),
    )


def _auc_intervals(table: Array, label: NDArray[np.bool_], options: Options) -> tuple[Array, Array]:
    """95 % intervals of each column's AUC, resampling runs within successes and within failures; near 0 and 1 as far as
    `auc_bounds`."""
    good, bad = table[label], table[~label]
    wins = (good[:, None] > bad[None]).astype(np.float64) + 0.5 * (good[:, None] == bad[None])
    rng = np.random.default_rng(options.seed)
    draws = []
    for _ in range(0, min(options.draws, 2000), _CHUNK):
        a = rng.multinomial(len(good), np.full(len(good), 1 / len(good)), size=_CHUNK) / len(good)
        b = rng.multinomial(len(bad), np.full(len(bad), 1 / len(bad)), size=_CHUNK) / len(bad)
        draws.append(np.einsum("dg,gbl,db->dl", a, wins, b, optimize=True))
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975], axis=0)
    sure = np.array([auc_bounds(float(found), len(good), len(bad)) for found in wins.mean((0, 1))])
    return np.minimum(low, sure[:, 0]), np.maximum(high, sure[:, 1])


def _preset(kinds: Mapping[str, KindStudy], backbone: str, options: Options, runs: int, title: str) -> LayerSet:
    how = []
    for kind, found in kinds.items():
        dominant = found.dominance is not None and bool(found.dominance.chosen)
        test = f"dominant, p <= {options.alpha:g} over all layers" if dominant else "influential, no layer is dominant"
        how.append(f"{kind} {test if found.dominance is not None else 'influential, success unknown'}")
    scores = {
        kind: {str(layer): round(float(value), 6) for layer, value in zip(found.layers, found.mean)}
        for kind, found in kinds.items()
    }
    chosen = {kind: kinds[kind].preset(options.preset) if kind in kinds else () for kind in ("v2t", "v2v")}
    source = f"analysis of {runs} runs{f' of {title}' if title else ''}, {SCORES[options.score]}: {'; '.join(how)}"
    return LayerSet(backbone, chosen["v2t"], chosen["v2v"], source, scores)
