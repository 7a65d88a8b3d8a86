"""Guidance that acts on attention, in one sampling run: which edits it makes of which calls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.base import Edit, EditsAttention, Recording
from ..core.guidance.part import RunPart
from ..core.guidance.scene import GridScene, Spans
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import PromptBinding
from .editing import KEPT
from .session import PERTURBED, Noted

__all__ = ["AttentionGuidance", "StepVariance"]


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


class AttentionGuidance(Noted):
    """One guidance in one run: an editor.

    Args:
        grid: the token grid of the whole clip. It may be set later, before the first call.
        steps: of the run, where it is a whole schedule; `begin` says it of any other, before the first call.
        token: the name of the second prediction that it acts in, where it acts in one (`AttentionCall.extra`).

    `notes` say what could not be steered; `variances` what mask normalisation did. `away`: conditional - perturbed of
    the last second prediction, where the host keeps it.
    """

    title: ClassVar[str] = "guidance"

    @property
    def calls_apart(self) -> int:
        """How many calls of a forward are asked about one by one though they run as one: their edits are remembered."""
        return 1

    def __init__(
        self, guidance: EditsAttention, grid: Grid | None = None, steps: int = 1, token: Hashable = None
    ) -> None:
        self.guidance, self.grid, self.token = guidance, grid, token
        self.part = RunPart.all_of(steps)
        self.away: Tensor | None = None
        self.notes: list[str] = []
        self._scenes: dict[tuple[int, int], tuple[GridScene, MaskTracks | None, PromptBinding | None]] = {}
        self._told: dict[tuple[int, int], tuple[MaskTracks | None, PromptBinding | None]] = {}
        self._edits: dict[Hashable, Edit | None] = {}
        self._recorded: dict[Hashable, Edit] = {}
        self._sums: dict[int, tuple[float, list[Tensor]]] = {}
        self._records: dict[int, Recording] = {}
        self.listeners: list[Recording] = []  # told of each call under mask normalisation, rows of a batch in order

    def begin(self, part: RunPart) -> None:
        """A run begins."""
        self.part = part
        told = [
            *self.guidance.collapses(part.steps),
            *part.told([self.strength(i) != 0 for i in range(len(part.places))]),
        ]
        self.notes += [note for note in told if note not in self.notes]

    def strength(self, step: int) -> float:
        """Of a step of the run."""
        return self.guidance.at(self.part.place(step), self.part.steps)

    def wants(self, site: AttentionSite) -> bool:
        return not self.guidance.idle and any(self._parts(site))

    def _parts(self, site: AttentionSite) -> tuple[bool, bool]:
        """Whether attention to words, and to the video, is edited at a site."""
        layers = self.guidance.layers
        return layers.acts_on_text(site), self.guidance.edits_video and layers.acts_on_video(site)

    def edits(self, call: AttentionCall) -> Sequence[Edit | None]:
        if self.guidance.where == "prediction" and call.extra.get(PERTURBED) != self.token:
            return ()
        strength = self.strength(call.step)
        if strength == 0:
            return ()
        return [self._edit(call.at(place), row, strength) for place, row in enumerate(call.rows)]

    def finished(self) -> None:
        self.away = None
        self._scenes.clear()
        self._told.clear()
        self._edits.clear()
        self._recorded.clear()

    def figures(self) -> list[str]:
        """What was measured, a line each."""
        return [
            f"step {at.step}, sigma {at.sigma:.3f}: variance of the attention output {at.masked:.4g} masked, "
            f"{at.unmasked:.4g} unmasked, {at.matched:.4g} matched"
            for at in self.variances()
        ]

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
        if guidance.fills and row.text_rows and (binding is None or not binding.captions):
            return self._filled(call, row.text_rows, strength)
        if row.branch != "cond" and not guidance.steers_uncond:
            return None
        whole = not (guidance.needs_tracks or guidance.needs_words)
        tracks = row.tracks if guidance.needs_tracks else None
        if (guidance.needs_tracks and tracks is None) or (guidance.needs_words and binding is None):
            return None
        text, video = self._parts(call.site)
        text = text and (binding is not None or whole)
        if not (text or video):
            return None
        if not whole:
            self._tell(row.tracks, binding)
        spans = Spans.of(call)
        who = (0, 0) if whole else (id(tracks), id(binding))  # all of the text and video is the same for every row
        filled = row.text_rows if guidance.fills else 0
        key = (*who, spans, call.frame_index, call.grid, strength, text, video, filled)
        keep = max(KEPT, 4 * len(call.rows)) * self.calls_apart
        if key not in self._edits:
            if len(self._edits) >= keep:
                self._edits.clear()
            with torch.inference_mode(False):  # regions are constants that gradients may save
                scene = None if whole else self._scene(tracks, binding).scene(call)
                self._edits[key] = guidance.edit(scene, spans, strength, text, video)
                if filled and text:
                    self._edits[key] = _together(self._edits[key], guidance.edit_filled(spans, filled, strength))
        edit = self._edits[key]
        if edit is None or edit.match is None:
            return edit
        at = (key, call.step)  # what is recorded belongs to a step
        if at not in self._recorded:
            if len(self._recorded) >= keep:
                self._recorded.clear()
            self._recorded[at] = replace(edit, record=self._recording(call.step, call.sigma))
        return self._recorded[at]

    def _filled(self, call: AttentionCall, rows: int, strength: float) -> Edit | None:
        """Of a batch row whose text the host brought to the length of another prompt."""
        if not self._parts(call.site)[0] or call.text_k is None:
            return None
        spans = Spans.of(call)
        key = ("filled", spans, rows)
        if key not in self._edits:
            with torch.inference_mode(False):
                self._edits[key] = self.guidance.edit_filled(spans, rows, strength)
        return self._edits[key]

    def _tell(self, tracks: MaskTracks | None, binding: PromptBinding | None) -> None:
        """What is to be said of a prompt, once."""
        key = (id(tracks), id(binding))
        if key not in self._told:
            assert self.grid is not None
            self._told[key] = tracks, binding  # holds both, so that nothing else gets their ids
            self.notes += [note for note in self.guidance.told(self.grid, binding, tracks) if note not in self.notes]

    def _scene(self, tracks: MaskTracks | None, binding: PromptBinding | None) -> GridScene:
        key = (id(tracks), id(binding))
        if key not in self._scenes:
            assert self.grid is not None
            scene = GridScene(self.grid, tracks, binding)
            self._scenes[key] = (scene, tracks, binding)  # holds both, so that nothing else gets their ids
            self.notes += [note for note in scene.notes if note not in self.notes]
        return self._scenes[key][0]

    def _recording(self, step: int, sigma: float) -> Recording:
        """One for each step, so that rows of a batch that are recorded together can be told."""

        def record(masked: Tensor, unmasked: Tensor, matched: Tensor) -> None:
            for told in self.listeners:
                told(masked, unmasked, matched)
            values = [_variance(t.detach()) for t in (masked, unmasked, matched)]
            self._sums.setdefault(step, (sigma, []))[1].append(torch.stack(values))

        return self._records.setdefault(step, record)


def _together(one: Edit | None, other: Edit | None) -> Edit | None:
    """Two edits of regions in one."""
    if one is None or other is None:
        return one or other
    assert one.layout is not None
    assert other.layout is not None
    return replace(one, layout=one.layout.plus(other.layout))


def _variance(values: Tensor) -> Tensor:
    """(B,) float32 of all values of each row of (B, H, N, D), without a copy of them: a sum and a norm of each channel
    in float32, put together in float64."""
    kind = torch.float64 if values.dtype == torch.float64 else torch.float32
    sums = values.sum(2, dtype=kind).double()
    norms = torch.linalg.vector_norm(values, dim=2, dtype=kind).double()
    count = values[0].numel()
    mean = sums.flatten(1).sum(1) / count
    return (norms.square().flatten(1).sum(1) / count - mean.square()).clamp_min(0).float()
