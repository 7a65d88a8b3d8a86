"""Gradient guidance of one sampling run: the alignment losses of a prediction, and the way down them.

The hook is also an observer: it collects the maps of one forward; its `forward_done` turns them into a loss and adds
its gradient, while the model is still attached (a backward pass through checkpointed blocks runs them again, and their
maps with them).

B batch, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..core.attention.pooled_maps import Pool
from ..core.grid import Grid
from ..core.guidance.gradient import GradientGuidance
from ..core.guidance.part import RunPart
from ..core.losses.batch import PoolBatch
from ..core.losses.maps import grounding_maps, propagation_maps
from ..core.losses.mask_loss import alignment_loss
from ..core.losses.targets import Targets
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import PromptBinding
from .session import BaseObserver
from .steps import StepContext

__all__ = ["GradientHook", "StopForward", "descend"]


class StopForward(Exception):  # noqa: N818 - nothing went wrong
    """Every map of a prediction is there, and what the network would go on to compute is of no use. Whoever runs the
    prediction catches it."""


class GradientHook(BaseObserver):
    """Descends the losses before each step, and observes the predictions that this takes.

    Args:
        grid: the token grid of the whole clip; may be set later, before the first call.
        sites: of the model, in the order in which they run. `StopForward` is raised behind the last one that counts.

    Hosts call `start` before each prediction, `forward_done` at the end of each of its forwards, and `end`. The hook is
    the name of its predictions. `losses` are those of each update, summed over the batch; `notes` say what could not be
    aligned.
    """

    title: ClassVar[str] = "gradient guidance"
    asks_model = True
    prefix_frames = seed = 0

    def __init__(
        self, guidance: GradientGuidance, grid: Grid | None = None, sites: Sequence[AttentionSite] = ()
    ) -> None:
        self.guidance, self.grid = guidance, grid
        self._last = next((site for site in reversed(sites) if self.wants(site)), None)
        self.notes: list[str] = []
        self.losses: list[tuple[float, float]] = []
        self._targets: dict[tuple[int, int], tuple[_Aim | None, MaskTracks, PromptBinding]] = {}
        self._maps: dict[Hashable, _Row] = {}
        self._leaf: Tensor | None = None
        self._gradient: Tensor | None = None
        self._loss: Tensor | float = 0.0
        self._backward = False

    def begin(self, x: Tensor | None, part: RunPart) -> None:
        self.losses.clear()
        told = [*self.guidance.collapses(part.steps), *part.told([self.acts(at, part.steps) for at in part.places])]
        self.notes += [note for note in told if note not in self.notes]

    def follow(self, start: int, own: Callable[[MaskTracks], MaskTracks | None]) -> None:
        """Rows of a segment carry their own part of the tracks."""

    def tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def acts(self, step: float, steps: int) -> bool:
        return self.guidance.at(step, steps) != 0

    def __call__(self, at: StepContext) -> Tensor:
        size = self.guidance.at(at.step, at.steps) * at.level.sigma
        x = at.x
        for _ in range(self.guidance.iterations):
            x = descend(x, at.gradient(self, x), size)
        return x

    def figures(self) -> list[str]:
        """What was measured, a line each."""
        return [f"step {step:g}: loss {loss:.4f}" for step, loss in self.losses]

    def wants(self, site: AttentionSite) -> bool:
        guidance = self.guidance
        layers = guidance.layers
        return bool((guidance.sga and layers.acts_on_text(site)) or (guidance.spa and layers.acts_on_video(site)))

    def start(self, leaf: Tensor) -> None:
        """A prediction at `leaf`, which requires a gradient, follows."""
        self._leaf, self._gradient, self._loss = leaf, None, 0.0
        self._maps.clear()

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        if not torch.is_grad_enabled():
            return
        for place, row in enumerate(call.rows):
            aim = self._aim(row)
            if aim is None:
                continue
            part = self._maps.setdefault((row.key, call.frame_index), _Row(aim.window(call.frame_index)))
            if self._backward:  # a block runs again: the same is computed, and the first is what counts
                part = _Row(part.aim)
            if part.aim.known.any():
                part.observe(call.row(place), self.guidance)
        if call.site == self._last and not self._backward:
            raise StopForward

    def forward_done(self, fed: Tensor, source: Tensor) -> None:
        """Adds the gradient of what was observed since the last one. `fed`: what the model was given, a leaf;
        `source`: the same as the host made it from the leaf of `start`."""
        losses = [loss for row in self._maps.values() if (loss := row.loss(self.guidance)) is not None]
        if not losses:
            self._maps.clear()
            return
        assert self._leaf is not None
        total = torch.stack(losses).sum()
        self._backward = True
        try:
            (part,) = torch.autograd.grad(total, fed)
        except BaseException:
            _let_go(fed.device)
            raise
        finally:
            self._backward = False
            self._maps.clear()
        if source is not self._leaf:
            (part,) = torch.autograd.grad(source, self._leaf, part, retain_graph=True)
        self._gradient = part if self._gradient is None else self._gradient + part
        self._loss = self._loss + total.detach()

    def end(self, step: float) -> Tensor | None:
        """The gradient of the prediction, like its leaf; None where nothing was aligned."""
        found, loss = self._gradient, self._loss
        self.forget()
        if found is not None:
            self.losses.append((step, float(loss)))
        return found

    def forget(self) -> None:
        """Drops what was observed since `start`. It has to be called where a prediction breaks off, too: maps know how
        they were made, and by whom, and Python cannot free such a circle, with all that the forward had made."""
        self._maps.clear()
        self._leaf, self._gradient, self._loss = None, None, 0.0

    def _aim(self, row: BatchRow) -> _Aim | None:
        if row.branch != "cond" or row.tracks is None or row.binding is None:
            return None
        key = id(row.tracks), id(row.binding)
        if key not in self._targets:
            assert self.grid is not None
            with torch.inference_mode(False):
                aim = self._made(row.binding, row.tracks)
            self._targets[key] = (aim, row.tracks, row.binding)  # holds both, so that nothing else gets their ids
        return self._targets[key][0]

    def _made(self, binding: PromptBinding, tracks: MaskTracks) -> _Aim | None:
        """Raises ValueError for tracks that do not fit the prompt or the clip."""
        assert self.grid is not None
        binding.check_tracks(tracks.names)
        tracks.to_grid(self.grid)
        try:
            targets = Targets.of(binding, tracks, self.grid)
        except ValueError as nothing:  # all that is left to be wrong: no instance shows, no word is bound
            self.notes.append(str(nothing))
            return None
        self.notes += [note for note in targets.notes if note not in self.notes]
        return _Aim.of(targets)


class _Aim:
    """What the maps of one prompt should be, on the clip's grid or on a window of its frames."""

    def __init__(self, words: Pool, word_masks: Tensor, queries: Pool, query_masks: Tensor, known: Tensor) -> None:
        self.words, self.queries = PoolBatch.of([words]), PoolBatch.of([queries])
        self.word_masks, self.query_masks, self.known = word_masks, query_masks, known
        self._word_pool, self._names = words, queries.names
        self._windows: dict[tuple[int, ...], _Aim] = {}

    @classmethod
    def of(cls, targets: Targets) -> _Aim:
        masks = (targets.token_masks(pool.names) for pool in (targets.words, targets.queries))
        return cls(targets.words, next(masks), targets.queries, next(masks), targets.known)

    def window(self, frames: tuple[int, ...] | None) -> _Aim:
        """The same in a window, where an instance's query tokens are those of the first frame that shows it there."""
        if frames is None:
            return self
        if frames not in self._windows:
            at = list(frames)
            shown = self.query_masks[:, at]
            size = shown[0, 0].numel() if len(shown) else 0
            tokens = {}
            for name, planes in zip(self._names, shown):
                seen = planes.flatten(1).any(1)
                if seen.any():
                    first = int(seen.long().argmax())
                    tokens[name] = torch.nonzero(planes[first].flatten() > 0)[:, 0] + first * size
            keep = [place for place, name in enumerate(self._names) if name in tokens]
            self._windows[frames] = _Aim(
                self._word_pool, self.word_masks[:, at], Pool.mean_of(tokens), shown[keep], self.known[at]
            )
        return self._windows[frames]


