"""What a recorded run holds and what one can ask of it. No hooks, no files, no pictures.

L layers, St step bins, E entities, F, h, w token frames, rows, columns. A map is a mean of softmax probabilities, so
its values lie in [0, 1]; V2T: for every video token the probability of the entity's words (mean over its tokens); V2V:
for every video token the probability that the entity's first-frame tokens look there (mean over these; of a pinned
point: its one token). Both are means over all heads, unless heads were kept apart. Source of both: MATRIX (arXiv
2510.07310), section 3. Kinds are open by name: a stream holds whatever kinds were recorded.

A cell is one frame of one map: a layer, a step, an entity, a token frame. Its count says how many calls it is the mean
of. A cell of count 0 is absent: a cache skipped the step, a prompt was not active, a context window did not show the
frame. Absent cells are in no mean, score, chart or picture.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..core.grid import Grid
from .maps import Maps, Storage

if TYPE_CHECKING:
    from ..core.tracks.tracks import GridTracks
    from ..core.words.binding import PromptBinding

__all__ = ["Alignment", "Capture", "MapKind", "StepInfo", "Stream"]

MapKind = str  # "v2t", "v2v", or any other name of a kind
Choice = int | Iterable[int] | None


@dataclass(frozen=True)
class StepInfo:
    """One step bin.

    Args:
        index: the (first) sampling step in it. sigma: that step's noise level.
        calls: the largest count of any cell in it. A bin of 0 calls is absent: nothing was recorded in it.
        model: which model took it, where a run has several (Wan 2.2's experts): a name, or "#" and a token for one
            without a name; see `Capture.experts`.
        skipped: its sampling steps in which no attention was seen (a cache skipped them).
    """

    index: int
    sigma: float
    calls: int = 1
    model: str = ""
    skipped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.calls and not self.skipped:
            object.__setattr__(self, "skipped", (self.index,))


@dataclass
class Stream:
    """The maps of one prompt and one sample of it.

    Args:
        key: names the prompt and sample, unique within a capture.
        binding: the prompt and its phrases.
        grid: token grid of the clip.
        maps: by kind. A kind of which nothing was to be recorded is not there.

    Raises ValueError where sizes, names and layers do not agree.
    """

    key: Hashable
    binding: PromptBinding
    grid: Grid
    maps: Mapping[str, Maps]

    def __post_init__(self) -> None:
        for kind, maps in self.maps.items():
            maps.check(f"{kind} of stream {self.key!r}", self.grid)
        bins = {kind: maps.bins for kind, maps in self.maps.items()}
        if len(set(bins.values())) > 1:
            raise ValueError(f"the kinds of stream {self.key!r} hold different numbers of step bins: {bins}")

    def get(self, kind: str) -> Maps:
        """The maps of a kind. Raises ValueError, listing what there is, for a kind that was not recorded."""
        if kind not in self.maps:
            raise ValueError(f"this capture holds no {kind} maps: it has {', '.join(self.maps) or 'none'}")
        return self.maps[kind]

    @property
    def on_clip(self) -> dict[str, Maps]:
        """The maps whose values are of the clip's tokens, by kind."""
        return {kind: maps for kind, maps in self.maps.items() if maps.over is None}

    @property
    def bins(self) -> int | None:
        """Number of step bins; None for a stream without maps."""
        return next((maps.bins for maps in self.maps.values()), None)

    def calls(self, step: int) -> int:
        """The largest count of any cell in the bin at place `step`."""
        return max((int(maps.counts[:, step].max()) for maps in self.maps.values()), default=0)

    @property
    def nbytes(self) -> int:
        return sum(maps.nbytes for maps in self.maps.values())

    # what most people ask for, in few words
    @property
    def v2t(self) -> Tensor:
        """(L, St, E, F, h, w) float16: the video-to-text maps; of size 0 where there are none."""
        return self._dense("v2t")

    @property
    def v2v(self) -> Tensor:
        """(L, St, E, F, h, w) float16: the video-to-video maps; of size 0 where there are none."""
        return self._dense("v2v")

    def _dense(self, kind: str) -> Tensor:
        if kind in self.maps:
            return self.maps[kind].dense()
        return torch.zeros(0, self.bins or 0, 0, *self.grid.shape, dtype=torch.float16)

    @property
    def entities(self) -> tuple[str, ...]:
        """Names along E of `v2t`."""
        return self.maps["v2t"].entities if "v2t" in self.maps else ()

    @property
    def entities_v2v(self) -> tuple[str, ...]:
        return self.maps["v2v"].entities if "v2v" in self.maps else ()

    @property
    def layers_v2t(self) -> tuple[int, ...]:
        """Global layer numbers along L of `v2t`, ascending."""
        return self.maps["v2t"].layers if "v2t" in self.maps else ()

    @property
    def layers_v2v(self) -> tuple[int, ...]:
        return self.maps["v2v"].layers if "v2v" in self.maps else ()


@dataclass(frozen=True)
class Alignment:
    """Attention alignment scores (AAS) of one kind of map against mask tracks.

    raw (L, St, E): sum over F, h, w of A * m, as the paper defines it. share (L, St, E): raw over the sum of A, the
    part of the map's mass that lies on the mask, in [0, 1]. area (L, St, E): the mask's share of the area, what a flat
    map would reach. All float32, over the frames that were recorded; NaN where none was. weights (L, St, E): calls in
    the mean over frames, 0 where nothing was recorded. `entities` are those that have a mask.
    """

    kind: MapKind
    layers: tuple[int, ...]
    entities: tuple[str, ...]
    raw: Tensor
    share: Tensor
    area: Tensor
    weights: Tensor

    def over_steps(self, score: Literal["raw", "share", "gain"] = "share") -> Tensor:
        """(L, E) float32: mean of a score over the steps, weighed by their calls; NaN where nothing was recorded.
        gain: share - area."""
        values = self.share - self.area if score == "gain" else getattr(self, score)
        return _weighed(values, self.weights, 1)

    @property
    def chance(self) -> Tensor:
        """(E,) float32: what a flat map would score, over all that was recorded."""
        return _weighed(self.area.flatten(0, 1), self.weights.flatten(0, 1), 0)


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
            if stream.bins not in (None, len(self.steps)):
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

    @property
    def skipped(self) -> tuple[int, ...]:
        """The sampling steps in which no attention was seen, ascending."""
        return tuple(sorted({number for step in self.steps for number in step.skipped}))

    @property
    def experts(self) -> dict[str, tuple[int, ...]]:
        """Which model took which step bins, by name, in the order of the run; one entry for a run with one model. Those
        without a name are "expert 1", "expert 2"."""
        models = list(dict.fromkeys(step.model for step in self.steps))
        names = [m if m and not m.startswith("#") else f"expert {i + 1}" for i, m in enumerate(models)]
        return {
            name: tuple(step.index for step in self.steps if step.model == model) for name, model in zip(names, models)
        }

    def stream(self, i: int = 0) -> Stream:
        if not 0 <= i < len(self.streams):
            raise ValueError(f"stream {i} does not exist: this capture holds {len(self.streams)} (0 is the first)")
        return self.streams[i]

    def take(self, steps: Choice) -> Capture:
        """The same capture, of the chosen steps (`StepInfo.index`) alone. Raises ValueError for others."""
        chosen = _pick("step", steps, [step.index for step in self.steps])
        streams = [replace(s, maps={kind: maps.take(chosen) for kind, maps in s.maps.items()}) for s in self.streams]
        return replace(self, streams=streams, steps=tuple(self.steps[i] for i in chosen))

    def of_expert(self, name: str) -> Capture:
        """The steps that one model took. Raises ValueError, listing them, for another name."""
        known = {expert.lower(): steps for expert, steps in self.experts.items()}
        if name.strip().lower() not in known:
            raise ValueError(f"no expert is called {name!r}: this capture has {', '.join(self.experts)}")
        return self.take(known[name.strip().lower()])

    def maps(
        self, kind: MapKind = "v2t", layer: Choice = None, step: Choice = None, entity: str = "", stream: int = 0
    ) -> Tensor:
        """The map of one entity, (F, h, w) float32 in [0, 1]: the mean over the chosen layers and steps. Frames of
        which none of these was recorded are NaN.

        Args:
            kind: "v2t", "v2v" or another that was recorded.
            layer: a global layer number, several, or None for all that were captured.
            step: a step (`StepInfo.index`), several, or None for all. Steps count as often as they were called.
            entity: a phrase name; may be left out where only one exists.

        Raises ValueError, listing what exists, for a choice that does not, and where nothing was captured.
        """
        chosen = self.stream(stream).get(kind)
        names = chosen.entities
        if not entity and len(names) == 1:
            entity = names[0]
        if entity not in names:
            raise ValueError(f"no {kind} map is called {entity!r}: this capture has {', '.join(names)}")
        rows = _pick("layer", layer, chosen.layers)
        bins = _pick("step", step, [s.index for s in self.steps])
        e = names.index(entity)
        bins = [i for i in bins if bool((chosen.counts[rows, i, e] > 0).any())]
        if not bins:
            raise ValueError(
                f"nothing was captured of {entity!r} in the chosen layers and steps: each of them has 0 calls (skipped "
                "by a cache, or the prompt was not active)"
            )
        return chosen.mean(rows, bins, e)

    def aas(
        self, tracks: GridTracks, kind: MapKind = "v2t", stream: int = 0, without: Tensor | None = None
    ) -> Alignment:
        """Attention alignment of every layer, step and entity that has a mask (see `Alignment`).

        `tracks` are on this stream's grid, nearest resize in the paper. Entities join masks by name; a verb takes the
        union of its subject's and object's masks. Entities without a mask are left out, and so are token frames that
        the tracks say nothing about (first-frame masks know frame 0). `without`, (L, F, h, w) bool, says which places
        of each layer's maps are left out of map, mask and area (`Sinks.left_out`). Raises ValueError where the grids
        differ, no entity has a mask, or the kind has no places in the clip.
        """
        chosen = self.stream(stream)
        maps = chosen.get(kind)
        if maps.over is not None:
            raise ValueError(f"{kind} maps have no places in the clip, so no mask lies on them: choose v2t, v2v or t2v")
        if tracks.grid.shape != chosen.grid.shape:
            raise ValueError(
                f"tracks are on a {tracks.grid.shape} token grid (F, h, w), the capture on {chosen.grid.shape}: "
                f"resample them with tracks.to_grid(capture.stream({stream}).grid)"
            )
        names = maps.entities
        masks = {name: mask for name in names if (mask := _mask_of(name, chosen.binding, tracks)) is not None}
        if not masks:
            raise ValueError(
                f"none of the {kind} maps {list(names)} in layers {list(maps.layers)} has a mask track; tracks exist "
                f"for {list(tracks.names)}. Instances join words by name"
            )
        known = [f for f, said in enumerate(tracks.known) if said]
        m = torch.stack(list(masks.values()))[:, known].flatten(2)
        columns = [names.index(name) for name in masks]
        counts = maps.counts[:, :, columns][..., known].float()
        raw, mass = torch.zeros(counts.shape[:3]), torch.zeros(counts.shape[:3])
        area = m.mean(-1).expand(len(maps.layers), *m.shape[:2])
        left = None if without is None else (~without[:, known]).float().flatten(2)
        if left is not None:
            area = torch.einsum("efp,lfp->lef", m, left) / left.sum(-1).clamp_min(1)[:, None]
        for i in range(len(maps.layers)):  # layer by layer: a capture may be a memory-mapped file of a gigabyte
            a, seen = maps.layer(i, entities=columns)[:, :, known].flatten(3), counts[i] > 0
            a = a if left is None else a * left[i]
            raw[i] = torch.where(seen, torch.einsum("sefp,efp->sef", a, m), 0.0).sum(-1)
            mass[i] = torch.where(seen, a.sum(-1), 0.0).sum(-1)
        seen = (counts > 0).float()
        frames = seen.sum(-1)
        missing = torch.where(frames > 0, 0.0, torch.nan)
        return Alignment(
            kind=kind,
            layers=maps.layers,
            entities=tuple(masks),
            raw=raw + missing,
            share=torch.where(mass > 0, raw / mass.clamp_min(1e-30), 0.0) + missing,
            area=torch.einsum("lsef,lef->lse", seen, area) / frames.clamp_min(1) + missing,
            weights=counts.mean(-1),
        )

    def concentration(self, kind: MapKind = "v2t", stream: int = 0) -> Alignment:
        """How concentrated each map is, without masks: 1 - entropy / log(F*h*w), 0 for a flat map, 1 for one token.

        It comes in the same form as `aas`, `share` holding it and `raw` the map's mean probability; chance is 0.
        """
        maps = self.stream(stream).get(kind)
        counts = maps.counts.float()
        frames = (counts > 0).sum(-1)
        score, mean = torch.zeros(frames.shape), torch.zeros(frames.shape)
        for i in range(len(maps.layers)):
            seen = (counts[i] > 0)[..., None, None]
            a = torch.where(seen, maps.layer(i), 0.0)
            tokens = frames[i] * (a.shape[-1] * a.shape[-2])
            a = a.flatten(2)
            p = a / a.sum(-1, keepdim=True).clamp_min(1e-30)
            entropy = -torch.xlogy(p, p).sum(-1)
            most = tokens.clamp_min(1).float().log().clamp_min(1e-30)
            score[i] = torch.where(a.sum(-1) > 0, 1 - entropy / most, 0.0)
            mean[i] = a.sum(-1) / tokens.clamp_min(1)
        missing = torch.where(frames > 0, 0.0, torch.nan)
        return Alignment(
            kind=kind,
            layers=maps.layers,
            entities=maps.entities,
            raw=mean + missing,
            share=score.clamp(0, 1) + missing,
            area=torch.zeros_like(score) + missing,
            weights=counts.mean(-1),
        )

    def stored(self, storage: Storage) -> Capture:
        """The same capture with its maps in another type."""
        made = [replace(s, maps={kind: m.stored(storage) for kind, m in s.maps.items()}) for s in self.streams]
        return replace(self, streams=made)


def _weighed(values: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Weighed mean along an axis; NaN where every weight is 0."""
    total = torch.where(weights > 0, values * weights, 0.0).sum(axis)
    return total / torch.where(weights.sum(axis) > 0, weights.sum(axis), math.nan)


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
