"""Dual-clock denoising of a native ComfyUI MODEL, under any of the host's samplers whose state can be reached.

    held = hold_sampling(model, DualClockDenoising(0.67, 0.5), latent)

Where a step begins, the sampler's latent is changed in place, so that holding costs no model call (UniPC, whose state
is shown behind its calls, makes one more).
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ...core.guidance.dual_clock import DualClockDenoising
from ...core.tracks.tracks import MaskTracks
from ...instrument.dual_clock import Clocks
from .model import backbone_of, grid_of
from .run import LEAD
from .steps import Given, act_before_steps, followed, level_of

__all__ = ["hold_sampling"]

KEY = "matrix_dual_clock"


def hold_sampling(
    model: Any, config: DualClockDenoising, reference: dict[str, Any], tracks: MaskTracks | None = None
) -> Any:
    """A clone of MODEL whose latent is held to a reference clip; the plain clone where `config` is idle.

    A run that adds no noise goes on with the latent of another (the second sampler of a split run) and is left alone.

    Args:
        reference: the host's LATENT of the clip, of one sample or of as many as are sampled, from this model's own VAE.
        tracks: what is held longer; None: the tracks that the positive conditionings carry, all of them.

    Raises ValueError for a MODEL that is not a video DiT that we know, for one that is held already, and for a LATENT
    that is no video; when sampling starts, for tracks that are missing, for a reference or tracks that do not fit, and
    for samplers whose state cannot be reached.
    """
    backbone_of(model)
    samples = reference.get("samples")
    if not isinstance(samples, Tensor) or samples.ndim != 5 or not len(samples):
        shape = list(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(
            f"the reference is a video LATENT [batch, channels, frames, height, width]; got {shape}: encode all frames "
            "of the rough animation at once, with this model's VAE"
        )
    if config.idle:
        return model.clone()
    if model.model_options.get("transformer_options", {}).get(KEY):
        raise ValueError("this MODEL is held to a reference clip already: draw one clip that says everything")
    clone = act_before_steps(model, lambda guider: _Actor(guider, config, samples, tracks))
    clone.model_options["transformer_options"][KEY] = True
    return clone


class _Actor:
    """Before each step of one run: the latent is held."""

    fresh_only = True

    def __init__(self, guider: Any, config: DualClockDenoising, samples: Tensor, tracks: MaskTracks | None) -> None:
        given = followed(guider, tracks, "There are no mask tracks that say what is held to the reference clip")
        grid, host = grid_of(guider.model_patcher, (1, 1, 1)), guider.model_patcher.model
        channels = host.latent_format.latent_channels
        if samples.shape[1] != channels:
            raise ValueError(
                f"the reference has {samples.shape[1]} latent channels, but this model's latents have {channels}: "
                "encode the rough animation with this model's own VAE"
            )
        latents = host.process_latent_in(samples.clone())
        self.clocks = Clocks(config, list(latents), [given] * len(latents), (grid.temporal_stride, grid.spatial_stride))
        self.acts = self.clocks.acts

    def begin(self, x: Tensor, steps: int, extra_args: dict[str, Any]) -> None:
        self.clocks.lead = int(extra_args.get("model_options", {}).get("transformer_options", {}).get(LEAD, 0))
        self.clocks.seed = int(extra_args.get("seed") or 0)
        if any(self.acts(step, steps) for step in range(steps)):
            self.clocks.prepare(x)

    def __call__(
        self, model: Any, x: Tensor, denoised: Tensor | None, sigma: Tensor, step: int, steps: int, given: Given
    ) -> tuple[Tensor, Tensor | None]:
        return self.clocks(x, level_of(model, sigma), step, steps), None

    def finished(self) -> None:
        for note in self.clocks.notes:
            logging.warning("MATRIX dual-clock denoising: %s", note)
