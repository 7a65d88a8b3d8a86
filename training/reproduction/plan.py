"""What is to be run: claims as groups of jobs, in the order of how much they decide, and how long that takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .arms import ALIGNMENT, TARGET
from .bases import Base
from .boxes import BOXED, ON_UNETS, UNSAMPLED

__all__ = ["GROUPS", "Group", "Job", "Round", "hours", "jobs_of", "plan_text"]


@dataclass(frozen=True)
class Job:
    """kind: "base" trains and analyses a base, "arm" fine-tunes it, "boxes" samples from it."""

    kind: str
    base: Base
    claim: str = ""
    arm: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its files."""
        if self.kind == "base":
            return f"{self.base.name}.base"
        said = f"{self.base.name}.{self.claim}.{self.arm}.{self.seed}"
        return re.sub(r"[^A-Za-z0-9._]+", "-", said)


@dataclass(frozen=True)
class Round:
    """Arms that are run with every base, once a seed."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Group:
    """One claim's runs. about: in a sentence. sets: what its arms are judged on, the first one by its attention, too.
    early: what they are judged on at checkpoints before the last."""

    about: str
    preset: str
    kind: str
    bases: tuple[int, ...]
    rounds: tuple[Round, ...]
    sets: tuple[str, ...] = ()
    early: tuple[str, ...] = ()


_LEAST = tuple(arm.name for arm in ALIGNMENT[:11])
_COUNTS = (32, 512, 64, 256, 2048)
_LAMBDAS = tuple(arm.name for arm in TARGET[:4])

GROUPS: dict[str, Group] = {
    "boxes": Group(
        "IVG-DA: masked attention, mask normalisation and intrinsic denoising, from text alone",
        "weak_moves",
        "boxes",
        (1, 2, 3),
        (Round((*UNSAMPLED, *(arm.name for arm in BOXED))),),
    ),
    "boxes_unet": Group(
        "IVG-DA on U-Nets of ZeroScope's architecture, from text alone",
        "weak_moves_unet",
        "boxes",
        (1, 2, 3),
        (Round((*UNSAMPLED, *(arm.name for arm in ON_UNETS))),),
    ),
    "target": Group(
        "TAViD: target mask and trigger among look-alikes, with few clips",
        "weak_roles",
        "arm",
        (4, 5, 6),
        (Round(_LAMBDAS), Round(_LAMBDAS, (1,)), Round(_LAMBDAS, (2,)), Round(("no mask", "lambda 1 lowest"))),
        ("look-alikes", "told"),
        ("look-alikes",),
    ),
    "alignment": Group(
        "MATRIX: alignment losses by weight, layers and control, with few clips",
        "weak_roles",
        "arm",
        (4, 5, 6, 7, 8, 9),
        (
            Round(_LEAST),
            Round(("flow", "10x with flow")),
            Round(("100x", "100x blind")),
            Round(_LEAST, (1,)),
            Round(_LEAST, (2,)),
            Round(("10x all", "sga 10x", "spa 10x", "10x no decoder", "10x probabilities")),
        ),
        ("told", "unseen pairs"),
        ("unseen pairs",),
    ),
    "efficiency": Group(
        "MATRIX: how many clips the losses are worth",
        "weak_roles",
        "arm",
        (4, 5, 6),
        tuple(Round((f"off n{count}", f"10x n{count}")) for count in _COUNTS),
        ("told", "unseen pairs"),
        ("unseen pairs",),
    ),
}


def jobs_of(
    claims: Sequence[str], bases: int = 0, rounds: int = 0, arms: Sequence[str] = (), only: Sequence[str] = ()
) -> list[Job]:
    """Jobs in order: round by round, in each the claims in the order given, and a base before what needs it.

    bases, rounds: at most so many of each claim; 0: all. arms, only: the arms and the bases of these names; none: all.

    Raises ValueError for an unknown claim, arm or base.
    """
    if unknown := [name for name in claims if name not in GROUPS]:
        raise ValueError(f"there is no claim {unknown[0]!r}; there are {', '.join(GROUPS)}")
    chosen = {name: GROUPS[name] for name in claims}
    known = {arm for group in chosen.values() for each in group.rounds for arm in each.arms}
    if unknown := [name for name in arms if name not in known]:
        raise ValueError(f"these claims have no arm {unknown[0]!r}; they have {', '.join(sorted(known))}")
    homes = {Base(group.preset, seed).name for group in chosen.values() for seed in group.bases}
    if unknown := [name for name in only if name not in homes]:
        raise ValueError(f"these claims have no base {unknown[0]!r}; they have {', '.join(sorted(homes))}")
    deepest = max((len(group.rounds) for group in chosen.values()), default=0)
    out: dict[str, Job] = {}
    for at in range(min(deepest, rounds or deepest)):
        for claim, group in chosen.items():
            if at >= len(group.rounds):
                continue
            near = [Base(group.preset, seed) for seed in group.bases[: bases or None]]
            near = [home for home in near if not only or home.name in only]
            wanted = [Job("base", home) for home in near]
            wanted += [
                Job(group.kind, home, claim, arm, seed)
                for seed in group.rounds[at].seeds
                for arm in group.rounds[at].arms
                if not arms or arm in arms
                for home in near
            ]
            out |= {job.name: job for job in wanted if job.name not in out}
    return list(out.values())


def hours(jobs: Sequence[Job], gpus: int, seconds: Callable[[str], float]) -> float:
    """Of wall time, with the jobs spread evenly; bases take a GPU each. seconds: of a whole GPU, by kind of job."""
    homes = [job for job in jobs if job.kind == "base"]
    first = math.ceil(len(homes) / gpus) * seconds("base")
    return (first + sum(seconds(job.kind) for job in jobs if job.kind != "base") / gpus) / 3600


def plan_text(jobs: Sequence[Job], done: Collection[str], gpus: int, seconds: Callable[[str], float]) -> str:
    """What would be run, as a table: by claim and base how many jobs there are, how many are finished, and hours."""
    lines = ["| claim | base | jobs | finished | GPU seconds left |", "|---|---|---|---|---|"]
    rows: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        rows.setdefault((job.claim or "base", job.base.name), []).append(job)
    for (claim, base), some in sorted(rows.items()):
        left = sum(seconds(job.kind) for job in some if job.name not in done)
        count = sum(job.name in done for job in some)
        lines.append(f"| {claim} | {base} | {len(some)} | {count} | {left:.0f} |")
    to_run = [job for job in jobs if job.name not in done]
    lines += ["", f"{len(to_run)} jobs to run, about {hours(to_run, gpus, seconds):.2f} hours on {gpus} GPUs"]
    return "\n".join(lines)
