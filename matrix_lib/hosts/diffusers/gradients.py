"""Gradient guidance in diffusers pipelines: before a step the sample descends the alignment losses.

The transformer calls of the step are repeated with gradients, as they are steered, and nobody else watches them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...instrument.gradient import Enough, LatentGradient, descend
from .attach import perturbed
from .batches import replaying
from .schedules import Noise
from .steps import Mix

__all__ = ["Descending"]


class Descending:
    """Gradient guidance as a mover. `losses` is the name of its predictions, too; its session must be attached."""

    def __init__(self, losses: LatentGradient) -> None:
        self.losses, self.guidance = losses, losses.guidance

    def begin(self) -> None:
        self.losses.losses.clear()

    def acts(self, step: int, steps: int) -> bool:
        return self.guidance.size(step, steps) != 0

    def __call__(
        self, mix: Mix, x: Tensor, output: Tensor, noise: Noise, step: int, steps: int
    ) -> tuple[Tensor, Tensor]:
        size = self.guidance.size(step, steps) * noise.level.sigma
        for _ in range(self.guidance.iterations):
            x = descend(x, self._gradient(mix, x, step), size)
        return x, mix.evaluate(x)

    def _gradient(self, mix: Mix, x: Tensor, step: int) -> Tensor | None:
        leaf = x.detach().float().requires_grad_()
        self.losses.begin(leaf)
        for place in range(len(mix.calls)):
            net = mix.calls[place].net
            with torch.enable_grad(), replaying(place), perturbed(self.losses):
                with _differentiable(net, self.guidance.checkpoint):
                    with contextlib.suppress(Enough):
                        mix.repeat(place, leaf)
                    self.losses.forward_done(leaf, leaf)
        return self.losses.end(step)


@contextlib.contextmanager
def _differentiable(net: nn.Module, again: bool) -> Iterator[None]:
    """While open, gradients reach the input and no weight; with `again` blocks run again in the backward pass."""
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    switch = again and not getattr(net, "is_gradient_checkpointing", True)
    for weight in weights:
        weight.requires_grad_(False)
    if switch:
        net.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if switch:
            net.disable_gradient_checkpointing()
        for weight in weights:
            weight.requires_grad_()
