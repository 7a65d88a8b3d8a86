"""Whose sound it is: what sound attends to while a model samples, over time. For models that make sound with the clip.

L layers, St steps, E entities, A audio tokens (moments of the sound, in order).

Two kinds. "a2t": for every moment the probability of an entity's words, mean over its words and over heads. "a2v": for
every moment the share of its attention to the clip that lies on an instance's mask, in all frames, mean over heads;
chance is the mask's share of the clip's tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.attention.pooled_maps import Pool, pooled_columns
from ..core.grid import Grid
from ..core.sites import AttentionCall, AttentionSite, BatchRow
from ..core.words.binding import PromptBinding
from .session import BaseObserver

__all__ = ["SoundRecorder", "SoundStream"]

_KINDS = {"sound_text": "a2t", "sound_video": "a2v"}


@dataclass
class SoundStream:
    """The sound of one prompt and one sample of it.

    values: by kind, (L, St, E, A) float32; NaN where nothing was seen. names: by kind, along E. chance: of "a2v", along
    E. layers: along L.
    """

    key: Hashable
    binding: PromptBinding
    layers: tuple[int, ...]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    chance: tuple[float, ...] = ()

    def over_time(self, kind: str, layers: Sequence[int] | None = None, steps: Sequence[int] | None = None) -> Tensor:
        """(E, A): mean over layers (numbers of the network) and steps, what was not seen left out.

        Raises ValueError, listing what there is, for a kind or layers that were not recorded.
        """
        if kind not in self.values:
            raise ValueError(f"this run holds no {kind} of its sound: it has {', '.join(self.values) or 'none'}")
        if unknown := sorted(set(layers or ()) - set(self.layers)):
            raise ValueError(f"layers {unknown} were not recorded; there are {list(self.layers)}")
        at = [self.layers.index(layer) for layer in layers or self.layers]
        found = self.values[kind][at]
        return (found if steps is None else found[:, list(steps)]).nanmean((0, 1))


class SoundRecorder(BaseObserver):
    """An observer that builds a `SoundStream` for every prompt and sample with bound words.

    Args:
        sites: every attention site of the model. grid: the token grid of the whole clip. steps: of the run.
        layers: global layer numbers, None for all.

    Raises ValueError for a model without sound, and for layers that it does not have.
    """

    def __init__(
        self, sites: Sequence[AttentionSite], grid: Grid, steps: int, layers: Sequence[int] | None = None
    ) -> None:
        have = {site.layer for site in sites if site.has_sound}
        if not have:
            raise ValueError("this model makes no sound beside its clip, so there is nothing to listen to: use LTX-2")
        if unknown := sorted(set(layers or ()) - have):
            raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(have)}")
        self.grid, self.steps = grid, max(1, steps)
        self.layers = tuple(sorted(have if layers is None else set(layers)))
        self.notes: list[str] = []
        self._pools: dict[Hashable, dict[str, tuple[Pool, Tensor]]] = {}
        self._streams: dict[Hashable, SoundStream] = {}
        self._sums: dict[tuple[Hashable, str], tuple[Tensor, Tensor]] = {}
        self._pending: list[tuple[AttentionSite, Hashable, str, int, Tensor]] = []

    def wants(self, site: AttentionSite) -> bool:
        return site.has_sound and site.layer in self.layers

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        kind = _KINDS[call.site.kind]
        if call.frame_index is not None and kind == "a2v":
            self.note("context windows show sound a part of the clip at a time: whose sound it is is not recorded")
            return
        for index, row in enumerate(call.rows):
            if row.branch != "cond" or row.binding is None or call.sound_q is None:
                continue
            pool, weight = self._pool(row, kind)
            if not len(pool):
                continue
            part, (first, count) = slice(index, index + 1), call.sound_q
            rows = slice(first, first + count)
            mask = call.mask if call.mask is None or call.mask.shape[0] == 1 else call.mask[part]
            keys = call.text_k if kind == "a2t" else call.video_k
            assert keys is not None
            found = pooled_columns(
                call.q[part, :, rows], call.k[part], _behind(pool, keys[0]), call.scale,
                lse=None if lse is None else lse[part, :, rows],
                mask=mask if mask is None or mask.shape[-2] == 1 else mask[..., rows, :],
            )[0]  # fmt: skip
            self._pending.append((call.site, row.key, kind, call.step, found.float() * weight.to(found)[:, None]))

    def settle(self, site: AttentionSite, whole: bool) -> None:
        """As `Recorder.settle`: what was seen of a site counts once its forward has ended well."""
        mine = [each for each in self._pending if each[0] == site]
        self._pending = [each for each in self._pending if each[0] != site]
        for _, key, kind, step, values in mine if whole else ():
            at = (key, kind)
            if at not in self._sums:
                shape = (len(self.layers), self.steps, *values.shape)
                self._sums[at] = torch.zeros(shape, device=values.device), torch.zeros(shape[:2])
            sums, counts = self._sums[at]
            place = self.layers.index(site.layer), min(step, self.steps - 1)
            sums[place] += values
            counts[place] += 1

    def result(self) -> list[SoundStream]:
        """What was recorded. Raises ValueError where nothing was, and why."""
        if not self._sums:
            why = ". ".join(self.notes) or "the latent held no sound, or no conditioning carried a binding"
            raise ValueError(f"nothing of the sound was recorded: {why}")
        for (key, kind), (sums, counts) in self._sums.items():
            seen = counts[..., None, None].to(sums.device)
            made = torch.where(seen > 0, sums / seen.clamp(min=1), torch.nan).cpu()
            self._streams[key].values[kind] = made
        return list(self._streams.values())

    def _pool(self, row: BatchRow, kind: str) -> tuple[Pool, Tensor]:
        """Tokens of a row's entities, and by what their mean is multiplied."""
        if row.key not in self._pools:
            assert row.binding is not None
            self._streams[row.key] = SoundStream(row.key, row.binding, self.layers)
            self._pools[row.key] = {"a2t": self._words(row), "a2v": self._instances(row)}
        return self._pools[row.key][kind]

    def _words(self, row: BatchRow) -> tuple[Pool, Tensor]:
        assert row.binding is not None
        words = {phrase.name: phrase.rows for phrase in row.binding.phrases if phrase.rows}
        self._streams[row.key].names["a2t"] = tuple(words)
        return Pool.mean_of(words), torch.ones(len(words))

    def _instances(self, row: BatchRow) -> tuple[Pool, Tensor]:
        if row.tracks is None:
            return Pool.mean_of({}), torch.ones(0)
        on_grid = row.tracks.to_grid(self.grid, "nearest")
        inside = {name: on_grid.maps[place].flatten() > 0 for place, name in enumerate(on_grid.names)}
        tokens = {name: where.nonzero().flatten() for name, where in inside.items() if where.any()}
        stream = self._streams[row.key]
        stream.names["a2v"] = tuple(tokens)
        stream.chance = tuple(len(rows) / self.grid.size for rows in tokens.values())
        return Pool.mean_of(tokens), torch.tensor([float(len(rows)) for rows in tokens.values()])


def _behind(pool: Pool, offset: int) -> Pool:
    """The pool of keys that begin at `offset`."""
    low, high = pool.span
    return replace(pool, indices=pool.indices + offset, span=(low + offset, high + offset)) if offset else pool
