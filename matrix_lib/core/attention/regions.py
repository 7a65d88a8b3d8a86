"""Regions of a call's tokens and the bias between them: what biased attention is told.

B batch, H heads, Nq / Nk query / key tokens, Rq / Rk regions of each, R label columns, E instances. Biases are logits:
added to scale * q.k before the softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["LabelColumns", "Labels", "RegionLayout", "beside", "label_columns", "signatures"]

_FORBIDDEN = -1e4  # logits that leave nothing of a probability beside others, where -inf cannot be

T = TypeVar("T")
Labels = tuple[Tensor, Tensor]
"""Columns that q and k have besides, the same for every row of a batch and every head: (Nq, R) and (Nk, R)."""


@dataclass(frozen=True, eq=False)
class RegionLayout:
    """Which region each token is in, and the bias between regions. Tensors live in main memory.

    Args:
        query, key: (Nq,), (Nk,) int64 region numbers.
        bias: (Rq, Rk) float32 logits; -inf keeps a query region from a key region altogether.
        zeroed: (Rq, Rk) bool: probabilities set to 0 after the softmax, the others as they were (rows then sum to less
            than 1). None: nowhere.

    Raises ValueError for regions outside the tables and for a bias that is NaN or +inf.
    """

    query: Tensor
    key: Tensor
    bias: Tensor
    zeroed: Tensor | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.bias.isnan().any() or (self.bias == float("inf")).any():
            raise ValueError("a region bias is a number of logits or -inf; got NaN or +inf")
        if self.zeroed is not None and self.zeroed.shape != self.bias.shape:
            raise ValueError(f"bias {list(self.bias.shape)} and zeroed {list(self.zeroed.shape)} must have one shape")
        for what, label, count in (("query", self.query, self.bias.shape[0]), ("key", self.key, self.bias.shape[1])):
            if len(label) and not 0 <= int(label.min()) <= int(label.max()) < count:
                raise ValueError(
                    f"{what} regions are 0..{count - 1}; got {int(label.min())}..{int(label.max())}: "
                    f"the bias table is {list(self.bias.shape)}"
                )

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return not self.bias.any() and (self.zeroed is None or not self.zeroed.any())

    def plus(self, other: RegionLayout) -> RegionLayout:
        """Both at once: regions are the pairs, biases add, zeroed is zeroed by either."""
        sizes = [(len(layout.query), len(layout.key)) for layout in (self, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"layouts of {sizes[0]} and {sizes[1]} (queries, keys) do not fit the same call")
        query, left_q, right_q = _pairs(self.query, other.query, other.bias.shape[0])
        key, left_k, right_k = _pairs(self.key, other.key, other.bias.shape[1])
        bias = self.bias[left_q][:, left_k] + other.bias[right_q][:, right_k]
        zeroed = self.zeroed_table[left_q][:, left_k] | other.zeroed_table[right_q][:, right_k]
        return RegionLayout(query, key, bias, zeroed)

    def remembered(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each name: whatever follows from the layout alone."""
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def without_keys(self, drop: Tensor) -> RegionLayout:
        """The same with the keys of a (Nk,) bool mask left out, as an additive mask of -inf does."""

        def make() -> RegionLayout:
            nowhere = torch.tensor([[0.0, float("-inf")]])
            return self.plus(RegionLayout(torch.zeros_like(self.query), drop.long(), nowhere))

        return self.remembered(("without", drop.numpy().tobytes()), make)

    @property
    def zeroed_table(self) -> Tensor:
        """(Rq, Rk) bool."""
        return torch.zeros_like(self.bias, dtype=torch.bool) if self.zeroed is None else self.zeroed

    @property
    def only_forbids(self) -> bool:
        """Whether it takes keys away and changes nothing else."""

        def look() -> bool:
            told = self.zeroed_table.any() | ((self.bias != 0) & (self.bias != float("-inf"))).any()
            return not bool(told)

        return self.remembered("only forbids", look)

    def labels(self, like: Tensor, scale: float) -> LabelColumns:
        """The bias as label columns for calls of `like`'s dtype: one for each query region, two in half precision,
        where what rounding takes off a bias has a column of its own. -inf becomes a bias that leaves nothing of a
        probability."""

        def make() -> LabelColumns:
            # -1e4 logits are more than float16 holds, once they are divided by the scale
            bias = self.bias.clamp(min=max(_FORBIDDEN, -0.5 * torch.finfo(like.dtype).max * scale))
            if like.element_size() == 2:
                high = (bias / scale).to(like.dtype).float() * scale
                bias = torch.cat([high, bias - high], 0)
            one_hot = torch.nn.functional.one_hot(self.query, self.bias.shape[0]).float()
            query = one_hot.repeat(1, bias.shape[0] // self.bias.shape[0])
            return LabelColumns(query.to(like.device), bias[:, self.key].T.to(like.device))

        return self.remembered(("labels", like.device, like.dtype, scale), make)


@dataclass(frozen=True, eq=False)
class LabelColumns:
    """A bias of low rank: bias[i, j] = sum over r of query[i, r] * key[j, r]. (Nq, R) and (Nk, R) float32, finite.

    In half precision the labels are rounded as q and k are.
    """

    query: Tensor
    key: Tensor
    _cache: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both there; carried over once."""
        if device not in self._cache:
            self._cache[device] = (self.query.to(device), self.key.to(device))
        return self._cache[device]

    def plus(self, other: LabelColumns) -> LabelColumns:
        return LabelColumns(torch.cat([self.query, other.query], 1), torch.cat([self.key, other.key], 1))


def label_columns(
    layout: RegionLayout | None, columns: LabelColumns | None, like: Tensor, scale: float
) -> Labels | None:
    """The bias of a call as columns that q and k have besides, for calls of `like`'s dtype and device: (Nq, R) and
    (Nk, R), so that scale * q.k is the biased logit. None where there is no bias."""
    parts = [part for part in (columns, None if layout is None else layout.labels(like, scale)) if part is not None]
    if not parts:
        return None
    query = torch.cat([part.on(like.device)[0] for part in parts], 1)
    key = torch.cat([part.on(like.device)[1] for part in parts], 1)
    return query.to(like.dtype), (key / scale).to(like.dtype)


def beside(q: Tensor, k: Tensor, labels: Labels | None) -> tuple[Tensor, Tensor]:
    """q and k with their labels as columns, padded to a multiple of 8 as kernels like it."""
    if labels is None:
        return q, k
    pad = -(q.shape[-1] + labels[0].shape[1]) % 8
    wide = (torch.nn.functional.pad(each, (0, pad)).to(q.dtype) for each in labels)
    left, right = (
        torch.cat([t, label.expand(*t.shape[:2], *label.shape)], -1) for t, label in zip((q, k), wide, strict=True)
    )
    return left, right


def signatures(members: Tensor) -> tuple[Tensor, Tensor]:
    """Regions as membership signatures: tokens are in one region when the same instances hold them, so an overlap is a
    region of its own. members (E, N) bool -> labels (N,) int64 and table (R, E) bool, in ascending order."""
    count = members.shape[1]
    codes = torch.zeros(count, dtype=torch.int64)
    for member in members.bool().cpu():
        codes = torch.unique(codes * 2 + member, return_inverse=True)[1]
    regions = int(codes.max()) + 1 if count else 0
    first = torch.full((regions,), count).scatter_reduce_(0, codes, torch.arange(count), "amin")
    return codes, members.bool().cpu()[:, first].T


def _pairs(left: Tensor, right: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of the pairs that occur, and each pair's left and right label."""
    codes, labels = torch.unique(left * count + right, return_inverse=True)
    return labels, codes // count, codes % count
