"""Triton kernels. The other modules of this folder import Triton: ask `kernels_for` for them.

Everything else, and every gradient that a kernel does not know, goes the plain PyTorch way, with the same results.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["available", "kernels_for"]


def available(tensor: Tensor) -> bool:
    """Whether kernels can run on this tensor: on an NVIDIA GPU, with Triton installed. `MATRIX_TRITON=0` turns them
    off."""
    on_gpu = tensor.device.type == "cuda" and torch.version.cuda is not None
    return on_gpu and os.environ.get("MATRIX_TRITON", "1") != "0" and _installed()


def kernels_for(name: Literal["pooled_maps", "region_attention", "mask_loss"], *tensors: Tensor) -> Any | None:
    """The module `name` of this folder where its kernels take these tensors; None where plain operations have to do."""
    if not available(tensors[0]):
        return None
    module = importlib.import_module(f".{name}", __name__)
    return module if module.takes(*tensors) else None


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
