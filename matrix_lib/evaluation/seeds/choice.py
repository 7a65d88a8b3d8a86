"""What a seed rule is worth: successes for the steps that were taken, counted on runs that were judged to their end.

Nothing is sampled for it: of every clip several seeds were sampled whole, and what a rule would have kept of them is
looked up. Beside it stands the most that a rule could reach. A step is one of the sampler's, whatever predictions it
makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...instrument.readings.seed_rule import paying
from ..layers.scores import RunScores
from ..statistics import Estimate, bootstrap

__all__ = ["SeedChoice", "choice_table", "most_gain", "seed_choices", "shared_fate"]

Array = NDArray[np.float64]
_TRIED = (2, 4, 8, 16)


def most_gain(success: float, auc: float, looked: float) -> float:
    """The most successes for the same steps, plain sampling being 1, of a rule that looks once and drops the worst.

    Args:
        success: share of successes of the seeds of one prompt, in (0, 1). auc: of the rule among them, in [0.5, 1].
        looked: share of a run's steps after which it looks, in (0, 1).

    For scores that are normal and as wide in successes as in failures: a share `a` of all seeds and `t` of the
    successes go on, which gives t / (looked + (1 - looked) a), at the best threshold. 1 where nothing that can be
    dropped pays. With an AUC of 1 it is what any rule of any kind could reach. Source: ours (renewal reward).

    Raises ValueError for numbers outside of these.
    """
    if not (0 < success < 1 and 0.5 <= auc <= 1 and 0 < looked < 1):
        raise ValueError(f"success and looked lie in (0, 1), auc in [0.5, 1]; got {success}, {looked} and {auc}")
    if auc == 1:
        return 1 / (looked + (1 - looked) * success)
    normal = NormalDist()
    apart = math.sqrt(2) * normal.inv_cdf(auc)
    gains = [1.0]
    for threshold in np.linspace(-8, 8 + apart, 2001):
        hits, alarms = 1 - normal.cdf(threshold - apart), 1 - normal.cdf(threshold)
        gains.append(hits / (looked + (1 - looked) * (success * hits + (1 - success) * alarms)))
    return max(gains)


def shared_fate(runs: Sequence[RunScores]) -> Estimate:
    """How far seeds of one clip end alike: 0 as seeds of different clips do, 1 all in success or all in failure. There
    is nothing to choose among the latter, whatever a rule sees.

    The intraclass correlation of success (one-way analysis of variance), with a 95 % interval, clips drawn anew. Where
    no clip has both ends, it reaches down to what it would be if as many clips had both as so many draws can hide. nan
    where no clip has two seeds, or all runs end alike.
    """
    clips: dict[str, list[float]] = {}
    for run in runs:
        clips.setdefault(run.clip, []).append(float(bool(run.success)))
    own = [np.array(each) for each in clips.values() if len(each) > 1]
    if not own:
        return Estimate(math.nan, math.nan, math.nan, 0)
    table = np.array([(len(each), each.sum(), each.var() * len(each)) for each in own])
    rng = np.random.default_rng(0)
    drawn = [_correlation(table[rng.integers(0, len(own), len(own))]) for _ in range(2000)]
    low, high = (math.nan, math.nan) if np.isnan(drawn).all() else np.nanquantile(drawn, [0.025, 0.975])
    found = _correlation(table)
    if not table[:, 2].any() and not math.isnan(found):
        most, share = table[:, 0].max(), table[:, 1].sum() / table[:, 0].sum()
        hidden = 1 - 0.025 ** (1 / len(own))
        low = max(0.0, 1 - hidden * (most // 2 * (most - most // 2)) / (most * (most - 1)) / (share * (1 - share)))
    return Estimate(found, float(low), float(high), len(own))


def _correlation(table: Array) -> float:
    """Of clips, (seeds, successes, squares of their distances to the clip's share)."""
    many, good, within = table.T
    clips, total = len(table), many.sum()
    if clips < 2:
        return math.nan
    between = float((many * (good / many - good.sum() / total) ** 2).sum()) / (clips - 1)
    inside = float(within.sum()) / (total - clips)
    each = (total - (many**2).sum() / total) / (clips - 1)  # seeds of a clip; of unequal numbers what counts as one
    spread = between + (each - 1) * inside
    return float((between - inside) / spread) if spread > 0 else math.nan


@dataclass(frozen=True)
class SeedChoice:
    """Of `tried` seeds the `kept` ones with the highest scores sampled to the end, which takes `steps` in all (the mean
    over clips); `kept` 0: as many as pay by the probabilities of a fitted rule
    (`instrument.readings.seed_rule.paying`).

    Means over clips with 95 % intervals, clips drawn anew:

    success: share of successes of what was kept. plain: of all seeds.
    rate, plain_rate: successes for every 100 steps; rate_gain: their paired difference; most: that of a rule that knew
    how each seed ends, which no rule exceeds.
    any, plain_any: whether one of the clips that come out is a success, for who looks at all of them: of the kept ones,
    and of as many plain runs as the same steps make (`runs`); any_gain: their paired difference.
    """

    tried: int
    kept: int
    steps: float
    runs: int
    success: Estimate
    plain: Estimate
    rate: Estimate
    plain_rate: Estimate
    rate_gain: Estimate
    most: Estimate
    any: Estimate
    plain_any: Estimate
    any_gain: Estimate

    def as_json(self) -> dict[str, Any]:
        """For a file: what is not known as None."""
        return {
            name: {k: None if v != v else v for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }


def seed_choices(runs: Sequence[RunScores], scores: Array, first: int) -> list[SeedChoice]:
    """Every number of seeds that the runs allow, with one of them kept, with half of them, and with as many as pay.

    Args:
        runs: with labels, of several seeds a clip, in the order of their seeds. scores: (N,), logits of a rule that
            does not know their clips. first: steps that every seed is tried for.

    The seeds of a clip are taken in groups, one after the other; a clip with fewer counts in no row. Empty where no
    clip has two seeds.
    """
    clips: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        clips.setdefault(run.clip, []).append(place)
    label = np.array([bool(run.success) for run in runs], dtype=np.float64)
    total = {len(next(iter(run.kinds.values())).steps) for run in runs}
    if len(total) != 1:
        raise ValueError(f"the runs have {sorted(total)} steps: compare runs of equal length")
    (steps,) = total
    found = []
    for tried in _TRIED:
        own = [np.array(places) for places in clips.values() if len(places) >= tried]
        for kept in (*sorted({1, tried // 2}), 0) if own else ():
            found.append(_choice([(label[at], scores[at]) for at in own], tried, kept, first, steps))
    return found


def _choice(clips: Sequence[tuple[Array, Array]], tried: int, kept: int, first: int, steps: int) -> SeedChoice:
    rows = [_of_clip(label, score, tried, kept, first, steps) for label, score in clips]
    success, found, rate, known, plain, plain_found, cost = np.array(rows).T
    plain_rate, share, most = 100 * plain / steps, (0.0, 1.0), 100 / steps
    return SeedChoice(
        tried,
        kept,
        float(cost.mean()),
        max(1, min(tried, int(cost.mean() // steps))),
        bootstrap(success, bounds=share),
        bootstrap(plain, bounds=share),
        bootstrap(rate, bounds=(0.0, most)),
        bootstrap(plain_rate, bounds=(0.0, most)),
        bootstrap(rate - plain_rate, bounds=(-most, most)),
        bootstrap(known - plain_rate, bounds=(-most, most)),
        bootstrap(found, bounds=share),
        bootstrap(plain_found, bounds=share),
        bootstrap(found - plain_found, bounds=(-1.0, 1.0)),
    )


def _of_clip(label: Array, score: Array, tried: int, kept: int, first: int, steps: int) -> tuple[float, ...]:
    """(success of the kept, any success of the kept, successes in 100 steps, these of who knows how each ends, success,
    any success of as many plain runs as the steps make, steps of a group)."""
    failures, groups = int((1 - label).sum()), []
    for start in range(0, len(label) - tried + 1, tried):
        own, said = label[start : start + tried], score[start : start + tried]
        many = kept or paying([1 / (1 + math.exp(-max(-700.0, min(700.0, each)))) for each in said], first, steps)
        chosen, cost = own[np.argsort(-said, kind="stable")[:many]], tried * first + many * (steps - first)
        plain_runs = max(1, min(tried, cost // steps))
        none = math.comb(failures, plain_runs) / math.comb(len(label), plain_runs)  # all drawn among the failures
        known = min(kept or tried, own.sum())
        least = tried * first + (kept or max(1, known)) * (steps - first)
        groups.append((chosen.mean(), chosen.max(), chosen.sum(), cost, known, least, 1 - none))
    success, found, good, cost, known, least, plain_found = np.mean(groups, 0)
    return success, found, 100 * good / cost, 100 * known / least, float(label.mean()), plain_found, cost


def choice_table(choices: Sequence[SeedChoice]) -> str:
    """Markdown."""
    lines = [
        "| seeds tried | kept | steps | success of the kept | plain | successes in 100 steps | plain | gain | the most "
        "| one success among the kept | among plain runs of the same steps | gain |",
        "|---" * 12 + "|",
    ]
    for row in choices:
        rates = (row.rate, row.plain_rate, row.rate_gain, row.most)
        told = (row.success, row.plain, *rates, row.any, row.plain_any, row.any_gain)
        kept = str(row.kept) if row.kept else "as many as pay"
        cells = [str(row.tried), kept, f"{row.steps:.4g}", *(each.interval for each in told)]
        cells[10] += f" ({row.runs})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
