"""Biased attention for a batch whose rows have regions of their own, in one pass.

`regions.attend` takes one layout for a whole batch. Where rows differ and sequences are short, starting kernels for one
row after another costs more than the attention itself: here every row brings its own label columns, padded to one
width.

B batch, H heads, Nq / Nk query / key tokens, D head size, R label columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .attention import row_lse, sdpa_with_lse
from .regions import _SHORT, LabelColumns, RegionLayout

__all__ = ["RowBias", "RowLabels", "attend_rows", "joinable", "row_labels"]

RowBias = tuple[RegionLayout | None, LabelColumns | None]
RowLabels = tuple[Tensor, Tensor]
_WIDEST = 248  # head size with its labels, up to which the fused kernels go


def joinable(layout: RegionLayout | None, columns: LabelColumns | None, q: Tensor, k: Tensor) -> bool:
    """Whether one row's bias can be label columns of a short call: they know no zeroed probabilities and no query that
    looks at nothing."""
    if q.shape[2] * k.shape[2] > _SHORT or q.element_size() > 4:
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return False
    width = q.shape[-1] + (columns.query.shape[1] if columns is not None else 0)
    if layout is not None:
        if layout.zeroed is not None and bool(layout.zeroed.any()):
            return False
        used = torch.bincount(layout.key, minlength=layout.bias.shape[1]) > 0
        blind = (layout.bias[:, used] == float("-inf")).all(1)
        if bool(blind[layout.query].any()):
            return False
        width += layout.bias.shape[0] * (1 if q.element_size() > 2 else 2)
    return width <= _WIDEST


def row_labels(rows: Sequence[RowBias], q: Tensor, scale: float) -> RowLabels:
    """Label columns of every batch row, (B, 1, Nq, R) and (B, 1, Nk, R) in q's dtype, padded with zeros so that
    head size and R together are a multiple of 8, as kernels like it."""
    query, key = [], []
    for layout, columns in rows:
        parts = [part for part in (columns, layout._labels(q, scale) if layout is not None else None) if part]
        query.append(torch.cat([part.query.to(q.device) for part in parts], 1))
        key.append(torch.cat([part.key.to(q.device) for part in parts], 1) / scale)
    widest = max(labels.shape[1] for labels in query)
    widest += -(q.shape[-1] + widest) % 8

    def stack(labels: list[Tensor]) -> Tensor:
        padded = [torch.nn.functional.pad(one, (0, widest - one.shape[1])).to(q.dtype) for one in labels]
        return torch.stack(padded).unsqueeze(1)

    return stack(query), stack(key)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, labels: RowLabels) -> tuple[Tensor, Tensor]:
    """Biased attention with the `row_labels` of each batch row: output (B, H, Nq, D) and the log-sum-exp of the biased
    rows (B, H, Nq), float32. Inference only."""
    wide = labels[0].shape[-1]
    q, k = (torch.cat([t, label.expand(-1, t.shape[1], -1, -1)], -1) for t, label in zip((q, k), labels))
    out, lse = sdpa_with_lse(q, k, torch.nn.functional.pad(v, (0, wide)), scale=scale)
    if lse is None:
        lse = row_lse(q, k, scale)
    return out[..., : v.shape[-1]], lse.float()
