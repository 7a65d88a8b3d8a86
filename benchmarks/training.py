"""What the alignment losses cost: whole LoRA training steps of CogVideoX-5B-I2V and Wan2.1-I2V-14B, losses off and on.

A step is everything that a trainer does: data from a file, forward, losses with the mask decoder, backward through
checkpointed blocks, clipping, AdamW. Random weights, three instances, a verb and six more words. Then each part of the
losses alone, and on a GPU the kernels by which steps differ. With frozen weights in main memory a GPU is left no more
than a card of 12 or 24 GB has (`MATRIX_TRAINING_CARD=GB`, 0 for all of it): a step that needs more fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from matrix_lib.hosts.diffusers.attach import backbone_of
from matrix_lib.hosts.diffusers.lora import projections_of
from training.run.quantise import attentions_of, quantise_blocks
from training.run.swap import BlockSwap, parking

from .capture import build
from .timing import as_json, compare
from .training_parts import kernels_of, parts_of
from .training_step import Bench, Case, Variant

__all__ = ["cogvideox", "wan"]

Save = Callable[[dict[str, Any]], None]
Weights = Literal["bf16", "int8", "fp8", "nf4"]


def cogvideox(rounds: int, save: Save, bits: Weights = "bf16", swap: bool = False) -> dict[str, Any]:
    """CogVideoX-5B-I2V, 49 frames of 480x720: off, on, and the plain way of getting the same maps. With packed frozen
    weights, or with frozen weights in main memory: off and on."""
    cuda, device = _device()
    model, args = build(device, full=cuda)
    case = Case((7, 11), (12,), 128, 64.0, 16, 226) if cuda else Case((1, 2), (3,), 4, 4.0, 16, 226)
    latents = args.pop("hidden_states")[:, :, :16]
    pack(model, case, bits)
    bench = Bench(model, case, latents.transpose(1, 2), args, device, channels=32, frames_first=True)
    if swap:
        keep_away(bench)
        return _swapped(bench, ("off", "logits"), rounds, 12.0, save)
    if bits != "bf16":
        return _measure(bench, ("off", "logits"), (), rounds, 60.0, save)
    return _measure(bench, ("off", "logits", "probabilities"), ("off", "whole rows"), rounds, 100.0, save)


def wan(rounds: int, save: Save, bits: Weights = "bf16", swap: bool = False) -> dict[str, Any]:
    """Wan2.1-I2V-14B, 81 frames of 480x832: off, and on with per-head softmax maps."""
    cuda, device = _device()
    model, args = build_wan(device, full=cuda)
    case = Case((20, 24), (6, 8), 16, 16.0, 20, 512) if cuda else Case((2, 3), (0, 1), 4, 4.0, 20, 512)
    latents = args.pop("hidden_states")[:, :16]
    pack(model, case, bits)
    bench = Bench(model, case, latents, args, device, channels=36, frames_first=False)
    if swap:
        keep_away(bench)
        return _swapped(bench, ("off", "probabilities"), rounds, 24.0, save)
    return _measure(bench, ("off", "probabilities"), (), rounds, 80.0, save)


def pack(model: nn.Module, case: Case, bits: Weights) -> None:
    """Packs the frozen weights of the blocks, as the trainer does with `task.quantise`."""
    if bits != "bf16":
        quantise_blocks(model, bits, attentions_of(projections_of(model, case.v2t, case.v2v)))


def keep_away(bench: Bench) -> None:
    """Keeps the frozen weights of all blocks, and what goes into them, in main memory, as the trainer does with
    `task.swap`."""
    blocks = [b for path in backbone_of(bench.model).diffusers.lists for b in bench.model.get_submodule(path)]
    BlockSwap(blocks, bench.device)
    bench.model.enable_gradient_checkpointing(parking(blocks))
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def _swapped(bench: Bench, variants: tuple[Variant, ...], rounds: int, card: float, save: Save) -> dict[str, Any]:
    """Steps side by side where a GPU has as much memory as a smaller card (GiB, as cards are named), of which 0.6 are
    of the driver and its libraries. `fits` is false where a step did not: then its peak is told without the limit."""
    card = float(os.environ.get("MATRIX_TRAINING_CARD", card))
    found: dict[str, Any] = {"card_gib": card, "tokens": bench.grid.size}

    def steps(key: str, rounds: int) -> None:
        def seen(figures: list[Any]) -> None:
            found[key] = as_json(figures)
            save(found)

        compare({name: (lambda name=name: bench.step(name)) for name in variants}, rounds, bench.device, 75.0, seen)

    with bench:
        limited = bench.device.type == "cuda" and card > 0
        if limited:
            whole = torch.cuda.get_device_properties(bench.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min((card - 0.6) * 2**30 / whole, 1.0), bench.device)
        try:
            steps("step", rounds)
            found["fits"] = limited or None
        except torch.OutOfMemoryError as error:
            found |= {"fits": False, "error": str(error)[:300]}
            print(f"a step does not fit {card:g} GiB: {found['error']}", flush=True)
        if limited:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    if found["fits"] is False:
        bench.optimiser.zero_grad()
        torch.cuda.empty_cache()
        with bench:
            steps("without_limit", 1)
    found["losses"] = bench.losses
    save(found)
    return found


def _device() -> tuple[bool, torch.device]:
    cuda = torch.cuda.is_available()
    if not cuda:
        print("no GPU: a small model on the CPU; these figures say nothing about a GPU")
    return cuda, torch.device("cuda" if cuda else "cpu")


def _measure(
    bench: Bench,
    variants: tuple[Variant, ...],
    reference: tuple[Variant, ...],
    rounds: int,
    seconds: float,
    save: Save,
) -> dict[str, Any]:
    """Steps side by side; each figure is saved as soon as it exists."""
    found: dict[str, Any] = {
        "shape": list(bench.latents.shape),
        "tokens": bench.grid.size,
        "trained_parameters": sum(p.numel() for p in bench.trained),
        "targets_ms": round(bench.targets_ms(), 1),
    }
    print(found, flush=True)
    save(found)

    def steps(names: tuple[Variant, ...], key: str, rounds: int, seconds: float) -> None:
        def seen(figures: list[Any]) -> None:
            found[key] = as_json(figures)
            found[key + "_more_gb"] = {f.name: round(f.peak_gb - figures[0].peak_gb, 3) for f in figures[1:]}
            save(found)
            print(f"{key}: " + ", ".join(f"{f.name} {f.ms:.0f} ms {f.peak_gb:.2f} GB" for f in figures), flush=True)

        compare({name: (lambda name=name: bench.step(name)) for name in names}, rounds, bench.device, seconds, seen)

    with bench:
        steps(variants, "step", rounds, seconds)
        found["losses"] = bench.losses
        save(found)
        found["parts"] = parts_of(bench, [kind for kind in ("logits", "probabilities") if kind in variants])
        save(found)
        found["kernels"] = kernels_of(bench, variants)
        save(found)
        if reference:
            try:
                steps(reference, "plain_way", 1, seconds)
            except torch.OutOfMemoryError as error:
                found["plain_way"] = str(error).split(". ")[0]
                print("whole rows:", found["plain_way"], flush=True)
    return found


def build_wan(device: torch.device, full: bool) -> tuple[Any, dict[str, Tensor]]:
    """A Wan2.1-I2V-14B transformer with random weights (a small one for the CPU), and one forward's arguments."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    dtype = torch.bfloat16 if full else torch.float32
    t, h, w = (21, 60, 104) if full else (3, 8, 12)
    sizes: dict[str, Any] = {} if full else {"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 4}
    sizes |= {} if full else {"ffn_dim": 64, "freq_dim": 32, "text_dim": 64}
    width = 5120 if full else 64
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = WanTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=width, **sizes)
    finally:
        torch.set_default_dtype(torch.float32)
    return model, {
        "hidden_states": torch.randn(1, 36, t, h, w, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, 512, model.config.text_dim, device=device, dtype=dtype),
        "encoder_hidden_states_image": torch.randn(1, 257, 1280, device=device, dtype=dtype),
        "timestep": torch.tensor([500], device=device),
    }
