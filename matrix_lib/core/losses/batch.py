"""Targets of a whole batch as tensors, so that the losses of many small clips cost as many operations as those of one.

B rows of the batch, R tokens that are looked at, E entities, F, h, w token frames, rows, columns, T, H, W pixel frames,
rows, columns. Rows with fewer tokens or entities are padded, with weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..attention.pooled_maps import Pool
from ..grid import Grid
from .targets import Targets

__all__ = ["PoolBatch", "TargetBatch", "on_device"]

Kind = Literal["words", "queries"]
_BITS = 8  # instances that one uint8 of a mask can hold
_NONE = Pool.mean_of({})


@dataclass(frozen=True)
class PoolBatch:
    """One `Pool` a row.

    indices: (B, R) int64, 0 where padded. weights: (B, R, E) float32, 0 where padded. counts: entities of each row.
    spans: smallest and largest index of each row, (0, -1) where there is none.
    """

    indices: Tensor
    weights: Tensor
    counts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, pools: Sequence[Pool]) -> PoolBatch:
        """Joins the pools of rows; an empty pool is a row that nothing is asked of."""
        longest = max((len(pool.indices) for pool in pools), default=0)
        most = max((len(pool) for pool in pools), default=0)
        indices = torch.zeros(len(pools), longest, dtype=torch.int64)
        weights = torch.zeros(len(pools), longest, most)
        for row, pool in enumerate(pools):
            indices[row, : len(pool.indices)] = pool.indices
            weights[row, : len(pool.indices), : len(pool)] = pool.weights
        spans = tuple(pool.span if len(pool) else (0, -1) for pool in pools)
        return cls(indices, weights, tuple(len(pool) for pool in pools), spans)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def span(self) -> tuple[int, int]:
        """Smallest and largest index of all rows, (0, -1) when there is none."""
        there = [(low, high) for low, high in self.spans if low <= high]
        return (min(low for low, _ in there), max(high for _, high in there)) if there else (0, -1)

    @property
    def entities(self) -> int:
        """E, padding included."""
        return int(self.weights.shape[2])

    def at(self, place: int | None) -> PoolBatch:
        """One row as a batch of its own; None: all of them."""
        if place is None:
            return self
        part = slice(place, place + 1)
        return PoolBatch(self.indices[part], self.weights[part], self.counts[part], self.spans[part])

    def to(self, device: torch.device) -> PoolBatch:
        return replace(self, indices=on_device(self.indices, device), weights=on_device(self.weights, device))

    def moved(self, span: tuple[int, int], starts: Sequence[int] = ()) -> PoolBatch:
        """A batch of tokens counted within `span` (start, length), counted from the start of the sequence. `starts`: of
        each row's own span, where they differ.

        Raises ValueError for a token outside."""
        start, length = span
        low, high = self.span
        if low < 0 or high >= length:
            raise ValueError(f"tokens {low}..{high} were asked for, but there are 0..{length - 1}")
        every = starts or (start,) * len(self)
        spans = tuple((first + by, last + by) for (first, last), by in zip(self.spans, every, strict=True))
        by = on_device(torch.tensor(starts), self.indices.device)[:, None] if starts else start
        return replace(self, indices=self.indices + by, spans=spans)


@dataclass(frozen=True)
class TargetBatch:
    """The targets of several clips of one token grid and one size in pixels. Build it with `of`.

    Args:
        words, queries: rows of the conditioning of grounded entities, query tokens of propagated ones.
        members: per kind (B, E) uint8; bit i of an entity is set where instance i belongs to its mask.
        tokens: (B, F, h, w) uint8 masks on the token grid, bit i is instance i.
        pixels: the same in pixels, (B, T, H, W) uint8; None where it was not asked for.
        known, pixel_known: (B, F), (B, T) bool on the CPU, frames that the tracks say something about.
        keep: rows that are aligned at all.
        names: per row the names of its grounded entities.
        features: (B, C, F, h, w) that Local Gram Flow is taught by, where it is taught by features; else None.
    """

    grid: Grid
    words: PoolBatch
    queries: PoolBatch
    members: dict[Kind, Tensor]
    tokens: Tensor
    pixels: Tensor | None
    known: Tensor
    pixel_known: Tensor
    keep: tuple[bool, ...]
    names: tuple[tuple[str, ...], ...]
    features: Tensor | None = None

    @classmethod
    def of(cls, targets: Sequence[Targets | None], pixels: bool = True, features: Tensor | None = None) -> TargetBatch:
        """Joins the targets of rows, None for a row that is not aligned.

        Args:
            pixels: whether the masks are wanted in pixels (a decoder compares there).
            features: see the class; of every row, aligned or not.

        Raises ValueError for targets of several grids or sizes, for features of another grid, for more than 8 instances
        in a clip, and where every row is None.
        """
        real = [target for target in targets if target is not None]
        if not real:
            raise ValueError("no row of the batch has targets")
        first = real[0]
        for target in real:
            if target.tokens.grid != first.tokens.grid or target.framing.target != first.framing.target:
                raise ValueError(
                    f"the clips of a batch have one size: here are {first.tokens.grid} at {first.framing.target} "
                    f"pixels and {target.tokens.grid} at {target.framing.target}"
                )
        grid = first.tokens.grid
        if features is not None and (len(features), *features.shape[2:]) != (len(targets), *grid.shape):
            raise ValueError(f"features {tuple(features.shape)} are not of {len(targets)} clips of {grid.shape} tokens")
        every = [_codes(target) if target is not None else {} for target in targets]
        words = PoolBatch.of([_NONE if target is None else target.words for target in targets])
        queries = PoolBatch.of([_NONE if target is None else target.queries for target in targets])
        names = tuple(() if target is None else target.words.names for target in targets)
        asked = [() if target is None else target.queries.names for target in targets]
        shape = (grid.pixel_frames, *first.framing.target)
        always = torch.ones(grid.frames, dtype=torch.bool), torch.ones(grid.pixel_frames, dtype=torch.bool)
        return cls(
            grid=grid,
            words=words,
            queries=queries,
            members={"words": _table(names, targets, every), "queries": _table(asked, targets, every)},
            tokens=torch.stack([_token_bits(t, c) if t else _blank(grid.shape) for t, c in zip(targets, every)]),
            pixels=torch.stack([_pixel_bits(t, c) if t else _blank(shape) for t, c in zip(targets, every)])
            if pixels
            else None,
            known=torch.stack([always[0] if target is None else target.known for target in targets]),
            pixel_known=torch.stack([always[1] if target is None else target.pixel_known for target in targets]),
            keep=tuple(target is not None for target in targets),
            names=names,
            features=features,
        )

    def __len__(self) -> int:
        return len(self.keep)

    def to(self, device: torch.device) -> TargetBatch:
        """With its masks and pools on a device; what the CPU has to decide on stays there."""
        return replace(
            self,
            words=self.words.to(device),
            queries=self.queries.to(device),
            members={kind: on_device(value, device) for kind, value in self.members.items()},
            tokens=on_device(self.tokens, device),
            pixels=None if self.pixels is None else on_device(self.pixels, device),
            features=None if self.features is None else on_device(self.features, device),
        )

    def select(self, rows: Tensor, keep: Tensor | None = None) -> TargetBatch:
        """The rows (n,) int64 on the CPU, of which those that `keep` (n,) bool leaves out are not aligned."""
        there = rows.to(self.tokens.device)
        picks = rows.tolist()
        stays = [True] * len(picks) if keep is None else keep.tolist()

        def pool(whole: PoolBatch) -> PoolBatch:
            counts = tuple(whole.counts[i] for i in picks)
            return PoolBatch(whole.indices[there], whole.weights[there], counts, tuple(whole.spans[i] for i in picks))

        return TargetBatch(
            self.grid,
            pool(self.words),
            pool(self.queries),
            {kind: value[there] for kind, value in self.members.items()},
            self.tokens[there],
            None if self.pixels is None else self.pixels[there],
            self.known[rows],
            self.pixel_known[rows],
            tuple(self.keep[i] and stay for i, stay in zip(picks, stays)),
            tuple(self.names[i] for i in picks),
            None if self.features is None else self.features[rows.to(self.features.device)],
        )

    def pool(self, kind: Kind) -> PoolBatch:
        return self.words if kind == "words" else self.queries

    def pairs(self, kind: Kind) -> list[tuple[int, int]]:
        """(row, entity) of everything that is aligned."""
        counts = self.pool(kind).counts
        return [(row, e) for row, count in enumerate(counts) if self.keep[row] for e in range(count)]

    def masks(self, kind: Kind, rows: Tensor, entities: Tensor, pixels: bool) -> Tensor:
        """(n, T, H, W) bool masks of (row, entity) pairs in pixels, or (n, F, h, w) on the token grid.

        Raises ValueError where pixels are wanted that the batch was made without."""
        bits = self.pixels if pixels else self.tokens
        if bits is None:
            raise ValueError("these targets were made without masks in pixels: TargetBatch.of(targets, pixels=True)")
        codes = self.members[kind][rows, entities]
        return (bits[rows] & codes[:, None, None, None]) != 0

    def by_known(self, pairs: Sequence[tuple[int, int]], pixels: bool) -> Iterator[tuple[Tensor | None, list[int]]]:
        """Places in `pairs` of clips whose tracks know the same frames, with those frames (bool, None for all)."""
        known = self.pixel_known if pixels else self.known
        if bool(known.all()):
            yield None, list(range(len(pairs)))
            return
        groups: dict[tuple[bool, ...], list[int]] = {}
        for place, (row, _) in enumerate(pairs):
            groups.setdefault(tuple(known[row].tolist()), []).append(place)
        for frames, places in groups.items():
            yield torch.tensor(frames), places


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """The values there; on their way to a GPU nothing waits for what it is in the middle of."""
    if values.device == device:
        return values
    if values.device.type == "cpu" and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _codes(target: Targets) -> dict[str, int]:
    """A bit for each instance that some entity has in its mask."""
    used = sorted({name for names in target.members.values() for name in names})
    if len(used) > _BITS:
        raise ValueError(f"a clip has at most {_BITS} instances that are aligned; this one has {', '.join(used)}")
    return {name: 1 << i for i, name in enumerate(used)}


def _table(
    names: Sequence[tuple[str, ...]], targets: Sequence[Targets | None], codes: Sequence[dict[str, int]]
) -> Tensor:
    """(B, E) uint8 codes of entities."""
    out = torch.zeros(len(names), max(map(len, names)), dtype=torch.uint8)
    for row, (mine, target) in enumerate(zip(names, targets)):
        for e, name in enumerate(mine):
            assert target is not None
            out[row, e] = sum(codes[row][member] for member in set(target.members[name]))
    return out


def _bits(codes: dict[str, int], mask_of: Callable[[str], Tensor], shape: tuple[int, ...]) -> Tensor:
    out = _blank(shape)
    for name, code in codes.items():
        out |= mask_of(name).to(torch.uint8) * code
    return out


def _blank(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def _token_bits(target: Targets, codes: dict[str, int]) -> Tensor:
    return _bits(codes, lambda name: target.tokens.map(name) > 0, target.tokens.grid.shape)


def _pixel_bits(target: Targets, codes: dict[str, int]) -> Tensor:
    """Only the frames that the tracks know; see `Targets.pixel_masks`."""
    frames = target.tokens.grid.pixel_frames
    last = min(frames, target.tracks.frames)

    def mask_of(name: str) -> Tensor:
        out = torch.zeros(frames, *target.framing.target, dtype=torch.bool)
        out[:last] = target.framing.apply(target.tracks.masks(name, 0, last), "nearest").bool()
        return out

    return _bits(codes, mask_of, (frames, *target.framing.target))
