"""Weights that the host streams from main memory: how much of them stays on the GPU, and that the rest really is away.

The host is told that other programs hold so much of the GPU that no more is left for weights; what it then does is its
own (`load_models_gpu`, partial loading, casting layer by layer, its pinned memory and its streams).
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["begin", "check", "leave"]


def begin() -> None:
    """Before a model is opened: weights may wait in main memory, which a host on the GPU alone does not let them."""
    from comfy import model_management
    from comfy.cli_args import args

    args.gpu_only, model_management.vram_state = False, model_management.VRAMState.NORMAL_VRAM


def leave(model: Any, latent: torch.Tensor, most: float) -> None:
    """Leaves room for at most that many GB of a model's weights beside what the host reckons a run needs.

    Raises ValueError where all of them fit, so that nothing would be streamed, and for weights that cannot be.
    """
    from comfy import model_management

    size = model.model_size()
    if size <= most * 1e9:
        raise ValueError(f"MATRIX_HOST_MEMORY={most:g}: all weights fit, they are {size / 1e9:.2f} GB; name less")
    fixed = sum(p.nbytes for m in model.model.modules() if _fixed(m) for p in m.parameters(recurse=False))
    if fixed > most * 1e9:
        raise ValueError(
            f"MATRIX_HOST_MEMORY={most:g}: {fixed / 1e9:.2f} GB are of layers that the host cannot stream, such as "
            "those that MATRIX_HOST_WEIGHTS=gguf packs; leave one of the two away"
        )
    device = model.load_device
    needs = max(
        model_management.minimum_inference_memory() - model_management.EXTRA_RESERVED_VRAM,
        model.model.memory_required(list(latent.shape)),
    )
    free = model_management.get_free_memory(device) + model.loaded_size()
    model_management.EXTRA_RESERVED_VRAM = int(free - needs - most * 1e9)


def check(model: Any, most: float) -> float:
    """After a run: GB of weights on its device. Raises RuntimeError where more than `most` are, or all."""
    every = list(model.model.parameters())
    device, size = model.load_device, sum(p.nbytes for p in every)
    there = model.loaded_size() if device.type == "cpu" else sum(p.nbytes for p in every if p.device == device)
    if there > most * 1e9 or there >= size:
        raise RuntimeError(
            f"{there / 1e9:.2f} of {size / 1e9:.2f} GB of weights are on {device}, and MATRIX_HOST_MEMORY={most:g} "
            "allows less: this run streamed none or too few of them"
        )
    return there / 1e9


def _fixed(module: torch.nn.Module) -> bool:
    """Whether the host always keeps a layer whole on its device."""
    return not hasattr(module, "comfy_cast_weights") and any(True for _ in module.parameters(recurse=False))
