"""The maps of one kind in one stream: values, how many calls each is the mean of, and how they are stored.

L layers, St step bins, E entities, H heads, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.ranges import ranges

__all__ = ["CodeError", "Maps", "Over", "Storage", "decode", "encode", "joined"]

Storage = Literal["float16", "uint8"]
_LEVELS = 255


@dataclass(frozen=True)
class CodeError:
    """What storing maps as uint8 has cost, as it was measured. largest: of a value, as a share of its map's largest
    value. mean: the sum of all errors, as a share of the sum of all values."""

    largest: float
    mean: float


@dataclass(frozen=True)
class Over:
    """What the axes F, h, w of a kind are where they are not the clip's tokens.

    shape: (1, 1, C) where C columns are looked at, (A, 1, 1) where A moments of sound look.
    columns: names along w; () for sound. chance: of each entity, what sound that looks everywhere alike would reach.
    """

    shape: tuple[int, int, int]
    columns: tuple[str, ...] = ()
    chance: tuple[float, ...] = ()

    def check(self, name: str, entities: int) -> None:
        """Raises ValueError, naming the maps `name`, where sizes do not agree."""
        sized = len(self.shape) == 3 and min(self.shape) > 0 and self.shape[1] == 1
        columns = len(self.columns) == (self.shape[2] if sized and self.shape[0] == 1 and self.columns else 0)
        if not sized or not columns or len(self.chance) not in (0, entities):
            raise ValueError(
                f"{name} is over (1, 1, columns) with a name for each, or (moments, 1, 1), with a chance for each "
                f"entity or none; got {self.shape}, {len(self.columns)} columns and {len(self.chance)} chances"
            )


def encode(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(codes uint8 of the same shape, scale float32 without the last three axes) of maps (..., F, h, w) >= 0.

    A value is scale * (code / 255)^2. The scale is the map's largest value. Codes are of the root, since most of a map
    is far below its largest value: evenly spaced codes would turn that into zeros.
    """
    scale = maps.float().flatten(-3).amax(-1)
    unit = maps.float() / scale.clamp_min(1e-30)[..., None, None, None]
    return unit.clamp_(0, 1).sqrt_().mul_(_LEVELS).round_().to(torch.uint8), scale


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 maps of what `encode` gives."""
    return (codes.float() / _LEVELS).square_() * scale.float()[..., None, None, None]


@dataclass(frozen=True)
class Maps:
    """Maps of one kind.

    Args:
        values: (L, St, E, F, h, w), or (L, St, E, H, F, h, w) where heads are apart; float16 in [0, 1], or uint8 codes
            (see `encode`).
        layers: global layer numbers along L, ascending.
        entities: names along E.
        counts: (L, St, E, F) int32: how many calls a frame of a map is the mean of. Where it is 0 nothing was recorded:
            the values there mean nothing.
        scale: (L, St, E) or (L, St, E, H) float32 with uint8 values, else None.
        heads: numbers along H, ascending; () where values are means over all heads.
        points: the places (frame, row, column) of entities that are one token of the clip, by name.
        error: what uint8 has cost, where it was measured.
        over: what F, h, w are, where they are not the clip's token grid.
    """

    values: Tensor
    layers: tuple[int, ...]
    entities: tuple[str, ...]
    counts: Tensor
    scale: Tensor | None = None
    heads: tuple[int, ...] = ()
    points: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    error: CodeError | None = None
    over: Over | None = None

    @classmethod
    def whole(cls, values: Tensor, layers: Sequence[int], entities: Sequence[str], calls: Sequence[int]) -> Maps:
        """Maps of which every cell of a step was called as often. values (L, St, E, F, h, w); calls: St numbers."""
        counts = torch.tensor(list(calls), dtype=torch.int32)[None, :, None, None]
        return cls(values, tuple(layers), tuple(entities), counts.expand(values.shape[:4]).contiguous())

    def check(self, name: str, grid: Grid) -> None:
        """Raises ValueError, naming the maps `name`, where sizes, types, names and layers do not agree."""
        shape = grid.shape if self.over is None else self.over.shape
        if self.over is not None:
            self.over.check(name, len(self.entities))
        self._check_shape(name, shape)
        names, layers, heads = self.entities, list(self.layers), list(self.heads)
        if len(set(names)) != len(names) or any(part != sorted(set(part)) for part in (layers, heads)):
            raise ValueError(
                f"{name} needs different entity names, ascending layers and heads; got {list(names)}, {layers} "
                f"and {heads}"
            )
        for entity, place in self.points.items():
            inside = len(place) == 3 and all(0 <= at < size for at, size in zip(place, shape))
            if entity not in names or not inside:
                raise ValueError(
                    f"{name}: a point is the (frame, row, column) of an entity, inside the {shape} token grid; "
                    f"got {entity!r} at {tuple(place)}"
                )

    def _check_shape(self, name: str, shape: tuple[int, int, int]) -> None:
        axes = [len(self.layers), self.bins, len(self.entities), *([len(self.heads)] if self.heads else [])]
        want, got = [*axes, *shape], list(self.values.shape)
        dtype = self.values.dtype
        if dtype not in (torch.float16, torch.uint8) or got != want or 0 in want:
            raise ValueError(
                f"{name} has to be float16 or uint8 of shape [layer, step, entity{', head' * bool(self.heads)}, F, h, "
                f"w] = {want}, with at least one of each; got {dtype} {got}"
            )
        counts = [*axes[:3], shape[0]]
        if self.counts.dtype != torch.int32 or list(self.counts.shape) != counts:
            raise ValueError(
                f"{name}: counts are int32 [layer, step, entity, F] = {counts}; got {self.counts.dtype} "
                f"{list(self.counts.shape)}"
            )
        scale = None if self.scale is None else (self.scale.dtype, list(self.scale.shape))
        if scale != ((torch.float32, axes) if dtype == torch.uint8 else None):
            raise ValueError(f"{name}: uint8 values have a float32 scale {axes}, float16 have none; got {scale}")

    @property
    def bins(self) -> int:
        """Number of step bins."""
        return int(self.values.shape[1]) if self.values.ndim > 1 else 0

    @property
    def storage(self) -> Storage:
        return "uint8" if self.values.dtype == torch.uint8 else "float16"

    @property
    def nbytes(self) -> int:
        """Bytes of the values; counts are a thousandth of that."""
        parts = [self.values, *([] if self.scale is None else [self.scale])]
        return sum(part.numel() * part.element_size() for part in parts)

    def dense(self) -> Tensor:
        """(L, St, E, F, h, w) float16 values, the mean over heads: `values` themselves where they are that already."""
        if self.storage == "float16" and not self.heads:
            return self.values
        return torch.stack([self.layer(i).half() for i in range(len(self.layers))])

    def layer(self, place: int, steps: Sequence[int] | None = None, entities: Sequence[int] | None = None) -> Tensor:
        """(St, E, F, h, w) float32 of the layer at `place` along L, the mean over heads; of the chosen places along St
        and E. Only these are read: values may lie in a file of a gigabyte."""
        part, scale = self.values[place], None if self.scale is None else self.scale[place]
        for axis, chosen in ((1, entities), (0, steps)):
            if chosen is not None:
                index = torch.tensor(list(chosen), dtype=torch.long)
                part = part.index_select(axis, index)
                scale = None if scale is None else scale.index_select(axis, index)
        found = part.float() if scale is None else decode(part, scale)
        return found.mean(2) if self.heads else found

    def mean(self, layers: Sequence[int], steps: Sequence[int], entity: int) -> Tensor:
        """(F, h, w) float32: mean over places along L and St. Steps count as often as they were called, each layer
        alike; NaN in frames of which none was recorded."""
        total, seen = torch.zeros(tuple(self.values.shape[-3:])), torch.zeros(self.values.shape[-3])
        for i in layers:
            calls = self.counts[i, list(steps), entity].float()
            weights = calls / calls.sum(0).clamp_min(1.0)
            values = self.layer(i, steps, [entity])[:, 0]
            values = torch.where(calls[..., None, None] > 0, values, 0.0)
            total += torch.einsum("sfhw,sf->fhw", values, weights)
            seen += calls.sum(0) > 0
        return total / torch.where(seen > 0, seen, torch.nan)[:, None, None]

    def only(self, entity: int, head: int | None = None) -> Maps:
        """The maps of the entity at place `entity` alone, and of the head of number `head` where heads are apart.
        Views: nothing is read. Raises ValueError for a head that was not kept apart."""
        name = self.entities[entity]
        own = slice(entity, entity + 1)
        values, scale = self.values[:, :, own], None if self.scale is None else self.scale[:, :, own]
        points = {name: self.points[name]} if name in self.points else {}
        over = None if self.over is None else replace(self.over, chance=self.over.chance[own])
        counts = self.counts[:, :, own]
        mine = replace(self, values=values, counts=counts, scale=scale, entities=(name,), points=points, over=over)
        return mine if head is None else mine.of_head(head)

    def of_head(self, number: int) -> Maps:
        """The maps of one head alone, as maps whose heads are not apart. Views: nothing is read. Raises ValueError for
        a head that was not kept apart."""
        if number not in self.heads:
            have = f"heads {ranges(self.heads)} were" if self.heads else "the mean over heads alone was"
            raise ValueError(f"head {number} was not recorded: {have}")
        place = self.heads.index(number)
        scale = None if self.scale is None else self.scale[..., place]
        return replace(self, values=self.values[:, :, :, place], scale=scale, heads=())

    def take(self, steps: Sequence[int]) -> Maps:
        """The same maps at the chosen places along St alone."""
        index = list(steps)
        scale = None if self.scale is None else self.scale[:, index]
        return replace(self, values=self.values[:, index], counts=self.counts[:, index], scale=scale)

    def absent(self, steps: int) -> Maps:
        """As many steps of the same form in which nothing was recorded."""

        def zeros(of: Tensor) -> Tensor:
            return of.new_zeros((of.shape[0], steps, *of.shape[2:]))

        scale = None if self.scale is None else zeros(self.scale)
        return replace(self, values=zeros(self.values), counts=zeros(self.counts), scale=scale)

    def stored(self, storage: Storage) -> Maps:
        """The same maps in another type. From float16 to uint8 the error is measured."""
        if storage == self.storage:
            return self
        if storage == "float16":
            assert self.scale is not None
            return replace(self, values=decode(self.values, self.scale).half(), scale=None)
        codes, scale = (
            torch.empty_like(self.values, dtype=torch.uint8),
            self.values.new_empty(self.values.shape[:-3], dtype=torch.float32),
        )
        largest = lost = total = 0.0
        for i, part in enumerate(self.values):
            codes[i], scale[i] = encode(part)
            wrong = (decode(codes[i], scale[i]) - part.float()).abs()
            largest = max(largest, float((wrong.flatten(-3).amax(-1) / scale[i].clamp_min(1e-30)).max()))
            lost, total = lost + float(wrong.sum()), total + float(part.float().sum())
        return replace(self, values=codes, scale=scale, error=CodeError(largest, lost / max(total, 1e-30)))


def joined(parts: Sequence[Maps]) -> Maps:
    """Maps of one form, one after another along St. Where types differ, all become float16."""
    first = parts[0]
    if len({part.storage for part in parts}) > 1:
        parts = [part.stored("float16") for part in parts]
    scales = [part.scale for part in parts if part.scale is not None]
    errors = [part.error for part in parts if part.error is not None]
    return Maps(
        torch.cat([part.values for part in parts], 1),
        first.layers,
        first.entities,
        torch.cat([part.counts for part in parts], 1),
        torch.cat(scales, 1) if scales else None,
        first.heads,
        first.points,
        CodeError(max(e.largest for e in errors), max(e.mean for e in errors)) if errors else None,
        first.over,
    )
