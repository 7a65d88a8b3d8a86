"""Temporal intrinsic denoising of a native ComfyUI MODEL, under any of the host's samplers that shows its state.

    refined = refine_sampling(model, IntrinsicDenoising())

One OUTER_SAMPLE wrapper gives the run a sampler of its own: the person's, with a model in front of which each step's
latent is refined in place. How the score is formed from the host's prediction D(x, sigma), CFG included:

    epsilon, velocity (x = x0 + sigma e)        score = (D - x) / sigma^2
    flow (x = (1 - sigma) x0 + sigma e)         score = ((1 - sigma) D - x) / sigma^2
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.intrinsic import IntrinsicDenoising, Level
from ...core.tracks import MaskTracks
from ...instrument.refiner import Refiner
from .attach import TRACKS, backbone_of, grid_of, unwatched
from .cogvideox import LEAD
from .steps import UNI_PC, ModelProxy, first_calls

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
    clone = model.clone()
    if config.idle:
        return clone
    options = clone.model_options.setdefault("transformer_options", {})
    if options.get(KEY):
        raise ValueError("this MODEL has intrinsic denoising already: one is enough, with more iterations or strength")
    options[KEY] = True

    def outer(executor: Any, noise: Tensor, latent: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
        run = _Run(executor.class_obj, config, tracks)
        try:
            return executor(noise, latent, run.sampler(sampler), sigmas, *args, **kwargs)
        finally:
            (done or log_run)(run.refiner)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer)
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


class _Run:
    """One sampling run."""

    def __init__(self, guider: Any, config: IntrinsicDenoising, tracks: MaskTracks | None) -> None:
        given = [tracks] if tracks is not None else []
        for cond in () if given else guider.conds.get("positive") or ():
            if cond.get(TRACKS) is not None and cond[TRACKS] not in given:
                given.append(cond[TRACKS])
        if not given:
            raise ValueError(
                "There are no mask tracks for intrinsic denoising to follow. Connect tracks to this node, or to "
                "'MATRIX Bind Prompt' and its CONDITIONING to the sampler."
            )
        grid = grid_of(guider.model_patcher, (1, 1, 1))
        self.config, self.guider = config, guider
        self.refiner = Refiner(config, [given], (grid.temporal_stride, grid.spatial_stride))

    def sampler(self, sampler: Any) -> Any:
        """The person's sampler around a refining model. Raises ValueError for one that is no function over a model."""
        function = getattr(sampler, "sampler_function", None)
        if not callable(function):
            raise ValueError(
                f"intrinsic denoising works with samplers that step a function ('KSamplerSelect' and its kin); "
                f"{type(sampler).__name__} has none"
            )
        mine = copy.copy(sampler)
        mine.sampler_function = functools.wraps(function)(functools.partial(self._sample, function))
        return mine

    def _sample(
        self,
        function: Callable[..., Any],
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: Any = None,
        **options: Any,
    ) -> Any:
        """In place of the sampler's function. Its x may be the caller's, and is changed in place: it gets a copy."""
        extra_args = dict(extra_args or {})
        if x.ndim != 5:
            raise ValueError(f"a video latent is [batch, channels, frames, height, width]; got {list(x.shape)}")
        self.refiner.lead = int(extra_args.get("model_options", {}).get("transformer_options", {}).get(LEAD, 0))
        self.refiner.seed = int(extra_args.get("seed") or 0)
        self.refiner.prepare((x.shape[0], *x.shape[2:]))
        stepping = _Stepping(model, self.refiner, extra_args, len(sigmas) - 1)
        if function in UNI_PC:
            shown = functools.partial(stepping.shown, sigmas.clone(), callback)
            return function(model, x.clone(), sigmas, extra_args=extra_args, callback=shown, disable=disable, **options)
        stepping.begins = first_calls(function, model, x, sigmas, options, extra_args.get("seed"))
        return function(
            stepping, x.clone(), sigmas, extra_args=extra_args, callback=callback, disable=disable, **options
        )


class _Stepping(ModelProxy):
    """The model that a sampler steps: where a call begins a step, its x is refined in place first."""

    def __init__(self, model: Any, refiner: Refiner, extra_args: dict[str, Any], steps: int) -> None:
        super().__init__(model)
        self.refiner, self.steps, self.extra_args = refiner, steps, extra_args
        self.begins: dict[int, int] = {}
        self._calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        step = self.begins.get(self._calls)
        self._calls += 1
        denoised = self._model(x, sigma, **kwargs)
        if step is None or not self.refiner.acts(step, self.steps):
            return denoised
        refined, denoised = self._refined(x, denoised, sigma, step, kwargs)
        x.copy_(refined)
        return denoised

    def shown(self, sigmas: Tensor, callback: Callable[[dict[str, Any]], None] | None, state: dict[str, Any]) -> None:
        """UniPC's callback. Its x is then the corrected state of step i, from which the next one is predicted; that of
        the last step is the result, so that the last step is left alone."""
        step = int(state["i"])
        if step < self.steps - 1 and self.refiner.acts(step, self.steps):
            sigma = sigmas[step].expand(len(state["x"]))
            scale = math.hypot(1.0, float(sigmas[step]))
            refined, denoised = self._refined(state["x"] * scale, state["denoised"], sigma, step, self.extra_args)
            state["x"].copy_(refined / scale)
            state["denoised"].copy_(denoised)
        if callback is not None:
            callback(state)

    def _refined(
        self, x: Tensor, denoised: Tensor, sigma: Tensor, step: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        given = {**kwargs, "model_options": unwatched(kwargs.get("model_options", {}))}

        def predict(z: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return self._model(z, sigma, **given)

        level = _level(self._model.inner_model.inner_model.model_sampling, float(sigma.flatten()[0]))
        refined, after = self.refiner(x, denoised, predict, level, step, self.steps)
        mask = kwargs.get("denoise_mask")
        return (refined if mask is None else x + (refined - x) * mask), after


def _level(sampling: Any, sigma: float) -> Level:
    """How the host's x is noisy at `sigma`."""
    if isinstance(sampling, comfy.model_sampling.CONST):
        return Level(1 - sigma, sigma * float(getattr(sampling, "noise_scale", 1.0)))
    return Level(1.0, sigma)
