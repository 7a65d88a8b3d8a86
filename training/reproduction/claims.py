"""The claims of the three papers, each as a difference that rows can decide, and what they come to.

A claim is asked of pairs of runs that differ in one thing: the same base, seed and prompts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.evaluation.statistics import Estimate, holm, over_bases, smallest_difference
from matrix_lib.evaluation.verdicts import Check, Outcome, ceiling, verdict

from .arms import DRAWN
from .boxes import STEERED
from .plan import GROUPS
from .sittings import Row, Rows, by_seed, short

__all__ = ["CLAIMS", "Claim", "Found", "asked"]

Array = NDArray[np.float64]
_STEERS = 0.05  # mIoU that a row has to bring, so that bases count as bases that can be steered
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
        least: bases that a verdict needs; before there are so many nobody looks.
        steered: rows of which one has to bring things into their boxes, so that "does not hold" says something of the
            method and not of the bases.
        kept: the claim is that nothing is lost: the difference is above minus the margin.
        family: whose comparisons are corrected together; empty: the paper's.
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
    kept: bool = False
    family: str = ""
    least: int = LEAST_BASES
    steered: tuple[str, ...] = ()

    @property
    def contrast(self) -> str:
        def told(names: tuple[str, ...]) -> str:
            return names[0] if len(names) == 1 else f"mean of {names[0]} ... {names[-1].split()[-1]}"

        return f"{told(self.arms)} - {told(self.others)}"


@dataclass(frozen=True)
class Found:
    """What a claim comes to.

    these: the difference for these very bases; like: for bases like these, which the verdict is about.
    by_base: mean difference of each base. p: of `like` against 0 (against minus the margin where something is to be
    kept), p_margin: against the margin, both corrected. seeds: runs of each base. level: mean of the others. looks:
    sittings after which a verdict could be given. times: how often the smallest p of the family counts, with its looks.
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
    p_margin: float
    looks: int
    times: float
    outcome: Outcome | None

    @property
    def least(self) -> float:
        """The smallest difference that would have been found in four of five cases, after all corrections."""
        if len(self.by_base) < 2:
            return math.nan
        return smallest_difference(self.like, comparisons=self.times, means=list(self.by_base.values()))

    @property
    def missing(self) -> bool:
        return self.outcome is None


_UNSAID = "the paper does not say its weights"
_FIGURE = "mIoU up to 33.8 (all parts together)"
_STEER: dict[str, Any] = {"able": ("covered", 0.5), "most": "true clips", "steered": STEERED}
_RANDOM = (*(f"10x random {draw}" for draw in range(4)), *DRAWN)


