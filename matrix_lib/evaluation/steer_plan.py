"""What is measured of steering: conditions (how the model is steered) and tracks (what it is steered to), as data.

A cell is one condition under one kind of tracks. Cells come in the order of their importance, so that a run that is cut
short still has the main table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..core.guidance import Guidance, Layers, Partition, Perturbation, RegionBias, Schedule
from ..core.intrinsic import IntrinsicDenoising

__all__ = ["CODEC", "PLAIN", "SETS", "Cell", "Condition", "cells", "conditions", "shares"]

PLAIN = "no guidance"
CODEC = "the tracks' truth, through the codec"
"""No sampling: the clips that the tracks tell, encoded and decoded, which is what no guidance can do better than."""
MAIN = ("swapped", "own")
KINDS = ("static", "slow", "fast", "jumping")


@dataclass(frozen=True)
class Condition:
    """One way to steer.

    Args:
        name: unique; what the tables call it.
        guidance: editors of attention, which add up.
        intrinsic: denoising steps in front of each step.
        tracks: kinds of tracks that it is measured under, most important first.
        rank: 0 is needed for the main table, higher ones are sampled later.
        points: the ablation curves that it is a point of, and where.
        cost: sampling time as a multiple of no guidance, to share the work out.
    """

    name: str
    guidance: tuple[Guidance, ...] = ()
    intrinsic: IntrinsicDenoising | None = None
    tracks: tuple[str, ...] = MAIN
    rank: int = 0
    points: tuple[tuple[str, float], ...] = ()
    cost: float = 1.0

    @property
    def blind(self) -> bool:
        """Whether the clips do not depend on the tracks, so that one sampling serves every kind of them."""
        plain = all(isinstance(each, Perturbation) and not each.bound for each in self.guidance)
        return plain and self.intrinsic is None

    @property
    def settings(self) -> str:
        """Everything that decides what is sampled, in words; equal for equal conditions."""
        return repr((self.guidance, self.intrinsic))


@dataclass(frozen=True)
class Cell:
    """A condition and the kinds of tracks that its clips are measured against (one, but for blind conditions)."""

    condition: Condition
    tracks: tuple[str, ...]
    rank: int


def _bias(times: float, soft: bool = False, **options: object) -> RegionBias:
    return RegionBias(2.0 * times, 2.0 * times, times, times, soft=soft, **options)  # type: ignore[arg-type]


def _modes() -> list[Condition]:
    """The main table: every mode, and modes together."""
    strong, part, prior = _bias(2), Partition(), IntrinsicDenoising()
    every = (*MAIN, *KINDS)
    words, video = (Perturbation(target) for target in ("words", "tracks"))  # type: ignore[arg-type]
    return [
        Condition(PLAIN, tracks=every),
        Condition(CODEC, tracks=every, cost=0.5),
        Condition("region bias x2", (strong,), tracks=every, points=(("region bias, times the default", 2),), cost=1.4),
        Condition("masked attention, 4 steps", (part,), tracks=every, points=(("frozen steps", 4),), cost=1.4),
        Condition("intrinsic denoising", intrinsic=prior, points=(("c_g", 10000), ("M", 2)), cost=3.3),
        Condition("bias x2 + masked", (strong, part), tracks=every, cost=1.6),
        Condition("masked + intrinsic", (part,), prior, tracks=every, cost=3.6),
        Condition("bias x2 + masked + intrinsic", (strong, part), prior, cost=4.0),
        Condition("region bias x1", (_bias(1),), points=(("region bias, times the default", 1),), cost=1.4),
        Condition("region bias x4", (_bias(4),), points=(("region bias, times the default", 4),), cost=1.4),
        Condition("region bias x2, soft edges", (_bias(2, soft=True),), cost=1.4),
        Condition("words hidden (CMG)", (words,), tracks=every, cost=2.2),
        Condition("video hidden (CAG)", (video,), tracks=every, cost=2.2),
    ]


def _ablations() -> list[Condition]:
    """IVG-DA's own ablations, and ours, under the tracks that contradict the prompt."""
    one = ("swapped",)
    found = []
    for steps in (2, 6, 12, 24):
        name, part = f"masked attention, {steps} steps", Partition(steps)
        found.append(Condition(name, (part,), None, one, 1, (("frozen steps", steps),), 1.2 + 0.03 * steps))
    for steps in (4, 24):
        for match, word in ((None, "not normalised"), ("global", "normalised globally")):
            name = f"masked attention, {steps} steps, {word}"
            part = Partition(steps, match)  # type: ignore[arg-type]
            found.append(
                Condition(name, (part,), None, one, 1, ((f"frozen steps, {word}", steps),), 1.2 + 0.03 * steps)
            )
    for strength in (0, 2000, 5000, 7000):
        name, prior = f"intrinsic denoising, c_g {strength}", IntrinsicDenoising(strength=float(strength))
        found.append(Condition(name, (), prior, one, 1, (("c_g", strength),), 3.3))
    for times in (1, 3, 4):
        prior = IntrinsicDenoising(iterations=times)
        found.append(
            Condition(f"intrinsic denoising, M {times}", (), prior, one, 1, (("M", times),), 1.2 + 1.1 * times)
        )
    prior = IntrinsicDenoising(normalise=True)
    found.append(Condition("intrinsic denoising, normalised", (), prior, one, 1, cost=3.3))
    for times in (6, 8):
        name, bias = f"region bias x{times}", _bias(times)
        found.append(Condition(name, (bias,), None, one, 1, (("region bias, times the default", times),), 1.4))
    return found


