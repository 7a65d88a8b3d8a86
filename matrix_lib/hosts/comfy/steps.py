"""Where a sampler of the host keeps its state: which calls of the model begin a step, and on what.

Samplers are plain functions over `model(x, sigma)`; each owns its x, and calls back once a step, behind the step's
first call. Heun and its relatives call the model again in mid-step, on points that are not the state. So a sampler is
first run on a latent of one place, with a model that costs nothing: which calls are followed by a callback, and is
their input what the callback shows, or does a change of it change the end?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.extra_samplers import uni_pc
from torch import Tensor

__all__ = ["UNI_PC", "ModelProxy", "first_calls"]

UNI_PC = (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2)
"""These feed copies to the model and own x / sqrt(1 + sigma^2), which their callback shows."""


class ModelProxy:
    """Something in front of the model that a sampler calls; other attributes are the model's own."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Probe(ModelProxy):
    """A model that predicts half of what it is shown, and counts. `touch`: the call whose input it changes."""

    def __init__(self, model: Any, touch: int | None = None) -> None:
        super().__init__(model)
        self.touch = touch
        self.seen: list[tuple[Tensor, float]] = []
        self.begins: list[int] = []
        self.own = True  # whether each callback shows what the call before it was given

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, **kwargs: Any) -> Tensor:
        denoised = x * 0.5
        if len(self.seen) == self.touch:
            x += 1
        self.seen.append((x, float(sigma.flatten()[0])))
        for after in (model_options or {}).get("sampler_post_cfg_function", ()):  # samplers that want both predictions
            denoised = after({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
        return denoised

    def step_done(self, state: dict[str, Any]) -> None:
        self.begins.append(len(self.seen) - 1)
        self.own &= state["x"] is self.seen[-1][0]


def first_calls(
    function: Callable[..., Any], model: Any, x: Tensor, sigmas: Tensor, options: dict[str, Any], seed: Any
) -> dict[int, int]:
    """{ordinal of a model call: the step that it begins} of a sampler's function over `sigmas`.

    `options`: of the sampler. Random numbers are left as they were. Raises ValueError for a sampler that does not take
    the steps of `sigmas`, or whose state cannot be reached.
    """
    point = x[(slice(None),) * 2 + (slice(0, 1),) * (x.ndim - 2)]
    devices = [x.device] if x.device.type == "cuda" else []

    def run(touch: int | None = None) -> tuple[_Probe, Tensor]:
        probe = _Probe(model, touch)
        with torch.random.fork_rng(devices):
            end = function(
                probe, point.clone(), sigmas.clone(), extra_args={"model_options": {}, "seed": seed},
                callback=probe.step_done, disable=True, **options,
            )  # fmt: skip
        return probe, end

    probe, end = run()
    found = {place: step for step, place in enumerate(probe.begins)}
    noisy = [(probe.seen[place][1], float(sigmas[step])) for place, step in found.items()]
    steps = len(found) == len(sigmas) - 1 and all(at * 0.99 <= sigma <= at * 1.5 for sigma, at in noisy)  # or churned
    if steps and (probe.own or not torch.equal(run(probe.begins[0])[1], end)):
        return found
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
    raise ValueError(
        f"the sampler {name!r} does not show where its steps begin, so nothing can be done before them. Use another: "
        "euler, heun, dpmpp_2m, uni_pc and most others do."
    )
