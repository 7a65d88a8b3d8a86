"""Triton kernels. The other modules of this folder import Triton: ask `kernels_for` for them.

Everything else, and every gradient that a kernel does not know, goes the plain PyTorch way, with the same results.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["available", "kernels_for"]


def available(tensor: Tensor) -> bool:
    """Whether kernels may run on this tensor: on an NVIDIA GPU. `MATRIX_TRITON=0` turns them off."""
    on_gpu = tensor.device.type == "cuda" and torch.version.cuda is not None
    return on_gpu and os.environ.get("MATRIX_TRITON", "1") != "0"


def kernels_for(
    name: Literal["pooled_maps", "region_attention", "mask_loss", "matching"], *tensors: Tensor
) -> Any | None:
    """The module `name` of this folder where its kernels take these tensors; None where plain operations have to do."""
    if not available(tensors[0]):
        return None
    module = _module(name)
    return module if module is not None and module.takes(*tensors) else None


@functools.cache
def _module(name: str) -> Any | None:
    """None where Triton is not installed, or cannot be loaded."""
    try:
        return importlib.import_module(f".{name}", __name__)
    except ImportError:
        return None
