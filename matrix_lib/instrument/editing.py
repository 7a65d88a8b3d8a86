"""Runs attention calls with the edits of several editors combined.

B batch, H heads, Nq / Nk query / key tokens, D head size, S video tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..core.attention.biased import RowLabels, attend, attend_both, attend_rows, joinable, labelled, row_labels
from ..core.attention.masks import batch_part
from ..core.attention.matching import Axis, match_distribution
from ..core.attention.regions import LabelColumns, RegionLayout, label_columns
from ..core.guidance.base import Edit
from ..core.sites import AttentionCall

__all__ = ["EditRunner", "Edited"]

KEPT = 128  # compositions and edits remembered at a time, at least; batches of many clips remember more
_STACKS = 6  # label columns of whole batches remembered at a time
_NOTE = "attention is shown as guidance steered it, on the layers and steps where it did"
# A slice of the batch as the host itself would run it: output (b, H, Nq, D) and log-sum-exp or None.
HostRows = Callable[[slice], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class _Composed:
    """All edits of a batch row in one. `base`: those that the matched output is compared with."""

    layout: RegionLayout | None
    columns: LabelColumns | None
    base: RegionLayout | None
    matching: Edit | None
    _joins: dict[Any, bool] = field(default_factory=dict, repr=False)
    _labels: dict[Any, tuple[Tensor, Tensor] | None] = field(default_factory=dict, repr=False)

    def labels(self, call: AttentionCall) -> tuple[Tensor, Tensor] | None:
        """The bias as columns beside q and k; made once."""
        name = (call.q.dtype, call.q.device, call.scale)
        if name not in self._labels:
            self._labels[name] = label_columns(self.layout, self.columns, call.q, call.scale)
        return self._labels[name]

    def joins(self, call: AttentionCall) -> bool:
        """Whether it can run in one pass with other rows of the batch."""
        grad = torch.is_grad_enabled() and (call.q.requires_grad or call.k.requires_grad)
        name = (call.q.shape[2:], call.k.shape[2], call.q.dtype, grad)
        if name not in self._joins:
            self._joins[name] = joinable(self.layout, self.columns, call.q, call.k)
        return self._joins[name]

    def run(self, call: AttentionCall, part: slice) -> tuple[Tensor, Tensor]:
        q, k, v, mask = call.q[part], call.k[part], call.v[part], batch_part(call.mask, part)
        if self.matching is None or self.matching.match is None:
            return attend(q, k, v, call.scale, self.layout, columns=self.columns, mask=mask)
        assert call.video_q is not None
        out, lse, plain = attend_both(q, k, v, call.scale, self.layout, self.base, columns=self.columns, mask=mask)
        whole, told = _matched(out, plain, call.video_q, self.matching.match)
        if self.matching.record is not None:
            self.matching.record(*told)
        return whole, lse


@dataclass(frozen=True, eq=False)
class _Part:
    """Batch rows that ran under the same edits, or as the host runs them; lse (b, H, Nq) or None."""

    composed: _Composed | None
    rows: slice
    lse: Tensor | None


@dataclass(frozen=True, eq=False)
class Edited:
    """A call that ran edited: output (B, H, Nq, D)."""

    out: Tensor
    _parts: tuple[_Part, ...]

    def seen(self, call: AttentionCall) -> list[tuple[AttentionCall, Tensor | None]]:
        """The call for observers, and the log-sum-exp (B, H, Nq) of its rows as they ran, or None.

        Batch rows that ran under different edits are calls of their own, with their bias as `labels`. Where gradients
        are recorded it is one call: there label columns on q and k make its plain logits the edited ones."""
        if torch.is_grad_enabled() and (call.q.requires_grad or call.k.requires_grad):
            return [(self._widened(call), self.lse)]
        shown = []
        for part in self._parts:
            one = call.part(part.rows)
            if part.composed is not None:
                one = replace(one, labels=part.composed.labels(call), extra={**call.extra, "edited": _NOTE})
            shown.append((one, part.lse))
        return shown

    @property
    def lse(self) -> Tensor | None:
        """(B, H, Nq) of all rows; None where it is not known for some."""
        known = [part.lse.float() for part in self._parts if part.lse is not None]
        return torch.cat(known) if len(known) == len(self._parts) else None

    def _widened(self, call: AttentionCall) -> AttentionCall:
        queries, keys = [], []
        for part in self._parts:
            q, k = call.q[part.rows], call.k[part.rows]
            if part.composed is not None:
                q, k = labelled(q, k, call.scale, part.composed.layout, part.composed.columns)
            queries.append(q)
            keys.append(k)
        width = max(q.shape[-1] for q in queries)
        q, k = (
            torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[-1])) for t in parts])
            for parts in (queries, keys)
        )
        return replace(call, q=q, k=k, extra={**call.extra, "edited": _NOTE})


@dataclass(frozen=True, eq=False)
class _Rows:
    """Batch rows with edits of their own that run in one pass; see `core.region_rows`."""

    rows: tuple[_Composed, ...]
    labels: RowLabels
    base: RowLabels | None

    def run(self, call: AttentionCall, part: slice, host_rows: HostRows) -> tuple[Tensor, Tensor]:
        q, k, v = call.q[part], call.k[part], call.v[part]
        out, lse = attend_rows(q, k, v, call.scale, self.labels)
        first = self.rows[0].matching
        if first is None or first.match is None:
            return out, lse
        assert call.video_q is not None
        plain = host_rows(part)[0] if self.base is None else attend_rows(q, k, v, call.scale, self.base)[0]
        whole, told = _matched(out, plain, call.video_q, first.match)
        records = [row.matching.record if row.matching is not None else None for row in self.rows]
        for record, group in groupby(range(len(records)), records.__getitem__):
            if record is not None:
                rows = list(group)
                record(*(each[rows[0] : rows[-1] + 1] for each in told))
        return whole, lse


class EditRunner:
    """Runs edited calls of one sampling run; remembers how edits combine, which is the same for every layer."""

    def __init__(self) -> None:
        self._known: dict[tuple[Edit, ...], _Composed] = {}
        self._stacks: dict[tuple[Any, ...], _Rows] = {}

    def run(self, call: AttentionCall, edits: Sequence[Sequence[Edit | None]], host_rows: HostRows) -> Edited:
        """A call under the edits of several editors (each one entry per batch row)."""
        keep = max(KEPT, 4 * len(call.rows))
        of_row = [self._compose(tuple(e for e in row if e is not None), keep) for row in zip(*edits, strict=True)]
        parts: list[tuple[_Composed | None, slice]] = []
        for _, run in groupby(range(len(of_row)), lambda row: id(of_row[row])):
            rows = list(run)
            parts.append((of_row[rows[0]], slice(rows[0], rows[-1] + 1)))
        outs: list[Tensor] = []
        shown: list[_Part] = []
        for group in _together(call, parts):
            composed, part = group[0][0], slice(group[0][1].start, group[-1][1].stop)
            if len(group) > 1:
                every = tuple(one for one, rows in group if one is not None for _ in range(rows.start, rows.stop))
                some, lse = self._stack(call, every).run(call, part, host_rows)
            else:
                some, lse = host_rows(part) if composed is None else composed.run(call, part)
            for one, place in group:
                mine = slice(place.start - part.start, place.stop - part.start)
                shown.append(_Part(one, place, None if lse is None else lse[mine]))
            outs.append(some)
        return Edited(_joined(outs), tuple(shown))

    def _stack(self, call: AttentionCall, rows: tuple[_Composed, ...]) -> _Rows:
        name = (*map(id, rows), call.q.shape[2:], call.q.dtype, call.q.device, call.scale)
        if name not in self._stacks:
            if len(self._stacks) >= _STACKS:
                self._stacks.clear()
            matched = rows[0].matching is not None
            biased = matched and (rows[0].base is not None or rows[0].columns is not None)
            labels = row_labels([(row.layout, row.columns) for row in rows], call.q, call.scale)
            base = row_labels([(row.base, row.columns) for row in rows], call.q, call.scale) if biased else None
            self._stacks[name] = _Rows(rows, labels, base)
        return self._stacks[name]

    def _compose(self, edits: tuple[Edit, ...], keep: int) -> _Composed | None:
        if not edits:
            return None
        if edits not in self._known:
            if len(self._known) >= keep:
                self._known.clear()
            with torch.inference_mode(False):
                self._known[edits] = _combine(edits)
        return self._known[edits]


def _joined(outs: Sequence[Tensor]) -> Tensor:
    """Outputs of some rows each (b, H, N, D) as that of all, with heads inside of tokens: what hosts make of it is a
    view."""
    if len(outs) == 1:
        return outs[0]
    if any(out.requires_grad for out in outs):
        return torch.cat([*outs])
    b, (_, h, n, d) = sum(map(len, outs)), outs[0].shape
    whole = outs[0].new_empty(b, n, h, d).transpose(1, 2)
    for out, rows in zip(outs, whole.split([len(out) for out in outs]), strict=True):
        rows.copy_(out)
    return whole


def _matched(out: Tensor, plain: Tensor, video: tuple[int, int], axis: Axis) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output with its video tokens matched to those of the plain one; these tokens masked, unmasked, matched."""
    tokens = slice(video[0], sum(video))
    masked, unmasked = out[:, :, tokens], plain[:, :, tokens]
    if out.requires_grad:
        matched = match_distribution(masked, unmasked, axis)
        whole = torch.cat([out[:, :, : tokens.start], matched, out[:, :, tokens.stop :]], 2)
    else:
        whole = torch.empty_like(out)
        matched = match_distribution(masked, unmasked, axis, into=whole[:, :, tokens])
        for rest in (slice(0, tokens.start), slice(tokens.stop, None)):
            whole[:, :, rest] = out[:, :, rest]
    return whole, (masked, unmasked, matched)


def _together(
    call: AttentionCall, parts: Sequence[tuple[_Composed | None, slice]]
) -> list[list[tuple[_Composed | None, slice]]]:
    """Neighbouring parts of a batch that can run in one pass, side by side."""

    def kind(at: int) -> Any:
        composed = parts[at][0]
        if composed is None or call.mask is not None or not composed.joins(call):
            return at
        match = composed.matching.match if composed.matching is not None else None
        return match, match is not None and (composed.base is not None, composed.columns is not None)

    return [[parts[at] for at in group] for _, group in groupby(range(len(parts)), kind)]


def _combine(edits: tuple[Edit, ...]) -> _Composed:
    columns: LabelColumns | None = None
    for edit in edits:
        if edit.columns is not None:
            columns = edit.columns if columns is None else columns.plus(edit.columns)
    matching = [edit for edit in edits if edit.match is not None]
    base = _sum(edit.layout for edit in edits if edit.match is None)
    return _Composed(_sum(edit.layout for edit in edits), columns, base, matching[-1] if matching else None)


def _sum(layouts: Any) -> RegionLayout | None:
    total: RegionLayout | None = None
    for layout in layouts:
        if layout is not None:
            total = layout if total is None else total.plus(layout)
    return total