_BOTH: dict[str, Any] = {"moved": ("v2t", "v2v"), "most": 1.0}
_ABLE = ("right_roles", 0.1)
_AGAIN = 6  # bases; all of them, and no look before


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
    *_alignment("the losses at ten times these weights make roles right", _UNSAID, "10x", "off", moved=("v2t", "v2v")),
    *_alignment("the losses at thirty times make roles right", _UNSAID, "30x", "off", moved=("v2t", "v2v")),
    *_alignment("the losses at a hundred times make roles right", _UNSAID, "100x", "off", moved=("v2t", "v2v")),
    *_alignment("it is the attention, not the decoder", "not asked", "10x", "10x blind", own=True),
    *_alignment("it is the true masks", "not asked", "10x", "10x wrong masks", own=True),
    *_alignment("dominant layers are better than the lowest", "not asked", "10x", "10x lowest"),
    *_alignment(
        "dominant layers are better than layers drawn at random", "not asked", "10x", "random draws"
    ),
    Claim(
        "MATRIX", "quality rises (intact clips; 10x)", "not asked", "alignment", ("10x",), ("off",),
        "told", "intact", own=True, most=1.0,
    ),
    *(
        Claim(
            "MATRIX", f"with {count} clips the losses make roles right (10x)", "not asked", "efficiency",
            (f"10x n{count}",), (f"off n{count}",), "unseen pairs", "right_roles", **_BOTH,
        )
        for count in (32, 64, 256, 512, 2048)
    ),
    Claim(
        "MATRIX, its options", "with 32 clips it is the attention, not the decoder (10x)", "not asked", "efficiency",
        ("10x n32",), ("10x blind n32",), "unseen pairs", "right_roles", most=1.0, own=True,
    ),
    *_alignment(
        "Local Gram Flow from mask tracks makes roles right", "not asked", "flow", "off", "SAM2VideoX",
        moved=("v2v",),
    ),
    *_alignment("Local Gram Flow adds to MATRIX's losses at 10x", "not asked", "10x with flow", "10x", "SAM2VideoX"),
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
        "IVG-DA", "masked attention brings things into their boxes", _FIGURE, "boxes",
        ("masked 4",), ("none",), "boxes", "miou", **_STEER,
    ),
    Claim(
        "IVG-DA", "masked attention with mask normalisation brings things into their boxes", _FIGURE, "boxes",
        ("masked 4, matched",), ("none",), "boxes", "miou", **_STEER,
    ),
    Claim(
        "IVG-DA", "normalisation keeps things at their size", "FID, JEDi lower with it", "boxes",
        ("masked 4, matched",), ("masked 4",), "boxes", "sized", most="true clips",
    ),
    Claim(
        "IVG-DA", "normalisation keeps things at their size where eight steps are masked", "not asked", "boxes",
        ("masked 8, matched",), ("masked 8",), "boxes", "sized", most="true clips",
    ),
    Claim(
        "IVG-DA", "normalisation does not cost control", "not asked", "boxes",
        ("masked 4, matched",), ("masked 4",), "boxes", "miou", able=("covered", 0.5), own=True, kept=True,
    ),
    Claim(
        "IVG-DA", "intrinsic denoising adds control", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)", "boxes",
        ("masked 4, matched, denoising",), ("masked 4, matched",), "boxes", "miou",
        **_STEER,
    ),
    Claim(
        "IVG-DA", "intrinsic denoising alone adds control", "not asked", "boxes",
        ("denoising",), ("none",), "boxes", "miou", **_STEER,
    ),
    Claim(
        "IVG-DA", "it is tau that does it, not the Langevin steps", "mIoU 26.0 to 33.8", "boxes",
        ("denoising",), ("denoising, c_g 0",), "boxes", "miou", **_STEER,
    ),
    Claim(
        "IVG-DA", "with tau's strength on the latent's own scale it adds control", "not asked", "boxes",
        ("masked 4, matched, denoising, own scale",), ("masked 4, matched",), "boxes", "miou",
        own=True, **_STEER,
    ),
    *(
        Claim(
            "IVG-DA on a U-Net", said, figure, "boxes_unet", (arm,), (other,), "boxes", score,
            able=("covered", 0.5) if score == "miou" else None, most="true clips",
            steered=STEERED if score == "miou" else (),
        )
        for said, figure, arm, other, score in (
            ("masked attention brings things into their boxes", _FIGURE, "masked 4", "none", "miou"),
            (
                "masked attention with mask normalisation brings things into their boxes", _FIGURE, "masked 4, matched",
                "none", "miou",
            ),
            (
                "masked attention at Peekaboo's sites brings things into their boxes", _FIGURE, "peekaboo 4", "none",
                "miou",
            ),
            (
                "masked attention at Peekaboo's sites with mask normalisation brings things into their boxes", _FIGURE,
                "peekaboo 4, matched", "none", "miou",
            ),
            (
                "normalisation keeps things at their size", "FID, JEDi lower with it", "masked 4, matched", "masked 4",
                "sized",
            ),
            (
                "normalisation keeps things at their size at Peekaboo's sites", "not asked", "peekaboo 4, matched",
                "peekaboo 4", "sized",
            ),
            (
                "intrinsic denoising adds control", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)",
                "masked 4, matched, denoising", "masked 4, matched", "miou",
            ),
            (
                "intrinsic denoising adds control at Peekaboo's sites", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)",
                "peekaboo 4, matched, denoising", "peekaboo 4, matched", "miou",
            ),
            ("intrinsic denoising alone adds control", "not asked", "denoising", "none", "miou"),
            (
                "it is tau that does it, not the Langevin steps", "mIoU 26.0 to 33.8", "denoising",
                "denoising, c_g 0", "miou",
            ),
            (
                "matching behind the output projection keeps size better", "left open",
                "masked 4, matched behind the projection", "masked 4, matched", "sized",
            ),
        )
    ),
    # --- asked of rows that nobody had seen when this was written (2026-12-01): families of their own
    Claim(
        "MATRIX once more", "on fresh bases ten times the weights make roles right (the one question asked of them)",
        _UNSAID, "again", ("10x",), ("off",), "unseen pairs", "right_roles", least=_AGAIN, **_BOTH,
    ),
    *(
        Claim(
            "MATRIX once more", said, "not asked", "again", ("10x",), (other,), part, "right_roles", most=1.0, own=True,
            family="MATRIX once more, further", least=_AGAIN,
        )
        for said, other, part in (
            ("ten times the weights make roles right where pairs were seen", "off", "told"),
            ("it is the attention, not the decoder", "10x blind", "unseen pairs"),
            ("it is the true masks", "10x wrong masks", "unseen pairs"),
        )
    ),
    Claim(
        "TAViD once more", "on fresh bases the loss at lambda 10 makes the right thing be acted on",
        "not asked", "again_target", ("lambda 10",), ("lambda 0",), "look-alikes", "right_roles",
        least=_AGAIN, moved=("v2t",), most=1.0,
    ),
    Claim(
        "TAViD once more", "it is the true mask, not any loss (lambda 10)", "not asked", "again_target", ("lambda 10",),
        ("lambda 10 wrong masks",), "look-alikes", "right_roles", least=_AGAIN, most=1.0, own=True,
        family="TAViD once more, further",
    ),
    *(
        Claim(
            "MATRIX in other worlds", f"{world}: {said}", "not asked", group, ("10x",), (other,), GROUPS[group].sets[0],
            "right_roles", most=1.0, able=_ABLE, moved=("v2t", "v2v") if other == "off" else (), own=other != "off",
            family=f"MATRIX, {group}",
        )
        for group, world in (
            ("pairs", "two interactions at once"), ("verbs", "verbs that the base never saw"),
            ("clutter", "clutter, occlusion, moving camera"), ("frames33", "33 frames"), ("frames49", "49 frames"),
            ("untold", "captions that leave out roles"),
        )
        for said, other in (
            ("the losses at 10x make roles right", "off"), ("it is the attention, not the decoder", "10x blind"),
            ("it is the true masks", "10x wrong masks"),
        )
    ),
    *(
        Claim(
            "MATRIX, its options", said, "not asked", "alignment", (arm,), (other,), "unseen pairs", "right_roles",
            most=1.0, own=True,
        )
        for said, arm, other in (
            ("other 128 clips teach it as well (10x)", "10x other clips", "off other clips"),
            ("the video's attention to words is the better one to read", "10x", "10x t2v"),
            ("logits are better than probabilities", "10x", "10x probabilities"),
            ("a decoder is better than the token grid", "10x", "10x no decoder"),
            ("the losses help beside the ID map", "10x id map", "id map"),
            ("true masks are better than noisy ones (4 pixels off, a quarter lost)", "10x", "10x noisy masks"),
            ("masks are better than boxes", "10x", "10x boxes for masks"),
        )
    ),
    *(
        Claim(
            "SAM2VideoX, mixes", said, "not asked", "alignment", (arm,), (other,), "unseen pairs", "right_roles",
            most=1.0, own=True,
        )
        for said, arm, other in (
            ("flow taught by latents makes roles right", "flow by latents", "off"),
            ("the flow of values, taught by masks, makes roles right", "flow of values", "off"),
            ("values that masks teach help beside MATRIX's losses", "10x with flow of values", "10x"),
            ("values that latents teach help beside MATRIX's losses", "10x with features", "10x"),
            ("flow helps beside SGA alone", "sga 10x with flow", "sga 10x"),
            ("flow helps beside SPA alone", "spa 10x with flow", "spa 10x"),
        )
    ),
    *(
        Claim(
            "TAViD, even look-alikes", said, figure, "even", (arm,), (other,), "even look-alikes", "right_roles",
            most=1.0, moved=moved,
        )
        for said, figure, arm, other, moved in (
            ("the target mask tells who is meant", "contact with the mask alone .688", "lambda 0", "no mask", ()),
            ("the loss at lambda 10 makes the right thing be acted on", "not asked", "lambda 10", "lambda 0", ("v2t",)),
            ("the loss at lambda 1 makes the right thing be acted on", "contact .688 to .904", "lambda 1", "lambda 0",
             ("v2t",)),
            ("[SRC] and [TGT] with a mask each are better than [TGT] alone", "left open", "lambda 10 two masks",
             "lambda 10", ()),
            ("it is the true mask, not any loss (lambda 10)", "not asked", "lambda 10", "lambda 10 wrong masks", ()),
        )
    ),
    *(
        Claim(
            "TAViD, its options", said, "not asked", "target", (arm,), (other,), "look-alikes", "right_roles", most=1.0,
            own=True,
        )
        for said, arm, other in (
            ("a trigger that is learnt is better than the word alone", "lambda 10 learnt trigger", "lambda 10"),
            ("V2T is better than T2V", "lambda 10", "lambda 10 t2v"),
            ("the whole track is better than the first frame", "lambda 10 whole track", "lambda 10"),
            ("chosen layers are better than the lowest", "lambda 10", "lambda 10 lowest"),
            ("it is the true mask, not any loss (lambda 10)", "lambda 10", "lambda 10 wrong masks"),
        )
    ),
    *(
        Claim(
            "IVG-DA elsewhere", f"{where}: {said}", _FIGURE, group, (arm,), ("none",), GROUPS[group].sets[0], "miou",
            family=f"IVG-DA, {group}", **_STEER,
        )
        for group, where in (
            ("boxes_fast", "fast paths"), ("boxes_jump", "paths that jump"),
            ("boxes_scenes", "two subjects, moving camera"),
            ("boxes_unet_fast", "fast paths, U-Net"), ("boxes_unet_jump", "paths that jump, U-Net"),
        )
        for said, arm in (
            ("masked attention brings things into their boxes", "masked 4"),
            ("masked attention with mask normalisation brings things into their boxes", "masked 4, matched"),
            ("intrinsic denoising alone adds control", "denoising"),
        )
    ),
    *(
        Claim(
            "IVG-DA, its options", said, figure, "boxes", (arm,), (other,), "boxes", score, own=True, most="true clips",
        )
        for said, figure, arm, other, score in (
            ("matching behind the output projection keeps size better", "left open",
             "masked 4, matched behind the projection", "masked 4, matched", "sized"),
            ("normalised gradients are better", "not asked", "denoising, normalised", "denoising", "miou"),
            ("adaptive gradients are better", "not asked", "denoising, adaptive", "denoising", "miou"),
            ("M 4 is better than M 1", "not asked", "denoising, M 4", "denoising, M 1", "miou"),
            ("c_g 10,000 is better than 100", "mIoU 26.0 to 33.8 (c_g 0 to 10,000)", "denoising",
             "denoising, c_g 100", "miou"),
            ("six frozen steps are better than two", "not asked", "masked 6", "masked 2", "miou"),
        )
    ),
)  # fmt: skip
"""In the order of the report. `figure` is the paper's own, as it stands there."""


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    return _RANDOM if names == ("random draws",) else names