class _Row:
    """The maps of one row of the batch."""

    def __init__(self, aim: _Aim) -> None:
        self.aim = aim
        self.grounding: dict[int, Tensor] = {}
        self.propagation: dict[int, Tensor] = {}

    def observe(self, call: AttentionCall, guidance: GradientGuidance) -> None:
        """call: of this row alone."""
        aim, layer = self.aim, call.site.layer
        if guidance.sga and guidance.layers.acts_on_text(call.site) and aim.words.entities:
            self.grounding[layer] = grounding_maps(call, _copied(aim.words, call, guidance), guidance.scores)[0]
        if guidance.spa and guidance.layers.acts_on_video(call.site) and aim.queries.entities:
            self.propagation[layer] = propagation_maps(call, aim.queries, guidance.scores)[0]

    def loss(self, guidance: GradientGuidance) -> Tensor | None:
        parts = []
        for weight, maps, masks in (
            (guidance.sga, self.grounding, self.aim.word_masks),
            (guidance.spa, self.propagation, self.aim.query_masks),
        ):
            if maps:
                device = next(iter(maps.values())).device
                known = self.aim.known.to(device)
                parts.append(
                    weight * alignment_loss(maps, masks.to(device), scores=guidance.scores, known=known).float()
                )
        return torch.stack(parts).sum() if parts else None


def _copied(words: PoolBatch, call: AttentionCall, guidance: GradientGuidance) -> PoolBatch:
    """A word of a prompt that its host repeats beside a longer one is all of its copies."""
    own = call.rows[0].binding.length  # type: ignore[union-attr]
    copies, more = divmod(call.text_k[1] if call.text_k else 0, own)
    if copies < 2 or more:
        return words
    indices = (torch.arange(copies)[:, None] * own + words.indices).view(1, -1)
    weights = words.weights.repeat(1, copies, 1) / (copies if guidance.scores == "logits" else 1)  # a mean, or a sum
    (low, high), *_ = words.spans
    return PoolBatch(indices, weights, words.counts, ((low, high + own * (copies - 1)),))


def descend(x: Tensor, gradient: Tensor | None, size: float) -> Tensor:
    """x - size * g / rms(g), in the places and for the samples where g says anything; (B, ...)."""
    if gradient is None:
        return x
    g = gradient.detach().float()
    dims = tuple(range(1, g.ndim))
    rms = g.square().mean(dims, keepdim=True).sqrt()
    sound = rms.isfinite() & (rms > 0)
    return x - torch.where(sound, size * g / torch.where(sound, rms, 1.0), 0.0).to(x)


def _let_go(device: torch.device) -> None:
    """PyTorch holds the graph of a backward pass that failed, and all that it saved, until its next one."""
    with torch.inference_mode(False), torch.enable_grad():
        one = torch.ones((), device=device, requires_grad=True)
        torch.autograd.grad(one * one, one)
