"""What torch.compile still gives while a model is watched or steered: a CogVideoX-5B-I2V-shaped step, both ways.

While somebody is attached, graphs end at each attention (`hosts/compiled.py`); this says what of the compiler's gain is
left. The backend is PyTorch's own on a GPU. On the CPU graphs run as they are, which shows that the bench runs, and
what the breaks cost, not what a compiler gains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.hosts.diffusers.steer import steer

from .capture import Watching, boxes, build, words
from .timing import as_json, compare


def run(rounds: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    backend = "inductor" if cuda else "eager"
    if not cuda:
        print("no GPU: a small model on the CPU, graphs run as they are; these figures say nothing about a GPU")
    variants: dict[str, Callable[[], Any]] = {}
    for name in ("plain", "compiled"):
        model, args = build(device, full=cuda)
        if name == "compiled":
            for block in model.transformer_blocks:
                block.compile(backend=backend)
        variants |= _variants(name, model, args, rounds)
    return {"backend": backend, "steps": as_json(compare(variants, rounds, device))}


def _variants(name: str, model: Any, args: dict[str, Any], rounds: int) -> dict[str, Callable[[], Any]]:
    """One step of a model as it is, captured (all layers), and under region bias (all layers)."""
    latent = args["hidden_states"].shape
    binding, tracks = words(), boxes((latent[1] - 1) * 4 + 1, latent[3] * 8, latent[4] * 8)
    seen, at = Watching(model, binding, tracks, rounds + 3), iter(range(1000, 0, -1))

    def step(around: Callable[[], Any]) -> Callable[[], None]:
        def inside() -> None:
            with around(), torch.inference_mode():
                model(**{**args, "timestep": torch.full_like(args["timestep"], next(at))})

        return inside

    return {
        name: step(contextlib.nullcontext),
        f"{name}, captured": step(lambda: seen),
        f"{name}, region bias": step(lambda: steer(model, RegionBias(), binding, tracks, branches=["cond"])),
    }
