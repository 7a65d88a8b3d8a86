"""What is to be run: claims as groups of jobs, in the order of how much they decide, and how long that takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arms import ALIGNMENT, DRAWN, LAYERS, TARGET
from .bases import Base
from .boxes import BOXED, ON_UNETS, STEERED, UNSAMPLED

__all__ = ["GROUPS", "Group", "Job", "Round", "hours", "jobs_of", "plan_text", "slowness"]


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
    """Arms that are run with every base, once a seed. bases: at most so many, 0: all."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    bases: int = 0


@dataclass(frozen=True)
class Group:
    """One claim's runs. about: in a sentence. sets: what its arms are judged on, the first one by its attention, too;
    of boxes see `boxes.PARTS`. early: what they are judged on at checkpoints before the last. world: of
    `run.config.Data`, what the clips of its arms have. slow: how much longer its jobs take than those of 17 frames that
    were measured, by the number of tokens; where nothing was measured yet (a U-Net's base took 1,020 s). after: rounds
    of the other groups that come before its first."""

    about: str
    preset: str
    kind: str
    bases: tuple[int, ...]
    rounds: tuple[Round, ...]
    sets: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    world: Mapping[str, Any] = field(default_factory=dict)
    slow: float = 1.0
    after: int = 0


_LEAST = tuple(arm.name for arm in ALIGNMENT[:11])
MIXES = (
    "flow by latents",
    "flow of values",
    "10x with flow of values",
    "10x with features",
    "sga 10x with flow",
    "spa 10x with flow",
)
_COUNTS = (32, 512, 64, 256, 2048)
_LAMBDAS = tuple(arm.name for arm in TARGET[:4])
_TARGETS = tuple(arm.name for arm in TARGET)
_LATER = 6  # what was planned first has so many rounds
_CONTROLS = ("off", "10x", "10x blind", "10x wrong masks")
_WORLD = (Round(_CONTROLS), Round(("30x", "1x", "10x lowest")), Round(_CONTROLS, (1,)))
_NAMES = tuple(arm.name for arm in BOXED)
_ASKED = (
    *UNSAMPLED,
    *STEERED[:2],
    "none",
    "masked 4",
    "masked 4, matched",
    "denoising",
    "masked 4, matched, denoising",
)

