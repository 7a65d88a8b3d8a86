"""What a recorded run holds and what one can ask of it. No hooks, no files, no pictures.

L layers, St step bins, E entities, F, h, w token frames, rows, columns. A map is a mean of softmax probabilities, so
its values lie in [0, 1]; V2T: for every video token the probability of the entity's words (mean over its tokens); V2V:
for every video token the probability that the entity's first-frame tokens look there (mean over these). Both are means
over all heads. Source of both: MATRIX (arXiv 2510.07310), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..core.grid import Grid

if TYPE_CHECKING:
    from ..core.tracks.tracks import GridTracks
    from ..core.words.binding import PromptBinding

__all__ = ["Alignment", "Capture", "MapKind", "StepInfo", "Stream"]

MapKind = Literal["v2t", "v2v"]
Choice = int | Iterable[int] | None


@dataclass(frozen=True)
class StepInfo:
    """One step bin: `index` is the (first) sampling step in it, `sigma` that step's noise level, `calls` how many
    model calls its maps are the mean of. A bin with 0 calls was not captured: its maps are zeros and count for nothing.
    """

    index: int
    sigma: float
    calls: int = 1


@dataclass
class Stream:
    """The maps of one prompt and one sample of it.

    Args:
        key: names the prompt and sample, unique within a capture.
        binding: the prompt and its phrases.
        grid: token grid of the clip.
        entities: phrase names along E of `v2t`.
        v2t: (L, St, E, F, h, w) float16 in [0, 1].
        layers_v2t: global layer numbers along L of `v2t`, ascending.
        v2v, layers_v2v, entities_v2v: the same for video-to-video.

    Raises ValueError where sizes, names and layers do not agree.
    """

    key: Hashable
    binding: PromptBinding
    grid: Grid
    entities: tuple[str, ...]
    v2t: Tensor
    layers_v2t: tuple[int, ...]
    v2v: Tensor
    layers_v2v: tuple[int, ...]
    entities_v2v: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in ("v2t", "v2v"):
            maps, layers, names = self.get(kind)
            shape = tuple(maps.shape)
            steps = shape[1] if len(shape) == 6 else -1
            want = (len(layers), steps, len(names), *self.grid.shape)
            if maps.dtype != torch.float16 or shape != want:
                raise ValueError(
                    f"{kind} of stream {self.key!r} has to be float16 of shape [layer, step, entity, F, h, w] = "
                    f"[{len(layers)}, steps, {len(names)}, {', '.join(map(str, self.grid.shape))}]; "
                    f"got {maps.dtype} {list(shape)}"
                )
            if len(set(names)) != len(names) or list(layers) != sorted(set(layers)):
                raise ValueError(
                    f"{kind} needs different entity names and ascending layers; got {list(names)} and {list(layers)}"
                )
        if self.v2t.shape[1] != self.v2v.shape[1]:
            raise ValueError(f"v2t holds {self.v2t.shape[1]} step bins but v2v {self.v2v.shape[1]}")

    def get(self, kind: str) -> tuple[Tensor, tuple[int, ...], tuple[str, ...]]:
        """(maps, layers, entities) of "v2t" or "v2v"."""
        if kind == "v2t":
            return self.v2t, self.layers_v2t, self.entities
        if kind == "v2v":
            return self.v2v, self.layers_v2v, self.entities_v2v
        raise ValueError(f"the kind of map is 'v2t' (video-to-text) or 'v2v' (video-to-video); got {kind!r}")

    @property
    def bins(self) -> int:
        """Number of step bins."""
        return int(self.v2t.shape[1])

    @property
    def nbytes(self) -> int:
        return sum(maps.numel() * maps.element_size() for maps in (self.v2t, self.v2v))


@dataclass(frozen=True)
class Alignment:
    """Attention alignment scores (AAS) of one kind of map against mask tracks.

    raw (L, St, E): sum over F, h, w of A * m, as the paper defines it. share (L, St, E): raw over the sum of A, the
    part of the map's mass that lies on the mask, in [0, 1]. chance (E,): the mask's share of the area, what a flat map
    would reach. All float32. `calls` (St,) weighs the bins; `entities` are those that have a mask.
    """

    kind: MapKind
    layers: tuple[int, ...]
    entities: tuple[str, ...]
    calls: tuple[int, ...]
    raw: Tensor
    share: Tensor
    chance: Tensor

    def over_steps(self, score: Literal["raw", "share"] = "share") -> Tensor:
        """(L, E) float32: mean of a score over the step bins, weighed by their calls."""
        return torch.einsum("lse,s->le", self.raw if score == "raw" else self.share, _weights(self.calls))


@dataclass
class Capture:
    """Everything recorded in one sampling run: streams over the same step bins.

    Args:
        streams: one per prompt and sample.
        backbone: name in the backbone registry.
        steps: the step bins, in sampling order; the same for all streams.
        branch: the guidance branch that was recorded.
        meta: anything else worth keeping, as JSON values; "notes" is a list of sentences for people.
    """

    streams: list[Stream]
    backbone: str
    steps: tuple[StepInfo, ...]
    branch: str = "cond"
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stream in self.streams:
            if stream.bins != len(self.steps):
                raise ValueError(
                    f"stream {stream.key!r} holds {stream.bins} step bins, but the capture lists {len(self.steps)}"
                )
        indices = [step.index for step in self.steps]
        if len(set(indices)) != len(indices):
            raise ValueError(f"every step bin needs an index of its own; got {indices}")

    @property
    def nbytes(self) -> int:
        """Bytes that the maps take."""
        return sum(stream.nbytes for stream in self.streams)

    def stream(self, i: int = 0) -> Stream:
        if not 0 <= i < len(self.streams):
            raise ValueError(f"stream {i} does not exist: this capture holds {len(self.streams)} (0 is the first)")
        return self.streams[i]

    def maps(
        self, kind: MapKind = "v2t", layer: Choice = None, step: Choice = None, entity: str = "", stream: int = 0
    ) -> Tensor:
        """The map of one entity, (F, h, w) float32 in [0, 1]: the mean over the chosen layers and steps.

        Args:
            kind: "v2t" or "v2v".
            layer: a global layer number, several, or None for all that were captured.
            step: a step (`StepInfo.index`), several, or None for all. Bins count as often as they were called.
            entity: a phrase name; may be left out where only one exists.

        Raises ValueError, listing what exists, for a choice that does not, and where nothing was captured.
        """
        chosen = self.stream(stream)
        maps, layers, names = chosen.get(kind)
        if not names or not layers:
            raise ValueError(f"this capture holds no {kind} maps")
        if not entity and len(names) == 1:
            entity = names[0]
        if entity not in names:
            raise ValueError(f"no {kind} map is called {entity!r}: this capture has {', '.join(names)}")
        rows = _pick("layer", layer, layers)
        bins = [i for i in _pick("step", step, [s.index for s in self.steps]) if self.steps[i].calls > 0]
        if not bins:
            raise ValueError("nothing was captured in the chosen steps: each of them has 0 calls")
        weights = _weights([self.steps[i].calls for i in bins])
        total = torch.zeros(chosen.grid.shape)
        e = names.index(entity)
        for i in rows:  # layer by layer: a capture may be a memory-mapped file of a gigabyte
            total += torch.einsum("sfhw,s->fhw", maps[i, :, e][bins].float(), weights)
        return total / len(rows)

    def aas(self, tracks: GridTracks, kind: MapKind = "v2t", stream: int = 0) -> Alignment:
        """Attention alignment of every layer, step and entity that has a mask (see `Alignment`).

        `tracks` are on this stream's grid, nearest resize in the paper. Entities join masks by name; a verb takes the
        union of its subject's and object's masks. Entities without a mask are left out, and so are token frames that
        the tracks say nothing about (first-frame masks know frame 0). Raises ValueError where the grids differ or no
        entity has a mask.
        """
        chosen = self.stream(stream)
        maps, layers, names = chosen.get(kind)
        if tracks.grid.shape != chosen.grid.shape:
            raise ValueError(
                f"tracks are on a {tracks.grid.shape} token grid (F, h, w), the capture on {chosen.grid.shape}: "
                f"resample them with tracks.to_grid(capture.stream({stream}).grid)"
            )
        masks = {name: mask for name in names if (mask := _mask_of(name, chosen.binding, tracks)) is not None}
        if not masks or not layers:
            raise ValueError(
                f"none of the {kind} maps {list(names)} in layers {list(layers)} has a mask track; tracks exist for "
                f"{list(tracks.names)}. Instances join words by name"
            )
        known = [f for f, said in enumerate(tracks.known) if said]
        m = torch.stack(list(masks.values()))[:, known].flatten(1)
        columns = [names.index(name) for name in masks]
        raw = torch.zeros(len(layers), chosen.bins, len(masks))
        mass = torch.zeros_like(raw)
        for i in range(len(layers)):
            a = maps[i][:, columns][:, :, known].float().flatten(2)
            raw[i], mass[i] = torch.einsum("sep,ep->se", a, m), a.sum(-1)
        return Alignment(
            kind=kind,
            layers=layers,
            entities=tuple(masks),
            calls=tuple(step.calls for step in self.steps),
            raw=raw,
            share=torch.where(mass > 0, raw / mass.clamp_min(1e-30), 0.0),
            chance=m.mean(1),
        )

    def concentration(self, kind: MapKind = "v2t", stream: int = 0) -> Alignment:
        """How concentrated each map is, without masks: 1 - entropy / log(F*h*w), 0 for a flat map, 1 for one token.

        It comes in the same form as `aas`, `share` holding it and `raw` the map's mean probability; chance is 0.
        """
        maps, layers, names = self.stream(stream).get(kind)
        if not names or not layers:
            raise ValueError(f"this capture holds no {kind} maps")
        score = torch.zeros(len(layers), len(self.steps), len(names))
        mean = torch.zeros_like(score)
        for i in range(len(layers)):
            a = maps[i].float().flatten(2)
            p = a / a.sum(-1, keepdim=True).clamp_min(1e-30)
            entropy = -torch.xlogy(p, p).sum(-1)
            score[i] = torch.where(a.sum(-1) > 0, 1 - entropy / max(math.log(a.shape[-1]), 1e-30), 0.0)
            mean[i] = a.mean(-1)
        return Alignment(
            kind=kind,
            layers=layers,
            entities=names,
            calls=tuple(step.calls for step in self.steps),
            raw=mean,
            share=score.clamp(0, 1),
            chance=torch.zeros(len(names)),
        )

    def check_next(
        self,
        backbone: str,
        grid: Grid,
        layers: Mapping[str, tuple[int, ...]],
        bindings: Sequence[PromptBinding],
    ) -> None:
        """Raises ValueError where a run that is about to start could not be appended by `extend`: told now, and not
        after it has been sampled.

        Args:
            layers: of each kind of map that the run will record.
            bindings: of each prompt and sample.
        """
        mine = sorted(stream.binding.to_json() for stream in self.streams)
        if self.backbone != backbone:
            raise _differ("backbone", repr(self.backbone), repr(backbone))
        if len(self.streams) != len(bindings):
            raise _differ("the number of prompts and samples", len(self.streams), len(bindings))
        if mine != sorted(binding.to_json() for binding in bindings):
            raise _differ("the prompt or its bound words", repr(self.stream().binding.prompt), repr(bindings[0].prompt))
        for stream in self.streams:
            if stream.grid != grid:
                raise _differ("grid", stream.grid.shape, grid.shape)
            for kind in ("v2t", "v2v"):
                captured = stream.get(kind)[1]
                if captured and captured != layers[kind]:
                    raise _differ(f"layers_{kind}", captured, layers[kind])

    def extend(self, other: Capture) -> Capture:
        """A new capture with the steps of `other` after these: a second model of the same run (Wan 2.2's low-noise
        expert after its high-noise one). Steps of `other` are renumbered to follow where the numbers would clash.

        Raises ValueError where backbone, branch, streams, prompts, grids, layers or entities differ.
        """
        _check_same_run(self, other)
        shift = 0
        if self.steps and other.steps and other.steps[0].index <= self.steps[-1].index:
            shift = self.steps[-1].index + 1 - other.steps[0].index
        steps = self.steps + tuple(replace(step, index=step.index + shift) for step in other.steps)
        streams = [
            replace(a, v2t=torch.cat([a.v2t, b.v2t], 1), v2v=torch.cat([a.v2v, b.v2v], 1))
            for a, b in zip(self.streams, other.streams, strict=True)
        ]
        meta = {**other.meta, **self.meta}
        if "notes" in meta:
            meta["notes"] = list(dict.fromkeys([*self.meta.get("notes", ()), *other.meta.get("notes", ())]))
        return replace(self, streams=streams, steps=steps, meta=meta)


def _differ(what: str, a: object, b: object) -> ValueError:
    return ValueError(
        f"the two captures are not of one run: {what} differ(s): {a} and {b}. Sample both models with the same "
        "conditioning, size and capture settings"
    )


def _check_same_run(first: Capture, second: Capture) -> None:
    """ValueError unless two captures can be two models of one run."""

    for what in ("backbone", "branch"):
        if (a := getattr(first, what)) != (b := getattr(second, what)):
            raise _differ(what, repr(a), repr(b))
    if len(first.streams) != len(second.streams):
        raise _differ("the number of prompts and samples", len(first.streams), len(second.streams))
    for a, b in zip(first.streams, second.streams, strict=True):
        if a.binding != b.binding:
            raise _differ("the prompt or its bound words", repr(a.binding.prompt), repr(b.binding.prompt))
        for what in ("grid", "layers_v2t", "layers_v2v", "entities", "entities_v2v"):
            if (x := getattr(a, what)) != (y := getattr(b, what)):
                raise _differ(what, x, y)


def _pick(what: str, choice: Choice, existing: Sequence[int]) -> list[int]:
    """Positions of the chosen numbers in `existing`; all when None."""
    if choice is None:
        return list(range(len(existing)))
    wanted = [choice] if isinstance(choice, int) else list(choice)
    unknown = [number for number in wanted if number not in existing]
    if unknown or not wanted:
        given = f"{what} {', '.join(map(str, unknown))} was not captured" if unknown else f"no {what} was chosen"
        raise ValueError(f"{given}: this capture has {what}s {', '.join(map(str, existing))}")
    return [existing.index(number) for number in dict.fromkeys(wanted)]


def _weights(calls: Sequence[int]) -> Tensor:
    """Call counts to weights that sum to 1 (to 0 where nothing was called)."""
    counts = torch.tensor(calls, dtype=torch.float32)
    return counts / counts.sum().clamp_min(1.0)


def _mask_of(entity: str, binding: PromptBinding, tracks: GridTracks) -> Tensor | None:
    """(F, h, w) mask of an entity: its own track, else the union of a verb's subject and object, else None."""
    if entity in tracks.names:
        return tracks.map(entity).float()
    phrase = next((p for p in binding.phrases if p.name == entity), None)
    if phrase is None or phrase.role != "verb":
        return None
    parts = [name for name in (phrase.subject, phrase.object) if name]
    if not parts or any(name not in tracks.names for name in parts):
        return None
    return tracks.map(*parts).float()
