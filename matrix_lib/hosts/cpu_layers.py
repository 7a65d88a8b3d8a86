"""Layers of a small model on a CPU by oneDNN: 3D convolutions four to eight times as fast, linear layers up to twice.

PyTorch gives a 3D convolution of one clip to oneDNN only where batch, channels, frames and height multiply to more
than 20,480 (`use_mkldnn` in ATen's Convolution.cpp); below that it takes a plain loop. A codec of 16 channels that
decodes a frame at a time stays below. Linear layers in float32 it gives to MKL, which on AMD's CPUs takes more than
twice as long (112 against 260 GFLOP/s on one core of an EPYC with AVX-512).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["OneDnnLinear", "use_onednn"]

_ROWS = 64  # below which starting oneDNN costs what it saves


def use_onednn(model: nn.Module) -> nn.Module:
    """Lets every `Conv3d` of a model take oneDNN where it runs in float32 on a CPU and no gradient is wanted; elsewhere
    it does what it did. Sums are taken in another order: results differ by float32 rounding. Returns the model."""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        for module in model.modules():
            if isinstance(module, nn.Conv3d) and module.padding_mode == "zeros" and isinstance(module.padding, tuple):
                module._conv_forward = _Convolution(module)  # type: ignore[method-assign, assignment]
    return model


class _Convolution:
    """What a module's `_conv_forward` does. ComfyUI's takes `autopad`: zeros in front of the first frame, told by
    leaving out the taps that would meet them."""

    def __init__(self, module: nn.Conv3d) -> None:
        self.own = type(module)._conv_forward
        self.stride, self.padding, self.dilation = module.stride, module.padding, module.dilation
        self.module = module

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        causal = kwargs == {"autopad": "causal_zero"}
        plain = not args and (causal or kwargs in ({}, {"autopad": None}))
        wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if not plain or wanted or x.device.type != "cpu" or {x.dtype, weight.dtype} != {torch.float32} or x.ndim != 5:
            return self.own(self.module, x, weight, bias, *args, **kwargs)
        if causal:
            weight = weight[:, :, -x.shape[2] :].contiguous()
        return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, self.module.groups)


class OneDnnLinear(TorchFunctionMode):
    """While active, linear layers of many rows in float32 on a CPU take oneDNN where PyTorch would take MKL and no
    gradient is wanted. Sums are taken in another order: results differ by float32 rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear and not kwargs and 2 <= len(args) <= 3 and self._takes(*args):
            bias = args[2] if len(args) > 2 else None
            return torch.ops.mkldnn._linear_pointwise(args[0], args[1], bias, "none", [], "")
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _takes(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
        if torch.compiler.is_compiling() or not (_available() and x.device.type == "cpu" and x.ndim > 1):
            return False
        given = [x, weight] if bias is None else [x, weight, bias]
        wanted = torch.is_grad_enabled() and any(each.requires_grad for each in given)
        dense = all(each.dtype == torch.float32 and each.is_contiguous() for each in given)  # it misreads some others
        return dense and not wanted and x[..., 0].numel() >= _ROWS


@functools.cache
def _available() -> bool:
    """Whether PyTorch has both, and the operation that asks for oneDNN by name."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return both and hasattr(torch.ops.mkldnn, "_linear_pointwise")
