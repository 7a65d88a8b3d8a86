"""DoRA as a patch of the host, with the arithmetic that it is trained with.

The host's own patch for magnitudes divides by the norms of the model's weight. peft, and the paper (arXiv 2402.09353),
divide by those of the weight with the LoRA's product on it. Both agree at the start of training alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...backbones.lora import Factors

__all__ = ["DoRAAdapter"]


class DoRAAdapter(LoRAAdapter):
    """Patch of a weight (out, in): W + strength * (m V / ||V|| - W), V = W + scale * up @ down."""

    name = "dora"

    def __init__(self, factors: Factors) -> None:
        assert factors.magnitude is not None
        self.factors = factors
        alpha = factors.scale() * factors.rank
        super().__init__(set(), (factors.up, factors.down, alpha, None, factors.magnitude[:, None], None))

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """The patched weight, in place; called by the host while it loads or casts the module."""
        change = self.factors.change(weight).reshape(weight.shape)
        weight += function((strength * change).to(weight.dtype))
        return weight
