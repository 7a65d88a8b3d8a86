"""Exact feature distribution matching: the ranks of one tensor with the values of another.

The k-th smallest value of `features` is replaced by the k-th smallest of `reference`, so the result has exactly the
reference's order statistics (Zhang et al. 2022; IVG-DA's mask normalisation, arXiv 2505.24253, uses it on the output
of masked attention). The paper leaves the sort axis open: both readings are here.

B batch, H heads, N tokens, D head size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..triton import kernels_for

__all__ = ["Axis", "match_distribution"]

Axis = Literal["channel", "global"]
_AT_ONCE = 1 << 23  # elements sorted at a time: int64 ranks are four times as wide as half precision values


def match_distribution(
    features: Tensor, reference: Tensor, axis: Axis = "channel", *, into: Tensor | None = None
) -> Tensor:
    """`features` with the order statistics of `reference`.

    Args:
        features, reference: (B, H, N, D), one shape.
        axis: "channel" sorts every channel of every head over the tokens, "global" all values of a batch row together.
        into: where to write the result, which is returned; of the same shape and dtype, in other memory, without
            gradients.

    Equal values keep their order; zeros of both signs are equal. In autograd the result is features + constant:
    gradients pass to `features` as they come, none reach `reference`. Raises ValueError for shapes that differ.
    """
    if features.shape != reference.shape or features.ndim != 4:
        raise ValueError(
            f"features and reference are both (batch, heads, tokens, channels); got {list(features.shape)} and "
            f"{list(reference.shape)}"
        )
    if axis not in ("channel", "global"):
        raise ValueError(f"the axis is 'channel' or 'global'; got {axis!r}")
    if into is not None:
        return _matched(features, reference, axis, into)
    return _Match.apply(features, reference, axis)


class _Match(torch.autograd.Function):
    """Exact forward; backward of features + (matched - features).detach(), which would round."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, reference: Tensor, axis: Axis) -> Tensor:
        return _matched(features, reference, axis, torch.empty_like(features))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None, None


def _matched(features: Tensor, reference: Tensor, axis: Axis, out: Tensor) -> Tensor:
    if axis == "global":
        for some, other, to in zip(features, reference, out, strict=True):
            to.copy_(_ranked(some.flatten(), other.flatten(), dim=0).view(some.shape))
        return out
    kernels = kernels_for("matching", features, reference)
    if kernels is not None:
        kernels.match(features, reference, out)
        return out
    step = max(1, _AT_ONCE // max(1, features[:, :1].numel()))
    for first in range(0, features.shape[1], step):
        heads = slice(first, first + step)
        out[:, heads] = _ranked(features[:, heads], reference[:, heads], dim=2)
    return out


def _ranked(features: Tensor, reference: Tensor, dim: int) -> Tensor:
    """Rank by rank along `dim`."""
    order = features.argsort(dim=dim, stable=True)
    return torch.empty_like(features).scatter_(dim, order, reference.sort(dim).values.to(features.dtype))
