"""The claims of the three papers, each as a difference that rows can decide, and what they come to.

A claim is asked of pairs of runs that differ in one thing: the same base, seed and prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.evaluation.statistics import Estimate, holm, over_bases
from matrix_lib.evaluation.verdicts import Check, Outcome, ceiling, verdict

from .sittings import Row, Rows

__all__ = ["CLAIMS", "Claim", "Found", "asked"]

Array = NDArray[np.float64]
LEAST_BASES = 3  # with fewer nothing is said of bases like these: Student's interval of two hangs on how alike they are


@dataclass(frozen=True)
class Claim:
    """A claim of a positive difference.

    Args:
        paper: whose. said: the claim in a sentence. figure: what the paper reports for it.
        claim: the group of runs. arms: whose mean is compared with that of `others`.
        part, score: set of clips and score. sign: -1 where less is better.
        margin: the smallest difference that would matter.
        moved: kinds ("v2t", "v2v") whose share of attention on the mask, as a mean, has to have risen in every base.
        able: score of the others, and how much of it they have to have: what they cannot do at all nothing improves.
        most: row that stands for the best there can be, or a number.
        step: checkpoint, -1 the last.
        own: it is a check of ours, not the paper's claim.
    """

    paper: str
    said: str
    figure: str
    claim: str
    arms: tuple[str, ...]
    others: tuple[str, ...]
    part: str
    score: str
    margin: float = 0.02
    sign: int = 1
    moved: tuple[str, ...] = ()
    able: tuple[str, float] | None = None
    most: str | float | None = None
    step: int = -1
    own: bool = False

    @property
    def contrast(self) -> str:
        def told(names: tuple[str, ...]) -> str:
            return names[0] if len(names) == 1 else f"mean of {names[0]} ... {names[-1].split()[-1]}"

        return f"{told(self.arms)} - {told(self.others)}"


@dataclass(frozen=True)
class Found:
    """What a claim comes to.

    these: the difference for these very bases; like: for bases like these, which the verdict is about.
    by_base: mean difference of each base. p: of `like`, corrected. seeds: runs of each base. level: mean of the others.
    """

    claim: Claim
    these: Estimate
    like: Estimate
    by_base: dict[str, float]
    seeds: dict[str, int]
    prompts: int
    level: float
    checks: tuple[Check, ...]
    p: float
    outcome: Outcome | None

    @property
    def missing(self) -> bool:
        return self.outcome is None


_UNSAID = "the paper does not say its weights"
_FIGURE = "mIoU up to 33.8 (all parts together)"
_RANDOM = tuple(f"10x random {draw}" for draw in range(4))


def _alignment(said: str, figure: str, arm: str, other: str, paper: str = "MATRIX", **more: Any) -> list[Claim]:
    return [
        Claim(paper, said, figure, "alignment", (arm,), (other,), part, "right_roles", most=1.0, **more)
        for part in ("told", "unseen pairs")
    ]


CLAIMS: tuple[Claim, ...] = (
    *_alignment(
        "the losses at the released weights make roles right", "SGI .526 to .641, KISA .445 to .546 (both losses)",
        "1x", "off", moved=("v2t", "v2v"),
    ),
    *_alignment("so do they at ten times these weights", _UNSAID, "10x", "off", moved=("v2t", "v2v")),
    *_alignment("so do they at thirty times", _UNSAID, "30x", "off", moved=("v2t", "v2v")),
    *_alignment("so do they at a hundred times", _UNSAID, "100x", "off", moved=("v2t", "v2v")),
    *_alignment("it is the attention, not the decoder", "not asked", "10x", "10x blind", own=True),
    *_alignment("it is the true masks", "not asked", "10x", "10x wrong masks", own=True),
    *_alignment("dominant layers are better than the lowest", "not asked", "10x", "10x lowest"),
    *_alignment(
        "dominant layers are better than layers drawn at random", "not asked", "10x", "random draws"
    ),
    Claim(
        "MATRIX", "quality rises (intact clips; 10x)", "not asked", "alignment", ("10x",), ("off",),
        "told", "intact", own=True,
    ),
    *(
        Claim(
            "MATRIX", f"with {count} clips the losses make roles right (10x)", "not asked", "efficiency",
            (f"10x n{count}",), (f"off n{count}",), "unseen pairs", "right_roles", most=1.0,
        )
        for count in (32, 64, 256, 512, 2048)
    ),
    *_alignment(
        "Local Gram Flow from mask tracks makes roles right", "not asked", "flow", "off", "SAM2VideoX",
        moved=("v2v",),
    ),
    *_alignment("so does it beside MATRIX's losses", "not asked", "10x with flow", "10x", "SAM2VideoX"),
    *(
        Claim(
            "TAViD", f"the target-aware loss at {arm} makes the right thing be acted on", figure, "target",
            (arm,), ("lambda 0",), "look-alikes", "right_roles", most=1.0, moved=("v2t",),
        )
        for arm, figure in (
            ("lambda .1", "contact .688 to .896"), ("lambda 1", "contact .688 to .904"), ("lambda 10", "not asked")
        )
    ),
    Claim(
        "TAViD", "lambda 1 costs quality (intact clips)", "said in words", "target", ("lambda 1",), ("lambda .1",),
        "look-alikes", "intact", sign=-1,
    ),
    Claim(
        "TAViD", "the target mask tells who is meant", "contact with the mask alone .688", "target",
        ("lambda 0",), ("no mask",), "look-alikes", "right_roles", most=1.0,
    ),
    Claim(
        "IVG-DA", "masked attention brings things into their boxes", "mIoU up to 33.8 (all parts together)", "boxes",
        ("masked 4",), ("none",), "boxes", "miou", able=("covered", 0.5), most="true clips",
    ),
    Claim(
        "IVG-DA", "so does it with mask normalisation", "mIoU up to 33.8 (all parts together)", "boxes",
        ("masked 4, matched",), ("none",), "boxes", "miou", able=("covered", 0.5), most="true clips",
    ),
    Claim(
        "IVG-DA", "normalisation keeps things at their size", "FID, JEDi lower with it", "boxes",
        ("masked 4, matched",), ("masked 4",), "boxes", "sized", most="true clips",
    ),
    Claim(
        "IVG-DA", "so does it where more steps are masked", "not asked", "boxes",
        ("masked 8, matched",), ("masked 8",), "boxes", "sized", most="true clips",
    ),
    Claim(
        "IVG-DA", "normalisation does not cost control", "not asked", "boxes",
        ("masked 4, matched",), ("masked 4",), "boxes", "miou", able=("covered", 0.5), own=True, most="true clips",
    ),
    Claim(
        "IVG-DA", "intrinsic denoising adds control", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)", "boxes",
        ("masked 4, matched, denoising",), ("masked 4, matched",), "boxes", "miou",
        able=("covered", 0.5), most="true clips",
    ),
    Claim(
        "IVG-DA", "intrinsic denoising alone adds control", "not asked", "boxes",
        ("denoising",), ("none",), "boxes", "miou", able=("covered", 0.5), most="true clips",
    ),
    Claim(
        "IVG-DA", "it is tau that does it, not the Langevin steps", "mIoU 26.0 to 33.8", "boxes",
        ("denoising",), ("denoising, c_g 0",), "boxes", "miou", able=("covered", 0.5), most="true clips",
    ),
    Claim(
        "IVG-DA", "with tau's strength on the latent's own scale it adds control", "not asked", "boxes",
        ("masked 4, matched, denoising, own scale",), ("masked 4, matched",), "boxes", "miou",
        able=("covered", 0.5), own=True, most="true clips",
    ),
    *(
        Claim(
            "IVG-DA on a U-Net", said, figure, "boxes_unet", (arm,), (other,), "boxes", score,
            able=("covered", 0.5) if score == "miou" else None, most="true clips",
        )
        for said, figure, arm, other, score in (
            ("masked attention brings things into their boxes", _FIGURE, "masked 4", "none", "miou"),
            ("so does it with mask normalisation", _FIGURE, "masked 4, matched", "none", "miou"),
            ("so does it at Peekaboo's attentions", _FIGURE, "peekaboo 4", "none", "miou"),
            ("so does it there with mask normalisation", _FIGURE, "peekaboo 4, matched", "none", "miou"),
            (
                "normalisation keeps things at their size", "FID, JEDi lower with it", "masked 4, matched", "masked 4",
                "sized",
            ),
            ("so does it at Peekaboo's attentions", "not asked", "peekaboo 4, matched", "peekaboo 4", "sized"),
            (
                "intrinsic denoising adds control", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)",
                "masked 4, matched, denoising", "masked 4, matched", "miou",
            ),
            (
                "so does it at Peekaboo's attentions", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)",
                "peekaboo 4, matched, denoising", "peekaboo 4, matched", "miou",
            ),
            ("intrinsic denoising alone adds control", "not asked", "denoising", "none", "miou"),
            (
                "it is tau that does it, not the Langevin steps", "mIoU 26.0 to 33.8", "denoising",
                "denoising, c_g 0", "miou",
            ),
        )
    ),
)  # fmt: skip
"""In the order of the report. `figure` is the paper's own, as it stands there."""


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    return _RANDOM if names == ("random draws",) else names


