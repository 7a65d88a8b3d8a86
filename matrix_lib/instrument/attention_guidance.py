"""Guidance that acts on attention, in one sampling run: which edits it makes of which calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.kinds import Guidance
from ..core.guidance.partition import partition_layout
from ..core.guidance.perturbation import Perturbation, perturbed_layout
from ..core.guidance.region_bias import RegionBias, bias_columns, bias_layout
from ..core.guidance.scene import Scene, Spans, Stage
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import PromptBinding
from .editing import _KEPT
from .session import Edit, Recording

__all__ = ["PERTURBED", "Intervener", "StepVariance"]

PERTURBED = "perturbed"  # AttentionCall.extra: which second prediction a call belongs to


@dataclass(frozen=True)
class StepVariance:
    """Variance of attention outputs at one step: all values of a batch row's video tokens, mean over the rows of every
    call. `calls` counts those rows."""

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
        self._recorded: dict[Hashable, Edit] = {}
        self._sums: dict[int, tuple[float, list[Tensor]]] = {}
        self._records: dict[int, Recording] = {}

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
        self._recorded.clear()
        if self._done is not None:
            self._done(self)

    def variances(self) -> list[StepVariance]:
        """What mask normalisation did, per step (IVG-DA, figure 2); empty without it."""
        found = []
        for step, (sigma, sums) in sorted(self._sums.items()):
            every = torch.cat(sums, 1).float()
            masked, unmasked, matched = every.mean(1).tolist()
            found.append(StepVariance(step, sigma, every.shape[1], masked, unmasked, matched))
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
        who = (0, 0) if whole else (id(row.tracks), id(binding))  # all of the text and video is the same for every row
        key = (*who, spans, call.frame_index, call.grid, strength, words, tracks)
        keep = max(_KEPT, 4 * len(call.rows))
        if key not in self._edits:
            if len(self._edits) >= keep:
                self._edits.clear()
            with torch.inference_mode(False):  # regions are constants that gradients may save
                scene = None if whole or row.tracks is None else self._stage(row.tracks, binding).scene(call)
                self._edits[key] = self._make(call, scene, spans, strength, words, tracks)
        edit = self._edits[key]
        if edit is None or edit.match is None:
            return edit
        at = (key, call.step)  # what is recorded belongs to a step
        if at not in self._recorded:
            if len(self._recorded) >= keep:
                self._recorded.clear()
            self._recorded[at] = replace(edit, record=self._recording(call.step, call.sigma))
        return self._recorded[at]

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
        return Edit(layout, None, guidance.match)

    def _recording(self, step: int, sigma: float) -> Recording:
        """One for each step, so that rows of a batch that are recorded together can be told."""

        def record(masked: Tensor, unmasked: Tensor, matched: Tensor) -> None:
            values = [t.detach().float().flatten(1).var(1, unbiased=False) for t in (masked, unmasked, matched)]
            self._sums.setdefault(step, (sigma, []))[1].append(torch.stack(values))

        return self._records.setdefault(step, record)
