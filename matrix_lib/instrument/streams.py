"""What a recorder keeps for one prompt and one sample of it: token sets, running sums, finished bins.

L layers, St step bins, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from ..core.attention.pooled_maps import Pool
from ..core.grid import Grid
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import PromptBinding
from .capture import Stream

__all__ = ["HostCopy", "MapStream", "TokenSets", "word_sets"]


class TokenSets:
    """Named token sets, and the `Pool` that they make behind an offset on a device (made once)."""

    def __init__(self, names: tuple[str, ...], sets: dict[str, Tensor]) -> None:
        self.names, self.sets = names, sets
        self._pools: dict[tuple[int, torch.device, tuple[int, ...]], Pool] = {}
        self._windows: dict[tuple[int, ...], tuple[TokenSets, list[int] | None]] = {}

    def pool(self, offset: int, device: torch.device, copies: tuple[int, ...] = (0,)) -> Pool:
        """The sets behind `offset`; with several `copies` (where each begins) an entity is the sum over them."""
        at = (offset, device, copies)
        if at not in self._pools:
            shifted = {name: torch.cat([rows + offset + c for c in copies]) for name, rows in self.sets.items()}
            pool = Pool.mean_of(shifted)
            self._pools[at] = replace(pool, weights=pool.weights * len(copies)).to(device)
        return self._pools[at]

    def in_window(self, grid: Grid, frames: tuple[int, ...] | None) -> tuple[TokenSets, list[int] | None]:
        """Token sets of the whole clip, renumbered for a window of its frames; entities that the window lacks drop out.

        Returns (the sets, places of the kept entities among all, None for all).
        """
        if frames is None:
            return self, None
        if frames not in self._windows:
            at = {frame: place for place, frame in reversed(list(enumerate(frames)))}
            sets: dict[str, Tensor] = {}
            for name, rows in self.sets.items():
                frame = rows // grid.frame_size
                inside = [int(f) in at for f in frame]
                if all(inside):
                    moved = torch.tensor([at[int(f)] for f in frame])
                    sets[name] = moved * grid.frame_size + rows % grid.frame_size
            keep = [place for place, name in enumerate(self.names) if name in sets]
            self._windows[frames] = (TokenSets(tuple(sets), sets), keep)
        return self._windows[frames]


class MapStream:
    """Running sums of one prompt and sample, and the bins that are finished."""

    def __init__(
        self,
        key: Hashable,
        binding: PromptBinding,
        tracks: MaskTracks | None,
        grid: Grid,
        bins: int,
        layers: dict[str, tuple[int, ...]],
        v2t: TokenSets,
        v2v: TokenSets,
    ) -> None:
        self.key, self.binding, self.tracks, self.grid = key, binding, tracks, grid
        self.layers, self.v2t, self.v2v = layers, v2t, v2v
        self.place = {kind: {layer: i for i, layer in enumerate(layers[kind])} for kind in layers}
        self.names = {"v2t": v2t.names, "v2v": v2v.names}
        with torch.inference_mode(False):  # a capture outlives the run, and nobody could write to inference tensors
            self.store = {
                kind: torch.zeros(len(layers[kind]) if names else 0, bins, len(names), *grid.shape, dtype=torch.float16)
                for kind, names in self.names.items()
            }
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._copies: dict[str, HostCopy] = {}
        self._broken: list[Tensor] = []

    def add(
        self, kind: str, layer: int, maps: Tensor, frames: tuple[int, ...] | None, keep: list[int] | None = None
    ) -> None:
        """Adds (E, F, h, w) maps of one call; `frames`: where its token frames lie in the clip."""
        if kind not in self._sums:
            shape = (len(self.layers[kind]), len(self.names[kind]), *self.grid.shape)
            self._sums[kind] = torch.zeros(shape, device=maps.device)
            self._counts[kind] = torch.zeros(shape[:3])
        place = self.place[kind][layer]
        entities = torch.arange(len(self.names[kind])) if keep is None else torch.tensor(keep)
        if frames is None and keep is None:
            self._sums[kind][place] += maps
            self._counts[kind][place] += 1
            return
        at = torch.tensor(frames if frames is not None else range(self.grid.frames))
        index = (entities[:, None].expand(-1, len(at)), at[None, :].expand(len(entities), -1))
        device = maps.device
        self._sums[kind][place].index_put_((index[0].to(device), index[1].to(device)), maps, accumulate=True)
        self._counts[kind][place].index_put_(index, torch.ones(index[0].shape), accumulate=True)

    def flush(self, bin_: int) -> int:
        """Turns the sums into the means of a bin; returns how many calls they came from."""
        calls = 0
        for kind in self._sums:
            calls = max(calls, int(self._counts[kind].max()))
            if self.store[kind].shape[1]:
                mean = self._mean(kind)
                self._broken.append(mean.isnan().any())  # read at the end: here it would wait for the GPU
                self._copies.setdefault(kind, HostCopy()).start(mean.nan_to_num_().half(), self.store[kind][:, bin_])
        self._sums, self._counts = {}, {}
        return calls

    def mean(self, kind: str) -> Tensor | None:
        """(L, E, F, h, w) float32 means of the bin that is open, None where nothing was added to it yet."""
        return self._mean(kind) if kind in self._sums else None

    def _mean(self, kind: str) -> Tensor:
        sums, counts = self._sums[kind], self._counts[kind]
        return sums / counts.clamp(min=1).to(sums.device)[..., None, None]

    @property
    def broken(self) -> bool:
        """Whether attention was not a number somewhere; the maps hold zeros there."""
        return any(bool(found) for found in self._broken)

    def finish(self) -> Stream:
        for copy in self._copies.values():
            copy.finish()
        layers = {kind: self.layers[kind] if self.names[kind] else () for kind in self.layers}
        return Stream(
            self.key,
            self.binding,
            self.grid,
            self.v2t.names,
            self.store["v2t"],
            layers["v2t"],
            self.store["v2v"],
            layers["v2v"],
            self.v2v.names,
        )


class HostCopy:
    """Brings one tensor at a time from the GPU to main memory beside the work that goes on; a plain copy elsewhere."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._landing: Tensor | None = None
        self._source: Tensor | None = None
        self._target: Tensor | None = None

    def start(self, source: Tensor, target: Tensor) -> None:
        """Copies `source` to `target` in main memory; it is there at the latest after the next `start` or `finish`."""
        self.finish()
        if source.device.type != "cuda":
            target.copy_(source)
            return
        if self._stream is None or self._landing is None:
            self._stream = torch.cuda.Stream(source.device)
            with torch.inference_mode(False):  # the last copy may come after the sampler's inference mode
                self._landing = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            self._landing.copy_(source, non_blocking=True)
        self._source, self._target = source, target  # held until the copy has read it

    def finish(self) -> None:
        if self._target is None or self._stream is None or self._landing is None:
            return
        self._stream.synchronize()
        self._target.copy_(self._landing)
        self._source = self._target = None


def word_sets(binding: PromptBinding) -> TokenSets:
    """The conditioning rows of every bound phrase."""
    sets = {phrase.name: torch.tensor(phrase.rows) for phrase in binding.phrases if phrase.rows}
    return TokenSets(tuple(sets), sets)
