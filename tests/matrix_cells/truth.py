"""What really ran: every attention call at its kernel, and explicit maps of those that made the prompt's prediction.

Nothing here asks this pack. Whose prompt a row of a call is, is read off the text that the network was given (or the
keys made of it, or the host's ids); which prediction a call belongs to, off the guider: what runs inside of its
`predict_noise`, and not inside of a function that a patch hung behind or before the guidance, is the guider's own.

B batch, H heads, Nq / Nk query / key tokens, D head size, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from support_native import patch
from torch import Tensor

from . import packs
from .graphs import Graph, behind_words, binding_of, grid_of, in_front_of_words, prompts_of

__all__ = ["Bottom", "Call", "Truth"]

# path of the attention modules of a family, what meets there, and whether the text's tokens come first
STACKS = {
    "wan": (("blocks.{}.self_attn", "self"), ("blocks.{}.cross_attn", "cross")),
    "cogvideox": (("blocks.{}", "joint"),),
    "hunyuan15": (("double_blocks.{}", "joint"),),
    "minimax_h3": (("blocks.{}.attn", "joint"),),
    "mochi": (("blocks.{}.attn", "joint"),),
    "hunyuan": (("double_blocks.{}", "joint"), ("single_blocks.{}", "joint")),
    "ltx": (("transformer_blocks.{}.attn1", "self"), ("transformer_blocks.{}.attn2", "cross")),
    "kandinsky5": (
        ("visual_transformer_blocks.{}.self_attention", "self"),
        ("visual_transformer_blocks.{}.cross_attention", "cross"),
    ),
}
Edits = Callable[["Call"], Any]


@dataclass(frozen=True)
class Call:
    """One row of the batch of one call. q (H, Nq, D), k and v (H, Nk, D); mask (1 or H, Nq or 1, Nk) or None; `main`:
    part of the guider's own prediction; `done`: steps that the sampler had finished; `frames`: of the clip, by place,
    for a context window, else None. A joint sequence is `lead` tokens, `text` words, `between` other ones, and the
    clip; or the clip, and words `behind` it."""

    layer: int
    kind: str
    name: str
    prompt: tuple[str, int] | None
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float
    sigma: float
    main: bool
    frames: tuple[int, ...] | None
    text: int
    grid: tuple[int, int, int]
    lead: int = 0
    between: int = 0
    behind: bool = False
    done: int = 0
    copies: int = 1  # of the prompt

    @property
    def clip(self) -> tuple[int, int]:
        """(start, length) of the clip's tokens."""
        first = self.lead + self.text + self.between if self.kind == "joint" and not self.behind else 0
        return first, self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def words(self) -> tuple[int, int] | None:
        """(start, length) of the words among the keys."""
        lead = sum(self.clip) if self.behind else self.lead if self.kind == "joint" else 0
        return None if self.kind == "self" else (lead, self.text)


@dataclass
class _Forward:
    rows: list[tuple[str, int] | None]
    frames: tuple[int, ...] | None
    text: int
    grid: tuple[int, int, int]


