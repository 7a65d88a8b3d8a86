"""Sees to it that the network, its blocks and their attention read the prompt's text: other packs exchange it in each
of these places, by wrappers, functions in the place of a block (`patches_replace`), and forwards of their own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...core.no_compile import hidden
from ...core.sites import AttentionSite
from ..compiled import compiled_parts
from .attribution import Predictions, who
from .override import Override, other_tokens, replaced
from .run import KEY

__all__ = ["checked_blocks", "checking", "given_to"]

_TEXTS = ("txt", "context")  # what the host's networks call it where a block is replaced


def checking(predictions: Predictions, override: Override, text: Tensor) -> Callable[[Any, Any, dict[str, Any]], None]:
    """Looks at the text where wrappers or a forward of other packs stand behind our wrapper, but not in a compiled
    network, whose graph would end there."""

    def last(following: Any, *args: Any, **kwargs: Any) -> Any:
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor) and each.shape == text.shape]
        if given and not any(each is text or torch.equal(each, text.to(each)) for each in given):
            chunks = override.layout.chunks
            names = predictions.read([name for name, _ in chunks], given[0].to(text))
            kept = tuple((name, own and name is not None) for name, (_, own) in zip(names, chunks))
            override.layout = replace(override.layout, chunks=kept)
        return following(*args, **kwargs)

    def put(network: Any, reached: Any, options: dict[str, Any]) -> None:
        wrappers = options.get("wrappers", {})
        theirs = wrappers.get(WrappersMP.DIFFUSION_MODEL, {})
        if (theirs or reached is not text or replaced(network)) and not compiled_parts(network):
            options["wrappers"] = {**wrappers, WrappersMP.DIFFUSION_MODEL: {**theirs, f"{KEY}_text": [last]}}

    return put


def checked_blocks(network: nn.Module, options: dict[str, Any], override: Override) -> None:
    """Looks at the text in the functions that stand in the place of blocks."""
    every = options.get("patches_replace", {})
    if not every.get("dit") or compiled_parts(network):
        return
    blocks = {place: _checked(function, override) for place, function in every["dit"].items()}
    options["patches_replace"] = {**every, "dit": blocks}


def _checked(function: Callable[..., Any], override: Override) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(args: dict[str, Any], more: dict[str, Any]) -> Any:
        given = _texts(args)

        def block(changed: dict[str, Any]) -> Any:
            before = override.exchanged
            override.exchanged = who(function) if _exchanged(given, _texts(changed)) else ""
            try:
                return more["original_block"](changed)
            finally:
                override.exchanged = before

        return function(args, {**more, "original_block": block})

    return run


def _texts(args: dict[str, Any]) -> list[Tensor]:
    return [each for each in tree_leaves([args.get(name) for name in _TEXTS]) if isinstance(each, Tensor)]


def _exchanged(given: Sequence[Tensor], read: Sequence[Tensor]) -> bool:
    """Whether texts (B, N, width) are others, or in another order. Reads from the device where they are new tensors."""
    new = [((a,), (b,)) for a, b in zip(given, read) if a is not b]
    return len(given) != len(read) or any(other_tokens(a, b, {}, {}) for a, b in new)


def _theirs(module: nn.Module) -> bool:
    forward = replaced(module)
    return forward is not None and not hasattr(forward, "_torchdynamo_orig_callable")  # compiled, and its own


@contextlib.contextmanager
def given_to(sites: Sequence[tuple[nn.Module, AttentionSite]], override: Override) -> Iterator[None]:
    """While open, what cross-attention with a forward of another pack is given is kept: of that it has to make keys."""
    found = [module for module, site in sites if site.kind == "cross" and _theirs(module)]

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        override.given = module, args, kwargs

    handles = [module.register_forward_pre_hook(hidden(keep), with_kwargs=True) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
