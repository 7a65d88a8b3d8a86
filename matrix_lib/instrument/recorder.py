"""Streams attention into maps while a model samples: no call is stored, only running sums of a few rows and columns.

E entities, F, h, w token frames, rows, columns. Sums are float32 on the model's device for the current step bin and
become float16 in main memory when the bin ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.attention.pooled_maps import PoolRows, columns_of_rows, pooled_columns, pooled_rows
from ..core.grid import Grid
from ..core.points import Point
from ..core.ranges import ranges
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks.tracks import GridTracks, MaskTracks
from ..core.words.binding import PromptBinding
from .capture import Capture, MapKind, StepInfo
from .kinds import KINDS, OtherKinds, layers_of, text_rows
from .maps import Storage
from .session import BaseObserver
from .streams import MapStream, TokenSets, word_sets

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
        storage: "float16", or "uint8": half the memory, at an error that is measured.
        t2v, t2t: where words look, in the clip and among each other; of models with joint attention.
        sound: what sound looks at, of models that make sound with the clip ("a2t", "a2v").
        heads: the heads that are kept apart, ascending, or "all"; () keeps the mean over all heads alone. Each map
            takes as many times the memory, within the same budget; sums of the step bin that is open lie on the model's
            device in float32, twice what the bin takes afterwards (four times with uint8). Means are then over these
            heads.
        points: places of the clip; for each it is recorded where its token looks (video to video), with or without
            `v2v`.
    """

    layers: tuple[int, ...] | None = None
    bins: int = 0
    budget_mb: float = 1024.0
    branch: str = "cond"
    v2t: bool = True
    v2v: bool = True
    keep: bool = True
    storage: Storage = "float16"
    t2v: bool = False
    t2t: bool = False
    sound: bool = False
    heads: tuple[int, ...] | Literal["all"] = ()
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        if self.storage not in ("float16", "uint8"):
            raise ValueError(f"maps are stored as 'float16' or 'uint8'; got {self.storage!r}")
        if self.bins < 0 or self.budget_mb <= 0:
            raise ValueError(
                f"step bins are 0 (every step) or more and the budget is above 0 MB; got bins {self.bins}, "
                f"budget {self.budget_mb} MB"
            )
        if not self.kinds:
            raise ValueError(
                "nothing to record: switch on video-to-text, video-to-video or another kind of map, or pin a point"
            )
        if self.heads != "all" and (min(self.heads, default=0) < 0 or list(self.heads) != sorted(set(self.heads))):
            raise ValueError(f"heads are 'all' or different numbers from 0, ascending; got {self.heads}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of map to record."""
        more = ({"a2t", "a2v"} if self.sound else set()) | ({"v2v"} if self.points else set())
        return tuple(kind for kind in KINDS if kind in more or getattr(self, kind, False))


@dataclass(frozen=True)
class _Pending:
    """Maps of one call and row, whose site is not settled yet."""

    site: AttentionSite
    stream: MapStream
    kind: MapKind
    maps: Tensor
    frames: tuple[int, ...] | None
    keep: list[int] | None
    step: int


class Recorder(BaseObserver):
    """An observer that builds a `Capture`.

    Maps of a call are held until its site is settled: only then do they count.

    Args:
        sites: every attention site of the model.
        grid: the token grid of the whole clip (context windows see parts of it).
        sigmas: noise level of each sampling step, in order.
        streams: how many prompts x samples share the budget.
        model: which model this is, where a run has several; see `StepInfo.model`.
        sink: is given each bin when it is done, as a capture of its own, with its place among all bins; bins that were
            skipped before it come with it.
    """

    per_head = False  # whether streams are given the maps of each head, (H, E, F, h, w), or their mean

    def __init__(
        self,
        config: RecorderConfig,
        backbone: str,
        sites: Sequence[AttentionSite],
        grid: Grid,
        sigmas: Sequence[float],
        streams: int = 1,
        model: str = "",
        sink: Callable[[int, Capture], None] | None = None,
    ) -> None:
        self.config, self.backbone, self.grid = config, backbone, grid
        self.sigmas = tuple(float(s) for s in sigmas)
        if not self.sigmas:
            raise ValueError("a run of 0 steps has nothing to record")
        found = {kind: layers_of(kind, sites, config.layers) for kind in config.kinds}
        self.layers: dict[str, tuple[int, ...]] = {"v2t": (), "v2v": ()} | found
        self.per_head = self.per_head or bool(config.heads)
        # Those that are kept apart; how many "all" are, the first call says.
        self.heads: tuple[int, ...] = config.heads if config.heads != "all" else ()
        self.points = {point.name: point.token(grid) for point in config.points}
        if self.points and not self.layers["v2v"]:
            raise ValueError(
                "none of these layers has attention from video to video, so no pinned point can be followed"
            )
        known = {site.layer for site in sites}
        if unknown := sorted(set(config.layers or ()) - known):
            raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(known)}")
        self.notes: list[str] = []
        self.beside = 0  # of these, how many are of the prompts, and no reason why nothing was recorded
        self.bins = 0
        self.model, self.sink = model, sink
        self._expected = max(1, streams)
        self._share = config.budget_mb * 1e6 / self._expected
        self._streams: dict[Hashable, MapStream] = {}
        self._others: dict[Hashable, OtherKinds] = {}  # where more than "v2t" and "v2v" is recorded
        self._pools: PoolRows | None = None  # of the batch that was last read in one pass
        self._bin = -1
        self._pending: list[_Pending] = []
        self._seen: set[int] = set()  # sampling steps
        self._dropped = False  # whether maps were made that do not count
        self._given = 0  # bins that the sink has been given

    def wants(self, site: AttentionSite) -> bool:
        return any(KINDS[kind].at(site) and site.layer in layers for kind, layers in self.layers.items())

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        if (told := call.extra.get("edited")) is not None:
            self.note(str(told))
        looking: list[tuple[int, MapStream]] = []  # batch rows, and whose words their clip is asked about
        heads: list[int] | None = None
        for index, row in enumerate(call.rows):
            if row.branch != self.config.branch or row.binding is None:
                continue
            if self.config.heads == "all" and not self.heads and call.site.has_sound:
                self.note(f"{call.site.name} ran before it was known how many heads the clip's attention has: left out")
                continue
            heads = None if call.site.has_sound else self._heads_of(call)
            stream = self._streams.get(row.key)
            if stream is None:
                stream = self._open(row)
            self._enter(call.step)
            if (other := self._others.get(row.key)) is not None:  # of all heads
                _, _, look, mask = _row_of(call, lse, index, None)
                self._read_others(other, call.row(index), look, mask)
            if call.site.has_v2t and call.site.layer in self.layers["v2t"] and stream.v2t.names:
                looking.append((index, stream))
            if call.site.has_v2v and call.site.layer in self.layers["v2v"] and stream.v2v.names:
                self._video_to_video(stream, call, *_row_of(call, lse, index, heads))
        if not self._words_of_all(looking, call, lse, heads):
            for index, stream in looking:
                self._video_to_text(stream, call.at(index), *_row_of(call, lse, index, heads))

    def _read_others(self, other: OtherKinds, call: AttentionCall, lse: Tensor | None, mask: Tensor | None) -> None:
        kinds = [kind for kind in other.wanted if KINDS[kind].at(call.site) and call.site.layer in self.layers[kind]]
        if not kinds:
            return
        if call.frame_index is not None and (of_sound := [kind for kind in kinds if kind in ("a2t", "a2v")]):
            self.note("context windows show sound a part of the clip at a time: whose sound it is is not recorded")
            kinds = [kind for kind in kinds if kind not in of_sound]
        if call.site.has_t2v and call.q.shape[2] != call.k.shape[2]:
            self.note(f"{call.site.name} has no words among its queries: where they look there is not recorded")
            return
        for kind, maps in other.read(call, lse, mask).items():
            if kind in kinds:
                frames = call.frame_index if kind == "t2v" else None
                step = min(call.step, len(self.sigmas) - 1)
                self._pending.append(_Pending(call.site, other.stream, kind, maps, frames, None, step))

    def _heads_of(self, call: AttentionCall) -> list[int] | None:
        """Places of the heads that are kept apart among those of a call; None where it is all of them. Raises
        ValueError for heads that the call does not have."""
        count, wanted = call.q.shape[1], self.config.heads
        if not wanted:
            return None
        self.heads = self.heads or tuple(range(count))
        if self.heads[-1] >= count or (wanted == "all" and len(self.heads) != count):
            raise ValueError(
                f"heads {ranges(self.heads)} were to be kept apart, and {call.site.name} has {count} heads: choose "
                f"numbers from 0 to {count - 1}"
            )
        if len(self.heads) == count:
            return None
        self.note(f"heads {ranges(self.heads)} of {count} alone were recorded: means over heads are over these")
        return list(self.heads)

    def settle(self, site: AttentionSite, whole: bool) -> None:
        """A site's module has ended its forward: what was seen of it since the last time counts, or is dropped."""
        mine = [each for each in self._pending if each.site == site]
        self._pending = [each for each in self._pending if each.site != site]
        self._dropped |= bool(mine) and not whole
        for each in mine if whole else ():
            each.stream.add(each.kind, site.layer, each.maps, each.frames, each.keep)
            self._seen.add(each.step)
        self._pass_on(wait=False)

    def result(self) -> Capture:
        """Ends the last bin and returns what was recorded.

        Raises ValueError when no conditioning with a binding passed by, or nothing of it could be seen, and why.
        """
        steps = self._end()
        self._pass_on()
        streams = [stream.finish() for stream in self._streams.values()]
        if self.config.sound and not any(stream.maps.keys() & {"a2t", "a2v"} for stream in streams):
            self.note("nothing of the sound was recorded: the latent held none")
        if any(stream.broken for stream in self._streams.values()):
            self.note(
                "attention was not a number (NaN) in places, and nothing is recorded there: the model overflowed, or "
                "its input holds NaN. Try another weight_dtype (bfloat16 instead of float16), and look at the latent"
            )
        return Capture(streams, self.backbone, steps, self.config.branch, self._meta())

    def _meta(self) -> dict[str, Any]:
        return {"notes": list(self.notes), "prompts": self._expected}

    def _end(self) -> tuple[StepInfo, ...]:
        if not self._streams or (self._dropped and not self._seen):
            why = self.notes[self.beside :] or self.notes
            raise ValueError(
                f"nothing was recorded: {'. '.join(why)}"
                if why
                else "nothing was recorded: no conditioning carried a binding. Connect the CONDITIONING of "
                "MatrixBindPrompt to the sampler (positive), or pass a binding."
            )
        self._flush()
        self._bin = -1
        for stream in self._streams.values():
            stream.land()
        return self._steps(range(self.bins))

    def _steps(self, bins: range) -> tuple[StepInfo, ...]:
        firsts = [-(-number * len(self.sigmas) // self.bins) for number in range(self.bins + 1)]
        return tuple(
            StepInfo(
                firsts[number],
                self.sigmas[firsts[number]],
                max((stream.calls(number) for stream in self._streams.values()), default=0),
                self.model,
                tuple(step for step in range(firsts[number], firsts[number + 1]) if step not in self._seen),
            )
            for number in bins
        )

    @property
    def tracks(self) -> MaskTracks | None:
        """The mask tracks of the first stream."""
        return next((stream.tracks for stream in self._streams.values()), None)

    def now(self, kind: MapKind) -> tuple[tuple[str, ...], tuple[int, ...], Tensor] | None:
        """(entities, layers, maps (L, E, F, h, w) float32, means over heads, NaN where nothing was seen) of the first
        stream's open bin, for a live view."""
        for stream in self._streams.values():
            maps = stream.mean(kind)
            if maps is not None:
                return stream.names[kind], self.layers[kind], maps.mean(2) if self.heads else maps
        return None

    def so_far(self) -> Capture | None:
        """The bins that are done while the run goes on, None before the first: for a live view. Its maps are those that
        the whole capture will hold, and nothing is copied."""
        full = min((stream.last for stream in self._streams.values()), default=-1) + 1
        if not full or not all(stream.landed for stream in self._streams.values()):
            return None
        streams = [stream.part(slice(0, full)) for stream in self._streams.values()]
        return Capture(streams, self.backbone, self._steps(range(full)), self.config.branch, self._meta())

    def seen(self, step: int) -> bool:
        """Whether any attention was recorded in a sampling step."""
        return step in self._seen

    # -- one stream and its bins ------------------------------------------------------------------------------------

    def _open(self, row: BatchRow) -> MapStream:
        assert row.binding is not None
        words = word_sets(row.binding)
        v2t = words if self.layers["v2t"] else TokenSets((), {})
        grid_tracks = row.tracks.to_grid(self.grid, "nearest") if row.tracks is not None else None
        v2v = self._query_pool(row.binding, grid_tracks)
        if not self.bins:
            self._choose_bins(self._bytes_per_bin(v2t, v2v) + self._bytes_of("t2v", words))
        self._streams[row.key] = self._make_stream(row, v2t, v2v, grid_tracks)
        if wanted := [kind for kind in self.config.kinds if kind not in ("v2t", "v2v")]:
            self._others[row.key] = OtherKinds(self._streams[row.key], words, grid_tracks, wanted)
        return self._streams[row.key]

    def _make_stream(self, row: BatchRow, v2t: TokenSets, v2v: TokenSets, tracks: GridTracks | None) -> MapStream:
        assert row.binding is not None
        kept = self.bins if self.config.keep else 0
        sets, storage = (v2t, v2v), self.config.storage
        binding, apart = row.binding, (self.heads, self.points)
        return MapStream(row.key, binding, row.tracks, self.grid, kept, self.layers, *sets, storage, *apart)

    def _bytes_per_bin(self, v2t: TokenSets, v2v: TokenSets) -> int:
        apart = max(1, len(self.heads))
        return apart * (self._bytes_of("v2t", v2t) + self._bytes_of("v2v", v2v))

    def _bytes_of(self, kind: str, sets: TokenSets) -> int:
        maps = len(self.layers.get(kind, ())) * len(sets.names)
        return maps * self.grid.size * (1 if self.config.storage == "uint8" else 2)

    def _choose_bins(self, bytes_per_bin: int) -> None:
        steps = len(self.sigmas)
        wanted = min(self.config.bins or steps, steps)
        fits = int(self._share // max(1, bytes_per_bin)) if self.config.keep else wanted
        if fits < 1:
            what = "layers, words or heads" if self.heads else "layers or words"
            raise ValueError(
                f"one step bin of this capture takes {bytes_per_bin / 1e6:.0f} MB a prompt, and the budget leaves "
                f"{self._share / 1e6:.0f} MB. Choose fewer {what}, or raise the budget."
            )
        if fits < wanted:
            self.notes.append(f"{wanted} step bins do not fit the budget; kept {fits}, each the mean of several steps")
        self.bins = min(wanted, fits)

    def _query_pool(self, binding: PromptBinding, tracks: GridTracks | None) -> TokenSets:
        """The tokens whose attention over the clip is recorded: of instances and verbs, and of pinned points."""
        own = self._track_pool(binding, tracks) if tracks is not None and self.config.v2v else TokenSets((), {})
        if twice := sorted(set(own.names) & set(self.points)):
            raise ValueError(f"{twice[0]!r} is pinned, and an instance is called that: give the instance another name")
        sets = own.sets | {
            name: torch.tensor([(frame * self.grid.height + row) * self.grid.width + column])
            for name, (frame, row, column) in self.points.items()
        }
        return TokenSets(tuple(sets), sets)

    def _track_pool(self, binding: PromptBinding, tracks: GridTracks) -> TokenSets:
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
        return TokenSets(tuple(sets), sets)

    def _enter(self, step: int) -> None:
        bin_ = min(step, len(self.sigmas) - 1) * self.bins // len(self.sigmas)
        if bin_ != self._bin:
            self._flush()
            self._bin = bin_

    def _flush(self) -> None:
        self._pending = []  # of a forward that was torn off
        if self._bin < 0:
            return
        self._pass_on()
        for stream in self._streams.values():
            stream.flush(self._bin)
        self._given = min(self._given, self._bin)

    def _pass_on(self, wait: bool = True) -> None:
        """Gives the sink the bins that are done. wait: for them to be in main memory; else they have time."""
        if self.sink is None:
            return
        full = max((stream.last for stream in self._streams.values()), default=-1) + 1
        if full <= self._given or not (wait or all(stream.landed for stream in self._streams.values())):
            return
        for stream in self._streams.values():
            stream.land()
        bins, self._given = range(self._given, full), full
        streams = [stream.part(slice(bins.start, bins.stop)) for stream in self._streams.values()]
        part = Capture(streams, self.backbone, self._steps(bins), self.config.branch, self._meta())
        self.sink(bins.start, part)

    # -- the two reads ------------------------------------------------------------------------------------------------

    def _words_of_all(
        self, looking: Sequence[tuple[int, MapStream]], call: AttentionCall, lse: Tensor | None, heads: list[int] | None
    ) -> bool:
        """`_video_to_text` of many batch rows in one pass: a batch of small clips costs what its operations do, not
        what it takes to start one for every clip. False where these have to be read one by one."""
        if len(looking) < 2 or call.mask is not None or call.labels is not None:
            return False
        assert call.video_q is not None
        device = call.q.device
        pools = []
        for index, stream in looking:
            text, copies = text_rows(stream, call.at(index))
            pools.append(stream.v2t.pool(text, device, copies))
        if self._pools is None or [id(pool) for pool in self._pools.pools] != [id(pool) for pool in pools]:
            self._pools = PoolRows.of(pools, device)  # the same for every layer and step of a batch
        first, count = call.video_q
        tokens = slice(first, first + count)
        places = [index for index, _ in looking]
        if not self._pools.fits(call.q[: len(places), : len(heads) if heads is not None else None, tokens]):
            return False  # before rows of large q and k are copied
        whole = places == list(range(len(call.rows)))
        q, k, look = call.q[:, :, tokens], call.k, None if lse is None else lse[:, :, tokens]
        if not whole:
            q, k, look = q[places], k[places], None if look is None else look[places]
        if heads is not None:
            q, k, look = q[:, heads], k[:, heads], None if look is None else look[:, heads]
        maps = columns_of_rows(q, k, self._pools, call.scale, lse=look, per_head=self.per_head)
        if maps is None:
            return False
        for (_, stream), own in zip(looking, maps, strict=True):
            self._hold(call, stream, "v2t", own[..., : len(stream.v2t.names), :])
        return True

    def _video_to_text(
        self, stream: MapStream, call: AttentionCall, q: Tensor, k: Tensor, lse: Tensor | None, mask: Tensor | None
    ) -> None:
        assert call.video_q is not None
        first, count = call.video_q
        text, copies = text_rows(stream, call)
        pool = stream.v2t.pool(text, q.device, copies)
        rows = slice(first, first + count)
        look = None if lse is None else lse[:, :, rows]
        part = mask
        if mask is not None and mask.shape[-2] > 1:
            part = mask[..., rows, :]
        labels = None if call.labels is None else (call.labels[0][rows], call.labels[1])
        kept: dict[str, Any] = {"mask": part, "labels": labels, "per_head": self.per_head}
        maps = pooled_columns(q[:, :, rows], k, pool, call.scale, lse=look, **kept)[0]
        self._hold(call, stream, "v2t", maps)

    def _video_to_video(
        self, stream: MapStream, call: AttentionCall, q: Tensor, k: Tensor, lse: Tensor | None, mask: Tensor | None
    ) -> None:
        assert call.video_q is not None
        assert call.video_k is not None
        window, keep = stream.v2v.in_window(call.grid, call.frame_index)
        if not window.names:
            return
        pool = window.pool(call.video_q[0], q.device)
        kept: dict[str, Any] = {"mask": mask, "labels": call.labels, "per_head": self.per_head}
        maps = pooled_rows(q, k, pool, call.scale, lse=lse, keys=call.video_k, **kept)[0]
        self._hold(call, stream, "v2v", maps, keep)

    def _hold(
        self, call: AttentionCall, stream: MapStream, kind: MapKind, maps: Tensor, keep: list[int] | None = None
    ) -> None:
        on_grid = maps.unflatten(-1, call.grid.shape)
        step = min(call.step, len(self.sigmas) - 1)
        self._pending.append(_Pending(call.site, stream, kind, on_grid, call.frame_index, keep, step))


def _row_of(
    call: AttentionCall, lse: Tensor | None, index: int, heads: list[int] | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """q, k, log-sum-exp and mask of one batch row and of these heads (None: all of them)."""
    part = slice(index, index + 1)
    q, k, look, mask = call.q[part], call.k[part], None if lse is None else lse[part], call.mask
    if mask is not None and mask.ndim >= 3 and mask.shape[0] > 1:
        mask = mask[part]
    if heads is not None:
        q, k, look = q[:, heads], k[:, heads], None if look is None else look[:, heads]
        if mask is not None and mask.ndim == 4 and mask.shape[1] > 1:
            mask = mask[:, heads]
    return q, k, look, mask
