"""Linear layers that hold Q8_0: 32 numbers as bytes with one scale in half precision, unpacked as they are used.

What loaders of GGUF files do, without the file: the layout is that of the package `gguf`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["pack", "pack_linear", "unpack"]

BLOCK = 32


def pack(weight: Tensor) -> Tensor:
    """[out, in] floats to [out, in / 32 * 34] bytes: the scale of 32 numbers, then they. `in` is a multiple of 32."""
    blocks = weight.float().reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    whole = torch.where(scale > 0, blocks / scale, 0.0).round().to(torch.int8)
    bytes_ = torch.cat([scale.half().view(torch.uint8), whole.view(torch.uint8)], 1)
    return bytes_.reshape(len(weight), -1)


def unpack(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in / 32 * 34] bytes to [out, in] numbers of `dtype`."""
    blocks = packed.reshape(-1, BLOCK + 2)
    scale = blocks[:, :2].contiguous().view(torch.float16).to(dtype)
    return (blocks[:, 2:].view(torch.int8).to(dtype) * scale).reshape(len(packed), -1)


class PackedLinear(nn.Linear):
    """A linear layer whose weight is packed."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, unpack(self.weight, x.dtype), None if self.bias is None else self.bias.to(x))


def pack_linear(network: Any) -> int:
    """Packs every linear layer of a network's blocks in place whose rows are whole blocks; how many there were."""
    layers = (layer for layer in network.blocks.modules() if isinstance(layer, nn.Linear))
    found = [layer for layer in layers if layer.in_features % BLOCK == 0]
    for layer in found:
        layer.weight = nn.Parameter(pack(layer.weight), requires_grad=False)
        layer.__class__ = PackedLinear
    return len(found)
