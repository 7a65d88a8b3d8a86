"""What is measured of steering: conditions (how the model is steered) and tracks (what it is steered to), as data.

A cell is one condition under one kind of tracks. Cells come in the order of their importance, so that a run that is cut
short still has the main table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from ...core.guidance.base import Guidance
from ...core.guidance.dual_clock import DualClockDenoising
from ...core.guidance.gradient import GradientGuidance
from ...core.guidance.intrinsic import IntrinsicDenoising
from ...core.guidance.partition import Partition
from ...core.guidance.perturbation import Perturbation
from ...core.guidance.region_bias import RegionBias
from ...core.guidance.schedule import Schedule
from ...core.layers import Layers

__all__ = [
    "CODEC",
    "EXCHANGED",
    "PLAIN",
    "SETS",
    "SKETCH",
    "STILL",
    "UNSAMPLED",
    "Cell",
    "Condition",
    "cells",
    "conditions",
    "shares",
]

PLAIN = "no guidance"
CODEC = "the tracks' truth, through the codec"
"""No sampling: the clips that the tracks tell, encoded and decoded, which is what no guidance can do better than."""
SKETCH = "the rough animation alone, through the codec"
"""No sampling: what dual-clock denoising is held to, which shows what the model makes of it."""
STILL = "a still clip, through the codec"
"""No sampling: the first frame repeated, which knows where everybody begins, and nothing of the tracks."""
EXCHANGED = "paths of another clip, through the codec"
"""No sampling: who acts moves as in another clip: as things do, knowing nothing of the tracks."""
UNSAMPLED = (CODEC, SKETCH, STILL, EXCHANGED)
MAIN = ("swapped", "own")
KINDS = ("static", "slow", "fast", "jumping")
BIAS = "factor of the region bias"


_MODES: dict[type[Guidance], str] = {
    RegionBias: "bias",
    Partition: "masked",
    GradientGuidance: "gradient",
    DualClockDenoising: "clocks",
}


@dataclass(frozen=True)
class Condition:
    """One way to steer.

    Args:
        name: unique; what the tables call it.
        guidance: editors of attention, which add up, and what acts before steps.
        intrinsic: denoising steps in front of each step.
        boxes: whether it is given the boxes around the masks instead of the masks.
        tracks: kinds of tracks that it is measured under, most important first.
        rank: 0 is needed for the main table, higher ones are sampled later.
        points: the ablation curves that it is a point of, and where. Curves of one chart are named "CHART, LINE".
        cost: sampling time as a multiple of no guidance, to share the work out.
    """

    name: str
    guidance: tuple[Guidance, ...] = ()
    intrinsic: IntrinsicDenoising | None = None
    tracks: tuple[str, ...] = MAIN
    rank: int = 0
    points: tuple[tuple[str, float], ...] = ()
    cost: float = 1.0
    boxes: bool = False

    @property
    def blind(self) -> bool:
        """Whether the clips do not depend on the tracks, so that one sampling serves every kind of them."""
        return self.intrinsic is None and not any(each.needs_tracks for each in self.guidance)

    @property
    def settings(self) -> str:
        """Everything that decides what is sampled; equal for equal conditions."""
        return repr((self.guidance, self.intrinsic)) + (" boxes" if self.boxes else "")

    @property
    def said(self) -> str:
        """The same for people: what differs from defaults."""
        parts = [*self.guidance, *([] if self.intrinsic is None else [self.intrinsic])]
        return " + ".join(map(_described, parts)) + (" of boxes" if self.boxes else "")

    @property
    def mode(self) -> str:
        """Its mode: bias, masked, CMG, CAG, intrinsic, gradient, clocks; "together" for several, "" for none."""
        found = ["intrinsic"] * (self.intrinsic is not None)
        for guide in self.guidance:
            hidden = {"words": "CMG", "tracks": "CAG"}.get(getattr(guide, "target", ""), "")
            found.append(_MODES.get(type(guide), hidden))
        return ("clocks together" if "clocks" in found else "together") if len(found) > 1 else "".join(found)


@dataclass(frozen=True)
class Cell:
    """A condition and the kinds of tracks that its clips are measured against (one, but for blind conditions)."""

    condition: Condition
    tracks: tuple[str, ...]
    rank: int


def _described(config: Any) -> str:
    """A configuration as one would write it: what differs from its defaults."""
    if not is_dataclass(config) or isinstance(config, type):
        return repr(config)
    plain = type(config)()
    said = [
        f"{one.name}={_described(getattr(config, one.name))}"
        for one in fields(config)
        if getattr(config, one.name) != getattr(plain, one.name)
    ]
    return f"{type(config).__name__}({', '.join(said)})"


def _bias(times: float, **options: Any) -> RegionBias:
    """So many times 2 logits for words and 1 between places."""
    return RegionBias(2.0 * times, 2.0 * times, 1.0 * times, 1.0 * times, **options)


def _modes(best: Mapping[tuple[str, str], Condition]) -> list[Condition]:
    """The main table: every mode as it comes, every mode at its best in a sweep, and modes together."""
    every = (*MAIN, *KINDS)
    early = GradientGuidance(schedule=Schedule(end=0.34))
    modes = {
        "bias": Condition("region bias", (_bias(1),), points=((BIAS, 1),), cost=1.3),
        "masked": Condition("masked attention", (Partition(),), points=(("frozen steps", 4),), cost=1.4),
        "intrinsic": Condition(
            "intrinsic denoising", intrinsic=IntrinsicDenoising(), points=(("c_g", 10000), ("M", 2)), cost=3.2
        ),
        "CMG": Condition("words hidden (CMG)", (Perturbation("words"),), cost=2.2),
        "CAG": Condition("video hidden (CAG)", (Perturbation("tracks"),), cost=2.2),
        "gradient": Condition("gradient guidance, first third of the steps", (early,), rank=1, cost=9.0),
        "clocks": Condition("dual-clock denoising", (DualClockDenoising(),)),
    }
    none = Condition(PLAIN, tracks=every, points=(("frozen steps", 0), (BIAS, 0)))
    plain = [none, *(Condition(name, tracks=every, cost=0.5) for name in UNSAMPLED)]
    plain.append(replace(plain[2], name=f"{SKETCH}, of boxes", tracks=MAIN[:1], rank=1, boxes=True))
    tracks = dict.fromkeys(modes, every) | {"intrinsic": MAIN, "gradient": MAIN[:1]}
    modes = {name: replace(mode, tracks=tracks[name]) for name, mode in modes.items()}
    known = {mode.settings for mode in modes.values()}
    swept: dict[str, list[Condition]] = {}
    for (name, kind), one in best.items():
        if one.settings not in known:
            base = modes.get(name, replace(one, tracks=every))
            some = base.tracks if kind == "faithful" or "clocks" in name else MAIN[: len(base.tracks)]
            swept.setdefault(name, []).append(
                replace(one, name=f"{base.name}, {kind} of the sweep", tracks=some, rank=base.rank, points=())
            )
            known.add(one.settings)
    found = [one for name in modes for one in (*swept.get(name, ()), modes[name])]
    several = [one for name in ("together", "clocks together") for one in swept.get(name, ())]
    first = {name: (mode, *swept.get(name, ()))[-1] for name, mode in modes.items()}
    boxed = [
        replace(one, name=f"{one.name}, of boxes", tracks=MAIN[:1], rank=1, boxes=True)
        for one in (first["masked"], first["clocks"], *several)
    ]
    return [*plain, *found, *several, *_together(first), *boxed]


def _together(chosen: Mapping[str, Condition]) -> list[Condition]:
    """Modes combined, each as it was chosen."""
    found = []
    for names in (("bias", "masked"), ("masked", "intrinsic"), ("bias", "intrinsic"), ("bias", "masked", "intrinsic")):
        parts = [chosen[name] for name in names]
        guidance = tuple(guide for part in parts for guide in part.guidance)
        prior = next((part.intrinsic for part in parts if part.intrinsic is not None), None)
        cost = 1 + sum(part.cost - 1 for part in parts)
        tracks = (*MAIN, *KINDS) if names == ("bias", "masked") else MAIN
        found.append(Condition(" + ".join(names), guidance, prior, tracks, cost=cost))
    return found


def _ablations() -> list[Condition]:
    """IVG-DA's own ablations, and ours, under the tracks that contradict the prompt."""
    one = ("swapped",)

    def at(name: str, guidance: tuple[Any, ...], cost: float, *points: tuple[str, float], **more: Any) -> Condition:
        return Condition(name, guidance, tracks=one, rank=1, points=points, cost=cost, **more)

    found = []
    for steps in (2, 6, 12, 24):
        name = f"masked attention, {steps} steps"
        found.append(at(name, (Partition(steps),), 1.2 + 0.03 * steps, ("frozen steps", steps)))
    for steps in (2, 4, 6, 24):
        for match, word in ((None, "not normalised"), ("global", "normalised globally"))[
            : 2 if steps in (4, 24) else 1
        ]:
            part = Partition(steps, match)  # type: ignore[arg-type]
            name, curve = f"masked attention, {steps} steps, {word}", f"frozen steps, {word}"
            found.append(at(name, (part,), 1.2 + 0.03 * steps, (curve, steps)))
    for strength in (0, 2000, 5000, 7000):
        prior = IntrinsicDenoising(strength=float(strength))
        found.append(at(f"intrinsic denoising, c_g {strength}", (), 3.2, ("c_g", strength), intrinsic=prior))
    for times in (1, 3, 4):
        prior = IntrinsicDenoising(iterations=times)
        found.append(at(f"intrinsic denoising, M {times}", (), 1.2 + times, ("M", times), intrinsic=prior))
    prior = IntrinsicDenoising(normalise=True)
    found.append(at("intrinsic denoising, normalised", (), 3.2, intrinsic=prior))
    for factor in (0.25, 0.5, 2.0, 4.0):
        found.append(at(f"region bias x{factor:g}", (_bias(factor),), 1.3, (BIAS, factor)))
    found.append(at("region bias, soft edges", (_bias(1, soft=True),), 1.3))
    return found