@dataclass(frozen=True)
class _Estimated:
    """p_margin: of the difference against the margin. tables: by preset and seed. homes: the very bases."""

    claim: Claim
    these: Estimate
    like: Estimate
    p: float
    p_margin: float
    looks: int
    tables: dict[str, Array]
    homes: list[str]

    def looked(self, name: str) -> float:
        """p or p_margin for all looks together: the k-th may spend 1 / (k (k + 1)) of the 5 %, which is never more than
        5 % together; p has two sides, and a claim one."""
        p = float(getattr(self, name))
        return p if math.isnan(p) else min(1.0, p * self.times)

    @property
    def times(self) -> float:
        return self.looks * (self.looks + 1) / 2


def asked(rows: Rows, claims: Sequence[Claim] = CLAIMS) -> list[Found]:
    """What the claims come to. p is corrected for the looks, and then for all claims of a family that have bases enough
    for a verdict (Holm).

    In this order: Holm asks the next claim less strictly only after the one before it was found, and what does not
    pass with its looks was not. Nor was what has too few bases: such claims have no p.
    """
    found = [_estimated(rows, claim) for claim in claims]
    families: dict[str, list[int]] = {}
    for at, claim in enumerate(claims):
        families.setdefault(claim.family or claim.paper, []).append(at)
    corrected: dict[int, tuple[float, float, int]] = {}
    for places in families.values():
        asked_of = sum(not math.isnan(found[at].p) for at in places)
        both = (holm([found[at].looked(name) for at in places]) for name in ("p", "p_margin"))
        corrected |= {at: (p, p_margin, asked_of) for at, p, p_margin in zip(places, *both, strict=True)}
    return [_judged(rows, each, *corrected[at]) for at, each in enumerate(found)]


