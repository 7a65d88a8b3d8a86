"""Weights that a loader of another pack keeps packed (GGUF and the like) and unpacks as they are used.

Such a weight lies in memory as bytes, so its size says nothing of what it is; its module knows. A loader that can be
patched brings a patcher of its own, which puts patches on while it unpacks: these are the host's own patches, so that
a LoRA needs nothing else. What a weight is before any patch is read through its module, with the unit vectors as
input, whatever the packing.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

__all__ = ["check_patchable", "packed", "shape_of", "unpacked"]


def shape_of(model: Any, key: str) -> tuple[int, ...]:
    """The shape of a weight or bias of a MODEL as it is used, packed or not."""
    module, weight = _module(model, key), _stored(model, key)
    told = tuple(weight.shape)
    if told != tuple(Tensor.size(weight)):  # a class of tensors that knows what it holds
        return told
    known = _known(module) if key.endswith(".weight") else None
    return told if known is None or weight.is_floating_point() else known


def packed(model: Any, key: str) -> bool:
    """Whether a weight lies there as bytes that only its module can read."""
    return shape_of(model, key) != tuple(Tensor.size(_stored(model, key)))


def unpacked(model: Any, key: str) -> Tensor:
    """A packed weight or bias of a layer as the checkpoint has it, float32 on the CPU. Where patches are on it (this
    or another clone is loaded), the model is unloaded first, and comes back with the next run.

    Raises ValueError for a module that is neither linear nor a convolution of whole patches.
    """
    if getattr(model.model, "current_weight_patches_uuid", None) is not None:
        comfy.model_management.unload_model_and_clones(model)
    module = _module(model, key)
    shape = shape_of(model, f"{key.rsplit('.', 1)[0]}.weight")
    rows = math.prod(shape[1:])
    if _known(module) is None:
        raise ValueError(f"{key} is packed in a {type(module).__name__}, whose weight cannot be read")
    units = torch.eye(rows, device=_stored(model, key).device)
    with torch.no_grad():
        base = module(torch.zeros_like(units[:1]).reshape(1, *shape[1:])).flatten(1)
        if key.endswith(".bias"):
            return base[0].float().cpu()
        found = module(units.reshape(rows, *shape[1:])).flatten(1) - base
    return found.T.reshape(shape).float().cpu()


def check_patchable(model: Any, keys: Any) -> None:
    """Raises ValueError where a weight is packed and its loader does not say how packed weights take patches."""
    if type(model).patch_weight_to_device is not ModelPatcher.patch_weight_to_device:
        return
    for key in keys:
        if packed(model, key) and not hasattr(_module(model, key), "convert_weight"):
            kind = type(_stored(model, key)).__name__
            raise ValueError(
                f"{key} of this MODEL is packed ({kind}), and its loader brings no patcher that puts LoRAs on packed "
                "weights: load the model with a loader that does (ComfyUI-GGUF's Unet Loader, say), or an unpacked file"
            )


def _module(model: Any, key: str) -> nn.Module:
    return model.get_model_object(key.rsplit(".", 1)[0])  # type: ignore[no-any-return]


def _stored(model: Any, key: str) -> Tensor:
    return getattr(_module(model, key), key.rsplit(".", 1)[1])  # type: ignore[no-any-return]


def _known(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of a module's weight by what the module says of itself."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module.out_channels, module.in_channels // module.groups, *module.kernel_size
    return None
