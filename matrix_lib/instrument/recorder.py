"""Streams attention into maps while a model samples: no call is stored, only running sums of a few rows and columns.

E entities, F, h, w token frames, rows, columns. Sums are float32 on the model's device for the current step bin and
become float16 in main memory when the bin ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.attention import Pool, pooled_columns, pooled_rows
from ..core.binding import PromptBinding
from ..core.grid import Grid
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks import GridTracks, MaskTracks
from .capture import Capture, MapKind, StepInfo, Stream

__all__ = ["Recorder", "RecorderConfig"]


@dataclass(frozen=True)
class RecorderConfig:
    """What to record.

    Args:
        layers: global layer numbers, None for all.
        bins: step bins, each the mean over its steps; 0 keeps every step (fewer where the budget asks for it).
        budget_mb: main memory that the finished capture may take, in MB (10^6 bytes).
        branch: guidance branch to record.
        v2t, v2v: kinds of map to record.
        keep: False forgets each bin when it ends; only `Recorder.now` has maps then (a live view).
    """

    layers: tuple[int, ...] | None = None
    bins: int = 0
    budget_mb: float = 1024.0
    branch: str = "cond"
    v2t: bool = True
    v2v: bool = True
    keep: bool = True

    def __post_init__(self) -> None:
        if self.bins < 0 or self.budget_mb <= 0:
            raise ValueError(
                f"step bins are 0 (every step) or more and the budget is above 0 MB; got bins {self.bins}, "
                f"budget {self.budget_mb} MB"
            )
        if not (self.v2t or self.v2v):
            raise ValueError("nothing to record: switch on video-to-text, video-to-video or both")


class Recorder:
    """An observer that builds a `Capture`.

    Args:
        sites: every attention site of the model.
        grid: the token grid of the whole clip (context windows see parts of it).
        sigmas: noise level of each sampling step, in order.
        streams: how many prompts x samples share the budget.
    """

    def __init__(
        self,
        config: RecorderConfig,
        backbone: str,
        sites: Sequence[AttentionSite],
        grid: Grid,
        sigmas: Sequence[float],
        streams: int = 1,
    ) -> None:
        self.config, self.backbone, self.grid = config, backbone, grid
        self.sigmas = tuple(float(s) for s in sigmas)
        if not self.sigmas:
            raise ValueError("a run of 0 steps has nothing to record")
        self.layers: dict[str, tuple[int, ...]] = {
            "v2t": self._layers(sites, "v2t") if config.v2t else (),
            "v2v": self._layers(sites, "v2v") if config.v2v else (),
        }
        known = {site.layer for site in sites}
        if unknown := sorted(set(config.layers or ()) - known):
            raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(known)}")
        self.notes: list[str] = []
        self.bins = 0
        self._share = config.budget_mb * 1e6 / max(1, streams)
        self._streams: dict[Hashable, _Stream] = {}
        self._bin = -1
        self._calls: list[int] = []

    def _layers(self, sites: Sequence[AttentionSite], kind: MapKind) -> tuple[int, ...]:
        chosen = self.config.layers
        has = (site for site in sites if (site.has_v2t if kind == "v2t" else site.has_v2v))
        return tuple(sorted({site.layer for site in has if chosen is None or site.layer in chosen}))

    def wants(self, site: AttentionSite) -> bool:
        return (site.has_v2t and site.layer in self.layers["v2t"]) or (
            site.has_v2v and site.layer in self.layers["v2v"]
        )

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        for index, row in enumerate(call.rows):
            if row.branch != self.config.branch or row.binding is None:
                continue
            stream = self._streams.get(row.key)
            if stream is None:
                stream = self._open(row)
            self._enter(call.step)
            part = slice(index, index + 1)
            look = None if lse is None else lse[part]
            mask = call.mask
            if mask is not None and mask.ndim >= 3 and mask.shape[0] > 1:
                mask = mask[part]
            q, k = call.q[part], call.k[part]
            if call.site.has_v2t and call.site.layer in self.layers["v2t"] and stream.v2t.names:
                self._video_to_text(stream, call, q, k, look, mask)
            if call.site.has_v2v and call.site.layer in self.layers["v2v"] and stream.v2v.names:
                self._video_to_video(stream, call, q, k, look, mask)

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        """Nothing to do: bins end when the next one begins, so that a step's second call still counts."""

    def result(self) -> Capture:
        """Ends the last bin and returns what was recorded.

        Raises ValueError when no conditioning with a binding passed by.
        """
        if not self._streams:
            raise ValueError(
                "nothing was recorded: no conditioning carried a binding. Connect the CONDITIONING of MatrixBindPrompt "
                "to the sampler (positive), or pass a binding."
            )
        self._flush()
        span = len(self.sigmas)
        steps = []
        for number in range(self.bins):
            first = -(-number * span // self.bins)
            steps.append(StepInfo(first, self.sigmas[first], self._calls[number]))
        streams = [stream.finish() for stream in self._streams.values()]
        return Capture(streams, self.backbone, tuple(steps), self.config.branch, {"notes": list(self.notes)})

    @property
    def tracks(self) -> MaskTracks | None:
        """The mask tracks of the first stream."""
        return next((stream.tracks for stream in self._streams.values()), None)

    def now(self, kind: MapKind) -> tuple[tuple[str, ...], tuple[int, ...], Tensor] | None:
        """(entities, layers, maps (L, E, F, h, w) float32) of the first stream's open bin, for a live view."""
        for stream in self._streams.values():
            maps = stream.mean(kind)
            if maps is not None:
                return stream.names[kind], self.layers[kind], maps
        return None

    # -- one stream and its bins ------------------------------------------------------------------------------------

    def _open(self, row: BatchRow) -> _Stream:
        assert row.binding is not None
        v2t = _word_pool(row.binding) if self.layers["v2t"] else _Pooling((), {})
        grid_tracks = row.tracks.to_grid(self.grid, "nearest") if row.tracks is not None else None
        v2v = self._track_pool(row.binding, grid_tracks) if grid_tracks is not None else _Pooling((), {})
        size = self.grid.size * 2
        each = size * (len(self.layers["v2t"]) * len(v2t.names) + len(self.layers["v2v"]) * len(v2v.names))
        if not self.bins:
            self._choose_bins(each)
        kept = self.bins if self.config.keep else 0
        stream = _Stream(row.key, row.binding, row.tracks, self.grid, kept, self.layers, v2t, v2v)
        self._streams[row.key] = stream
        return stream

    def _choose_bins(self, bytes_per_bin: int) -> None:
        steps = len(self.sigmas)
        wanted = min(self.config.bins or steps, steps)
        fits = int(self._share // max(1, bytes_per_bin)) if self.config.keep else wanted
        if fits < 1:
            raise ValueError(
                f"one step bin of this capture takes {bytes_per_bin / 1e6:.0f} MB a prompt, and the budget leaves "
                f"{self._share / 1e6:.0f} MB. Choose fewer layers or words, or raise the budget."
            )
        if fits < wanted:
            self.notes.append(f"{wanted} step bins do not fit the budget; kept {fits}, each the mean of several steps")
        self.bins = min(wanted, fits)
        self._calls = [0] * self.bins

    def _track_pool(self, binding: PromptBinding, tracks: GridTracks) -> _Pooling:
        self.notes += [note for note in tracks.notes if note not in self.notes]
        sets: dict[str, Tensor] = {}
        for name in tracks.names:
            if tracks.query_frame[name] is None:
                self.notes.append(f"{name!r} is visible on no token of the grid: no video-to-video map")
                continue
            sets[name] = tracks.query(name)
            if tracks.query_frame[name]:
                self.notes.append(f"{name!r} is first visible in token frame {tracks.query_frame[name]}: queried there")
        for verb in binding.verbs:
            parts = [sets[name] for name in (verb.subject, verb.object) if name in sets]
            if parts:
                sets[verb.name] = torch.unique(torch.cat(parts))
        return _Pooling(tuple(sets), sets)

    def _enter(self, step: int) -> None:
        bin_ = min(step, len(self.sigmas) - 1) * self.bins // len(self.sigmas)
        if bin_ != self._bin:
            self._flush()
            self._bin = bin_

    def _flush(self) -> None:
        if self._bin < 0:
            return
        for stream in self._streams.values():
            calls = stream.flush(self._bin)
            self._calls[self._bin] = max(self._calls[self._bin], calls)

    # -- the two reads ------------------------------------------------------------------------------------------------

    def _video_to_text(
        self, stream: _Stream, call: AttentionCall, q: Tensor, k: Tensor, lse: Tensor | None, mask: Tensor | None
    ) -> None:
        assert call.video_q is not None
        assert call.text_k is not None
        (first, count), (text, length) = call.video_q, call.text_k
        own = stream.binding.length
        if own > length:
            raise ValueError(
                f"the binding was made for a conditioning of {own} rows, but {call.site.name} sees "
                f"{length}: bind the prompt with the CLIP that encoded it"
            )
        # the host repeats a shorter prompt to batch it with a longer one: a word is then all of its copies
        copies = length // own if length % own == 0 else 1
        pool = stream.v2t.pool(text, q.device, tuple(range(0, own * copies, own)))
        rows = slice(first, first + count)
        look = None if lse is None else lse[:, :, rows]
        part = mask
        if mask is not None and mask.shape[-2] > 1:
            part = mask[..., rows, :]
        maps = pooled_columns(q[:, :, rows], k, pool, call.scale, lse=look, mask=part)[0]
        stream.add("v2t", call.site.layer, maps.reshape(-1, *call.grid.shape), call.frame_index)

    def _video_to_video(
        self, stream: _Stream, call: AttentionCall, q: Tensor, k: Tensor, lse: Tensor | None, mask: Tensor | None
    ) -> None:
        assert call.video_q is not None
        assert call.video_k is not None
        window, keep = stream.v2v.in_window(call.grid, call.frame_index)
        if not window.names:
            return
        pool = window.pool(call.video_q[0], q.device)
        maps = pooled_rows(q, k, pool, call.scale, lse=lse, mask=mask, keys=call.video_k)[0]
        stream.add("v2v", call.site.layer, maps.reshape(-1, *call.grid.shape), call.frame_index, keep)


class _Pooling:
    """Named token sets, and the `Pool` that they make behind an offset on a device (made once)."""

    def __init__(self, names: tuple[str, ...], sets: dict[str, Tensor]) -> None:
        self.names, self.sets = names, sets
        self._pools: dict[tuple[int, torch.device, tuple[int, ...]], Pool] = {}
        self._windows: dict[tuple[int, ...], tuple[_Pooling, list[int] | None]] = {}

    def pool(self, offset: int, device: torch.device, copies: tuple[int, ...] = (0,)) -> Pool:
        """The sets behind `offset`; with several `copies` (where each begins) an entity is the sum over them."""
        at = (offset, device, copies)
        if at not in self._pools:
            shifted = {name: torch.cat([rows + offset + c for c in copies]) for name, rows in self.sets.items()}
            pool = Pool.mean_of(shifted)
            self._pools[at] = replace(pool, weights=pool.weights * len(copies)).to(device)
        return self._pools[at]

    def in_window(self, grid: Grid, frames: tuple[int, ...] | None) -> tuple[_Pooling, list[int] | None]:
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
            self._windows[frames] = (_Pooling(tuple(sets), sets), keep)
        return self._windows[frames]


class _Stream:
    """Running sums of one prompt and sample, and the bins that are finished."""

    def __init__(
        self,
        key: Hashable,
        binding: PromptBinding,
        tracks: MaskTracks | None,
        grid: Grid,
        bins: int,
        layers: dict[str, tuple[int, ...]],
        v2t: _Pooling,
        v2v: _Pooling,
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
        self._copies: dict[str, _Copy] = {}

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
                self._copies.setdefault(kind, _Copy()).start(self._mean(kind).half(), self.store[kind][:, bin_])
        self._sums, self._counts = {}, {}
        return calls

    def mean(self, kind: str) -> Tensor | None:
        """(L, E, F, h, w) float32 means of the bin that is open, None where nothing was added to it yet."""
        return self._mean(kind) if kind in self._sums else None

    def _mean(self, kind: str) -> Tensor:
        sums, counts = self._sums[kind], self._counts[kind]
        return sums / counts.clamp(min=1).to(sums.device)[..., None, None]

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


class _Copy:
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


def _word_pool(binding: PromptBinding) -> _Pooling:
    sets = {phrase.name: torch.tensor(phrase.rows) for phrase in binding.phrases if phrase.rows}
    return _Pooling(tuple(sets), sets)
