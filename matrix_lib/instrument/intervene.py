"""Composes what may edit a call, and turns guidance into edits of a run.

B batch, H heads, Nq / Nk query / key tokens, D head size, S video tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..core.binding import PromptBinding
from ..core.grid import Grid
from ..core.guidance import Guidance, Partition, Perturbation, RegionBias
from ..core.matching import match_distribution
from ..core.regions import LabelColumns, RegionLayout, attend, labelled
from ..core.scenes import Scene, Spans, Stage, bias_columns, bias_layout, partition_layout, perturbed_layout
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks import MaskTracks
from .session import Edit, Recording

__all__ = ["PERTURBED", "Composer", "Edited", "Intervener", "StepVariance", "batch_part"]

PERTURBED = "perturbed"  # AttentionCall.extra: which second prediction a call belongs to
_KEPT = 128  # compositions and edits remembered at a time

# A slice of the batch as the host itself would run it: output (b, H, Nq, D) and log-sum-exp or None.
HostRows = Callable[[slice], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class _Composed:
    """All edits of a batch row in one. `base`: those that the matched output is compared with."""

    layout: RegionLayout | None
    columns: LabelColumns | None
    base: RegionLayout | None
    matching: Edit | None

    def run(self, call: AttentionCall, part: slice) -> tuple[Tensor, Tensor]:
        q, k, v, mask = call.q[part], call.k[part], call.v[part], batch_part(call.mask, part)
        out, lse = attend(q, k, v, call.scale, self.layout, columns=self.columns, mask=mask)
        if self.matching is None or self.matching.match is None:
            return out, lse
        assert call.video_q is not None
        first, count = call.video_q
        plain, _ = attend(q, k, v, call.scale, self.base, columns=self.columns, mask=mask)
        masked, unmasked = out[:, :, first : first + count], plain[:, :, first : first + count]
        matched = match_distribution(masked, unmasked, self.matching.match)
        if self.matching.record is not None:
            self.matching.record(masked, unmasked, matched)
        return torch.cat([out[:, :, :first], matched, out[:, :, first + count :]], 2), lse


@dataclass(frozen=True, eq=False)
class Edited:
    """A call that ran edited: output (B, H, Nq, D), log-sum-exp (B, H, Nq) of the edited rows or None."""

    out: Tensor
    lse: Tensor | None
    _call: AttentionCall
    _parts: tuple[tuple[_Composed | None, slice], ...]

    def seen(self) -> AttentionCall:
        """The call for observers: label columns on q and k make its plain logits the edited ones."""
        queries, keys = [], []
        for composed, part in self._parts:
            q, k = self._call.q[part], self._call.k[part]
            if composed is not None:
                q, k = labelled(q, k, self._call.scale, composed.layout, composed.columns)
            queries.append(q)
            keys.append(k)
        width = max(q.shape[-1] for q in queries)
        q, k = (
            torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[-1])) for t in parts])
            for parts in (queries, keys)
        )
        note = "attention is shown as guidance steered it, on the layers and steps where it did"
        return replace(self._call, q=q, k=k, extra={**self._call.extra, "edited": note})


class Composer:
    """Runs edited calls of one sampling run; remembers how edits combine, which is the same for every layer."""

    def __init__(self) -> None:
        self._known: dict[tuple[Edit, ...], _Composed] = {}

    def run(self, call: AttentionCall, edits: Sequence[Sequence[Edit | None]], host_rows: HostRows) -> Edited:
        """A call under the edits of several editors (each one entry per batch row)."""
        of_row = [self._compose(tuple(e for e in row if e is not None)) for row in zip(*edits, strict=True)]
        parts: list[tuple[_Composed | None, slice]] = []
        for _, run in groupby(range(len(of_row)), lambda row: id(of_row[row])):
            rows = list(run)
            parts.append((of_row[rows[0]], slice(rows[0], rows[-1] + 1)))
        outs: list[Tensor] = []
        norms: list[Tensor | None] = []
        for composed, part in parts:
            out, lse = host_rows(part) if composed is None else composed.run(call, part)
            outs.append(out)
            norms.append(lse)
        known = [norm.float() for norm in norms if norm is not None]
        lse = torch.cat(known) if len(known) == len(norms) else None
        return Edited(outs[0] if len(outs) == 1 else torch.cat(outs), lse, call, tuple(parts))

    def _compose(self, edits: tuple[Edit, ...]) -> _Composed | None:
        if not edits:
            return None
        if edits not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            with torch.inference_mode(False):
                self._known[edits] = _combine(edits)
        return self._known[edits]


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


@dataclass(frozen=True)
class StepVariance:
    """Variance of attention outputs at one step, mean over the calls: all values of a batch row's video tokens."""

    step: int
    sigma: float
    calls: int
    masked: float
    unmasked: float
    matched: float


