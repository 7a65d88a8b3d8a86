"""What steering costs at a CogVideoX-5B-I2V attention: one call, and a whole denoising step with every layer steered.

Three instances, background and their words. Against the fastest plain kernel, the host's default kernel (flash first)
and the same bias as a dense mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from matrix_lib.core.attention.biased import attend, attend_both
from matrix_lib.core.attention.matching import match_distribution
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.base import EditsAttention
from matrix_lib.core.guidance.partition import Partition, partition_layout
from matrix_lib.core.guidance.region_bias import RegionBias, bias_columns, bias_layout
from matrix_lib.core.guidance.scene import GridScene, Spans
from matrix_lib.core.sites import AttentionCall, AttentionSite, BatchRow
from matrix_lib.hosts.diffusers.attach import Forward, attach
from matrix_lib.instrument.attention_guidance import AttentionGuidance
from matrix_lib.instrument.session import Session

from .capture import HOST_ORDER, Watching, boxes, build, without_triton, words
from .timing import as_json, compare, kernel_times

TEXT, SCALE = 226, 0.125


def run(rounds: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: a small call on the CPU; these figures say nothing about a GPU")
    results = one_call(rounds, device, full=cuda)
    results |= whole_step(rounds, device, full=cuda)
    return results


def one_call(rounds: int, device: torch.device, full: bool) -> dict[str, Any]:
    frames, height, width = (49, 480, 720) if full else (9, 128, 192)
    grid, heads = Grid.from_pixels(frames, height, width), 48 if full else 2
    count, repeat = TEXT + grid.size, 20 if full else 1
    dtype = torch.bfloat16 if full else torch.float32
    g = torch.Generator(device).manual_seed(0)
    # hosts hand over (B, N, H * D) seen as (B, H, N, D)
    q, k, v = (torch.randn(1, count, heads, 64, device=device, generator=g).to(dtype).transpose(1, 2) for _ in range(3))
    video = (TEXT, grid.size)
    spans = Spans(count, count, video, video, (0, TEXT))
    call = AttentionCall(AttentionSite(0, "joint", "bench"), q, k, v, SCALE, grid, (), None, video, video, (0, TEXT))
    scene = GridScene(grid, boxes(frames, height, width), words()).scene(call)
    bias = bias_layout(scene, spans, RegionBias(), 1.0, True, True)
    columns = bias_columns(scene, spans, RegionBias(soft=True), 1.0, True, True)
    partition = partition_layout(scene, spans, Partition(), True, True)
    dense = bias.bias.to(device, dtype)[bias.query.to(device)][:, bias.key.to(device)]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def host() -> Tensor:
        with sdpa_kernel(HOST_ORDER, set_priority=True):
            return sdpa(q, k, v, scale=SCALE)

    def matched() -> Tensor:
        masked, _, plain = attend_both(q, k, v, SCALE, partition, None)
        return match_distribution(masked[:, :, TEXT:], plain[:, :, TEXT:])

    variants: dict[str, Callable[[], Any]] = {
        "plain, PyTorch's choice": lambda: sdpa(q, k, v, scale=SCALE),
        "plain, the host's order": host,
        "region bias": lambda: attend(q, k, v, SCALE, bias),
        "region bias, soft edges": lambda: attend(q, k, v, SCALE, columns=columns),
        "the same bias, dense": lambda: sdpa(q, k, v, attn_mask=dense, scale=SCALE),
        "partition": lambda: attend(q, k, v, SCALE, partition),
        "partition, and unmasked beside it": lambda: attend_both(q, k, v, SCALE, partition, None),
        "partition, matched": matched,
        "matching alone": lambda: match_distribution(q, v),
    }
    with torch.inference_mode():
        want = sdpa(q, k, v, attn_mask=dense, scale=SCALE).float()
        error = float((attend(q, k, v, SCALE, bias)[0].float() - want).abs().max() / want.abs().max())
        held = {name: temporary(call_, device) for name, call_ in variants.items()} if full else {}
        print(f"{heads} heads x 64, {count} tokens, {repeat} calls; region bias against dense: {error:.1e}", held)
        where = {"partition, matched": kernel_times(matched)} if full else {}
        with without_triton():
            by_sorting = match_distribution(q, v)
        same = torch.equal(match_distribution(q, v), by_sorting)
        print(f"matched as by sorting: {same};", where)
        del by_sorting
        repeated = {name: (lambda one=one: [one() for _ in range(repeat)]) for name, one in variants.items()}
        figures = compare(repeated, rounds, device)
    return {
        "tokens": count, "heads": heads, "calls": repeat, "error": error, "matched_as_by_sorting": same,
        "peak_gb": held, "kernels": where, "call": as_json(figures),
    }  # fmt: skip


def temporary(one: Callable[[], Any], device: torch.device) -> float:
    """Memory that one call takes beyond what was there before it, result included, GB (10^9 bytes)."""
    one()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    one()
    torch.cuda.synchronize(device)
    return round((torch.cuda.max_memory_allocated(device) - before) / 1e9, 3)


def whole_step(rounds: int, device: torch.device, full: bool) -> dict[str, Any]:
    """The conditional forward of the whole model, every layer steered at every step."""
    model, inputs = build(device, full)
    latent = inputs["hidden_states"].shape
    tracks, binding = boxes((latent[1] - 1) * 4 + 1, latent[3] * 8, latent[4] * 8), words()

    def plain() -> None:
        with torch.inference_mode():
            model(**inputs)

    row = BatchRow("cond", 0, binding, tracks)
    grid = Grid.from_latent((latent[1], latent[3], latent[4]))

    def under(guidance: EditsAttention) -> Callable[[], None]:
        editor = AttentionGuidance(guidance, grid, 1)  # of one run: regions are made at its first step

        def begin(forward: Forward) -> None:
            forward.rows = (row,)

        def step() -> None:
            with attach(model, Session(editors=[editor]), begin):
                plain()

        return step

    def watched(*editors: AttentionGuidance) -> Callable[[], None]:
        """Every layer's maps are recorded, of attention as it was steered."""
        seen = Watching(model, binding, tracks, rounds + 6, editors)

        def step() -> None:
            with seen:
                plain()

        return step

    variants = {
        "plain step": plain,
        "region bias, all layers": under(RegionBias()),
        "captured, all layers": watched(),
        "captured and region bias": watched(AttentionGuidance(RegionBias(), grid, rounds + 6)),
        "partition, all layers": under(Partition(match=None)),
        "partition and matching, all layers": under(Partition()),
    }
    profiled = ("captured, all layers", "captured and region bias", "partition and matching, all layers")
    kernels = {name: kernel_times(variants[name]) for name in profiled} if full else {}
    return {"step": as_json(compare(variants, rounds, device)), "step_kernels": kernels}
