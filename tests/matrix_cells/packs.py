"""Mechanisms of other packs, written anew and small: how they reach attention, not what they make of it."""

from __future__ import annotations

import contextlib
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import torch
from support_native import conditioning
from torch import Tensor

from .graphs import ROWS, SIZES, Graph

__all__ = ["PICTURE", "by_hand", "packs"]

PICTURE = 5  # keys that a pack brings along


def packs() -> dict[str, Callable[[Graph], Graph]]:
    """What it does -> a graph with such a pack beside."""
    return {
        "cross-attention twice in a call (NAG of KJNodes)": _nag,
        "cross-attention of its own (PromptRelay)": _relay,
        "an override that centres k": lambda g: _override(g, lambda q, k: (q, k - k.mean(1, keepdim=True))),
        "an override that scales q": lambda g: _override(g, lambda q, k: (q * 1.5, k)),
        "an override that mixes in another attention": _mixes,
        "an override that adds attention to a picture (IP-Adapter)": _adds,
        "an override that adds another look at the prompt": lambda g: _adds(g, own=True),
        "an override that reorders tokens": _reorders,
        "an override whose kernel changes with the steps": _own_later,
        "an override whose kernel is not exact (SageAttention)": _rounds,
        "attention from a cache in every other step": _cached,
        "another text in every other step": lambda g: _around(g, _other_text),
        "another text for one block": _other_block_text,
        "another text in one cross-attention": _other_cross_text,
        "another text in the model's text projection": _other_projection,
        "a batch in another order": lambda g: _around(g, _turned),
        "a batch in another order, behind the model": _turned_behind,
        "the model called past its wrappers": _past,
        "a block that runs twice": _block_twice,
        "conditionings made anew in every step": lambda g: _asking(g, _anew),
        "two predictions of a prompt in a step": lambda g: _asking(g, _two_looks),
        "an override that changes nothing": lambda g: _override(g, lambda q, k: (q, k)),
        "an override with a kernel of its own": _own_kernel,
        "a pack that had set block.forward": _block_forward,
        "an override assigned after ours": _late,
        "an override of its own kernel assigned after ours": lambda g: _late(g, own=True),
    }


def cross_blocks(graph: Graph, *ends: str) -> list[tuple[str, Any]]:
    """(path, module) of every cross-attention of these names. Raises LookupError for a family that has none."""
    network = graph.model.model.diffusion_model
    found = [(n, m) for n, m in network.named_modules() if n.endswith(ends) and "_connector." not in n]
    if not found:
        raise LookupError(f"this family has no {' or '.join(ends)}")
    return found