GROUPS: dict[str, Group] = {
    "boxes": Group(
        "IVG-DA: masked attention, mask normalisation and intrinsic denoising, from text alone",
        "weak_moves",
        "boxes",
        (1, 2, 3, 4, 5, 6),
        (
            Round((*UNSAMPLED, *_NAMES[:17])),
            Round((*STEERED, *_NAMES[17:])),
            Round(_ASKED[len(UNSAMPLED) :], (1,)),
        ),
    ),
    "boxes_unet": Group(
        "IVG-DA on U-Nets of ZeroScope's architecture, from text alone",
        "weak_moves_unet",
        "boxes",
        (1, 2, 3),
        (Round((*UNSAMPLED, *(arm.name for arm in ON_UNETS))),),
        slow=4.0,
    ),
    "target": Group(
        "TAViD: target mask and trigger among look-alikes, with few clips",
        "weak_roles",
        "arm",
        (4, 5, 6),
        (
            Round(_LAMBDAS),
            Round(_LAMBDAS, (1,)),
            Round(_LAMBDAS, (2,)),
            Round((_TARGETS[4], "lambda 10 wrong masks", _TARGETS[5])),
            Round(_TARGETS[6:-1]),
        ),
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
            Round(("off other clips", "10x other clips"), bases=3),
            Round(("10x t2v", "10x no decoder, probabilities", "id map", "10x id map"), bases=3),
            Round(tuple(f"10x layer {at}" for at in LAYERS), bases=3),
            Round(MIXES, bases=3),
            Round(DRAWN, bases=3),
            Round(("10x noisy masks", "10x boxes for masks"), bases=3),
        ),
        ("told", "unseen pairs"),
        ("unseen pairs",),
    ),
    "efficiency": Group(
        "MATRIX: how many clips the losses are worth",
        "weak_roles",
        "arm",
        (4, 5, 6),
        (
            *(Round((f"off n{count}", f"10x n{count}", f"10x blind n{count}")) for count in _COUNTS),
            Round(("1x n32", "30x n32", "100x n32", "sga 10x n32", "spa 10x n32")),
        ),
        ("told", "unseen pairs"),
        ("unseen pairs",),
    ),
    "again": Group(
        "MATRIX once more, on bases that nobody has seen, looked at once: when all of them are there",
        "weak_roles",
        "arm",
        (10, 11, 12, 13, 14, 15),
        (Round(_CONTROLS),),
        ("told", "unseen pairs"),
        ("unseen pairs",),
    ),
    "again_target": Group(
        "TAViD at lambda 10 once more, on bases that nobody has seen, looked at once: when all of them are there",
        "weak_roles",
        "arm",
        (10, 11, 12, 13, 14, 15),
        (Round(("lambda 0", "lambda 10", "lambda 10 wrong masks")),),
        ("look-alikes", "told"),
        ("look-alikes",),
    ),
    "even": Group(
        "TAViD among look-alikes of which the first frame does not say which one is meant",
        "weak_roles",
        "arm",
        (4, 5, 6),
        (
            Round(("lambda 0", "lambda 10", "no mask", "lambda 1", "lambda 10 wrong masks")),
            Round(("lambda 0 two masks", "lambda 10 two masks", "lambda 10 learnt trigger", "lambda .1")),
            Round(("lambda 0", "lambda 10"), (1,)),
        ),
        ("even look-alikes", "look-alikes"),
        ("even look-alikes",),
        after=_LATER,
    ),
    "pairs": Group(
        "MATRIX where two interactions happen at once, among 4 to 6 things",
        "weak_pairs",
        "arm",
        (1, 2, 3),
        _WORLD,
        ("two at once", "told"),
        ("two at once",),
        {"pairs": 0.8, "size": 0.75, "most": 6},
        after=_LATER,
    ),
    "verbs": Group(
        "MATRIX where two verbs are new, which a fifth of the few clips show",
        "weak_verbs",
        "arm",
        (1, 2, 3),
        _WORLD,
        ("unseen verbs", "others"),
        ("unseen verbs",),
        after=_LATER,
    ),
    "untold": Group(
        "MATRIX on bases whose captions told who is there and what happens, and not who does it",
        "weak_untold",
        "arm",
        (1, 2, 3),
        (Round(_CONTROLS),),
        ("told", "unseen pairs"),
        ("unseen pairs",),
        after=_LATER,
    ),
    "clutter": Group(
        "MATRIX before a moving background full of things, with others in the way",
        "weak_clutter",
        "arm",
        (1, 2, 3),
        _WORLD,
        ("cluttered", "told"),
        ("cluttered",),
        {"clutter": 24, "occlusion": 1.0, "camera": True},
        after=_LATER,
    ),
    "frames33": Group(
        "MATRIX on clips of 33 frames",
        "weak_roles_33",
        "arm",
        (1, 2, 3),
        (Round(_CONTROLS),),
        ("told", "unseen pairs"),
        ("unseen pairs",),
        slow=2.2,
        after=_LATER,
    ),
    "frames49": Group(
        "MATRIX on clips of 49 frames",
        "weak_roles_49",
        "arm",
        (1, 2, 3),
        (Round(_CONTROLS),),
        ("told", "unseen pairs"),
        ("unseen pairs",),
        slow=3.6,
        after=_LATER,
    ),
    "boxes_fast": Group(
        "IVG-DA along fast paths", "weak_moves", "boxes", (1, 2, 3), (Round(_ASKED),), ("fast boxes",), after=_LATER
    ),
    "boxes_jump": Group(
        "IVG-DA along paths that jump",
        "weak_moves",
        "boxes",
        (1, 2, 3),
        (Round(_ASKED),),
        ("jumping boxes",),
        after=_LATER,
    ),
    **{
        f"boxes_unet_{name}": Group(
            f"IVG-DA on U-Nets along {said}",
            "weak_moves_unet",
            "boxes",
            (1, 2, 3),
            (Round((*UNSAMPLED, STEERED[1], *_ASKED[5:])),),
            (part,),
            slow=4.0,
            after=_LATER,
        )
        for name, said, part in (("fast", "fast paths", "fast boxes"), ("jump", "paths that jump", "jumping boxes"))
    },
    "boxes_scenes": Group(
        "IVG-DA with two subjects under a moving camera",
        "weak_scenes",
        "boxes",
        (1, 2, 3),
        (Round(_ASKED),),
        ("several boxes",),
        after=_LATER,
    ),
}


