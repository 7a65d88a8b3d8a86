"""What a recorder keeps for one prompt and one sample of it: token sets, running sums, finished bins.

L layers, St step bins, E entities, H heads that are kept apart (in "v2t" and "v2v"), F, h, w token frames, rows,
columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..core.attention.pooled_maps import Pool
from ..core.grid import Grid
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import PromptBinding
from .capture import Stream
from .maps import CodeError, Maps, Over, Storage, decode, encode

__all__ = ["HostCopy", "MapStream", "TokenSets", "word_sets"]


_COSTS = 3  # numbers of `_lost`


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
    """Running sums of one prompt and sample, and the bins that are finished.

    Args:
        bins: how many bins are kept; 0 keeps none (a live view).
        storage: the type that finished bins are kept in; see `Maps`.
        heads: numbers of the heads that are kept apart; () keeps means over heads.
        points: the places of entities of `v2v` that are one token of the clip, by name.
    """

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
        storage: Storage = "float16",
        heads: tuple[int, ...] = (),
        points: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> None:
        self.heads, self.points = heads, dict(points or {})
        self.key, self.binding, self.tracks, self.grid = key, binding, tracks, grid
        self.layers, self.v2t, self.v2v = layers, v2t, v2v
        self.place = {kind: {layer: i for i, layer in enumerate(layers[kind])} for kind in layers}
        self.names: dict[str, tuple[str, ...]] = {}
        self.over: dict[str, Over] = {}
        self.storage, self._bins = storage, bins
        self.store: dict[str, dict[str, Tensor]] = {}
        for kind, sets in (("v2t", v2t), ("v2v", v2v)):
            self.hold(kind, sets.names)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._copies: dict[tuple[str, str], HostCopy] = {}
        self._full: set[int] = set()
        self.broken = False

    def hold(self, kind: str, names: tuple[str, ...], over: Over | None = None) -> None:
        """Makes room for the maps of a kind, of entities of these names."""
        self.names[kind] = names
        if over is not None:
            self.over[kind] = over
        if names and self.layers[kind] and self._bins:
            with torch.inference_mode(False):  # a capture outlives the run: nobody could write to inference tensors
                self.store[kind] = self._room(kind, self._bins)

    def _shape(self, kind: str) -> tuple[int, int, int]:
        return self.over[kind].shape if kind in self.over else self.grid.shape

    def _apart(self, kind: str) -> tuple[int, ...]:
        """(H,) for kinds whose heads are apart, else ()."""
        return (len(self.heads),) if self.heads and kind in ("v2t", "v2v") else ()

    def _room(self, kind: str, bins: int) -> dict[str, Tensor]:
        """Empty room for all bins of a kind. "side", of each map: its scale, in which frames it was no number, and what
        its code has cost (see `_lost`)."""
        axes, shape = (len(self.layers[kind]), bins, len(self.names[kind])), self._shape(kind)
        heads = self._apart(kind)
        dtype = torch.uint8 if self.storage == "uint8" else torch.float16
        return {
            "values": torch.zeros(*axes, *heads, *shape, dtype=dtype),
            "counts": torch.zeros(*axes, shape[0], dtype=torch.int32),
            "side": torch.zeros(*axes, *heads, 1 + shape[0] + _COSTS),
        }

    def add(
        self, kind: str, layer: int, maps: Tensor, frames: tuple[int, ...] | None, keep: list[int] | None = None
    ) -> None:
        """Adds (E, F, h, w) maps of one call, (H, E, F, h, w) where heads are apart; `frames`: where its token frames
        lie in the clip."""
        if kind not in self._sums:
            axes, shape = (len(self.layers[kind]), len(self.names[kind])), self._shape(kind)
            self._sums[kind] = torch.zeros(*axes, *self._apart(kind), *shape, device=maps.device)
            self._counts[kind] = torch.zeros(*axes, shape[0], dtype=torch.int32)
        place, own = self.place[kind][layer], self._sums[kind]
        sums = own[place]
        if self._apart(kind):
            maps = maps.transpose(0, 1)
        entities = torch.arange(len(self.names[kind])) if keep is None else torch.tensor(keep)
        if frames is None and keep is None:
            sums += maps
            self._counts[kind][place] += 1
            return
        at = torch.tensor(frames if frames is not None else range(self._shape(kind)[0]))
        index = (entities[:, None].expand(-1, len(at)), at[None, :].expand(len(entities), -1))
        device = maps.device
        if self._apart(kind):  # frames behind entities, as what is added has them
            sums, maps = sums.transpose(1, 2), maps.transpose(1, 2)
        sums.index_put_((index[0].to(device), index[1].to(device)), maps, accumulate=True)
        ones = torch.ones(index[0].shape, dtype=torch.int32)
        self._counts[kind][place].index_put_(index, ones, accumulate=True)

    def flush(self, bin_: int) -> None:
        """Turns the sums into the means of a bin. What a bin held from before counts as often as it was called."""
        again = bin_ in self._full
        for kind in self._sums:
            if self.keeps(kind):
                if again:
                    self._take_back(kind, bin_)
                self._keep(kind, bin_)
        self._full.add(bin_)
        self._sums, self._counts = {}, {}

    def keeps(self, kind: str) -> bool:
        """Whether finished bins of a kind are kept."""
        return kind in self.store

    def _take_back(self, kind: str, bin_: int) -> None:
        """Puts a finished bin into the sums again: a sampler came back to its noise level."""
        self.land()
        room = self.store[kind]
        counts, values = room["counts"][:, bin_], room["values"][:, bin_]
        old = values.float() if self.storage == "float16" else decode(values, room["side"][:, bin_][..., 0])
        self._sums[kind] += (old * self._over_maps(kind, counts)).to(self._sums[kind].device)
        self._counts[kind] += counts

    def _keep(self, kind: str, bin_: int) -> None:
        """The means of the open bin into main memory, beside the work that goes on."""
        room, mean = self.store[kind], self._mean(kind)
        room["counts"][:, bin_] = self._counts[kind]
        wrong = mean.isnan().flatten(-2).any(-1)
        mean = mean.nan_to_num_()
        if self.storage == "uint8":
            values, scale = encode(mean)
            cost = _lost(mean, values, scale)
        else:
            values, scale = mean.half(), mean.new_zeros(mean.shape[:-3])
            cost = mean.new_zeros(*mean.shape[:-3], _COSTS)
        self._start(kind, "values", values, bin_)
        self._start(kind, "side", torch.cat([scale[..., None], wrong.to(scale), cost], -1), bin_)

    def _start(self, kind: str, what: str, source: Tensor, bin_: int) -> None:
        self._copies.setdefault((kind, what), HostCopy()).start(source, self.store[kind][what][:, bin_])

    def mean(self, kind: str) -> Tensor | None:
        """(L, E, F, h, w) float32 means of the bin that is open, (L, E, H, F, h, w) where heads are apart, NaN in
        frames that were not seen; None where nothing was added to it yet."""
        if kind not in self._sums:
            return None
        seen = self._over_maps(kind, self._counts[kind] > 0).to(self._sums[kind].device)
        return torch.where(seen, self._mean(kind), torch.nan)

    def _mean(self, kind: str) -> Tensor:
        sums, counts = self._sums[kind], self._counts[kind]
        return sums / self._over_maps(kind, counts.clamp(min=1)).to(sums.device)

    def _over_maps(self, kind: str, counts: Tensor) -> Tensor:
        """(L, E, F) as it goes with maps: the same for every head, row and column."""
        return (counts[:, :, None] if self._apart(kind) else counts)[..., None, None]

    @property
    def landed(self) -> bool:
        """Whether every finished bin is in main memory, as far as one can tell without waiting."""
        return all(copy.ready for copy in self._copies.values())

    def land(self) -> None:
        """Waits for every finished bin to be in main memory. Cells that were no number are absent from then on."""
        for copy in self._copies.values():
            copy.finish()
        for room in self.store.values():
            told = room["side"][..., 1:-_COSTS]
            wrong = (told > 0).any(3) if told.ndim > 4 else told > 0
            if bool(wrong.any()):
                self.broken = True
                room["counts"][wrong] = 0
                told.zero_()

    @property
    def last(self) -> int:
        """The last bin that was finished, -1 before the first."""
        return max(self._full, default=-1)

    def calls(self, bin_: int) -> int:
        """The largest count of any cell of a finished bin."""
        return max((int(room["counts"][:, bin_].max()) for room in self.store.values()), default=0)

    def part(self, bins: slice) -> Stream:
        """The finished bins at these places, which have landed."""
        maps = {}
        for kind, room in self.store.items():
            values, counts, scale = room["values"][:, bins], room["counts"][:, bins], None
            if self.storage == "uint8":
                with torch.inference_mode(False):
                    scale = room["side"][:, bins][..., 0].clone()
            points, heads = (self.points if kind == "v2v" else {}), (self.heads if self._apart(kind) else ())
            held = (self.layers[kind], self.names[kind], counts, scale, heads, points, self._error(kind))
            maps[kind] = Maps(values, *held, over=self.over.get(kind))
        return Stream(self.key, self.binding, self.grid, maps)

    def _error(self, kind: str) -> CodeError | None:
        """What uint8 has cost so far."""
        if self.storage != "uint8":
            return None
        largest, lost, total = self.store[kind]["side"][..., -_COSTS:].double().unbind(-1)
        return CodeError(float(largest.max()), float(lost.sum() / total.sum().clamp_min(1e-30)))

    def finish(self) -> Stream:
        """Everything that was kept."""
        self.land()
        return self.part(slice(None))


def _lost(maps: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """(..., 3) float32 of maps (..., F, h, w): the largest error as a share of the map's largest value, the sum of
    errors, the sum of values."""
    wrong = (decode(codes, scale) - maps).abs().flatten(-3)
    largest = wrong.amax(-1) / scale.clamp_min(1e-30)
    return torch.stack([largest, wrong.sum(-1), maps.flatten(-3).sum(-1)], -1)


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

    @property
    def ready(self) -> bool:
        """Whether `finish` would not wait."""
        return self._target is None or self._stream is None or self._stream.query()

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
