"""Who was mistaken for whom: swaps and doublings of instances, by frame and step, out of the maps of a capture.

A word's map says who is where; a reference says it a second time: given masks, or where each instance's first-frame
tokens look (V2V). In one step and token frame two instances are

- swapped where each one's words look at the other's place more than at its own, `margin` times and more;
- doubled where an instance's map has a second, separate place that is nearly as hot as the first, and nobody else's.

One alone that looks at another's place is no mix-up: words of who is acted on look at who acts.

Without a reference only the moment of a swap shows: from one token frame to the next two maps change places. What a
map shows while a clip is still noise changes from step to step; so a finding says whether it is still there in the last
step that was recorded (`lasting`).

St step bins, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.grid import Grid
from ...core.ranges import ranges
from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind
from .sinks import Sinks
from .word_masks import relative_heat, sharpest_layers, step_heat, told_names

__all__ = ["MixUp", "MixUpRule", "MixUps", "find_mix_ups", "pieces"]

Kind = Literal["swapped", "doubled"]
Reference = Literal["given masks", "first-frame tokens", "the frame before"]
_KINDS: tuple[Kind, ...] = ("swapped", "doubled")


@dataclass(frozen=True)
class MixUpRule:
    """From where on two are mixed up.

    Args:
        margin: how many times more a word looks at another's place than at its own.
        second: heat of a double's second place, as a share of the first one's; both from the frame's median to its
            peak.
        sharp: a map whose peak is less than so many times the median of its frame tells nothing about anybody.
        double_sharp: the same where a second place is looked for: blurred maps have many.
        size: tokens that a place takes at least, so that a single hot token is no double.
    """

    margin: float = 1.5
    second: float = 0.6
    sharp: float = 2.0
    double_sharp: float = 6.0
    size: int = 2

    def __post_init__(self) -> None:
        if min(self.margin, self.sharp, self.double_sharp, self.size) < 1 or not 0 < self.second <= 1:
            raise ValueError(
                "margin, sharp and double_sharp are 1 or more, second is a share above 0 and at most 1, size 1 token "
                f"or more; got margin {self.margin:g}, second {self.second:g}, sharp {self.sharp:g}, double_sharp "
                f"{self.double_sharp:g}, size {self.size}"
            )


@dataclass(frozen=True)
class MixUp:
    """One finding: of one instance, or of two.

    Args:
        kind: "swapped" or "doubled".
        maps: the kind of map that shows it.
        cells: (step, token frame) pairs where it holds, in order; steps are `StepInfo.index`.
        lasting: whether it holds in the last step that was recorded.
        value: the largest one that made it: how many times more the other's place was looked at, or the share of heat
            of the second place.
    """

    kind: Kind
    names: tuple[str, ...]
    maps: MapKind
    cells: tuple[tuple[int, int], ...]
    lasting: bool
    value: float

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted({step for step, _ in self.cells}))

    @property
    def frames(self) -> tuple[int, ...]:
        """Token frames."""
        return tuple(sorted({frame for _, frame in self.cells}))

    def pixel_frames(self, grid: Grid) -> tuple[int, ...]:
        """The clip's frames that its token frames stand for."""
        return tuple(number for frame in self.frames for number in range(*grid.pixel_span(frame)))

    def line(self, grid: Grid) -> str:
        """For people."""
        first, other = self.names[0], self.names[-1]
        said = {
            "swapped": f"swapped: {first!r} and {other!r} are in each other's place",
            "doubled": f"doubled: {first!r} is in two places",
        }[self.kind]
        until = "to the end" if self.lasting else "not in the last step"
        frames = ranges(self.pixel_frames(grid))
        return (
            f"{said}, frames {frames} (token frames {ranges(self.frames)}), steps {ranges(self.steps)}, {until} "
            f"({self.maps}, up to {self.value:.2g})"
        )


@dataclass(frozen=True)
class MixUps:
    """What was found in one stream: lasting findings first. `reference` is what words were compared with; `notes` say
    what could not be told; recorded: whether any map was."""

    found: tuple[MixUp, ...]
    reference: Reference
    notes: tuple[str, ...] = ()
    recorded: bool = True

    @property
    def nothing(self) -> list[str]:
        """For people, where nothing was found in what was recorded."""
        return [f"no swap or doubling (by {self.reference})"] if self.recorded and not self.found else []


