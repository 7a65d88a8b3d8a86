"""About how much memory a process of a run needs, from sizes alone: no weights are read.

The weights as they are kept, what the optimiser and the gradients add for those that train, what gradient checkpointing
keeps (the input of every block), and the working set of one block. The last is a multiple of that input, fitted to four
measured runs (docs/training.md): two models, in bf16 and in 4 bits, each within 6 percent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Need", "free_memory", "need_of"]

_WORKING = 28  # inputs of a block that its own pass holds at the most
_BITS = {"no": 0.0, "int8": 8.25, "fp8": 8.25, "nf4": 4.5}  # of a frozen weight, with its scales
_FULL = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes of weights, of what trains, and of activations."""

    weights: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.trained + self.activations

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("what trains", self.trained), ("activations", self.activations))
        return f"{self.total / _FULL:.1f} GiB ({', '.join(f'{name} {size / _FULL:.1f}' for name, size in parts)})"


def need_of(
    net: nn.Module,
    blocks: int,
    width: int,
    tokens: int,
    trained: int,
    *,
    half: bool = True,
    quantise: str = "no",
    checkpointing: bool = True,
    eight_bit: bool = False,
    swapped: int = 0,
    shares: int = 1,
) -> Need:
    """What a process needs.

    Args:
        net: the frozen transformer; its tensors may be on the meta device.
        blocks, width: of the transformer. tokens: of all clips that a process sees at once, text rows included.
        trained: parameters that train. half: number format of the others. quantise: see `TuneTask.quantise`.
        swapped: blocks whose weights and inputs wait in main memory; those of one are on the device at a time.
        shares: processes that share the weights (FSDP2).
    """
    size = 2 if half else 4
    every = sum(p.numel() for p in net.parameters())
    packed = sum(p.numel() for p in net.parameters() if p.ndim == 2) if quantise != "no" else 0
    weights = ((every - packed) * size + packed * _BITS[quantise] / 8) * (1 - max(swapped - 1, 0) / blocks)
    row = tokens * width * size
    kept = row * (blocks - max(swapped - 1, 0)) if checkpointing else row * blocks * _WORKING / 2
    moments = 2 if eight_bit else 8
    return Need(weights / shares, float(trained * (4 + 4 + 4 + moments)), float(kept + row * _WORKING))


def free_memory(device: torch.device) -> float:
    """Bytes of the device that a process may use; 0 where that is not known (a CPU shares its memory)."""
    return float(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else 0.0