def _estimated(rows: Rows, claim: Claim) -> _Estimated:
    found = rows.differences(claim.claim, _names(claim.arms), _names(claim.others), claim.part, claim.score, claim.step)
    tables = {base: claim.sign * table for base, table in by_seed(found).items()}
    if not tables:
        none = Estimate(float("nan"), float("nan"), float("nan"), 0)
        return _Estimated(claim, none, none, none.p, none.p, 0, {}, [])
    these, like = over_bases(list(tables.values()), bounds=(-1, 1))
    if len(tables) < claim.least:
        return _Estimated(claim, these, like, math.nan, math.nan, 1, tables, list(found))
    lower = _against(tables, -claim.margin) if claim.kept else like.p
    below = like.high < (0.0 if claim.kept else claim.margin)
    upper = 1.0 if not below else like.p if claim.kept else _against(tables, claim.margin)
    return _Estimated(claim, these, like, lower, upper, _looks(rows, claim, set(found)), tables, list(found))


def _against(tables: Mapping[str, Array], value: float) -> float:
    """p of the mean against a value."""
    return over_bases([table - value for table in tables.values()], bounds=(-1 - value, 1 - value))[1].p


def _looks(rows: Rows, claim: Claim, homes: Collection[str]) -> int:
    """How often sittings added pairs to a claim (bases of ``homes``) and left it with enough bases for a verdict; 1 at
    the least. Rows that nothing is paired with tell nothing: a control that is run beside `none` alone is no look."""
    arms = {*_names(claim.arms), *_names(claim.others)}
    together: dict[tuple[str, int], set[str]] = {}  # sittings that ran side by side were seen together
    for i, sitting in enumerate(rows.sittings):  # by their place, for files of several folders may have one name
        rows_of = (row for row in sitting.rows if row.claim == claim.claim and row.arm in arms)
        look = sitting.look, 0 if sitting.look else i
        together.setdefault(look, set()).update(short(row.base) for row in rows_of if row.base in homes)
    seen: set[str] = set()
    looks = 0
    for new in together.values():
        seen |= new
        looks += bool(new) and len(seen) >= claim.least
    return max(1, looks)


