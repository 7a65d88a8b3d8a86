"""3D convolutions of a small codec on a CPU, four to eight times as fast.

PyTorch gives a 3D convolution of one clip to oneDNN only where batch, channels, frames and height multiply to more
than 20,480 (`use_mkldnn` in ATen's Convolution.cpp); below that it takes a plain loop. A codec of 16 channels that
decodes a frame at a time stays below.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["use_onednn"]


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
