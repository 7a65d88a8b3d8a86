"""Frozen weights in fewer bits: int8 and float8 with a scale per row, and 4-bit normal floats with a scale per 64.

Matrices are unpacked to the activations' number format when they are used, forward and backward, and never kept so.
Straight PyTorch, on any device; gradients flow to the inputs alone.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from matrix_lib.hosts.diffusers.attach import backbone_of

__all__ = ["PackedLinear", "attentions_of", "quantise_blocks"]

Bits = Literal["int8", "fp8", "nf4"]
GROUP = 64
LEAST = 4096
"""Matrices with fewer weights stay as they are."""
# The 16 levels of NF4 (Dettmers et al., QLoRA, arXiv 2305.14314, appendix E): quantiles of a normal distribution.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class PackedLinear(nn.Module):
    """A frozen linear layer with a packed weight. Made of a `nn.Linear`; its bias stays as it is."""

    packed: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, bits: Bits) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = layer.in_features, layer.out_features, bits
        packed, scale = _pack(layer.weight.detach(), bits)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = layer.bias

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        """Moves with its model, but keeps its number formats."""
        before = self.packed.dtype, self.scale.dtype
        super()._apply(fn, recurse)
        self.packed, self.scale = self.packed.to(before[0]), self.scale.to(before[1])
        return self

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in)."""
        return self.unpack(self.packed, self.scale, dtype)

    def unpack(self, packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) of codes and scales of this layer, wherever they lie."""
        if self.bits != "nf4":
            return packed.to(dtype) * scale.to(dtype)
        values = _pairs(packed.device, dtype).index_select(0, packed.int()).view(dtype).view(-1, GROUP)
        return values.mul_(scale.to(dtype)).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self) if self.bias is None else _Product.apply(x, self) + self.bias.to(x.dtype)


@functools.cache
def _pairs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256,) integers of two numbers of `dtype`, the two levels that a byte stands for: one number is looked up for two
    weights, and codes are never apart."""
    levels = torch.tensor(_NF4, dtype=dtype)
    both = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)
    return both.view({2: torch.int32, 4: torch.int64}[dtype.itemsize]).flatten().to(device)


class _Product(torch.autograd.Function):
    """x W^T, with W unpacked once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(layer.packed, layer.scale)  # the layer's own may have left the device by then
        return nn.functional.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.unpack(*ctx.saved_tensors, grad.dtype), None


def _pack(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Packed codes and float32 scales."""
    w = weight.float()
    if bits == "nf4":
        groups = w.reshape(-1, GROUP)
        scale = groups.abs().amax(1, keepdim=True).clamp_min(1e-12)
        edges = torch.tensor(_NF4, device=w.device)
        codes = torch.bucketize(groups / scale, (edges[1:] + edges[:-1]) / 2).to(torch.uint8).view(-1, 2)
        return (codes[:, 0] << 4) | codes[:, 1], scale
    top = w.abs().amax(1, keepdim=True).clamp_min(1e-12)
    if bits == "int8":
        scale = top / 127.0
        return (w / scale).round().clamp(-127, 127).to(torch.int8), scale
    scale = top / torch.finfo(torch.float8_e4m3fn).max
    return (w / scale).to(torch.float8_e4m3fn), scale


def attentions_of(projections: Iterable[str]) -> set[str]:
    """Paths of the attentions that q, k, v and output projections belong to."""
    return {name.rpartition(".to_")[0] for name in projections}


def quantise_blocks(
    transformer: nn.Module, bits: Bits, kept: Collection[str] = (), device: torch.device | None = None
) -> int:
    """Packs the large linear layers of a transformer's blocks in place, except those inside the modules `kept` (by
    path), one after the other on a device. Returns how many. Raises ValueError for a transformer without blocks."""
    stacks = tuple(f"{path}." for path in backbone_of(transformer).diffusers.lists)
    found = [
        (name, module)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(stacks)
        and not any(name.startswith(f"{inside}.") for inside in kept)
        and module.weight.numel() >= LEAST
        and (bits != "nf4" or module.in_features % GROUP == 0)
    ]
    if not found:
        raise ValueError("nothing of this model can be quantised: it has no blocks with linear layers that are frozen")
    for name, module in found:
        parent, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(parent), leaf, PackedLinear(module.to(device or module.weight.device), bits))
    return len(found)