def find_mix_ups(
    capture: Capture,
    tracks: MaskTracks | None = None,
    *,
    layers: Iterable[int] | None = None,
    layers_v2v: Iterable[int] | None = None,
    stream: int = 0,
    rule: MixUpRule = MixUpRule(),
    sinks: Sinks | None = None,
) -> MixUps:
    """Swaps and doublings of the instances of one stream.

    Args:
        tracks: where everybody should be, by the names that were bound; None compares with V2V maps, or else with the
            frame before.
        layers, layers_v2v: of the words' maps and of the instances'; None for the sharpest (`sharpest_layers`).
        sinks: places to leave out.

    Raises ValueError for layers that were not captured, and for a capture without maps of words or instances.
    """
    own = capture.stream(stream)
    steps = [step.index for step in capture.steps]
    bound = {phrase.name for phrase in own.binding.instances}
    heat: dict[MapKind, Tensor] = {}
    looked: dict[MapKind, tuple[str, ...]] = {}
    for kind, chosen in (("v2t", layers), ("v2v", layers_v2v)):
        if kind in own.maps:
            told = told_names(own, kind)
            looked[kind] = tuple(name for name in told if name in bound) or told
            at = tuple(chosen) if chosen is not None else sharpest_layers(capture, kind, stream)
            heat[kind] = step_heat(capture, looked[kind], kind, at, stream, sinks)
    if not heat:
        raise ValueError(f"this capture holds neither maps of words nor of instances: it has {', '.join(own.maps)}")
    found: list[MixUp] = []
    notes: list[str] = []
    reference: Reference = "given masks"
    places: Tensor | None = None
    known: tuple[str, ...] = ()
    if "v2t" in heat:
        reference, places, known = _reference(heat, looked, own.grid, tracks, notes)
        if len(known) > 1:
            columns = [looked["v2t"].index(name) for name in known]
            found += _crossed(heat["v2t"][:, columns], places, known, steps, rule)
        else:
            notes.append("swaps cannot be told: fewer than two instances have both words and a place to compare with")
    else:
        notes.append("swaps cannot be told: no maps of words (v2t) were recorded")
    for kind, maps in heat.items():
        others = None if reference == "the frame before" else (places, known)
        found += _doubled(maps, looked[kind], kind, others, steps, rule)
    found.sort(key=lambda each: (not each.lasting, _KINDS.index(each.kind), each.cells))
    recorded = not all(bool(maps.isnan().all()) for maps in heat.values())
    if not recorded:
        notes.insert(0, "swaps and doublings cannot be told: nothing was recorded in any step")
    return MixUps(tuple(found), reference, tuple(notes), recorded)


def _reference(
    heat: dict[MapKind, Tensor],
    looked: dict[MapKind, tuple[str, ...]],
    grid: Grid,
    tracks: MaskTracks | None,
    notes: list[str],
) -> tuple[Reference, Tensor, tuple[str, ...]]:
    """What words are compared with: its name; (St or 1, E, F, h*w) weights that sum to 1 in each frame, NaN where
    nothing is known; and the names along E."""
    names = looked["v2t"]
    if tracks is not None:
        given = tracks.spelled(names)
        known = tuple(name for name in names if name in given.names)
        missing = [name for name in names if name not in known]
        if missing:
            notes.append(f"{', '.join(map(repr, missing))} has no given mask: it is in no swap")
        if len(known) > 1:
            on_grid = given.select(known).to_grid(grid, "area")
            notes += [note for note in on_grid.notes if note not in notes]
            masks = on_grid.maps.flatten(2)[None]
            unknown = ~torch.tensor(on_grid.known)[None, None, :, None]
            return "given masks", torch.where(unknown, torch.nan, _shares(masks)), known
    both = tuple(name for name in names if name in looked.get("v2v", ()))
    if len(both) > 1:
        # Only the hot half of a map: what is below has no place.
        own = heat["v2v"][:, [looked["v2v"].index(name) for name in both]]
        return "first-frame tokens", _shares(_hot(own)), both
    notes.append(
        "nothing but words says who is where (no masks are given, and no maps of instances were recorded): only the "
        "moment of a swap can be seen, and whoever is wrong from the first frame on cannot"
    )
    before = _hot(heat["v2t"]).roll(1, 2)
    before[:, :, 0] = torch.nan
    return "the frame before", _shares(before), names


def _hot(maps: Tensor) -> Tensor:
    """(..., F, h*w): relative heat where it is half of its peak or more, else 0."""
    relative = relative_heat(maps).flatten(-2)
    return torch.where(relative.isnan(), torch.nan, torch.where(relative >= 0.5, relative, 0.0))


def _shares(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.nan)


