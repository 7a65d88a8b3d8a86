"""What a seed rule is worth: successes for the steps that were taken, counted on runs that were judged to their end.

Nothing is sampled for it: of every clip several seeds were sampled whole, and what a rule would have kept of them is
looked up. A step is one of the sampler's, whatever predictions it makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics import Estimate, bootstrap
from .scores import RunScores

__all__ = ["SeedChoice", "choice_table", "seed_choices"]

Array = NDArray[np.float64]
_TRIED = (2, 4, 8, 16)


@dataclass(frozen=True)
class SeedChoice:
    """Of `tried` seeds the `kept` ones with the highest scores sampled to the end, which takes `steps` in all.

    Means over clips with 95 % intervals, clips drawn anew:

    success: share of successes of what was kept. plain: of all seeds.
    rate, plain_rate: successes for every 100 steps; rate_gain: their paired difference.
    any, plain_any: whether one of the clips that come out is a success, for who looks at all of them: of the kept ones,
    and of as many plain runs as the same steps make (`runs`); any_gain: their paired difference.
    """

    tried: int
    kept: int
    steps: int
    runs: int
    success: Estimate
    plain: Estimate
    rate: Estimate
    plain_rate: Estimate
    rate_gain: Estimate
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
    """Every number of seeds that the runs allow, with one of them kept and with half of them.

    Args:
        runs: with labels, of several seeds a clip, in the order of their seeds. scores: (N,), of a rule that does not
            know their clips. first: steps that every seed is tried for.

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
        for kept in sorted({1, tried // 2}) if own else ():
            found.append(_choice([(label[at], scores[at]) for at in own], tried, kept, first, steps))
    return found


def _choice(clips: Sequence[tuple[Array, Array]], tried: int, kept: int, first: int, steps: int) -> SeedChoice:
    cost = tried * first + kept * (steps - first)
    plain_runs = max(1, min(tried, cost // steps))
    rows = [_of_clip(label, score, tried, kept, plain_runs) for label, score in clips]
    success, found, plain, plain_found = np.array(rows).T
    rate, plain_rate = 100 * kept * success / cost, 100 * plain / steps
    share, most = (0.0, 1.0), 100 * kept / cost
    return SeedChoice(
        tried,
        kept,
        cost,
        plain_runs,
        bootstrap(success, bounds=share),
        bootstrap(plain, bounds=share),
        bootstrap(rate, bounds=(0.0, most)),
        bootstrap(plain_rate, bounds=(0.0, 100 / steps)),
        bootstrap(rate - plain_rate, bounds=(-100 / steps, most)),
        bootstrap(found, bounds=share),
        bootstrap(plain_found, bounds=share),
        bootstrap(found - plain_found, bounds=(-1.0, 1.0)),
    )


def _of_clip(label: Array, score: Array, tried: int, kept: int, plain_runs: int) -> tuple[float, float, float, float]:
    """(success of the kept, any success of the kept, success, any success of that many plain runs)."""
    groups = [slice(start, start + tried) for start in range(0, len(label) - tried + 1, tried)]
    chosen = [label[each][np.argsort(-score[each], kind="stable")[:kept]] for each in groups]
    failures = int((1 - label).sum())
    none = math.comb(failures, plain_runs) / math.comb(len(label), plain_runs)  # all of them drawn among the failures
    return (
        float(np.mean([each.mean() for each in chosen])),
        float(np.mean([each.max() for each in chosen])),
        float(label.mean()),
        1 - none,
    )


def choice_table(choices: Sequence[SeedChoice]) -> str:
    """Markdown."""
    lines = [
        "| seeds tried | kept | steps | success of the kept | plain | successes in 100 steps | plain | gain | one "
        "success among the kept | among plain runs of the same steps | gain |",
        "|---" * 11 + "|",
    ]
    for row in choices:
        told = (row.success, row.plain, row.rate, row.plain_rate, row.rate_gain, row.any, row.plain_any, row.any_gain)
        cells = [str(row.tried), str(row.kept), str(row.steps), *(each.interval for each in told)]
        cells[9] += f" ({row.runs})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