def heads_of(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) -> (B, H, N, D)"""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _nag(graph: Graph) -> Graph:
    import comfy.ldm.modules.attention as attention

    blocks = cross_blocks(graph, ".cross_attn")
    graph, against = _other_read(graph)

    def forward(self: Any, x: Tensor, context: Tensor, transformer_options: Any = None, **kwargs: Any) -> Tensor:
        def look(q: Tensor, text: Tensor) -> Tensor:
            return attention.optimized_attention(
                q,
                self.norm_k(self.k(text)),
                self.v(text),
                heads=self.num_heads,
                transformer_options=transformer_options,
            )

        def guided(q: Tensor, text: Tensor) -> Tensor:
            toward, away = look(q, text), look(q, against.expand(len(q), -1, -1))
            moved = toward * 3.0 - away * 2.0
            ratio = moved.norm(1, -1, True) / toward.norm(1, -1, True).clamp(min=1e-6)
            return 0.5 * moved * (ratio.clamp(max=2.5) / ratio.clamp(min=1e-6)) + 0.5 * toward

        q, sides = self.norm_q(self.q(x)), (transformer_options or {}).get("cond_or_uncond") or [0]
        if len(x) == 1 or 0 not in sides or len(set(sides)) == 1:
            return self.o(guided(q, context) if 0 in sides else look(q, context))
        half = len(x) // len(sides)
        parts = [slice(at * half, (at + 1) * half) for at in range(len(sides))]
        return self.o(
            torch.cat([(guided if s == 0 else look)(q[p], context[p]) for s, p in zip(sides, parts, strict=True)])
        )

    def change(model: Any) -> Any:
        for name, module in blocks:
            model.add_object_patch(f"diffusion_model.{name}.forward", types.MethodType(forward, module))
        return model

    return graph.patched(change)


def _relay(graph: Graph) -> Graph:
    """Each part of the clip looks at its part of the prompt, by a mask: the kernel is called directly, or, with LTX,
    the module's own forward."""

    def penalty(x: Tensor, context: Tensor) -> Tensor:
        at = torch.linspace(0, 1, x.shape[1])[:, None] - torch.linspace(0, 1, context.shape[1])[None]
        return -4.0 * (at.abs() - 0.5).clamp(min=0).to(x)

    def forward(self: Any, x: Tensor, context: Tensor, **kwargs: Any) -> Tensor:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (heads_of(t, self.num_heads) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=penalty(x, context)[None, None])
        return self.o(out.transpose(1, 2).flatten(2))

    def apart(self: Any, x: Tensor, context: Tensor, **kwargs: Any) -> Tensor:  # Kandinsky 5's
        q, k, v = (t.transpose(1, 2) for t in self.get_qkv(x, context))
        more = penalty(x, context)[None, None]
        out = torch.nn.functional.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, attn_mask=more)
        return self.out_layer(out.transpose(1, 2).flatten(2))

    def masked(plain: Any) -> Any:
        def forward(self: Any, x: Tensor, context: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
            more = penalty(x, context)
            return plain(x, context=context, mask=more if mask is None else mask + more, **kwargs)

        return forward

    def change(model: Any) -> Any:
        for name, module in cross_blocks(graph, ".cross_attn", ".attn2", ".cross_attention"):
            mine = apart if hasattr(module, "get_qkv") else forward
            mine = masked(module.forward) if name.endswith(".attn2") else mine
            model.add_object_patch(f"diffusion_model.{name}.forward", types.MethodType(mine, module))
        return model

    return graph.patched(change)


def _override(graph: Graph, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Graph:
    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("skip_reshape"):  # (B, H, N, D)
            q, k = (t.transpose(1, 2) for t in (q, k))
            q, k = (t.transpose(1, 2) for t in change(q, k))
        else:
            q, k = change(q, k)
        return func(q, k, v, heads, *args, **kwargs)

    return graph.patched(lambda model: _assign(model, override))


def _assign(model: Any, override: Any) -> Any:
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention without PyTorch's kernel, (B, H, N, D)."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1) @ v


def _own(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    from . import packs  # through the module, where the truth listens

    if not kwargs.get("skip_reshape"):
        q, k, v = (heads_of(t, heads) for t in (q, k, v))
    while mask is not None and mask.ndim < 4:
        mask = mask[None] if mask.ndim == 2 else mask[:, None]
    out = packs.by_hand(q, k, v, mask)
    return out if kwargs.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)


def _own_kernel(graph: Graph) -> Graph:
    return graph.patched(lambda model: _assign(model, _own))


def _rounds(graph: Graph) -> Graph:
    """To 8 bits, as integer kernels do."""

    def rounded(tensor: Tensor) -> Tensor:
        size = tensor.abs().amax(-1, keepdim=True) / 127
        return (tensor / size).round() * size

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        return _own(func, rounded(q), rounded(k), v, heads, *args, **kwargs)

    return graph.patched(lambda model: _assign(model, override))


def _step(options: dict[str, Any]) -> int:
    return [float(sigma) for sigma in options["sample_sigmas"]].index(float(options["sigmas"][0]))


def _mixes(graph: Graph) -> Graph:
    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        return 0.5 * func(q, k, v, heads, *args, **kwargs) + 0.5 * _own(func, q * 3, k, v, heads, *args, **kwargs)

    return graph.patched(lambda model: _assign(model, override))


def _adds(graph: Graph, own: bool = False) -> Graph:
    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        out = func(q, k, v, heads, *args, **kwargs)
        if own:
            return out + 0.5 * _own(func, q * 3, k, v, heads, *args, **kwargs)
        shape = q[:1].narrow(2 if kwargs.get("skip_reshape") else 1, 0, PICTURE).shape
        made = torch.randn(shape, generator=torch.Generator().manual_seed(6)).to(q).expand(len(q), *shape[1:])
        return out + 0.5 * func(q, made, made, heads, *args, **{**kwargs, "mask": None})

    return graph.patched(lambda model: _assign(model, override))


def _reorders(graph: Graph) -> Graph:
    """As sparse attention does, so that tokens that look at each other stand together."""

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        into, out = (2 if kwargs.get(name) else 1 for name in ("skip_reshape", "skip_output_reshape"))
        if kwargs.get("mask") is not None or q.shape[into] != k.shape[into]:
            return func(q, k, v, heads, *args, **kwargs)
        order = torch.randperm(q.shape[into], generator=torch.Generator().manual_seed(0))
        q, k, v = (t.index_select(into, order) for t in (q, k, v))
        return func(q, k, v, heads, *args, **kwargs).index_select(out, order.argsort())

    return graph.patched(lambda model: _assign(model, override))


def _own_later(graph: Graph) -> Graph:
    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        return _own(func, q * (1 + _step(kwargs["transformer_options"])), k, v, heads, *args, **kwargs)

    return graph.patched(lambda model: _assign(model, override))


def _cached(graph: Graph) -> Graph:
    """As pyramid attention broadcast does."""
    kept: dict[Any, Tensor] = {}

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs["transformer_options"]
        key = options.get("block_index"), options.get("block_type"), q.shape, k.shape
        if _step(options) % 2 == 0 or key not in kept:
            kept[key] = func(q, k, v, heads, *args, **kwargs)
        return kept[key]

    @contextlib.contextmanager
    def empty() -> Iterator[None]:
        kept.clear()
        yield

    return graph.patched(lambda model: _assign(model, override)).but(steps=4, inside=(*graph.inside, empty))


def _replaced(graph: Graph, path: str, function: Any, module: Any) -> Graph:
    """A function in the place of a module's method."""

    def change(model: Any) -> Any:
        model.add_object_patch(path, types.MethodType(function, module))
        return model

    return graph.patched(change)


def _other_read(graph: Graph) -> tuple[Graph, Tensor]:
    """The graph, and another text as its blocks read it."""
    other = conditioning(graph.family, 8, SIZES[graph.family], rows=ROWS)[0][0]
    with torch.inference_mode():
        read = graph.model.model.diffusion_model.text_embedding(other)
    return graph.but(texts={**graph.texts, "against": other}), read


def _other_block_text(graph: Graph) -> Graph:
    graph, read = _other_read(graph)

    def block(args: dict[str, Any], more: dict[str, Any]) -> Any:
        return more["original_block"]({**args, "txt": read.expand(len(args["img"]), -1, -1)})

    place = block, "dit", "double_block", 0
    return graph.patched(lambda model: (model.set_model_patch_replace(*place), model)[1])


def _other_cross_text(graph: Graph) -> Graph:
    graph, read = _other_read(graph)

    def forward(self: Any, x: Tensor, context: Tensor, **kwargs: Any) -> Tensor:
        return type(self).forward(self, x, read.expand(len(x), -1, -1), **kwargs)

    name, module = cross_blocks(graph, ".cross_attn")[0]
    return _replaced(graph, f"diffusion_model.{name}.forward", forward, module)


def _other_projection(graph: Graph) -> Graph:
    graph, read = _other_read(graph)
    module = graph.model.model.diffusion_model.text_embedding

    def forward(self: Any, text: Tensor) -> Tensor:
        return read.expand(len(text), -1, -1)

    return _replaced(graph, "diffusion_model.text_embedding.forward", forward, module)


def _turned_behind(graph: Graph) -> Graph:
    def forward(self: Any, x: Tensor, t: Tensor, context: Tensor, **kwargs: Any) -> Tensor:
        return type(self).forward(self, x.flip(0), t.flip(0), context.flip(0), **kwargs).flip(0)

    return _replaced(graph, "diffusion_model.forward", forward, graph.model.model.diffusion_model)


def _past(graph: Graph) -> Graph:
    def apply_model(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return self._apply_model(*args, **kwargs)

    return _replaced(graph, "apply_model", apply_model, graph.model.model)


def _around(graph: Graph, function: Any) -> Graph:
    """A function around the model's calls."""
    return graph.patched(lambda model: (model.set_model_unet_function_wrapper(function), model)[1])


def _other_text(apply: Any, given: dict[str, Any]) -> Tensor:
    more = given["c"]
    if _step(more["transformer_options"]) % 2:
        more = {**more, "c_crossattn": more["c_crossattn"].flip(1)}
    return apply(given["input"], given["timestep"], **more)


def _turned(apply: Any, given: dict[str, Any]) -> Tensor:
    more = {name: each.flip(0) if isinstance(each, Tensor) else each for name, each in given["c"].items()}
    return apply(given["input"].flip(0), given["timestep"].flip(0), **more).flip(0)


def _block_twice(graph: Graph) -> Graph:
    block = graph.model.model.diffusion_model.get_submodule("blocks.0")
    plain = type(block).forward

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return 0.5 * (plain(self, x, *args, **kwargs) + plain(self, x * 1.5, *args, **kwargs))

    return _replaced(graph, "diffusion_model.blocks.0.forward", forward, block)


def _asking(graph: Graph, function: Any) -> Graph:
    """In the place where the host's guiders ask for their predictions."""
    return graph.patched(lambda model: (model.set_model_sampler_calc_cond_batch_function(function), model)[1])


def _anew(given: dict[str, Any]) -> Any:
    import comfy.samplers

    conds = [[{**cond, "uuid": uuid.uuid4()} for cond in each] for each in given["conds"] if each is not None]
    conds += [None] * (len(given["conds"]) - len(conds))
    return comfy.samplers.calc_cond_batch(given["model"], conds, given["input"], given["sigma"], given["model_options"])


def _two_looks(given: dict[str, Any]) -> Any:
    import comfy.samplers

    rest = given["conds"], given["sigma"], given["model_options"]
    first = comfy.samplers.calc_cond_batch(given["model"], rest[0], given["input"], *rest[1:])
    moved = given["input"] + 0.3 * (first[0] - given["input"])
    return comfy.samplers.calc_cond_batch(given["model"], rest[0], moved, *rest[1:])


def _block_forward(graph: Graph) -> Graph:
    """Set on the module itself, not through the host, and there for the whole session."""
    network = graph.model.model.diffusion_model
    names = ("blocks.0", "double_blocks.0", "transformer_blocks.0", "visual_transformer_blocks.0")
    block = next(m for n, m in network.named_modules() if n in names)

    @contextlib.contextmanager
    def set_up() -> Iterator[None]:
        plain = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            return (out[0] * 1.02, *out[1:]) if isinstance(out, tuple) else out * 1.02

        block.forward = forward
        try:
            yield
            assert block.forward is forward, "another pack's block.forward is gone"
        finally:
            vars(block).pop("forward", None)

    return graph.but(inside=(*graph.inside, set_up))


def _late(graph: Graph, own: bool = False) -> Graph:
    """Assigns the single slot outright, in a wrapper that the host calls inside of all others."""
    from comfy.patcher_extension import WrappersMP

    def through(func: Any, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict))
        options["optimized_attention_override"] = _own if own else through
        return executor(*args, **kwargs)

    def change(model: Any) -> Any:
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "late", wrapper)
        return model

    return graph.patched(change)
