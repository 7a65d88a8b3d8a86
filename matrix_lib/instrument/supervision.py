"""Collects the maps that the alignment losses need while a model trains, and turns them into losses.

    maps = AlignmentMaps(config, targets, step)
    with attach(transformer, Session([maps]), on_forward):
        loss = diffusion_loss(transformer(...)) + maps.alignment(decoder, t).total
        loss.backward()

Stay attached until the backward pass is over: gradient checkpointing (the non-reentrant kind, which diffusers uses)
runs blocks again, and their maps with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.attention import Pool
from ..core.decoder import Head, MaskDecoder
from ..core.losses import (
    AlignmentConfig,
    TargetAwareConfig,
    alignment_loss,
    grounding_map,
    propagation_map,
    target_aware_loss,
    timestep_weight,
)
from ..core.sites import AttentionCall, AttentionSite
from ..core.targets import Targets

__all__ = ["AlignmentMaps", "LossParts", "TargetMaps"]


@dataclass(frozen=True)
class LossParts:
    """`total` is what is added to the diffusion loss; `parts` are its weighted pieces by name, detached, for a log."""

    total: Tensor
    parts: dict[str, Tensor]


class _Maps:
    """Maps by kind, batch row and layer. The first call of a layer counts: a checkpointed block that runs again in the
    backward pass computes its maps again, but they are the same ones."""

    def __init__(self, targets: Sequence[Targets | None], v2t: Sequence[int], v2v: Sequence[int] = ()) -> None:
        self.targets = tuple(targets)
        self.v2t, self.v2v = frozenset(v2t), frozenset(v2v)
        self.grounding: list[dict[int, Tensor]] = [{} for _ in self.targets]
        self.propagation: list[dict[int, Tensor]] = [{} for _ in self.targets]
        self.keys: dict[Head, int] = {}  # keys that the softmax of each kind runs over

    def wants(self, site: AttentionSite) -> bool:
        return (site.has_v2t and site.layer in self.v2t) or (site.has_v2v and site.layer in self.v2v)

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        """Nothing to do: a training step has one forward pass."""

    def _rows(self, call: AttentionCall) -> list[tuple[int, Targets]]:
        if call.q.shape[0] != len(self.targets):
            raise ValueError(f"the batch has {call.q.shape[0]} rows, but there are {len(self.targets)} targets")
        for target in self.targets:
            if target is not None and target.tokens.grid.shape != call.grid.shape:
                raise ValueError(f"targets are on a {target.tokens.grid.shape} grid; this clip has {call.grid.shape}")
        return [(row, target) for row, target in enumerate(self.targets) if target is not None]

    def _missing(self) -> None:
        for row, target in enumerate(self.targets):
            if target is None:
                continue
            v2t, v2v = self.v2t - set(self.grounding[row]), self.v2v - set(self.propagation[row])
            if (v2t and len(target.words)) or (v2v and len(target.queries)):
                raise ValueError(f"layers {sorted(v2t | v2v)} gave no map: do they exist, and is the model attached?")


class AlignmentMaps(_Maps):
    """Observer of one training step of MATRIX.

    Args:
        targets: one per row of the batch; None where a row is not aligned (a dropped prompt).
        step, seed: choose the layers where the config draws them at random.
    """

    def __init__(
        self, config: AlignmentConfig, targets: Sequence[Targets | None], step: int = 0, seed: int = 0
    ) -> None:
        v2t = config.v2t.at(step, seed) if config.sga else ()
        v2v = config.v2v.at(step, seed) if config.spa else ()
        super().__init__(targets, v2t, v2v)
        self.config = config

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        config, layer = self.config, call.site.layer
        for row, target in self._rows(call):
            if call.site.has_v2t and layer in self.v2t and len(target.words):
                made = grounding_map(call, row, target.words, config.scores, config.direction)
                self.keys["grounding"] = call.k.shape[2]
                self.grounding[row].setdefault(layer, made)
            if call.site.has_v2v and layer in self.v2v and len(target.queries):
                made = propagation_map(call, row, target.queries, config.scores)
                self.keys["propagation"] = call.k.shape[2]
                self.propagation[row].setdefault(layer, made)

    def alignment(self, decoder: MaskDecoder | None = None, t: Tensor | None = None) -> LossParts:
        """w(t) (sga * L_SGA + spa * L_SPA), mean over the rows of the batch.

        Args:
            decoder: upsamples the maps to pixels (MATRIX); None compares on the token grid.
            t: (B,) times in [0, 1], needed where the config weighs them.

        Raises ValueError where a layer gave no map or the weight needs times that are not given.
        """
        self._missing()
        if t is None and self.config.timestep != "uniform":
            raise ValueError(f"the timestep weight {self.config.timestep!r} needs the times t of the batch")
        parts: dict[str, list[Tensor]] = {"sga": [], "spa": []}
        for row, target in enumerate(self.targets):
            if target is None:
                continue
            weight = 1.0 if t is None else timestep_weight(t[row : row + 1], self.config.timestep)[0]
            if self.grounding[row]:
                part = self._one(self.grounding[row], target, target.words.names, decoder, "grounding")
                parts["sga"].append(self.config.sga * weight * part)
            if self.propagation[row]:
                part = self._one(self.propagation[row], target, target.queries.names, decoder, "propagation")
                parts["spa"].append(self.config.spa * weight * part)
        return _sum(parts, len(self.targets))

    def _one(
        self, maps: dict[int, Tensor], target: Targets, names: tuple[str, ...], decoder: MaskDecoder | None, head: Head
    ) -> Tensor:
        device, config = next(iter(maps.values())).device, self.config
        if decoder is None:
            masks, known = target.token_masks(names).to(device), target.known.to(device)
            return alignment_loss(maps, masks, config.mask, config.scores, known)
        if decoder.config.probabilities != (config.scores == "probabilities"):
            raise ValueError(
                f"the losses are on {config.scores}, and the decoder was made for the other kind of scores"
            )
        grid = target.tokens.grid
        masks, known = target.pixel_masks(names).to(device), target.pixel_known.to(device)
        # probabilities shrink with the sequence; as multiples of chance they do not, and a decoder can read them
        scale = 1.0 if config.scores == "logits" else float(self.keys[head])

        def decode(stack: Tensor) -> Tensor:
            return decoder(stack[None] * scale, grid, head, target.framing.target)[0]

        return alignment_loss(maps, masks, config.mask, config.scores, known, decode)


class TargetMaps(_Maps):
    """Observer of one training step of TAViD.

    Args:
        targets: one per row of the batch, or None.
        names: per row, the phrase of the target word (an entity of its `Targets`).
    """

    def __init__(
        self,
        config: TargetAwareConfig,
        targets: Sequence[Targets | None],
        names: Sequence[str],
        step: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(targets, config.layers.at(step, seed))
        self.config, self.names = config, tuple(names)
        for target, name in zip(self.targets, self.names, strict=True):
            if target is not None and name not in target.words.names:
                raise ValueError(f"no grounded phrase is called {name!r}; there are {', '.join(target.words.names)}")

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        for row, target in self._rows(call):
            pool, name = target.words, self.names[row]
            column = pool.weights[:, pool.names.index(name)]
            made = grounding_map(call, row, Pool.mean_of({name: pool.indices[column > 0]}))
            self.grounding[row].setdefault(call.site.layer, made[0])

    def target_aware(self) -> LossParts:
        """weight * L_attn, mean over the rows of the batch. Raises ValueError where a layer gave no map."""
        self._missing()
        losses = []
        for row, target in enumerate(self.targets):
            if target is not None:
                maps = self.grounding[row]
                device = next(iter(maps.values())).device
                mask, known = target.token_masks([self.names[row]])[0].to(device), target.known.to(device)
                losses.append(self.config.weight * target_aware_loss(maps, mask, self.config, known))
        return _sum({"target": losses}, len(self.targets))


def _sum(parts: dict[str, list[Tensor]], rows: int) -> LossParts:
    """Mean over the batch; a batch without any target gives zeros."""
    totals = {name: torch.stack(values).sum() / rows for name, values in parts.items() if values}
    total = torch.stack(list(totals.values())).sum() if totals else torch.zeros(())
    return LossParts(total, {name: value.detach() for name, value in totals.items()})
