"""Optimisers, the learning-rate schedule and averaged weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import Optim

__all__ = ["Average", "make_optimisers", "rate"]


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at `step`: linear up over `warmup`, linear down to zero at `steps`."""
    up = (step + 1) / max(warmup, 1)
    down = (steps - step) / max(steps - warmup, 1)
    return max(min(up, down, 1.0), 0.0)


def make_optimisers(net: nn.Module, config: Optim) -> list[torch.optim.Optimizer]:
    """One AdamW; with `muon`, matrices inside the blocks go to a Muon whose steps are as large as AdamW's."""
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if config.name == "muon" and p.ndim == 2 and "block" in n and "bias" not in n]
    chosen = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in chosen]
    groups = [
        {"params": [p for p in outer if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = outer[0].is_cuda
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, config.beta2), fused=fused)
    ]
    if inner:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError("optim.name=muon needs PyTorch 2.9 or newer; use optim.name=adamw, or update PyTorch")
        optimisers.append(
            torch.optim.Muon(inner, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimisers


class Average:
    """Exponential moving average of parameters, in float32. Early steps forget faster."""

    def __init__(self, params: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone().float() for p in params]

    @torch.no_grad()
    def update(self, params: Sequence[Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in params], 1.0 - decay)