def asked(rows: Rows, claims: Sequence[Claim] = CLAIMS) -> list[Found]:
    """What the claims come to, with p corrected for all of a paper's claims that have rows (Holm)."""
    found = [_estimated(rows, claim) for claim in claims]
    out: list[Found] = []
    for paper in dict.fromkeys(claim.paper for claim in claims):
        mine = [each for each in found if each[0].paper == paper]
        corrected = holm([like.p for _, _, like, _ in mine])
        out += [_judged(rows, *each, p) for each, p in zip(mine, corrected, strict=True)]
    return out


def _estimated(rows: Rows, claim: Claim) -> tuple[Claim, Estimate, Estimate, dict[str, Array]]:
    tables = rows.differences(
        claim.claim, _names(claim.arms), _names(claim.others), claim.part, claim.score, claim.step
    )
    tables = {base: claim.sign * table for base, table in tables.items()}
    if not tables:
        none = Estimate(float("nan"), float("nan"), float("nan"), 0)
        return claim, none, none, {}
    these, like = over_bases(list(tables.values()), bounds=(-1, 1))
    return claim, these, like, tables


def _judged(rows: Rows, claim: Claim, these: Estimate, like: Estimate, tables: Mapping[str, Array], p: float) -> Found:
    level = _level(rows, claim, _names(claim.others), list(tables)) if tables else float("nan")
    checks = tuple(_checks(rows, claim, level, list(tables))) if tables else ()
    outcome = _for_others(verdict(like, claim.margin, checks, p), these, len(tables)) if tables else None
    prompts = next(iter(tables.values())).shape[1] if tables else 0
    by_base = {base: float(table.mean()) for base, table in tables.items()}
    seeds = {base: len(table) for base, table in tables.items()}
    return Found(claim, these, like, by_base, seeds, prompts, level, checks, p, outcome)


