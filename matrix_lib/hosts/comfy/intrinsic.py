"""Temporal intrinsic denoising of a native ComfyUI MODEL, under any of the host's samplers whose state can be reached.

    refined = refine_sampling(model, IntrinsicDenoising())

How the score is formed from the host's prediction D(x, sigma), CFG included:

    epsilon, velocity (x = x0 + sigma e)        score = (D - x) / sigma^2
    flow (x = (1 - sigma) x0 + sigma e)         score = ((1 - sigma) D - x) / sigma^2
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
from torch import Tensor

from ...core.guidance.intrinsic import IntrinsicDenoising
from ...core.tracks.tracks import MaskTracks
from ...instrument.intrinsic import Refiner
from .attach import unwatched
from .model import backbone_of, grid_of
from .run import LEAD
from .steps import act_before_steps, followed, level_of

__all__ = ["log_run", "refine_sampling"]

KEY = "matrix_intrinsic"


def refine_sampling(
    model: Any,
    config: IntrinsicDenoising,
    tracks: MaskTracks | None = None,
    done: Callable[[Refiner], None] | None = None,
) -> Any:
    """A clone of MODEL whose every step is preceded by the iterations of `config`; the plain clone where it is idle.

    Args:
        tracks: what the latent follows; None: the tracks that the positive conditionings carry, all of them.
        done: called after each run with what acted in it; by default it is logged.

    Raises ValueError for a MODEL that is not a video DiT that we know, and for one that is refined already; when
    sampling starts, for tracks that are missing or do not fit, and for samplers whose state cannot be reached.
    """
    backbone_of(model)
    if config.idle:
        return model.clone()
    if model.model_options.get("transformer_options", {}).get(KEY):
        raise ValueError("this MODEL has intrinsic denoising already: one is enough, with more iterations or strength")
    clone = act_before_steps(model, lambda guider: _Actor(guider, config, tracks, done or log_run))
    clone.model_options["transformer_options"][KEY] = True
    return clone


def log_run(refiner: Refiner) -> None:
    """Writes to the log what a run did to tau, and which instances have no motion."""
    for note in refiner.notes:
        logging.warning("MATRIX intrinsic denoising: %s", note)
    for at in refiner.taus():
        logging.info(
            "MATRIX intrinsic denoising: step %d, sigma %.3f: tau %.3f before, %.3f after",
            at.step,
            at.sigma,
            at.before,
            at.after,
        )


class _Actor:
    """Before each step of one run: the iterations."""

    fresh_only = False

    def __init__(
        self, guider: Any, config: IntrinsicDenoising, tracks: MaskTracks | None, done: Callable[[Refiner], None]
    ) -> None:
        given = followed(guider, tracks, "There are no mask tracks for intrinsic denoising to follow")
        grid = grid_of(guider.model_patcher, (1, 1, 1))
        self.refiner = Refiner(config, [given], (grid.temporal_stride, grid.spatial_stride))
        self.acts, self._done = self.refiner.acts, done

    def begin(self, x: Tensor, steps: int, extra_args: dict[str, Any]) -> None:
        self.refiner.lead = int(extra_args.get("model_options", {}).get("transformer_options", {}).get(LEAD, 0))
        self.refiner.seed = int(extra_args.get("seed") or 0)
        self.refiner.prepare((x.shape[0], *x.shape[2:]))

    def __call__(
        self,
        model: Any,
        x: Tensor,
        denoised: Tensor | None,
        sigma: Tensor,
        step: int,
        steps: int,
        given: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        unseen = {**given, "model_options": unwatched(given.get("model_options", {}))}

        def predict(z: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return model(z, sigma, **unseen)

        known = model(x, sigma, **given) if denoised is None else denoised
        return self.refiner(x, known, predict, level_of(model, sigma), step, steps)

    def finished(self) -> None:
        self._done(self.refiner)