def _judged(rows: Rows, found: _Estimated, p: float, p_margin: float, asked_of: int) -> Found:
    claim, tables, like = found.claim, found.tables, found.like
    level = _level(rows, claim, _names(claim.others), found.homes) if tables else float("nan")
    checks = tuple(_checks(rows, claim, level, found.homes)) if tables else ()
    moved = (
        replace(like, **{k: getattr(like, k) + claim.margin for k in ("mean", "low", "high")}) if claim.kept else like
    )
    outcome = _for_others(verdict(moved, claim.margin, checks, p, p_margin), found.these, len(tables), claim.least)
    if outcome.word == "does not hold" and claim.steered and _steered(rows, claim) is None:
        said = f"{outcome.why}; but no row shows yet that anything steers these bases"
        outcome = replace(outcome, word="open", why=said)
    if claim.kept:
        outcome = replace(outcome, why=f"{like.interval} is asked to lie above {-claim.margin:g}: {outcome.word}")
    prompts = next(iter(tables.values())).shape[1] if tables else 0
    by_base = {base: float(table.mean()) for base, table in tables.items()}
    seeds = {base: len(table) for base, table in tables.items()}
    return Found(
        claim, found.these, like, by_base, seeds, prompts, level, checks, p, p_margin, found.looks,
        found.times * max(1, asked_of), outcome if tables else None,
    )  # fmt: skip


