"""Cross-attention to the picture (Wan 2.1 I2V), turned off: the code that MATRIX's authors released never runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...core.no_compile import hidden
from .attach import backbone_of

__all__ = ["picture_values", "without_picture"]


def picture_values(transformer: nn.Module) -> list[nn.Module]:
    """The layers that make the values of the attention to the picture; [] where a model has none. Raises ValueError
    where they are fused with the keys."""
    spec = backbone_of(transformer)
    found = []
    for name, module in transformer.named_modules():
        parent, _, last = name.rpartition(".")
        if not spec.image_values or last != spec.image_values[1] or not isinstance(module, nn.Module):
            continue
        if getattr(transformer.get_submodule(parent), "fused_projections", False):
            raise ValueError("the model's projections are fused: call pipe.unfuse_qkv_projections() first")
        found.append(module)
    return found


def without_picture(transformer: nn.Module, acts: Callable[[], bool] = lambda: True) -> list[Any]:
    """Hooks that make these values zero while `acts` says so; whoever asks removes them."""

    def nothing(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.new_zeros(output.shape) if acts() else output

    return [module.register_forward_hook(hidden(nothing)) for module in picture_values(transformer)]