def _for_others(outcome: Outcome, these: Estimate, bases: int) -> Outcome:
    """The verdict is about bases like these, of which a few say nothing."""
    if bases >= LEAST_BASES or outcome.word not in ("holds", "does not hold"):
        return outcome
    said = f"{bases} bases are too few to speak of others; of these {these.interval}"
    return Outcome("open", said, outcome.smallest)


def _level(rows: Rows, claim: Claim, arms: tuple[str, ...], bases: Sequence[str]) -> float:
    """Mean of the bases' means of some arms."""
    found = rows.tables(claim.claim, arms, claim.part, claim.score, claim.step)
    means = [np.mean([values.mean() for values in found[base].values()]) for base in bases if base in found]
    return float(np.mean(means)) if means else float("nan")


def _checks(rows: Rows, claim: Claim, level: float, bases: Sequence[str]) -> list[Check]:
    def named(mark: str | float) -> float:
        return mark if isinstance(mark, float) else _level(rows, claim, (mark,), bases)

    out = []
    if claim.most is not None:
        out.append(ceiling(level, named(claim.most), min(0.05, 2 * claim.margin)))
    if claim.able is not None:
        score, least = claim.able
        can = _level(rows, replace(claim, score=score), _names(claim.others), bases)
        out.append(
            Check(can >= least, f"{score.replace('_', ' ')} of the others is {can:.3f}, {least:.3f} is asked for")
        )
    if claim.moved:
        out.append(_moved(rows, claim, bases))
    return out


def _share(row: Row, kind: str, layers: Sequence[int]) -> float:
    """Of attention on the mask, mean over some layers."""
    return float(np.mean([row.about["attention"][kind][i] for i in layers]))


def _moved(rows: Rows, claim: Claim, bases: Sequence[str]) -> Check:
    """Whether attention went where the losses ask for it: the mean of the claim's kinds, in every base.

    Not each kind: a decoder may read a map whose mask is the dark part as well as one whose mask is the bright part, so
    that a loss can be met while the share of its own kind falls. How each kind went is said.
    """
    changes = {kind: moved_attention(rows, claim, kind, bases) for kind in claim.moved}
    measured = [base for base in bases if all(changes[kind].get(base) for kind in claim.moved)]
    if not measured:
        return Check(True, "whether attention moved was not measured")
    by_base = [float(np.mean([np.mean(changes[kind][base]) for kind in claim.moved])) for base in measured]
    said = f"share on the mask, mean of {' and '.join(claim.moved)}: {min(by_base):+.3f} to {max(by_base):+.3f} by base"
    for kind in claim.moved:
        every = [change for base in measured for change in changes[kind][base]]
        fell = sum(change <= 0 for change in every)
        said += f"; {kind} {np.mean(every):+.3f}, not risen in {fell} of {len(every)} runs"
    return Check(min(by_base) > 0, said)


def moved_attention(rows: Rows, claim: Claim, kind: str, bases: Sequence[str]) -> dict[str, list[float]]:
    """{base: changes} of the share of attention on the mask, at the arm's own layers, against the others at the same
    layers; one a seed, none where nothing was measured."""
    changes: dict[str, list[float]] = {base: [] for base in bases}
    for base in bases:
        for seed in rows.seeds_of(claim.claim, base, claim.arms[0]):
            one = rows.get(claim.claim, base, claim.arms[0], seed)
            other = rows.get(claim.claim, base, claim.others[0], seed)
            if one is None or other is None or "attention" not in one.about or "attention" not in other.about:
                continue
            layers = one.about["settings"][kind]
            changes[base].append(_share(one, kind, layers) - _share(other, kind, layers))
    return changes
