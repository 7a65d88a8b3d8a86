"""Steers a native ComfyUI MODEL: guidance as editors of its sampling runs, with second predictions where it needs them.

    steered = steer(model, RegionBias(layers=Layers.only([7, 11, 12])))

The words and tracks are those that the positive conditioning carries. Steering stacks: with itself, with capture, and
with other patches of the MODEL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
from torch import Tensor

from ...core.guidance.gradient import GradientGuidance
from ...core.guidance.kinds import Guidance, check_names
from ...core.guidance.perturbation import Perturbation
from ...instrument.attention_guidance import Intervener
from ...instrument.session import Session
from .attach import attach, perturbed
from .gradients import descend_losses
from .model import sites_of
from .run import RunInfo, step_of

__all__ = ["log_run", "steer"]


def steer(model: Any, guidance: Guidance | GradientGuidance, done: Callable[[Any], None] | None = None) -> Any:
    """A clone of MODEL that samples under `guidance`; one that changes nothing is the plain clone.

    `done` is called after each run with what acted in it (an `Intervener` with notes and variances, a `LatentGradient`
    with notes and losses); by default they are logged.

    Raises ValueError for a MODEL that is not a video DiT that we know and for layers that it does not have; when
    sampling starts, for conditioning without the tracks that the guidance needs.
    """
    guidance.layers.check(site.layer for site in sites_of(model))
    if guidance.idle:
        return model.clone()
    if isinstance(guidance, GradientGuidance):
        return descend_losses(model, guidance, done)
    token = object()

    def start(info: RunInfo) -> Session:
        _check(guidance, info)
        editor = Intervener(guidance, info.grid, len(info.sigmas), token, done or log_run)
        return Session(editors=[editor])

    clone = attach(model, start)
    if isinstance(guidance, Perturbation):
        clone.set_model_sampler_post_cfg_function(_second_prediction(guidance, token))
    return clone


def log_run(editor: Intervener) -> None:
    """Writes to the log what a run had to say: instances that could not be steered, what mask normalisation did."""
    for note in editor.notes:
        logging.warning("MATRIX guidance: %s", note)
    for at in editor.variances():
        logging.info(
            "MATRIX guidance: step %d, sigma %.3f: variance of the attention output %.4g masked, %.4g unmasked, %.4g "
            "matched",
            at.step,
            at.sigma,
            at.masked,
            at.unmasked,
            at.matched,
        )


def _check(guidance: Guidance, info: RunInfo) -> None:
    """What can be known before the first step."""
    if isinstance(guidance, Perturbation) and not guidance.bound:
        return
    if all(tracks is None for _, tracks in info.given):
        raise ValueError(
            "The positive conditioning carries no mask tracks, so there is nothing to steer by. Connect tracks to "
            "'MATRIX Bind Prompt' and its CONDITIONING to the sampler (through any conditioning nodes)."
        )
    check_names(
        guidance, dict.fromkeys(name for _, tracks in info.given if tracks is not None for name in tracks.names)
    )
    if not isinstance(guidance, Perturbation) and guidance.branches == "both" and info.shared_tracks is None:
        raise ValueError(
            f"{len(info.given)} positive conditionings carry different tracks, so it is open whose tracks the "
            "unconditional prediction should follow. Steer the conditional branch only, or give all the same tracks."
        )


def _second_prediction(guidance: Perturbation, token: object) -> Callable[[dict[str, Any]], Tensor]:
    """result + strength * (conditional - perturbed), as a function that the host calls after its own guidance."""

    def after(args: dict[str, Any]) -> Tensor:
        result = args["denoised"]
        run = perturbed(args["model_options"], token)
        if run is None:
            return result
        info, options = run
        strength = guidance.strength(step_of(info, float(args["sigma"].flatten()[0])), len(info.sigmas))
        if strength == 0:
            return result
        (broken,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return result + (args["cond_denoised"] - broken) * strength

    return after
