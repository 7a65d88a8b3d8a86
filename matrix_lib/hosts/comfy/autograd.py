"""Gradients through native models, which the host runs under inference mode.

Loaded weights are inference tensors, and so are conditionings: neither may be saved for a backward pass. Some blocks
add to their input in place. And only PyTorch's own attention is sure to have a gradient.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...core.checkpointed import checkpointed
from ...core.sites import AttentionSite
from ..compiled import plain
from ..modules import Running

__all__ = ["differentiable", "plain_tensors", "plain_weights", "pytorch_kernel", "running_blocks"]

_NONE = object()
_LAYERS = (functional.linear, functional.rms_norm, functional.layer_norm)
# HunyuanVideo's blocks add to the input of these in place
_NORMS = ("img_norm1", "img_norm2", "txt_norm1", "txt_norm2", "pre_norm")


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """While open, gradients are recorded, whatever the host switched off."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True  # keeps the host from kernels without a gradient
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = before


def plain_weights(module: nn.Module) -> None:
    """Replaces inference tensors of a loaded module by equal normal ones, one at a time. After each load: patched
    weights come back as inference tensors."""
    with torch.inference_mode(False):
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None and value.is_inference():
                    part._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)
            for name, value in part._buffers.items():
                if value is not None and value.is_inference():
                    part._buffers[name] = value.clone()


def plain_tensors(value: Any) -> Any:
    """Arguments of a forward with inference tensors replaced by equal normal ones."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) in (list, tuple):
        return type(value)(plain_tensors(each) for each in value)
    if isinstance(value, dict):
        return {name: plain_tensors(each) for name, each in value.items()}
    own = {name: each.clone() for name, each in _own(value).items() if isinstance(each, Tensor) and each.is_inference()}
    if own:  # an object of the host that holds some
        value = copy.copy(value)
        vars(value).update(own)
    return value


def _own(value: Any) -> dict[str, Any]:
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)) else {}


def pytorch_kernel(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kwargs: Any) -> Tensor:
    """An attention kernel of the host that has a gradient."""
    known = ("scale", "skip_reshape", "skip_output_reshape", "enable_gqa")
    given = {name: kwargs[name] for name in known if name in kwargs}
    return attention_pytorch(q, k, v, heads, mask=mask, _inside_attn_wrapper=True, **given)


@contextlib.contextmanager
def running_blocks(
    root: nn.Module,
    sites: list[tuple[nn.Module, AttentionSite]],
    running: Running,
    again: bool,
    in_place: bool = False,
) -> Iterator[None]:
    """While open, a backward pass through the model's blocks works; with `again` they are checkpointed. in_place: they
    add to what a layer of theirs has read.

    A block that runs again in the backward pass is not called, so that no hook of its own fires: where the block itself
    is an attention site, `running` is told here.
    """
    blocks, handles, before = _blocks(root, sites), [], []
    site_of = {id(module): site for module, site in sites}

    def forward_of(block: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        site = site_of.get(id(block))

        def inner(*args: Any, **kwargs: Any) -> Any:
            if site is not None:
                running.enter(site, block)
            own = [_cloned(each) for each in args]
            kept = {name: _cloned(each) for name, each in kwargs.items()}
            with _PlainRotary(), _KeptInputs() if in_place else contextlib.nullcontext():
                return original(*own, **kept)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not again:
                return inner(*args, **kwargs)
            return checkpointed(inner, *args, preserve_rng_state=False, **kwargs)

        return forward

    try:
        for block in blocks:
            for name in _NORMS:
                if isinstance(norm := getattr(block, name, None), nn.Module):
                    handles.append(norm.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:])))
            before.append((block, block.__dict__.get("forward", _NONE)))
            block.forward = forward_of(block, block.forward)
        yield
    finally:
        for block, own in reversed(before):  # another pack may have put a forward there, and it stays
            if own is _NONE:
                block.__dict__.pop("forward", None)
            else:
                block.forward = own
        for handle in handles:
            handle.remove()


def _cloned(value: Any) -> Any:
    """A block may run twice on its arguments, and changes them."""
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(_cloned(each) for each in value) if type(value) in (list, tuple) else value


class _PlainRotary(TorchFunctionMode):
    """The host's fused kernels for positions, which have no gradient, run as what they are in plain operations. Not
    every network of the host leaves them out while it is told that it trains."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        library, _, name = getattr(func, "_qualified_op_name", "").partition("::")
        if library == "comfy_kitchen" and "rope" in name:
            from comfy_kitchen.backends import eager

            func = getattr(eager, name, func)
        return func(*args, **(kwargs or {}))


class _KeptInputs(TorchFunctionMode):
    """Layers inside read a copy of their input. What a backward pass needs of it is then left alone by in-place sums,
    which checkpointing would not notice."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LAYERS and args and args[0].requires_grad:
            args = (args[0].clone(), *args[1:])
        return func(*args, **(kwargs or {}))


def _blocks(root: nn.Module, sites: list[tuple[nn.Module, AttentionSite]]) -> list[nn.Module]:
    """The blocks that the sites are in: `blocks.3` of `blocks.3.self_attn`."""
    names = []
    for _, site in sites:
        parts = site.name.split(".")
        number = next(place for place, part in enumerate(parts) if part.isdecimal())
        names.append(".".join(parts[: number + 1]))
    return [plain(root.get_submodule(name)) for name in dict.fromkeys(names)]