def _crossed(maps: Tensor, places: Tensor, names: Sequence[str], steps: Sequence[int], rule: MixUpRule) -> list[MixUp]:
    """Swaps. maps (St, E, F, h, w) of words; places: see `_reference`."""
    flat = maps.flatten(-2)
    sharp = flat.amax(-1) >= rule.sharp * flat.median(-1).values  # (St, E, F)
    weights = places.expand(len(flat), -1, -1, -1)
    there = ~weights.isnan().any(-1)  # (St, E, F)
    looks = torch.einsum("sefp,sifp->sfei", flat.nan_to_num(0.0), weights.nan_to_num(0.0))  # of e at i's place
    found = []
    for a, b in itertools.combinations(range(len(names)), 2):
        told = there[:, a] & there[:, b]
        first = torch.where(told & sharp[:, a], looks[..., a, b] / looks[..., a, a].clamp_min(1e-30), 0.0)
        second = torch.where(told & sharp[:, b], looks[..., b, a] / looks[..., b, b].clamp_min(1e-30), 0.0)
        least = torch.minimum(first, second)
        found += _as_found("swapped", (names[a], names[b]), "v2t", least >= rule.margin, least, steps)
    return found


def _doubled(
    maps: Tensor,
    names: Sequence[str],
    kind: MapKind,
    others: tuple[Tensor | None, Sequence[str]] | None,
    steps: Sequence[int],
    rule: MixUpRule,
) -> list[MixUp]:
    """Instances with a second place. maps (St, E, F, h, w); others: places of everybody (see `_reference`) and their
    names, None where nobody knows."""
    relative = relative_heat(maps).nan_to_num(0.0)
    flat = maps.flatten(-2)
    sharp = flat.amax(-1) >= rule.double_sharp * flat.median(-1).values
    best = relative.argmax(1, keepdim=True) == torch.arange(len(names)).view(1, -1, 1, 1, 1)
    hot = (relative >= 0.5) & best
    found = []
    for e, name in enumerate(names):
        numbers = pieces(hot[:, e].flatten(0, 1)).unflatten(0, hot[:, e].shape[:2])
        free = numbers if others is None else _nobodys(numbers, name, *others)
        second = _second(free, relative[:, e], rule.size)
        cells = (second >= rule.second) & sharp[:, e]
        if kind == "v2v":
            cells[:, 0] = False  # these tokens are asked from the first frame: there they look at themselves
        found += _as_found("doubled", (name,), kind, cells, second, steps)
    return found


def _nobodys(numbers: Tensor, name: str, places: Tensor | None, known: Sequence[str]) -> Tensor:
    """Pieces (St, F, h, w) without those that touch somebody else's place."""
    columns = [i for i, other in enumerate(known) if other != name]
    if places is None or not columns:
        return numbers
    theirs = (places[:, columns].nan_to_num(0.0) > 0).any(1).unflatten(-1, numbers.shape[-2:]).expand(numbers.shape)
    flat, held = numbers.flatten(2), torch.where(theirs, numbers, 0).flatten(2)
    taken = torch.zeros(*flat.shape[:2], flat.shape[2] + 1, dtype=torch.bool)
    taken.scatter_(2, held, torch.ones_like(held, dtype=torch.bool))
    taken[..., 0] = False
    return torch.where(taken.gather(2, flat), 0, flat).view(numbers.shape)


def _second(numbers: Tensor, heat: Tensor, size: int) -> Tensor:
    """(St, F): the peak heat of the second hottest piece, as a share of the hottest; 0 where there is one alone.
    Pieces of fewer than `size` tokens are none. numbers, heat: (St, F, h, w)."""
    bins, frames, height, width = numbers.shape
    flat, values = numbers.reshape(-1, height * width), heat.reshape(-1, height * width)
    peaks = torch.zeros(len(flat), height * width + 1).scatter_reduce_(1, flat, values, "amax")
    counts = torch.zeros(len(flat), height * width + 1).scatter_add_(1, flat, torch.ones_like(values))
    peaks[:, 0] = 0
    peaks[counts < size] = 0
    top = peaks.topk(2, dim=1).values
    return torch.where(top[:, 0] > 0, top[:, 1] / top[:, 0].clamp_min(1e-30), 0.0).view(bins, frames)


def pieces(masks: Tensor) -> Tensor:
    """(N, h, w) bool to (N, h, w) int64: the same number for tokens that hang together (side by side or at a corner),
    another for every piece, from 1 to h*w; 0 outside."""
    height, width = masks.shape[1:]
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width) * masks
    while True:
        spread = F.max_pool2d(numbers[:, None], 3, 1, 1)[:, 0] * masks
        if torch.equal(spread, numbers):
            return numbers.long()
        numbers = spread


def _as_found(
    kind: Kind, names: tuple[str, ...], maps: MapKind, cells: Tensor, values: Tensor, steps: Sequence[int]
) -> list[MixUp]:
    """The finding of (St, F) cells, if there is one."""
    if not bool(cells.any()):
        return []
    places = tuple((steps[s], f) for s, f in cells.nonzero().tolist())
    return [MixUp(kind, names, maps, places, bool(cells[-1].any()), float(values[cells].max()))]
