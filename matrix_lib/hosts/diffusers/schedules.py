"""What a diffusers scheduler says of its noise: how noisy a sample is, and what a model's output means there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.noise import NoiseLevel

__all__ = ["Noise", "noise_at", "steps_of"]

Kind = Literal["epsilon", "v_prediction", "sample", "flow", "reversed"]


@dataclass(frozen=True)
class Noise:
    """The noise of one timestep.

    level: of the sample that the pipeline keeps: variance preserving (the DDPM family), x0 + sigma e (Euler and its
    relatives, which scale the model's input by `scale`), or a flow's. kind: what the scheduler is given; "reversed": a
    flow's velocity from noise to clip.
    """

    level: NoiseLevel
    kind: Kind
    scale: float = 1.0

    def clean(self, x: Tensor, output: Tensor) -> Tensor:
        """The prediction of the clean sample at x, float32."""
        x, output = x.float(), output.float()
        alpha, sigma = self.level.alpha * self.scale, self.level.sigma * self.scale
        if self.kind == "sample":
            return output
        if self.kind == "flow":
            return x - self.level.sigma * output
        if self.kind == "reversed":
            return x + self.level.sigma * output
        if self.kind == "v_prediction":
            return alpha * self.scale * x - sigma * output
        return (self.scale * x - sigma * output) / alpha


def steps_of(scheduler: Any) -> list[float]:
    """The timesteps of a run, one for each step."""
    return list(dict.fromkeys(float(t) for t in scheduler.timesteps))


def noise_at(scheduler: Any, timestep: Any, adds_noise: bool = False) -> Noise:
    """The noise of a scheduler's sample at `timestep`.

    adds_noise: its pipeline steps x0 + sigma e under a scheduler of flows (`BackboneSpec.adds_noise`).

    Raises ValueError for a prediction type that is not known.
    """
    config = scheduler.config
    kind: Any = getattr(config, "prediction_type", None) or "epsilon"
    flow = kind == "flow_prediction" or getattr(config, "use_flow_sigmas", False) or "Flow" in type(scheduler).__name__
    if not flow and kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"{type(scheduler).__name__} predicts {kind!r}; known are epsilon, v_prediction, sample, flow")
    t = float(torch.as_tensor(timestep).flatten()[0])
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or not hasattr(scheduler, "step_index"):
        kept = float(scheduler.alphas_cumprod[int(t)])
        return Noise(NoiseLevel(math.sqrt(kept), math.sqrt(1 - kept)), kind)
    place = scheduler.step_index
    if place is None:
        place = int((scheduler.timesteps.double() - t).abs().argmin())
    sigma = float(sigmas[place])
    if adds_noise:
        return Noise(NoiseLevel(1.0, sigma), "flow", 1 / (1 + sigma))
    if flow and getattr(config, "invert_sigmas", False):  # sigmas of such a scheduler say how much of the clip there is
        return Noise(NoiseLevel(sigma, 1 - sigma), "reversed")
    if flow:
        return Noise(NoiseLevel(1 - sigma, sigma), "flow")
    alpha = 1 / math.hypot(1, sigma)
    scale = float(scheduler.scale_model_input(torch.ones(1), torch.as_tensor(timestep).flatten()[0]))
    if scale != 1:
        return Noise(NoiseLevel(1.0, sigma), kind, scale)
    return Noise(NoiseLevel(alpha, sigma * alpha), kind)
