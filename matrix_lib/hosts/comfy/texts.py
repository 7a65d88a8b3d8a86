"""Sees to it that the network, its blocks and their attention read the prompt's text: other packs exchange it in each
of these places, by wrappers, functions in the place of a block (`patches_replace`), and forwards of their own; before
the blocks by hooks, too."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...core.no_compile import hidden
from ...core.sites import AttentionSite
from ..compiled import compiled_parts, plain
from .attribution import Predictions, who
from .override import Override, Troubles, other_tokens, replaced
from .run import KEY, Run

__all__ = ["TextWay", "checked_blocks", "checking", "given_to"]

# How far a row may be from its own, as a share of what tells it from others (float8 rounds so), and the least cosine of
# these parts of rows that are of one text: a LoRA changes them.
_NEAR, _SAME_TEXT = 0.02, 0.9
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
            override.exchanged = who(function) if _exchanged(given, _texts(changed)) else before
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


def _theirs(module: nn.Module) -> Any:
    forward = replaced(module)
    return None if hasattr(forward, "_torchdynamo_orig_callable") else forward  # compiled, and its own


@contextlib.contextmanager
def given_to(sites: Sequence[tuple[nn.Module, AttentionSite]], override: Override) -> Iterator[None]:
    """While open, what cross-attention with a forward of another pack is given is kept: of that it has to make keys."""
    found = [module for module, site in sites if site.kind == "cross" and _theirs(module) is not None]

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        override.given = module, args, kwargs

    handles = [module.register_forward_pre_hook(hidden(keep), with_kwargs=True) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class TextWay:
    """Looks at the modules of one run that its text goes through before the blocks (`Blocks.text_way`).

    One whose forward is replaced, or that somebody hooked, runs once more, as its class has it: what it gives has to be
    of what it was given. Of one that stands in the place of the network's own (an object patch) a note says so: that
    one's weights need not be where they could run. Compiled ones are left alone.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], own: Mapping[str, nn.Module], run: Run, troubles: Troubles
    ) -> None:
        way = run.info.spec.native.text_way
        named = {name: each for name, each in modules.items() if way and re.match(way, name)}
        found = list(named.values())
        for name, each in named.items():
            if own.get(name) not in (None, plain(each)) and not any(name.startswith(f"{above}.") for above in named):
                what = "whether it makes of the text what the model's own does is not known"
                troubles.add(f"{who(each)} stands in the place of {name}: {what}")
        self._modules, self._prompts, self._troubles = found, run.prompts, troubles
        self._own: dict[nn.Module, tuple[Any, Any]] = {}  # what runs -> who is in it, what its class gives
        self._hooks = hidden(self._asked), hidden(self._made)
        self._override: Override | None = None  # of the last forward
        self._before = ""  # who exchanged a text that the host brought here before the first

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in self._modules:
                if not compiled_parts(module):
                    asked, made = self._hooks
                    stack.callback(module.register_forward_pre_hook(asked, prepend=True, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(made).remove)
            yield

    def begin(self, override: Override) -> None:
        """A forward begins."""
        self._override, override.exchanged = override, self._before

    def _asked(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        behind = module._forward_hooks
        every = _theirs(module), *module._forward_pre_hooks.values(), *behind.values()
        if by := [each for each in every if each not in (None, *self._hooks)]:
            behind.move_to_end(next(name for name, each in behind.items() if each in self._hooks))
            with torch.no_grad():
                self._own[module] = by[0], type(module).forward(module, *args, **kwargs)

    def _made(self, module: nn.Module, _: Any, out: Any) -> None:
        if module not in self._own:
            return
        by, own = self._own.pop(module)
        pairs = zip(tree_leaves(own), tree_leaves(out))
        found = [_changed(self._rows(a), self._rows(b)) for a, b in pairs if isinstance(a, Tensor)]
        if max(found, default=0) == 2:
            if self._override is None:
                self._before = who(by)
            else:
                self._override.exchanged = who(by)
        elif any(found):
            what = "changes what the model makes of its text: words are shown and steered by the prompt's rows"
            self._troubles.add(f"{who(by)} {what}")

    def _rows(self, made: Tensor) -> Tensor:
        """The rows (B, N, width) of prompts' texts in what a module made."""
        made = made[None] if made.ndim == 2 else made
        if self._override is None:
            return made
        layout = self._override.layout
        known = [name in self._prompts for name, _ in layout.chunks for _ in range(layout.samples)]
        kept = [row for row in range(len(made)) if len(made) != len(known) or known[row]]
        return made[kept, : layout.text]  # the picture's stand behind


def _changed(own: Tensor, made: Tensor) -> int:
    """0: rows (B, N, width) are the same but for rounding; 2: some are others; 1: changed. Reads from the device."""
    if own.shape != made.shape:
        return 2
    off = (own.float() - made.float()).norm(dim=-1)
    own, made = (rows.float() - rows.float().mean(1, keepdim=True) for rows in (own, made))
    far = off > _NEAR * own.norm(dim=-1)
    other = far & ((own * made).sum(-1) < _SAME_TEXT * own.norm(dim=-1) * made.norm(dim=-1))
    return int((far.any() + 2 * other.any()).clamp(max=2))