def _sweep(layers: int) -> list[Condition]:
    """Where defaults come from, mode by mode: strengths, layers, steps and predictions."""
    third = max(1, layers // 3)
    thirds = {"first": range(third), "middle": range(third, layers - third), "last": range(layers - third, layers)}
    where = {f"{name} third": Layers.only(some) for name, some in thirds.items()}
    early = {f"first {share:.0%} of the steps": Schedule(end=share) for share in (0.17, 0.34, 0.5)}
    found = [Condition(PLAIN, tracks=("swapped", "own"))]

    def add(name: str, *guidance: Any, cost: float = 1.3, intrinsic: IntrinsicDenoising | None = None) -> None:
        found.append(Condition(name, guidance, intrinsic, ("swapped",), 0, cost=cost))

    for words in (0.0, 0.5, 1.0, 2.0, 4.0):
        for track in (0.0, 0.25, 0.5, 1.0, 2.0):
            if words or track:
                add(f"bias: words {words:g}, track {track:g}", RegionBias(words, words, track, track))
    for track in (0.5, 1.0, 2.0, 4.0, 8.0):
        add(f"bias: both predictions, words 0, track {track:g}", RegionBias(0, 0, track, track, branches="both"))
        add(f"bias: both predictions, words 1, track {track:g}", RegionBias(1, 1, track, track, branches="both"))
    for name, schedule in early.items():
        for times in (1, 2):
            add(f"bias: x{times}, {name}", _bias(times, schedule=schedule))
            add(f"bias: x{times}, both predictions, {name}", _bias(times, schedule=schedule, branches="both"))
    for name, bias in _tracks_alone(layers).items():
        add(f"bias: both predictions, {name}", bias)
    for name, some in where.items():
        add(f"bias: x1, {name}", _bias(1, layers=some))
        add(f"masked: 8 steps, {name}", Partition(8, layers=some))
        add(f"CMG: {name}", Perturbation("words", layers=some), cost=2.2)
        add(f"CAG: {name}", Perturbation("tracks", layers=some), cost=2.2)
    for steps in (2, 4, 8, 16, 24):
        add(f"masked: {steps} steps", Partition(steps))
        add(f"masked: {steps} steps, not normalised", Partition(steps, None))
        add(f"masked: {steps} steps, video alone", Partition(steps, words=False))
        add(f"masked: {steps} steps, prompt's prediction", Partition(steps, branches="cond"))
    for name, guides in _held_apart(layers).items():
        add(name, *guides)
    for name, held in _clocks().items():
        add(name, *held)
    for scale in (0.25, 0.5, 1.0):
        add(f"CMG: scale {scale:g}", Perturbation("words", scale), cost=2.2)
        add(f"CAG: scale {scale:g}", Perturbation("tracks", scale), cost=2.2)
    for share in (0.05, 0.1, 0.2, 0.5, 1.0):
        add(f"intrinsic: share {share:g}", intrinsic=IntrinsicDenoising(share=share), cost=3.2)
    for strength in (1000.0, 3000.0, 10000.0, 30000.0):
        prior = IntrinsicDenoising(strength=strength, normalise=True)
        add(f"intrinsic: normalised, c_g {strength:g}", intrinsic=prior, cost=3.2)
    for rate in (0.02, 0.1):
        add(f"intrinsic: gamma {rate:g}", intrinsic=IntrinsicDenoising(rate=rate), cost=3.2)
    for name, schedule in early.items():
        add(f"intrinsic: {name}", intrinsic=IntrinsicDenoising(schedule=schedule), cost=2.0)
    for strength in (0.03, 0.1, 0.3):
        gradient = GradientGuidance(strength, schedule=Schedule(end=0.34))
        add(f"gradient: strength {strength:g}, first third of the steps", gradient, cost=9.0)
    return found


def _tracks_alone(layers: int) -> dict[str, RegionBias]:
    """Biases of both predictions between video tokens, no words: curves, windows, directions and layers."""

    def of(up: float, down: float, **options: Any) -> RegionBias:
        return RegionBias(0, 0, up, down, branches="both", **options)

    found = {}
    for track in (1.0, 2.0, 4.0, 8.0):
        found[f"track {track:g} falling to 0"] = of(track, track, schedule=Schedule(((0.0, 1.0), (1.0, 0.0))))
        found[f"track {track:g} rising from 0"] = of(track, track, schedule=Schedule(((0.0, 0.0), (1.0, 1.0))))
    for track in (1.0, 2.0, 4.0):
        found[f"track {track:g} up alone"] = of(track, 0)
        found[f"track {track:g} down alone"] = of(0, track)
    for start, end in ((0.0, 0.67), (0.17, 1.0), (0.34, 1.0), (0.17, 0.67)):
        found[f"track 2, steps from {start:.0%} to {end:.0%}"] = of(2, 2, schedule=Schedule(start=start, end=end))
    half = layers // 2
    for name, some in {"first half": range(half), "last half": range(half, layers)}.items():
        for track in (2.0, 4.0):
            found[f"track {track:g}, {name} of the layers"] = of(track, track, layers=Layers.only(some))
    return found


def _held_apart(layers: int) -> dict[str, tuple[Guidance, ...]]:
    """Masked attention between video tokens, for most of the steps: normalised or not, alone and with a bias."""

    def of(steps: int, match: Literal["channel", "global"] | None = None, **options: Any) -> Partition:
        return Partition(steps, match, words=False, **options)

    found: dict[str, tuple[Guidance, ...]] = {}
    for steps in (8, 10, 12, 14, 16, 18, 20, 24):
        found[f"masked: {steps} steps, video alone, not normalised"] = (of(steps),)
    for steps in (16, 20, 24):
        found[f"masked: {steps} steps, video alone, normalised globally"] = (of(steps, "global"),)
    found["masked: 20 steps, video alone"] = (of(20, "channel"),)
    for name, some in {"but the first": range(1, layers), "but the last": range(layers - 1)}.items():
        found[f"masked: 16 steps, video alone, not normalised, all layers {name}"] = (of(16, layers=Layers.only(some)),)
    for steps in (16, 20):
        for up, down in ((0.0, 2.0), (1.0, 1.0), (2.0, 2.0)):
            bias = RegionBias(up, down, 0, 0)
            found[f"together: masked {steps} steps, words up {up:g}, down {down:g}"] = (of(steps), bias)
        for track in (0.5, 1.0):
            bias = RegionBias(0, 0, track, track, branches="both")
            found[f"together: masked {steps} steps, track {track:g} in both predictions"] = (of(steps), bias)
    return found


def _clocks() -> dict[str, tuple[Guidance, ...]]:
    """Dual-clock denoising after a rough animation: both clocks, what counts as inside, and attention beside it."""
    found: dict[str, tuple[Guidance, ...]] = {}
    for inside in (0.18, 0.34, 0.5, 0.67, 0.83, 1.0):
        for outside in (0.0, 0.08, 0.18, 0.34, 0.5):
            if outside <= inside:
                found[f"clocks: inside {inside:.0%}, outside {outside:.0%}"] = (DualClockDenoising(inside, outside),)
    for inside in (0.34, 0.5, 0.67, 0.83):
        found[f"clocks: inside {inside:.0%}, half covered"] = (DualClockDenoising(inside, 0.0, 0.5),)
        both = (DualClockDenoising(inside, 0.0), RegionBias(0, 2, 0, 0))
        found[f"together: clocks inside {inside:.0%}, words down 2"] = both
        half = (DualClockDenoising(inside, 0.0), Partition(round(24 * inside), None, words=False))
        found[f"together: clocks inside {inside:.0%}, masked as long"] = half
        found[f"together: clocks inside {inside:.0%}, masked as long, words down 2"] = (*half, RegionBias(0, 2, 0, 0))
    return found


SETS = ("table", "sweep")
"""table: the main table and the ablations. sweep: strengths, layers and steps, to choose defaults from."""


def conditions(which: str, layers: int, best: Mapping[tuple[str, str], Condition] | None = None) -> list[Condition]:
    """The conditions of a set, for a model of so many layers. `best`: for each mode (`Condition.mode`) what a sweep
    found (`best_of`), which joins the table. Raises ValueError for another set."""
    if which not in SETS:
        raise ValueError(f"sets of conditions are {', '.join(SETS)}; got {which!r}")
    return [*_modes(best or {}), *_ablations()] if which == "table" else _sweep(layers)


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
