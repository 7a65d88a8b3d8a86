"""Where the time of the alignment losses goes: each part alone at the model's shape, and whole steps kernel by kernel.

B batch, H heads, N tokens, D head size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.attention.sdpa_lse import sdpa_with_lse
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.config import AlignmentConfig, Scores
from matrix_lib.core.losses.decoder import Head
from matrix_lib.core.losses.maps import grounding_maps, propagation_maps
from matrix_lib.core.losses.mask_loss import mask_loss
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.instrument.supervision import AlignmentMaps

from .training_step import Bench, Variant

__all__ = ["kernels_of", "parts_of"]

Part = dict[str, float]


def parts_of(bench: Bench, scores: Sequence[Scores]) -> dict[str, Part]:
    """{part: ms of its forward and of its backward pass, GB it needs on top of its inputs at its peak}.

    Maps are timed as `attention + map` less `attention`: part of their backward pass happens in the attention's. In a
    step a map's forward pass runs twice, as its block is checkpointed.
    """
    targets = bench.targets().to(bench.device)
    found: dict[str, Part] = {}
    for kind in ("joint",) if bench.joint else ("cross", "self"):
        base = found[f"attention, {kind}"] = _attention(bench, targets, kind, None, None)
        for score in scores:
            for name in ("words", "queries"):
                if kind == ("self" if name == "words" else "cross"):
                    continue
                both = _attention(bench, targets, kind, name, score)
                label = f"map of {name}, {kind}, {score}"
                found[label] = {key: round(both[key] - base[key], 3) for key in base}
    for score in scores:
        for head in ("grounding", "propagation"):
            found[f"decoder and loss, {head}, {score}"] = _decoded(bench, targets, head, score)  # type: ignore[arg-type]
    found["decoder of one entity"] = _decoder(bench, targets, scores[0])
    found["loss of one entity"] = _loss(bench, targets)
    cpu = bench.targets()
    moved = _clock(lambda: cpu.to(bench.device), lambda made: None, bench.device)
    found["targets to the device"] = moved
    for name, part in found.items():
        print(f"  {name:48} " + "  ".join(f"{key} {value:9.3f}" for key, value in part.items()), flush=True)
    return found


def kernels_of(bench: Bench, variants: Sequence[Variant], most: int = 20) -> dict[str, dict[str, float]]:
    """{variant: {kernel: ms more than in the step of the first variant}}, the largest differences; GPU alone."""
    if bench.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    times: dict[str, dict[str, float]] = {}
    for variant in variants:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            bench.step(variant)
            torch.cuda.synchronize()
        mine = times[variant] = {}
        for event in seen.key_averages():
            mine[event.key[:120]] = mine.get(event.key[:120], 0.0) + event.self_device_time_total / 1e3
    first, found = times[variants[0]], {}
    for variant in variants[1:]:
        more = {name: value - first.get(name, 0.0) for name, value in times[variant].items()}
        largest = sorted(more, key=lambda name: -abs(more[name]))[:most]
        found[variant] = {"all kernels": round(sum(times[variant].values()) - sum(first.values()), 2)}
        found[variant] |= {name: round(more[name], 2) for name in largest}
        print(f"  kernels of a step, {variant} less {variants[0]}:", flush=True)
        for name, value in found[variant].items():
            print(f"    {value:9.2f} ms  {name}", flush=True)
    return found


def _attention(bench: Bench, targets: TargetBatch, kind: Any, name: str | None, scores: Scores | None) -> Part:
    """One attention of the model, alone or with one map."""
    call = _call(bench, kind)
    leaves = [t.requires_grad_() for t in (call.q, call.k, call.v)]
    back = torch.randn_like(call.q)

    def forward() -> tuple[Tensor, ...]:
        out, lse = sdpa_with_lse(call.q, call.k, call.v, scale=call.scale)
        if name == "words":
            return out, grounding_maps(call, targets.words, scores or "logits", lse=lse)
        if name == "queries":
            return out, propagation_maps(call, targets.queries, scores or "logits", lse=lse)
        return (out,)

    def backward(made: tuple[Tensor, ...]) -> None:
        torch.autograd.grad(made, leaves, (back, *(torch.ones_like(each) for each in made[1:])))

    return _clock(forward, backward, bench.device)


def _call(bench: Bench, kind: Any) -> AttentionCall:
    config, size, text = bench.model.config, bench.grid.size, bench.case.text
    heads, d = int(config.num_attention_heads), int(config.attention_head_dim)
    queries, keys = {"joint": (text + size,) * 2, "self": (size, size), "cross": (size, text)}[kind]
    dtype = bench.latents.dtype
    q, k, v = (torch.randn(1, heads, n, d, device=bench.device, dtype=dtype) for n in (queries, keys, keys))
    first = text if kind == "joint" else 0
    return AttentionCall(
        AttentionSite(0, kind, "bench"), q, k, v, d**-0.5, bench.grid, (), None,
        (first, size), None if kind == "cross" else (first, size), None if kind == "self" else (0, text),
    )  # fmt: skip


def _decoded(bench: Bench, targets: TargetBatch, head: Head, scores: Scores) -> Part:
    """Everything between the maps of one kind and their loss, for all entities."""
    layers = bench.case.v2t if head == "grounding" else bench.case.v2v
    count = (targets.words if head == "grounding" else targets.queries).entities
    config = AlignmentConfig(v2t=LayerDraw(layers), v2v=LayerDraw(layers), scores=scores)
    given = {layer: torch.rand(1, count, *bench.grid.shape, device=bench.device).requires_grad_() for layer in layers}

    def forward() -> Tensor:
        maps = AlignmentMaps(config, targets)
        if head == "grounding":
            maps.grounding, maps.v2v = given, frozenset()
        else:
            maps.propagation, maps.v2t = given, frozenset()
        maps.keys[head] = bench.grid.size
        with bench.half():
            return maps.alignment(bench.decoders[scores]).total  # type: ignore[arg-type]

    return _clock(forward, lambda total: total.backward(), bench.device, bench.optimiser.zero_grad)


def _decoder(bench: Bench, targets: TargetBatch, scores: Scores) -> Part:
    stack = torch.rand(1, len(bench.case.v2t), *bench.grid.shape, device=bench.device).requires_grad_()
    decoder: Any = bench.decoders[scores]

    def forward() -> Tensor:
        with bench.half():
            return decoder(stack, targets.grid, "grounding", bench.pixels[1:])

    back = torch.randn_like(forward())
    return _clock(forward, lambda made: made.backward(back), bench.device, bench.optimiser.zero_grad)


def _loss(bench: Bench, targets: TargetBatch) -> Part:
    one = torch.zeros(1, dtype=torch.int64, device=bench.device)
    masks = targets.masks("words", one, one, pixels=True)
    values = torch.randn(masks.shape, device=bench.device, dtype=bench.latents.dtype).requires_grad_()
    return _clock(lambda: mask_loss(values, masks).total.sum(), lambda loss: loss.backward(), bench.device)


def _clock(
    forward: Callable[[], Any],
    backward: Callable[[Any], Any],
    device: torch.device,
    after: Callable[[], Any] = lambda: None,
    rounds: int = 5,
) -> Part:
    """Medians over the rounds behind two of warming up, and the most memory in use beyond what there was before."""
    cuda = device.type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() * 1e3

    times: list[tuple[float, float]] = []
    more = 0.0
    for turn in range(rounds + 2 * cuda):
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = now()
        made = forward()
        middle = now()
        backward(made)
        end = now()
        del made
        after()
        if turn >= 2 * cuda:
            times.append((middle - start, end - middle))
            more = max(more, (torch.cuda.max_memory_allocated() - before) / 1e9 if cuda else 0.0)
    ahead, back = (statistics.median(series) for series in zip(*times))
    return {"forward_ms": round(ahead, 3), "backward_ms": round(back, 3), "gb": round(more, 3)}