def _sweep(layers: int) -> list[Condition]:
    """Where defaults come from: strengths of words and of tracks apart, layers, and how long in the run."""
    one = ("swapped",)
    found = [Condition(PLAIN, tracks=("swapped", "own"))]
    for words in (0.0, 2.0, 4.0, 8.0):
        for track in (0.0, 1.0, 2.0, 4.0, 8.0):
            if words or track:
                bias = RegionBias(words, words, track, track)
                found.append(Condition(f"bias words {words:g} track {track:g}", (bias,), None, one, 0, cost=1.4))
    for first, last in ((0.0, 0.25), (0.0, 0.5), (0.5, 1.0)):
        bias = _bias(4, schedule=Schedule(start=first, end=last))
        found.append(Condition(f"bias x4, steps {first:g} to {last:g} of the run", (bias,), None, one, 1, cost=1.3))
    bias = _bias(4, branches="both")
    found.append(Condition("bias x4, both predictions", (bias,), None, one, 1, cost=1.5))
    third = max(1, layers // 3)
    parts = {"first": range(third), "middle": range(third, layers - third), "last": range(layers - third, layers)}
    for name, some in parts.items():
        where = Layers.only(some)
        found.append(Condition(f"bias x4, {name} third", (_bias(4, layers=where),), None, one, 1, cost=1.2))
        part = Partition(10, layers=where)
        found.append(Condition(f"masked 10 steps, {name} third", (part,), None, one, 1, cost=1.3))
        hidden = Perturbation("tracks", layers=where)
        found.append(Condition(f"CAG, {name} third", (hidden,), None, one, 2, cost=2.2))
        hidden = Perturbation("words", layers=where)
        found.append(Condition(f"CMG, {name} third", (hidden,), None, one, 2, cost=2.2))
    found.append(Condition("masked 10 steps, video only", (Partition(10, words=False),), None, one, 1, cost=1.4))
    found.append(Condition("masked 10 steps, prompt only", (Partition(10, branches="cond"),), None, one, 1, cost=1.4))
    for scale in (0.25, 0.5, 2.0):
        found.append(Condition(f"CMG scale {scale:g}", (Perturbation("words", scale),), None, one, 2, cost=2.2))
        found.append(Condition(f"CAG scale {scale:g}", (Perturbation("tracks", scale),), None, one, 2, cost=2.2))
    for share in (0.5, 1.0, 2.0, 4.0):
        prior = IntrinsicDenoising(share=share)
        found.append(Condition(f"intrinsic, share {share:g}", (), prior, one, 2, cost=3.3))
    for rate in (0.02, 0.1, 0.2):
        found.append(Condition(f"intrinsic, gamma {rate:g}", (), IntrinsicDenoising(rate=rate), one, 2, cost=3.3))
    return found


SETS = ("table", "sweep")
"""table: the main table and the ablations. sweep: strengths, layers and steps, to choose defaults from."""


def conditions(which: str, layers: int) -> list[Condition]:
    """The conditions of a set, for a model of so many layers. Raises ValueError for another set."""
    if which not in SETS:
        raise ValueError(f"sets of conditions are {', '.join(SETS)}; got {which!r}")
    return [*_modes(), *_ablations()] if which == "table" else _sweep(layers)


def cells(chosen: Iterable[Condition], tracks: Sequence[str] = ()) -> list[Cell]:
    """Every cell, the most important first: the main tracks of rank 0, then the ablations, then other kinds of tracks.
    `tracks` keeps these kinds alone."""
    found: list[Cell] = []
    for condition in chosen:
        kinds = tuple(kind for kind in condition.tracks if not tracks or kind in tracks)
        if condition.blind and kinds:
            found.append(Cell(condition, kinds, condition.rank))
        elif not condition.blind:
            ranks = {kind: MAIN.index(kind) if kind in MAIN else 2 + KINDS.index(kind) for kind in kinds}
            found += [Cell(condition, (kind,), max(condition.rank, rank)) for kind, rank in ranks.items()]
    return sorted(found, key=lambda cell: cell.rank)


def shares(every: Sequence[Cell], count: int) -> list[list[Cell]]:
    """The cells dealt to `count` processes: in order, each to the one that has the least to do so far."""
    if count < 1:
        raise ValueError(f"work is shared among 1 process or more; got {count}")
    dealt: list[list[Cell]] = [[] for _ in range(count)]
    load = [0.0] * count
    for cell in every:
        least = load.index(min(load))
        dealt[least].append(cell)
        load[least] += cell.condition.cost
    return dealt
