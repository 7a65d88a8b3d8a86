"""Alignment scores (AAS) streamed while a model samples: every layer, head, step and frame, and no map is kept.

A is a map (see `capture.py`), m the entity's mask on the token grid; verbs take the union of their subject's and
object's masks. raw = sum of A * m over rows and columns of a frame; mass = sum of A. MATRIX (arXiv 2510.07310) sums raw
over frames and averages heads; both can be had from here, and so can the share raw / mass, which compares across layers
and clips against chance (the mask's share of the area).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.sites import BatchRow
from ..core.tracks.tracks import GridTracks
from ..core.words.binding import PromptBinding
from .capture import MapKind, StepInfo
from .recorder import Recorder
from .streams import HostCopy, MapStream, TokenSets

__all__ = ["AlignmentRecorder", "LayerAlignment"]


@dataclass(frozen=True)
class LayerAlignment:
    """Scores of one prompt and sample.

    raw, mass: (L, St, E, H, F) float32, 0 where nothing was recorded. chance: (E, F) float32, the mask's share of each
    frame's tokens. Frames of which the tracks say nothing are 0 in all three. counts: (L, St, E, F) int32, how many
    calls a score is the mean of; 0: absent.
    """

    kind: MapKind
    layers: tuple[int, ...]
    entities: tuple[str, ...]
    roles: tuple[str, ...]
    steps: tuple[StepInfo, ...]
    raw: Tensor
    mass: Tensor
    chance: Tensor
    counts: Tensor

    def take(self, places: Sequence[int]) -> LayerAlignment:
        """The same of some of its steps alone, by their places."""
        kept = {name: getattr(self, name)[:, list(places)] for name in ("raw", "mass", "counts")}
        return replace(self, steps=tuple(self.steps[at] for at in places), **kept)

    def over_steps(self, values: Tensor) -> Tensor:
        """(L, E, H, F) of `raw` or `mass`: the mean over the steps that were recorded; NaN where none was."""
        seen = (self.counts > 0).to(values)
        steps = seen.sum(1)
        total = torch.einsum("lsehf,lsef->lehf", values, seen)
        return total / torch.where(steps > 0, steps, torch.nan)[:, :, None]

    def scores(self, score: Literal["raw", "share"] = "share", heads: bool = False) -> Tensor:
        """Step-averaged AAS of each layer and entity, (L, E), or (L, E, H) with `heads`; raw is summed over frames and
        averaged over heads as in the paper, share is what of the mass lies on the mask. NaN where nothing was
        recorded."""
        raw, mass = (self.over_steps(values).nansum(-1) for values in (self.raw, self.mass))  # (L, E, H)
        seen = (self.counts > 0).any(-1).any(1)  # (L, E)
        raw, mass = (torch.where(seen[..., None], values, torch.nan) for values in (raw, mass))
        if score == "share":
            return raw / mass.clamp_min(1e-30) if heads else raw.sum(-1) / mass.sum(-1).clamp_min(1e-30)
        return raw if heads else raw.mean(-1)


class AlignmentRecorder(Recorder):
    """An observer that keeps scores only. Takes what `Recorder` takes; every watched prompt needs mask tracks."""

    per_head = True

    def alignments(self) -> dict[object, tuple[LayerAlignment, ...]]:
        """Per stream key the scores of each kind that was recorded.

        Raises ValueError when nothing was watched.
        """
        steps = self._end()
        found: dict[object, tuple[LayerAlignment, ...]] = {}
        for key, stream in self._streams.items():
            assert isinstance(stream, _ScoreStream)
            found[key] = tuple(stream.alignment(kind, steps) for kind in stream.kinds)
        return found

    def _bytes_per_bin(self, v2t: TokenSets, v2v: TokenSets) -> int:
        rows = len(self.layers["v2t"]) * len(v2t.names) + len(self.layers["v2v"]) * len(v2v.names)
        return rows * self.grid.frames * 64 * 2 * 4  # raw and mass of some 64 heads, float32

    def _make_stream(self, row: BatchRow, v2t: TokenSets, v2v: TokenSets, tracks: GridTracks | None) -> MapStream:
        assert row.binding is not None
        if tracks is None:
            raise ValueError(
                f"alignment needs mask tracks, and the prompt {row.binding.prompt!r} carries none: connect tracks "
                "where the prompt is bound"
            )
        scored = [name for name, mask in zip(v2t.names, _masks(v2t.names, row.binding, tracks)) if mask is not None]
        v2t = TokenSets(tuple(scored), {name: v2t.sets[name] for name in scored})  # no maps of words without a mask
        return _ScoreStream(row, self.grid, self.bins, self.layers, v2t, v2v, tracks)


class _ScoreStream(MapStream):
    """Reduces every head's maps to raw score and mass per frame as they come."""

    def __init__(self, row, grid, bins, layers, v2t, v2v, tracks: GridTracks) -> None:  # type: ignore[no-untyped-def]
        super().__init__(row.key, row.binding, row.tracks, grid, 0, layers, v2t, v2v)
        self.masks = {kind: _masks(self.names[kind], row.binding, tracks) for kind in self.names}
        self.scored = {
            kind: [n for n, m in zip(self.names[kind], self.masks[kind]) if m is not None] for kind in layers
        }
        missing = [name for name in self.scored["v2t"] if not bool(self._mask("v2t", name).any())]
        if missing:
            raise ValueError(
                f"{', '.join(map(repr, missing))} has no mask on the {grid.shape} token grid, so it has no alignment"
            )
        self.bins, self._known = bins, torch.tensor([float(k) for k in tracks.known])
        self._stack: dict[str, Tensor] = {}
        self._scores: dict[str, Tensor] = {}
        self._cells: dict[str, Tensor] = {}

    def _mask(self, kind: str, name: str) -> Tensor:
        mask = self.masks[kind][self.names[kind].index(name)]
        assert mask is not None
        return mask

    def add(
        self, kind: str, layer: int, maps: Tensor, frames: tuple[int, ...] | None, keep: list[int] | None = None
    ) -> None:
        """Adds (H, E, F, h, w) maps of one call."""
        names = self.names[kind] if keep is None else tuple(self.names[kind][i] for i in keep)
        columns = [i for i, name in enumerate(names) if name in self.scored[kind]]
        if not columns:
            return
        at = list(frames) if frames is not None else list(range(self.grid.frames))
        places = [self.scored[kind].index(names[i]) for i in columns]
        masks = self._masks_on(kind, maps.device)
        whole = frames is None and places == list(range(len(masks)))
        chosen = maps if columns == list(range(maps.shape[1])) else maps[:, columns]
        near = masks if whole else masks[places][:, at]
        chosen = chosen.flatten(-2).transpose(0, 1)  # (E, H, F, p)
        both = torch.stack([(chosen * near.flatten(-2)[:, None]).sum(-1), chosen.sum(-1)], -1)
        if kind not in self._sums:
            shape = (len(self.layers[kind]), len(self.scored[kind]), maps.shape[0], self.grid.frames, 2)
            self._sums[kind] = torch.zeros(shape, device=maps.device)
            self._counts[kind] = torch.zeros(shape[0], shape[1], shape[3], dtype=torch.int32)
        row = self.place[kind][layer]
        if whole:  # a tensor made for the device here and now would wait for all that the device still has to do
            self._sums[kind][row] += both
            self._counts[kind][row] += 1
            return
        for entity, place in enumerate(places):  # few entities; frames of a window may repeat, so one add per frame
            self._sums[kind][row, place].index_add_(1, torch.tensor(at, device=maps.device), both[entity])
            self._counts[kind][row, place].index_add_(0, torch.tensor(at), torch.ones(len(at), dtype=torch.int32))

    def _masks_on(self, kind: str, device: torch.device) -> Tensor:
        if kind not in self._stack or self._stack[kind].device != device:
            self._stack[kind] = torch.stack([self._mask(kind, name) for name in self.scored[kind]]).to(device)
        return self._stack[kind]

    def _keep(self, kind: str, bin_: int) -> None:
        sums, counts = self._sums[kind], self._counts[kind]
        if kind not in self._scores:
            with torch.inference_mode(False):
                self._scores[kind] = torch.zeros(sums.shape[0], self.bins, *sums.shape[1:])
                self._cells[kind] = torch.zeros(counts.shape[0], self.bins, *counts.shape[1:], dtype=torch.int32)
        self._cells[kind][:, bin_] = counts
        mean = sums / counts.clamp(min=1).to(sums.device)[:, :, None, :, None]
        self._copies.setdefault((kind, "scores"), HostCopy()).start(mean, self._scores[kind][:, bin_])

    def _take_back(self, kind: str, bin_: int) -> None:
        if kind not in self._scores:
            return
        self.land()
        counts = self._cells[kind][:, bin_]
        self._sums[kind] += (self._scores[kind][:, bin_] * counts[:, :, None, :, None]).to(self._sums[kind].device)
        self._counts[kind] += counts

    def keeps(self, kind: str) -> bool:
        return True

    def calls(self, bin_: int) -> int:
        return max((int(cells[:, bin_].max()) for cells in self._cells.values()), default=0)

    @property
    def kinds(self) -> tuple[MapKind, ...]:
        """The kinds that have scores."""
        return tuple(kind for kind in ("v2t", "v2v") if kind in self._scores)  # type: ignore[misc]

    def alignment(self, kind: MapKind, steps: Sequence[StepInfo]) -> LayerAlignment:
        self.land()
        scores = self._scores[kind] * self._known[:, None]
        names = tuple(self.scored[kind])
        masks = torch.stack([self._mask(kind, name) for name in names])
        return LayerAlignment(
            kind, self.layers[kind], names, tuple(_role(name, self.binding) for name in names), tuple(steps),
            scores[..., 0], scores[..., 1], masks.flatten(-2).mean(-1) * self._known, self._cells[kind],
        )  # fmt: skip


def _masks(names: Sequence[str], binding: PromptBinding, tracks: GridTracks) -> list[Tensor | None]:
    """(F, h, w) mask of each entity; a verb's is the union of its subject's and object's, None where there is none."""
    verbs = {verb.name: verb for verb in binding.verbs}
    masks: list[Tensor | None] = []
    for name in names:
        parts = [name] if name not in verbs else [verbs[name].subject, verbs[name].object]
        having = [part for part in parts if part in tracks.names]
        masks.append(tracks.map(*having) if having else None)
    return masks


def _role(name: str, binding: PromptBinding) -> str:
    return next((phrase.role for phrase in binding.phrases if phrase.name == name), "instance")
