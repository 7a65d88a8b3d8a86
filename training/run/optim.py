"""Optimisers, the learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import Optim

__all__ = ["Average", "Muon", "make_optimisers", "orthogonal", "rate"]

# Beside a Muon, the first and last layers and the tables learn at this share of its rate.
MUON_SHARE = 0.25


def rate(step: int, progress: float, warmup: int, schedule: str = "linear") -> float:
    """Share of the peak learning rate: linear up over the first `warmup` steps, and down to zero with the share
    `progress` of the run that is done, along a line or a cosine, or not at all ("constant")."""
    left = {"linear": 1.0 - progress, "cosine": 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)), "constant": 1.0}
    return max(min((step + 1) / max(warmup, 1), left[schedule], 1.0), 0.0)


def make_optimisers(net: nn.Module, config: Optim) -> list[torch.optim.Optimizer]:
    """One AdamW; with `muon`, weights of linear and convolution layers inside the network's blocks go to a Muon."""
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if config.name == "muon" and _is_inner(n, p)]
    chosen = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in chosen]
    ups = {id(p) for n, p in named if ".lora_B." in n} if config.lora_plus != 1 else set()
    faster = [p for p in outer if id(p) in ups]
    outer = [p for p in outer if id(p) not in ups]
    groups = [
        {"params": [p for p in outer if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
        {"params": faster, "weight_decay": config.weight_decay, "lr": config.lr * config.lora_plus},
    ]
    first = named[0][1]
    kind, options = (_eight_bit(), {}) if config.eight_bit else (torch.optim.AdamW, {"fused": first.is_cuda})
    adamw = kind(
        [g for g in groups if g["params"]],
        lr=config.lr * (MUON_SHARE if inner else 1.0),
        betas=(0.9, config.beta2),
        **options,
    )
    return [adamw, Muon(inner, config.lr, config.weight_decay)] if inner else [adamw]


def _eight_bit() -> Any:
    """AdamW with its moments in 8 bits. Raises ValueError with the install line where bitsandbytes is absent."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"optim.eight_bit needs bitsandbytes, which is not installed ({error}): run `pip install bitsandbytes`, or "
            "set optim.eight_bit=false"
        ) from error
    return bitsandbytes.optim.AdamW8bit


def _is_inner(name: str, weight: Tensor) -> bool:
    """Matrices and kernels between the first and the last layer; tables and the ends stay with AdamW.

    So does a T5: its attention has no scale, and steps of full rank in its queries and keys soon saturate it.
    """
    if name.startswith("text."):
        return False
    inside = any(part in name for part in ("block", "downsamples", "upsamples", "middle"))
    return inside and weight.ndim >= 2 and not name.endswith(("bias", "gamma", "attention_bias.weight"))


@torch.no_grad()
def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Nearly the nearest orthogonal matrices to (N, rows, columns): all singular values come out between about 0.7 and
    1.2. Newton-Schulz iteration with the quintic of Jordan et al. (Muon, 2024), for many matrices at once."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update of every matrix is made orthogonal, at the size of AdamW's steps (0.2 root mean square).

    Kernels of convolutions count as matrices of (out, everything else). Weights of one shape are handled together,
    which is many times faster than one by one for a network of many small layers.
    """

    def __init__(self, params: Sequence[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for (rows, columns), weights in alike.items():
                update = orthogonal(self._momentum(weights, group["momentum"]).view(len(weights), rows, columns))
                torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(rows, columns) ** 0.5
                torch._foreach_add_(weights, shaped(update, weights), alpha=-group["lr"] * size)

    def _momentum(self, weights: list[Tensor], momentum: float) -> Tensor:
        """Nesterov momentum of the gradients, (N, rows * columns)."""
        for p in weights:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
        grads = [p.grad for p in weights if p.grad is not None]
        buffers = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
        ahead = torch._foreach_lerp(grads, buffers, momentum)
        return torch.stack([x.reshape(-1) for x in ahead])


def shaped(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """(N, rows, columns) as a list of tensors shaped like `like`."""
    return [row.reshape(p.shape) for row, p in zip(rows, like)]


class Average:
    """Exponential moving average of parameters, in float32. Early steps forget faster."""

    def __init__(self, params: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone().float() for p in params]

    @torch.no_grad()
    def update(self, params: Sequence[Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in params], 1.0 - decay)
