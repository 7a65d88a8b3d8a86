"""Gradient guidance of a native ComfyUI MODEL: before a step its latent descends the alignment losses.

The conditional prediction runs once more with gradients, as it is steered, and nobody else watches it. Blocks are
checkpointed, so that memory holds the input of each block and the activations of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ...core.guidance.gradient import GradientGuidance
from ...instrument.gradient import LatentGradient, descend
from ...instrument.session import Session
from .attach import attach
from .autograd import differentiable, plain_weights, pytorch_attention
from .run import GRADIENT_KEY, KEY, PERTURBED_KEY, RunInfo
from .steps import Given, act_before_steps, level_of

__all__ = ["descend_losses", "log_run"]


def descend_losses(model: Any, guidance: GradientGuidance, done: Callable[[LatentGradient], None] | None = None) -> Any:
    """A clone of MODEL that samples under gradient guidance. `done` is called after each run; by default it is logged.

    Raises ValueError, when sampling starts, for conditioning without words and tracks.
    """
    token = object()

    def start(info: RunInfo) -> Session:
        if not any(binding is not None and tracks is not None for binding, tracks in info.given):
            raise ValueError(
                "The positive conditioning carries no words and mask tracks, so there is no loss to descend. Connect "
                "tracks to 'MATRIX Bind Prompt' and its CONDITIONING to the sampler."
            )
        losses = LatentGradient(guidance, info.grid, info.sites)
        return Session([losses], prediction=token, forward_done=losses.forward_done)

    return act_before_steps(attach(model, start), lambda guider: _Actor(guidance, token, done or log_run))


def log_run(losses: LatentGradient) -> None:
    """Writes the losses of a run to the log, and what could not be aligned."""
    for note in losses.notes:
        logging.warning("MATRIX gradient guidance: %s", note)
    for step, loss in losses.losses:
        logging.info("MATRIX gradient guidance: step %d: loss %.4f", step, loss)


class _Actor:
    """Before each step of one run: the updates."""

    fresh_only = False

    losses: LatentGradient | None = None

    def __init__(self, guidance: GradientGuidance, token: object, done: Callable[[LatentGradient], None]) -> None:
        self.guidance, self.token, self._done = guidance, token, done

    def begin(self, x: Tensor, steps: int, extra_args: dict[str, Any]) -> None:
        holder = extra_args["model_options"]["transformer_options"][KEY]
        mine = next(run.session for run in holder.runs if run.session.prediction is self.token)
        self.losses = mine.observers[0]

    def acts(self, step: int, steps: int) -> bool:
        return self.guidance.size(step, steps) != 0

    def __call__(
        self, model: Any, x: Tensor, denoised: Tensor | None, sigma: Tensor, step: int, steps: int, given: Given
    ) -> tuple[Tensor, Tensor | None]:
        size = self.guidance.size(step, steps) * level_of(model, sigma).sigma
        for _ in range(self.guidance.iterations):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = descend(x, self._gradient(model, x, sigma, step, given), size)
        return x, None

    def finished(self) -> None:
        if self.losses is not None:
            self._done(self.losses)

    def _gradient(self, model: Any, x: Tensor, sigma: Tensor, step: int, given: Given) -> Tensor | None:
        losses, guider = self.losses, model.inner_model
        assert losses is not None
        options = given.get("model_options", {})
        inner = {
            **options.get("transformer_options", {}),
            PERTURBED_KEY: self.token,
            GRADIENT_KEY: self.guidance.checkpoint,
            "optimized_attention_override": pytorch_attention,
        }
        with differentiable():
            plain_weights(guider.inner_model.diffusion_model)
            leaf = x.detach().clone().requires_grad_()
            losses.begin(leaf)
            comfy.samplers.calc_cond_batch(
                guider.inner_model,
                [guider.conds["positive"]],
                leaf,
                sigma.clone(),
                {**options, "transformer_options": inner},
            )
            found = losses.end(step)
        return None if found is None else found.to(x)