def jobs_of(
    claims: Sequence[str],
    bases: int = 0,
    rounds: int = 0,
    arms: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Job]:
    """Jobs in order: round by round, in each the claims in the order given, and a base before what needs it. Groups
    that come later (`Group.after`) begin with a later round of the others.

    bases, rounds: at most so many of each claim; 0: all. arms, only, seeds: the arms and the bases of these names, and
    the runs of these seeds; none: all.

    Raises ValueError for an unknown claim, arm, base or seed.
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
    planned = {seed for group in chosen.values() for each in group.rounds for seed in each.seeds}
    if unplanned := [seed for seed in seeds if seed not in planned]:
        raise ValueError(f"these claims have no seed {unplanned[0]}; they have {', '.join(map(str, sorted(planned)))}")
    first = min((group.after for group in chosen.values()), default=0)
    deepest = max((group.after + len(group.rounds) for group in chosen.values()), default=0)
    out: dict[str, Job] = {}
    for turn in range(first, deepest):
        for claim, group in chosen.items():
            at = turn - group.after
            if not 0 <= at < min(len(group.rounds), rounds or len(group.rounds)):
                continue
            near = [Base(group.preset, seed) for seed in group.bases[: bases or None]]
            near = [home for home in near if not only or home.name in only][: group.rounds[at].bases or None]
            wanted = [Job("base", home) for home in near]
            wanted += [
                Job(group.kind, home, claim, arm, seed)
                for seed in group.rounds[at].seeds
                if not seeds or seed in seeds
                for arm in group.rounds[at].arms
                if not arms or arm in arms
                for home in near
            ]
            out |= {job.name: job for job in wanted if job.name not in out}
    return list(out.values())


def slowness(job: Job) -> float:
    """How much longer a job takes than one of its kind that was measured: that of the group with its preset; next to
    nothing for rows that no model makes."""
    if job.arm in UNSAMPLED:
        return 0.05
    return max(group.slow for group in GROUPS.values() if group.preset == job.base.preset)


def hours(jobs: Sequence[Job], gpus: int, seconds: Callable[[Job], float]) -> float:
    """Of wall time, with the jobs spread evenly; bases take a GPU each. seconds: of a whole GPU, of a job."""
    homes = [seconds(job) for job in jobs if job.kind == "base"]
    first = math.ceil(len(homes) / gpus) * sum(homes) / len(homes) if homes else 0.0
    return (first + sum(seconds(job) for job in jobs if job.kind != "base") / gpus) / 3600


def plan_text(jobs: Sequence[Job], done: Collection[str], gpus: int, seconds: Callable[[Job], float]) -> str:
    """What would be run, as a table: by claim and base how many jobs there are, how many are finished, and hours."""
    lines = ["| claim | base | jobs | finished | GPU seconds left |", "|---|---|---|---|---|"]
    rows: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        rows.setdefault((job.claim or "base", job.base.name), []).append(job)
    for (claim, base), some in sorted(rows.items()):
        left = sum(seconds(job) for job in some if job.name not in done)
        count = sum(job.name in done for job in some)
        lines.append(f"| {claim} | {base} | {len(some)} | {count} | {left:.0f} |")
    to_run = [job for job in jobs if job.name not in done]
    lines += ["", f"{len(to_run)} jobs to run, about {hours(to_run, gpus, seconds):.2f} hours on {gpus} GPUs"]
    return "\n".join(lines)