@dataclass
class Bottom:
    """While `watching` a guider: listens at the kernels of all attention calls; where `edits` answers, runs them by it.

    acts: whether edits apply now (a second prediction of the reference switches them). seen: how many calls there were.
    """

    graph: Graph
    edits: Edits | None = None
    acts: bool = True
    calls: list[Call] = field(default_factory=list)
    keep: bool = True
    seen: int = 0

    def __post_init__(self) -> None:
        self._site: list[tuple[int, str, str, Any]] = []
        self._forward: _Forward | None = None
        self._sigma, self._inside, self._extra = 0.0, False, 0
        self._done = 0
        self._prompts: dict[Any, Tensor] = {}
        self._texts: set[int] = set()  # rows of each
        self._ids: dict[Any, Any] = {}  # the host's
        self._keys: dict[int, dict[Any, Tensor]] = {}

    # -- around a guider ----------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def watching(self, guider: Any) -> Iterator[None]:
        """Open around `guider.sample`. The guider is this run's own."""
        network = guider.model_patcher.model.diffusion_model
        self._prompts = {
            name: _read(network, cond)
            for name, cond in prompts_of(guider).items()
            if cond.get("cross_attn") is not None
        }
        self._ids = {name: cond["uuid"] for name, cond in prompts_of(guider).items()}
        self._prompts |= {(name, -1): text for name, text in self.graph.texts.items()}
        self._texts = {text.shape[1] for text in self._prompts.values()}
        predict, sampling, self._done = guider.predict_noise, guider.inner_sample, 0

        def inside(x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.begin(float(timestep.flatten()[0]))
            try:
                return predict(x, timestep, *args, **kwargs)
            finally:
                self.end()

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            told = args[6]

            def after(step: int, *state: Any) -> None:
                self._done = step + 1
                if told is not None:
                    told(step, *state)

            return sampling(*args[:6], after, *args[7:], **kwargs)

        guider.predict_noise, guider.inner_sample = inside, counted
        guider.model_options = self._told(guider.model_options)
        with contextlib.ExitStack() as stack:
            for handle in (*self._hooks(network), network.register_forward_pre_hook(self._enter, with_kwargs=True)):
                stack.callback(handle.remove)
            other = getattr(guider, "uncond_model_patcher", None)
            if other is not None and other.model.diffusion_model is not network:
                more = other.model.diffusion_model
                for handle in (*self._hooks(more), more.register_forward_pre_hook(self._enter, with_kwargs=True)):
                    stack.callback(handle.remove)
            plain, hand = torch.nn.functional.scaled_dot_product_attention, packs.by_hand
            torch.nn.functional.scaled_dot_product_attention = self._kernel(plain)
            packs.by_hand = self._kernel(hand)
            try:
                yield
            finally:
                torch.nn.functional.scaled_dot_product_attention = plain
                packs.by_hand = hand

    def begin(self, sigma: float) -> None:
        """A prediction at this noise level begins."""
        self._sigma, self._inside = sigma, True

    def end(self) -> None:
        """It has ended."""
        self._inside = False

    def _told(self, options: dict[str, Any]) -> dict[str, Any]:
        """The guider's options, in which every function around the guidance says when it runs."""
        told = dict(options)
        for name in ("sampler_post_cfg_function", "sampler_pre_cfg_function"):
            if name in told:
                told[name] = [self._apart(function) for function in told[name]]
        if "sampler_cfg_function" in told:
            told["sampler_cfg_function"] = self._apart(told["sampler_cfg_function"])
        return told

    def _apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.apart():
                return function(*args, **kwargs)

        return run

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Whatever is predicted meanwhile is not the guider's own prediction."""
        self._extra += 1
        try:
            yield
        finally:
            self._extra -= 1

    def _hooks(self, network: Any) -> Iterator[Any]:
        modules, layer = dict(network.named_modules()), 0
        family = next(name for name in STACKS if self.graph.family.startswith(name))
        groups = [[stack] for stack in STACKS[family]] if family == "hunyuan" else [list(STACKS[family])]
        for group in groups:
            number = 0
            while group[0][0].format(number) in modules:
                for path, kind in group:
                    name = path.format(number)
                    site = (layer, kind, name, modules[name])
                    yield modules[name].register_forward_pre_hook(lambda *_, site=site: self._push(site))
                    yield modules[name].register_forward_hook(lambda *_: self._pop(), always_call=True)
                number, layer = number + 1, layer + 1

    def _push(self, site: Any) -> None:
        self._site.append(site)

    def _pop(self) -> None:
        self._site.pop()

    def _enter(self, _module: Any, args: Any, kwargs: Any) -> None:
        """The network begins: whose text its rows read, and which frames of the clip they are."""
        context = kwargs.get("context")
        context = args[2] if context is None else context
        window = kwargs.get("transformer_options", {}).get("context_window")
        frames = None
        if window is not None:
            frames = list(window.index_list)
            anchor = getattr(window, "causal_anchor_index", None)
            frames = tuple(frames if anchor is None or anchor < 0 else [anchor, *frames])
        clip = args[0][0] if isinstance(args[0], list) else args[0]  # beside its sound
        shape, size = clip.shape[-3:], patch(self.graph.family)
        grid = (int(shape[0]), -(-int(shape[1]) // size[1]), -(-int(shape[2]) // size[2]))
        ids = kwargs.get("transformer_options", {}).get("uuids") or [None]
        rows = [self._whose(text, ids[row * len(ids) // len(context)]) for row, text in enumerate(context)]
        text = min(int(context.shape[1]), kwargs.get("num_tokens", context.shape[1]))  # Mochi's, without padding
        self._forward = _Forward(rows, frames, text, grid)

    def _whose(self, text: Tensor, given: Any) -> tuple[str, int] | None:
        prompts = {name: each[0].repeat(len(text) // each.shape[1], 1) for name, each in self._prompts.items()}
        same = [name for name, each in prompts.items() if torch.equal(text, each.to(text))]
        return next((name for name in same if self._ids.get(name) == given), same[0] if same else None)

    # -- at the kernel ------------------------------------------------------------------------------------------------
    def _kernel(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Tensor:
            rows = self._rows(q, k, v, attn_mask, kwargs.get("scale")) if self._site and self._inside else []
            self.seen += 1
            if self.keep:
                self.calls += [call for call in rows if call.main]
            edits = [self.edits(row) if self.edits and self.acts else None for row in rows]
            out = plain(q, k, v, attn_mask, *args, **kwargs)
            if not any(edit is not None for edit in edits):
                return out
            return torch.stack([out[i] if e is None else e.to(out) for i, e in enumerate(edits)])

        return kernel

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None) -> list[Call]:
        layer, kind, name, module = self._site[-1]
        forward = self._forward
        assert forward is not None
        if k.shape[-2] == packs.PICTURE:
            return []
        if kind == "cross" and hasattr(module, "k_img") and k.shape[-2] not in (forward.text, *self._texts):
            return []  # the image's tokens
        prompts = list(forward.rows) if len(q) == len(forward.rows) else [None] * len(q)
        network = self.graph.model.model.diffusion_model
        timed = getattr(network, "cross_attention_adaln", hasattr(network, "text_transformer_blocks"))
        if kind == "cross" and not timed:  # keys of LTX-2.3 and Kandinsky 5 change with the noise
            known = [self._by_keys(layer, module, k[row]) for row in range(len(k))]
            prompts = [given if given in same or not same else same[0] for same, given in zip(known, prompts)]
        while mask is not None and mask.ndim < 4:
            mask = mask[None] if mask.ndim == 2 else mask[:, None]
        found, family = [], self.graph.family
        for row, prompt in enumerate(prompts):
            own = None if mask is None else mask[row if len(mask) > 1 else 0]
            copies = 1 if prompt is None else max(1, forward.text // self._prompts[prompt].shape[1])
            found.append(
                Call(
                    layer, kind, name, prompt, q[row], k[row], v[row], own, scale or q.shape[-1] ** -0.5, self._sigma,
                    not self._extra, forward.frames, forward.text, forward.grid, in_front_of_words(family),
                    behind_words(family, forward.grid[1] * forward.grid[2]),
                    family == "mochi", self._done, copies,
                )
            )  # fmt: skip
        return found

    def _by_keys(self, layer: int, module: Any, k: Tensor) -> list[tuple[str, int]]:
        """Whose text keys (H, Nk, D) were made of, for networks that make them of the text alone."""
        network = self.graph.model.model.diffusion_model
        made: Callable[[Tensor], Tensor]
        if hasattr(module, "to_k"):  # LTX-Video's
            made = lambda text: module.k_norm(module.to_k(network.caption_projection(text)))  # noqa: E731
        else:
            made = lambda text: module.norm_k(module.k(network.text_embedding(text)))  # noqa: E731
        if layer not in self._keys:
            self._keys[layer] = {name: made(text.to(k)).detach() for name, text in self._prompts.items()}
        flat = k.transpose(0, 1).flatten(1)
        keys = {name: each[0] for name, each in self._keys[layer].items() if each.shape[1:] == flat.shape}
        return [name for name, each in keys.items() if torch.allclose(each, flat, rtol=1e-4, atol=1e-5)]


def _read(network: Any, cond: dict[str, Any]) -> Tensor:
    """The text of a conditioning as its network reads it: LTX-2's puts registers behind the rows, and mixes all, as
    MiniMax H3's does."""
    text, made = cond["cross_attn"], getattr(network, "preprocess_text_embeds", None)
    if made is None or hasattr(network, "token_refiner"):  # MiniMax H3's
        return text if made is None else made(text)
    return made(text, unprocessed=cond.get("unprocessed_ltxav_embeds", False))  # type: ignore[no-any-return]


class Truth:
    """Explicit float64 softmax maps of the calls that made the prompts' own predictions.

    maps: (prompt's place, kind, layer, step) -> name -> (F, h, w) float64, nan where no call saw the frame.
    """

    def __init__(self, graph: Graph, calls: list[Call], sigmas: Tensor, positives: list[dict]) -> None:
        self.graph, self.maps, self.calls = graph, {}, {}
        run = graph.pack.lib("hosts.comfy.run")
        levels = [float(s) for s in sigmas[:-1]]
        sums: dict[Any, dict[str, tuple[Tensor, Tensor]]] = {}
        for call in calls:
            if call.prompt is None or call.prompt[0] != "positive":
                continue
            cond = positives[call.prompt[1]]
            if run.BINDING not in cond:
                continue
            level = min(levels, key=lambda each: abs(each - call.sigma))
            same = [step for step, each in enumerate(levels) if each == level]
            step = next((step for step in same if step >= call.done), same[-1])  # Heun looks ahead
            for kind, found in self._read(call, binding_of(graph.pack, cond), cond.get(run.TRACKS)):
                key = (call.prompt[1], kind, call.layer, step)
                self._add(sums.setdefault(key, {}), found, call)
        for key, entities in sums.items():
            self.maps[key] = {name: total / count for name, (total, count) in entities.items()}

    def _add(self, sums: dict[str, tuple[Tensor, Tensor]], found: dict[str, Tensor], call: Call) -> None:
        frames = range(call.grid[0]) if call.frames is None else call.frames
        for name, maps in found.items():
            if name not in sums:
                empty = torch.zeros(self.graph.size[0], *call.grid[1:], dtype=torch.float64)
                sums[name] = empty, torch.zeros(len(empty), 1, 1, dtype=torch.float64)
            for place, frame in enumerate(frames):
                sums[name][0][frame] += maps[place]
                sums[name][1][frame] += 1

    def _read(self, call: Call, binding: Any, tracks: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            mask = call.mask
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
        p = logits.softmax(-1)
        first, size = call.clip
        video = slice(first, first + size)
        if call.words is not None:
            starts = [call.words[0] + call.text // call.copies * copy for copy in range(call.copies)]
            rows = {each.name: [start + row for start in starts for row in each.rows] for each in binding.phrases}
            found = {n: p[:, video][..., at].mean((0, -1)).view(call.grid) * call.copies for n, at in rows.items()}
            yield "v2t", found
        if call.kind != "cross" and tracks is not None:
            found = {}
            for name, at in self._query(binding, tracks, call).items():
                found[name] = p[:, first + at][..., video].mean((0, 1)).view(call.grid)
            yield "v2v", found

    def _query(self, binding: Any, tracks: Any, call: Call) -> dict[str, Tensor]:
        """For each instance and verb its first visible tokens, in the numbering of the call."""
        grid = grid_of(self.graph)
        on_grid = tracks.to_grid(grid, "nearest")
        sets = {name: on_grid.query(name) for name in on_grid.names if on_grid.query_frame[name] is not None}
        for phrase in binding.phrases:
            parts = [sets[name] for name in (phrase.subject, phrase.object) if name in sets]
            if phrase.role == "verb" and parts:
                sets[phrase.name] = torch.cat(parts).unique()
        if call.frames is None:
            return sets
        found, area = {}, grid.frame_size
        for name, at in sets.items():
            if all(int(token) // area in call.frames for token in at):
                found[name] = torch.stack(
                    [torch.tensor(call.frames.index(int(t) // area) * area + int(t) % area) for t in at]
                )
        return found
