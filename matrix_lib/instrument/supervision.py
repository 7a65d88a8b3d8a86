"""Collects the maps that the alignment losses need while a model trains, and turns them into losses.

    maps = AlignmentMaps(config, targets, step)
    with attach(transformer, Session([maps]), on_forward):
        loss = diffusion_loss(transformer(...)) + maps.alignment(decoder, t).total
        loss.backward()

Stay attached until the backward pass is over: gradient checkpointing (the non-reentrant kind, which diffusers uses)
runs blocks again, and their maps with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.losses.batch import Kind, TargetBatch, on_device
from ..core.losses.config import AlignmentConfig, TargetAwareConfig, timestep_weight
from ..core.losses.decoder import Head, MaskDecoder
from ..core.losses.flow import feature_flow, flow_loss, flow_maps, mask_flow
from ..core.losses.maps import grounding_maps, propagation_maps
from ..core.losses.mask_loss import Decode, balance, entity_losses
from ..core.losses.target_aware import target_aware_loss
from ..core.losses.targets import Targets
from ..core.sites import AttentionCall, AttentionSite
from .session import BaseObserver

__all__ = ["AlignmentMaps", "DetachedMaps", "LossParts", "TargetMaps"]

_AT_ONCE = 1 << 26  # decoded pixels that are held at a time: a few clips of a large model, or many small ones


@dataclass(frozen=True)
class LossParts:
    """`total` is what is added to the diffusion loss; `parts` are its weighted pieces by name, detached, for a log."""

    total: Tensor
    parts: dict[str, Tensor]


class _Maps(BaseObserver):
    """Maps by kind and layer, for the whole batch. The first call of a layer counts: a checkpointed block that runs
    again in the backward pass computes its maps again, but they are the same ones."""

    def __init__(
        self, targets: Sequence[Targets | None] | TargetBatch, v2t: Sequence[int], v2v: Sequence[int] = ()
    ) -> None:
        self.given = targets
        self.rows = len(targets)
        self.v2t, self.v2v = frozenset(v2t), frozenset(v2v)
        self.grounding: dict[int, Tensor] = {}  # layer: (B, E, F, h, w)
        self.propagation: dict[int, Tensor] = {}
        self.keys: dict[Head, int] = {}  # keys that the softmax of each kind runs over; the most, where rows differ
        self._alone: dict[tuple[int, int], dict[int, Tensor]] = {}  # of rows that had calls of their own
        self._batches: dict[bool, TargetBatch | None] = {}
        self._there: dict[tuple[bool, torch.device], TargetBatch] = {}

    def batch(self, pixels: bool = False) -> TargetBatch | None:
        """The targets as tensors, with masks in pixels if they are wanted; None where no row is aligned."""
        if isinstance(self.given, TargetBatch):
            return self.given if any(self.given.keep) else None
        if pixels not in self._batches:
            some = any(target is not None for target in self.given)
            self._batches[pixels] = TargetBatch.of(self.given, pixels) if some else None
        return self._batches[pixels]

    def batch_on(self, device: torch.device, pixels: bool = False) -> TargetBatch:
        """The targets there, brought once a step. Only where some row is aligned."""
        batch = self.batch(pixels)
        assert batch is not None
        if (pixels, device) not in self._there:
            self._there[pixels, device] = batch.to(device)
        return self._there[pixels, device]

    def wants(self, site: AttentionSite) -> bool:
        return (site.has_v2t and site.layer in self.v2t) or (site.has_v2v and site.layer in self.v2v)

    def _fitting(self, call: AttentionCall) -> TargetBatch | None:
        if call.q.shape[0] != self.rows and (call.place is None or call.place >= self.rows):
            raise ValueError(f"the batch has {call.q.shape[0]} rows, but there are {self.rows} targets")
        batch = self.batch()
        if batch is not None and batch.grid.shape != call.grid.shape:
            raise ValueError(f"targets are on a {batch.grid.shape} grid; this clip has {call.grid.shape}")
        return batch if batch is None else self.batch_on(call.q.device)

    def _keep(self, maps: dict[int, Tensor], call: AttentionCall, made: Tensor) -> None:
        """Maps of a layer, or of one row of it."""
        if call.place is None:
            maps.setdefault(call.site.layer, made)
        else:
            self._alone.setdefault((id(maps), call.site.layer), {}).setdefault(call.place, made)

    def _join(self, *every: dict[int, Tensor]) -> None:
        """Rows that had calls of their own become batches, where all are there."""
        for maps in every:
            for (of, layer), rows in self._alone.items():
                if of == id(maps) and len(rows) == self.rows:
                    maps.setdefault(layer, torch.cat([rows[row] for row in range(self.rows)]))

    def _seen(self) -> set[int]:
        """Layers that have given what is asked of `v2v`."""
        return set(self.propagation)

    def _asks(self, batch: TargetBatch) -> bool:
        """Whether there is anything to ask of `v2v`."""
        return bool(batch.pairs("queries"))

    def _missing(self) -> None:
        self._join(self.grounding, self.propagation)
        batch = self.batch()
        if batch is None:
            return
        v2t, v2v = self.v2t - set(self.grounding), self.v2v - self._seen()
        if (v2t and batch.pairs("words")) or (v2v and self._asks(batch)):
            raise ValueError(f"layers {sorted(v2t | v2v)} gave no map: do they exist, and is the model attached?")


class AlignmentMaps(_Maps):
    """Observer of one training step of MATRIX.

    Args:
        targets: one per row of the batch, None where a row is not aligned (a dropped prompt); or a `TargetBatch`.
        step, seed: choose the layers where the config draws them at random.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        targets: Sequence[Targets | None] | TargetBatch,
        step: int = 0,
        seed: int = 0,
    ) -> None:
        v2t = config.v2t.at(step, seed) if config.sga else ()
        v2v = config.v2v.at(step, seed) if config.spa or config.flow else ()
        super().__init__(targets, v2t, v2v)
        self.config = config
        self.flow: dict[int, Tensor] = {}  # layer: (B, F - 1, W * W, h, w)

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        config, layer, batch = self.config, call.site.layer, self._fitting(call)
        if batch is None:
            return
        if call.site.has_v2t and layer in self.v2t and batch.pairs("words"):
            with _exact(call):
                words = batch.words.at(call.place)
                made = grounding_maps(call, words, config.scores, config.direction, lse=lse) * self._joined(call)
            self.keys["grounding"] = max(self.keys.get("grounding", 0), call.k.shape[2])
            self._keep(self.grounding, call, made)
        if call.site.has_v2v and layer in self.v2v and self._asks(batch):
            with _exact(call):
                if config.spa and batch.pairs("queries"):
                    queries = batch.queries.at(call.place)
                    rows = propagation_maps(call, queries, config.scores, lse=lse) * self._joined(call)
                    self._keep(self.propagation, call, rows)
                if config.flow:
                    seen = flow_maps(call, config.window, config.flow_of, config.temperature)
                    self._keep(self.flow, call, seen)
            self.keys["propagation"] = max(self.keys.get("propagation", 0), call.k.shape[2])

    def _joined(self, call: AttentionCall) -> float:
        """What makes a mean over heads the dot product of all heads as one vector, over the root of its length."""
        return math.sqrt(call.q.shape[1]) if self.config.joined_heads else 1.0

    @property
    def _by_features(self) -> bool:
        """Flow is taught by the features of a clip, whether or not it has instances."""
        return bool(self.config.flow) and self.config.teacher == "features"

    def _asks(self, batch: TargetBatch) -> bool:
        return super()._asks(batch) or (self._by_features and any(batch.keep))

    def _seen(self) -> set[int]:
        return set(self.propagation) | set(self.flow)

    def alignment(self, decoder: MaskDecoder | None = None, t: Tensor | None = None) -> LossParts:
        """w(t) (sga * L_SGA + spa * L_SPA + flow * L_flow), mean over the rows of the batch.

        Args:
            decoder: upsamples the maps to pixels (MATRIX); None compares on the token grid.
            t: (B,) times in [0, 1], needed where the config weighs them.

        Raises ValueError where a layer gave no map or the weight needs times that are not given.
        """
        self._join(self.flow)
        self._missing()
        config = self.config
        if t is None and config.timestep != "uniform":
            raise ValueError(f"the timestep weight {config.timestep!r} needs the times t of the batch")
        if decoder is not None and decoder.config.probabilities != (config.scores == "probabilities"):
            raise ValueError(
                f"the losses are on {config.scores}, and the decoder was made for the other kind of scores"
            )
        times = None if t is None else timestep_weight(t, config.timestep, config.shift)
        parts = {}
        if self.grounding:
            parts["sga"] = config.sga * self._one(self.grounding, "words", "grounding", decoder, times)
        if self.propagation:
            parts["spa"] = config.spa * self._one(self.propagation, "queries", "propagation", decoder, times)
        if self.flow:
            parts["flow"] = config.flow * self._flow(times)
        return _sum(parts)

    def _flow(self, times: Tensor | None) -> Tensor:
        """Local Gram Flow of the instances: summed over a row's, weighted by the row's time, mean over the rows. Where
        features teach it: of all tokens of a row."""
        device = next(iter(self.flow.values())).device
        batch, total = self.batch_on(device), torch.zeros((), device=device)
        if self._by_features:
            if batch.features is None:
                raise ValueError(
                    "flow is to be taught by features, and the targets have none: TargetBatch.of(features=)"
                )
            for row in (row for row, kept in enumerate(batch.keep) if kept):
                part = slice(row, row + 1)
                teacher = feature_flow(batch.features[part], self.config.window, self.config.temperature)
                weight = 1.0 if times is None else times.to(device)[row]
                total = total + weight * flow_loss({at: maps[part] for at, maps in self.flow.items()}, teacher)
            return total / self.rows
        pairs = batch.pairs("queries")
        for known, places in batch.by_known(pairs, pixels=False):
            for place in places:
                row, entity = pairs[place]
                at = on_device(torch.tensor([[row], [entity]]), device)
                teacher = mask_flow(batch.masks("queries", at[0], at[1], pixels=False), self.config.window)
                weight = 1.0 if times is None else times.to(device)[row]
                maps = {layer: values[row : row + 1] for layer, values in self.flow.items()}
                total = total + weight * flow_loss(maps, teacher, known)
        return total / self.rows

    def _one(
        self, maps: dict[int, Tensor], kind: Kind, head: Head, decoder: MaskDecoder | None, times: Tensor | None
    ) -> Tensor:
        """The loss of one kind: summed over a row's entities (or their mean), weighted by the row's time, mean over the
        rows."""
        device, config = next(iter(maps.values())).device, self.config
        batch = self.batch_on(device, pixels=decoder is not None)
        pairs = batch.pairs(kind)
        trained = () if decoder is None else tuple(decoder.parameters())
        stacks = torch.stack([maps[layer] for layer in sorted(maps)], dim=2)  # (B, E, L, F, h, w)
        if config.average_layers:
            stacks = stacks.mean(dim=2, keepdim=True)
        decode: Decode | None = None
        size = math.prod(batch.grid.shape)
        if decoder is not None:
            # probabilities shrink with the sequence; as multiples of chance they do not, and a decoder can read them
            scale = 1.0 if config.scores == "logits" else float(self.keys[head])
            assert batch.pixels is not None
            shown = tuple(batch.pixels.shape[2:])
            size = math.prod(batch.pixels.shape[1:])

            def decode(stack: Tensor) -> Tensor:
                return decoder(stack * scale, batch.grid, head, shown)

        total = stacks.sum() * 0
        share = torch.tensor([1.0 / max(1, sum(row == r for r, _ in pairs)) for row in range(self.rows)])
        for known, places in batch.by_known(pairs, pixels=decoder is not None):
            pieces = list(_pieces([pairs[i] for i in places], _AT_ONCE // size))
            inside = self._balances(batch, kind, pieces, known, decoder is not None)
            for some in pieces:
                rows, entities = on_device(torch.tensor(some), device).unbind(1)
                masks = batch.masks(kind, rows, entities, pixels=decoder is not None)
                weights = None if times is None else times.to(device)[rows]
                if config.mask.entities == "mean":
                    weights = share.to(device)[rows] * (1.0 if weights is None else weights)
                total = total + entity_losses(
                    stacks[rows, entities], masks, config.mask, config.scores, known, decode, weights, trained,
                    None if inside is None else inside[rows],
                )  # fmt: skip
        return total / self.rows

    def _balances(
        self,
        batch: TargetBatch,
        kind: Kind,
        pieces: Sequence[Sequence[tuple[int, int]]],
        known: Tensor | None,
        px: bool,
    ) -> Tensor | None:
        """(B,) one weight of the pixels inside a row's masks, for all of its entities; None where each has its own.

        px: in pixels, else on the token grid.
        """
        weights = self.config.mask
        if weights.pos_weight == "own":
            return None
        device = batch.tokens.device
        inside, size = (torch.zeros(self.rows, dtype=torch.float64, device=device) for _ in range(2))
        for some in pieces:
            rows, entities = on_device(torch.tensor(some), device).unbind(1)
            masks = batch.masks(kind, rows, entities, pixels=px)
            seen = (masks if known is None else masks[:, known.to(device)]).flatten(1)
            inside.index_add_(0, rows, seen.sum(1, dtype=torch.float64))
            size.index_add_(0, rows, torch.full_like(rows, seen.shape[1], dtype=torch.float64))
        return balance(inside, size, weights)


class DetachedMaps(AlignmentMaps):
    """The same maps without a gradient into the model: a decoder learns from them and attention is told nothing. The
    control that shows whether it is the alignment that helps."""

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        alone = replace(call, q=call.q.detach(), k=call.k.detach(), v=call.v.detach())
        super().observe(alone, None if lse is None else lse.detach())


class TargetMaps(_Maps):
    """Observer of one training step of TAViD.

    Args:
        targets: one per row of the batch, or None; or a `TargetBatch`.
        names: per row, the phrase of the target word (an entity of its `Targets`).
    """

    def __init__(
        self,
        config: TargetAwareConfig,
        targets: Sequence[Targets | None] | TargetBatch,
        names: Sequence[str],
        step: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(targets, config.layers.at(step, seed))
        self.config, self.names = config, tuple(names)
        batch = self.batch()
        self.entity = [0] * self.rows  # which of a row's grounded entities is the target
        if batch is None:
            return
        for row, (name, there) in enumerate(zip(self.names, batch.names, strict=True)):
            if batch.keep[row] and name not in there:
                raise ValueError(f"no grounded phrase is called {name!r}; there are {', '.join(there)}")
            self.entity[row] = there.index(name) if name in there else 0

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        batch = self._fitting(call)
        if batch is None:
            return
        pool = batch.words
        places = on_device(torch.tensor(self.entity), call.q.device)[:, None, None].expand(-1, pool.weights.shape[1], 1)
        asked = replace(pool, weights=pool.weights.gather(2, places), counts=(1,) * self.rows)
        with _exact(call):
            made = grounding_maps(call, asked.at(call.place), direction=self.config.direction, lse=lse)
            self._keep(self.grounding, call, made[:, 0])

    def target_aware(self) -> LossParts:
        """weight * L_attn, mean over the rows of the batch. Raises ValueError where a layer gave no map."""
        self._missing()
        batch = self.batch()
        if batch is None or not self.grounding:
            return _sum({})
        device = next(iter(self.grounding.values())).device
        batch = self.batch_on(device)
        pairs = [(row, self.entity[row]) for row in range(self.rows) if batch.keep[row]]
        total = torch.zeros((), device=device)
        for known, places in batch.by_known(pairs, pixels=False):
            rows, entities = on_device(torch.tensor([pairs[i] for i in places]), device).unbind(1)
            masks = batch.masks("words", rows, entities, pixels=False)
            maps = {layer: values[rows] for layer, values in self.grounding.items()}
            total = total + len(places) * target_aware_loss(maps, masks, self.config, known)
        return _sum({"target": self.config.weight * total / self.rows})


def _exact(call: AttentionCall) -> torch.autocast:
    """Maps are computed in float32 whatever the model's own matrices are multiplied in."""
    return torch.autocast(call.q.device.type, enabled=False)


def _pieces(pairs: list[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    step = max(1, most)
    for i in range(0, len(pairs), step):
        yield pairs[i : i + step]


def _sum(parts: dict[str, Tensor]) -> LossParts:
    """A batch without any target gives zeros."""
    total = torch.stack(list(parts.values())).sum() if parts else torch.zeros(())
    return LossParts(total, {name: value.detach() for name, value in parts.items()})
