"""Sampling with sigmas of one's own, as custom samplers do. Needs the `comfy` fixture."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["reference", "run", "sigmas_of", "watched"]


def sigmas_of(model: Any, steps: int, scheduler: str = "simple") -> torch.Tensor:
    """Of a whole schedule."""
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def run(
    model: Any, given: Any, sigmas: Any, noise: bool = True, seed: int = 5, start: Any = None, cfg: float = 1.0,
    sampler: Any = "euler",
) -> torch.Tensor:  # fmt: skip
    """A sampler of its own sigmas, as SamplerCustom runs it."""
    import comfy.sample
    import comfy.samplers

    pos, neg, empty = given
    start = empty if start is None else start
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    noise = comfy.sample.prepare_noise(empty, seed) if noise else torch.zeros_like(empty)
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, cfg, sampler, sigmas, pos, neg, start, disable_pbar=True, seed=seed
        )


def reference(seed: int = 5, size: Any = (2, 6, 8)) -> dict[str, torch.Tensor]:
    """A LATENT of a rough animation."""
    return {"samples": torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(seed))}


def watched(model: Any) -> tuple[Any, list[tuple[torch.Tensor, float]]]:
    """(clone, list of (x, sigma) of every prediction)."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def note(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((x.clone(), float(timestep.flatten()[0])))
        return executor(x, timestep, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "note", note)
    return clone, calls
