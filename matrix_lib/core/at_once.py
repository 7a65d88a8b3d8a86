"""A loss whose gradients are computed together with its value, so that nothing of it is held or computed again.

A loss on decoded masks reads millions of pixels and depends on a few maps and weights. Its gradients with respect to
those are small: once they are known, all that the loss was made of can go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .eager import uncompiled

__all__ = ["at_once"]


def at_once(loss: Callable[[Tensor], Tensor], given: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """loss(given), a scalar, with gradients for `given` and `weights`, which `loss` reads besides.

    They are gradients of the value itself, before anything multiplies it: float16 wants a loss that is large enough,
    bfloat16 and float32 take any. No second derivatives.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not torch.is_grad_enabled() or not (given.requires_grad or wanted):
        return loss(given)
    return _apply(loss, given, *wanted)


@uncompiled
def _apply(*args: Any) -> Tensor:
    return _AtOnce.apply(*args)  # type: ignore[no-any-return]


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[[Tensor], Tensor], given: Tensor, *weights: Tensor) -> Tensor:
        with torch.enable_grad():
            mine = given.detach().requires_grad_()
            value = loss(mine)
            grads = torch.autograd.grad(value, (mine, *weights), allow_unused=True)
        ctx.save_for_backward(*grads)
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(each if each is None else (each * grad).to(each) for each in ctx.saved_tensors)