class Intervener:
    """One guidance in one run: an editor.

    Args:
        grid: the token grid of the whole clip. It and `steps`, the sampling steps of the run, may be set later, before
            the first call.
        token: for a `Perturbation`, the name of the second prediction that it acts in (`AttentionCall.extra`).

    `notes` say what could not be steered; `variances` what mask normalisation did.
    """

    def __init__(
        self,
        guidance: Guidance,
        grid: Grid | None = None,
        steps: int = 1,
        token: Hashable = None,
        done: Callable[[Intervener], None] | None = None,
    ) -> None:
        self.guidance, self.grid, self.steps, self.token = guidance, grid, steps, token
        self.notes: list[str] = []
        self._done = done
        self._stages: dict[tuple[int, int], tuple[Stage, MaskTracks, PromptBinding | None]] = {}
        self._edits: dict[Hashable, Edit | None] = {}
        self._sums: dict[int, tuple[float, list[Tensor]]] = {}

    def wants(self, site: AttentionSite) -> bool:
        layers = self.guidance.layers
        return not self.guidance.idle and (layers.words(site) or layers.tracks(site))

    def edits(self, call: AttentionCall) -> Sequence[Edit | None]:
        if isinstance(self.guidance, Perturbation) and call.extra.get(PERTURBED) != self.token:
            return ()
        strength = self.guidance.strength(call.step, self.steps)
        if strength == 0:
            return ()
        return [self._edit(call, row, strength) for row in call.rows]

    def finished(self) -> None:
        self._stages.clear()
        self._edits.clear()
        if self._done is not None:
            self._done(self)

    def variances(self) -> list[StepVariance]:
        """What mask normalisation did, per step (IVG-DA, figure 2); empty without it."""
        found = []
        for step, (sigma, sums) in sorted(self._sums.items()):
            masked, unmasked, matched = torch.stack(sums).float().mean(0).tolist()
            found.append(StepVariance(step, sigma, len(sums), masked, unmasked, matched))
        return found

    def _edit(self, call: AttentionCall, row: BatchRow, strength: float) -> Edit | None:
        guidance = self.guidance
        binding = row.binding if row.branch == "cond" else None
        if row.branch != "cond" and (isinstance(guidance, Perturbation) or guidance.branches != "both"):
            return None
        whole = isinstance(guidance, Perturbation) and not guidance.bound
        if row.tracks is None and not whole:
            return None
        words = guidance.layers.words(call.site) and (binding is not None or whole)
        tracks = guidance.layers.tracks(call.site)
        if not (words or tracks):
            return None
        spans = Spans.of(call)
        # what is recorded belongs to a step
        step = call.step if isinstance(guidance, Partition) and guidance.match is not None else None
        key = (id(row.tracks), id(binding), spans, call.frame_index, call.grid, strength, words, tracks, step)
        if key not in self._edits:
            if len(self._edits) >= _KEPT:
                self._edits.clear()
            with torch.inference_mode(False):  # regions are constants that gradients may save
                scene = None if row.tracks is None else self._stage(row.tracks, binding).scene(call)
                self._edits[key] = self._make(call, scene, spans, strength, words, tracks)
        return self._edits[key]

    def _stage(self, tracks: MaskTracks, binding: PromptBinding | None) -> Stage:
        key = (id(tracks), id(binding))
        if key not in self._stages:
            assert self.grid is not None
            stage = Stage(self.grid, tracks, binding)
            self._stages[key] = (stage, tracks, binding)  # holds both, so that nothing else gets their ids
            self.notes += [note for note in stage.notes if note not in self.notes]
        return self._stages[key][0]

    def _make(
        self, call: AttentionCall, scene: Scene | None, spans: Spans, strength: float, words: bool, tracks: bool
    ) -> Edit | None:
        guidance = self.guidance
        if isinstance(guidance, Perturbation):
            layout = perturbed_layout(scene, spans, guidance, words, tracks)
            return None if layout.neutral else Edit(layout)
        assert scene is not None
        if isinstance(guidance, RegionBias) and guidance.soft:
            columns = bias_columns(scene, spans, guidance, strength, words, tracks)
            return None if columns is None or not (columns.query.any() and columns.key.any()) else Edit(None, columns)
        if isinstance(guidance, RegionBias):
            layout = bias_layout(scene, spans, guidance, strength, words, tracks)
            return None if layout.neutral else Edit(layout)
        layout = partition_layout(scene, spans, guidance, words, tracks)
        if layout.neutral:
            return None
        return Edit(layout, None, guidance.match, self._recording(call.step, call.sigma))

    def _recording(self, step: int, sigma: float) -> Recording:
        def record(masked: Tensor, unmasked: Tensor, matched: Tensor) -> None:
            values = [t.detach().float().var(unbiased=False) for t in (masked, unmasked, matched)]
            self._sums.setdefault(step, (sigma, []))[1].append(torch.stack(values))

        return record


def batch_part(mask: Tensor | None, part: slice) -> Tensor | None:
    """The rows of a mask that belong to a slice of the batch."""
    return mask[part] if mask is not None and mask.ndim >= 3 and mask.shape[0] > 1 else mask