def _for_others(outcome: Outcome, these: Estimate, bases: int, least: int) -> Outcome:
    """The verdict is about bases like these, of which a few say nothing."""
    if bases >= least or outcome.word == "cannot be asked":
        return outcome
    said = f"{bases} bases are too few to speak of others; of these {these.interval}"
    return Outcome("open", said, outcome.smallest)


def _level(rows: Rows, claim: Claim, arms: tuple[str, ...], bases: Sequence[str]) -> float:
    """Mean of the bases' means of some arms."""
    found = rows.tables(claim.claim, arms, claim.part, claim.score, claim.step)
    tables = by_seed({base: np.array([v.mean() for v in found[base].values()]) for base in bases if base in found})
    return float(np.mean([table.mean() for table in tables.values()])) if tables else float("nan")


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
    if (check := _steered(rows, claim)) is not None:
        out.append(check)
    if claim.moved:
        out.append(_moved(rows, claim, bases))
    return out


def _steered(rows: Rows, claim: Claim) -> Check | None:
    """Whether one of the rows of `Claim.steered` does what the claim is about; None where none was run."""
    gains: dict[str, float] = {}
    for arm in claim.steered:
        pairs = by_seed(rows.differences(claim.claim, (arm,), ("none",), claim.part, claim.score))
        if pairs:
            gains[arm] = float(np.mean([table.mean() for table in pairs.values()]))
    if not gains:
        return None
    said = "; ".join(f"{arm} {gain:+.3f}" for arm, gain in gains.items())
    return Check(max(gains.values()) >= _STEERS, f"can these bases be steered? {said}; {_STEERS:+.3f} is asked for")


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
    unseen = len({short(base) for base in bases} - {short(base) for base in measured})
    of_runs = {base: np.mean([changes[kind][base] for kind in claim.moved], axis=0) for base in measured}
    by_base = [float(table.mean()) for table in by_seed(of_runs).values()]
    said = f"share on the mask, mean of {' and '.join(claim.moved)}: {min(by_base):+.3f} to {max(by_base):+.3f} by base"
    for kind in claim.moved:
        every = [change for base in measured for change in changes[kind][base]]
        fell = sum(change <= 0 for change in every)
        said += f"; {kind} {np.mean(every):+.3f}, not risen in {fell} of {len(every)} runs"
    said += f"; not measured on {unseen} of {len({short(base) for base in bases})} bases" if unseen else ""
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
