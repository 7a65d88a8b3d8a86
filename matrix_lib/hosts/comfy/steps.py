"""Acting before each step of a sampling run, on the sampler's own latent.

Samplers are plain functions over `model(x, sigma)`; each owns its x, and calls back once a step, behind the step's
first call. Heun and its relatives call the model again in mid-step, on points that are not the state. So a sampler is
first run on a latent of one place, with a model that costs nothing: which calls are followed by a callback, and where
their input is set to something else, is the start forgotten? Then it runs with a model in front of which x is changed
in place at those calls.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.extra_samplers import uni_pc
from torch import Tensor

from ...core.guidance.part import RunPart
from ...core.noise import NoiseLevel
from ...instrument.gradient import GradientHook
from ...instrument.steps import StepHook
from .autograd import differentiable, plain_weights, pytorch_attention
from .run import GRADIENT_KEY, PERTURBED_KEY, PREFIX_FRAMES, unwatched

__all__ = ["first_calls", "level_of", "stepped"]

UNI_PC = (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2)
"""These feed copies to the model and own x / sqrt(1 + sigma^2), which their callback shows."""


def stepped(sampler: Any, hooks: list[StepHook], part: RunPart | None = None) -> Any:
    """A SAMPLER with hooks before its steps.

    part: of which schedule the run is which part; None: a whole one. Raises ValueError for one that is no function over
    a model, and, when it samples, for one whose state cannot be reached."""
    function = getattr(sampler, "sampler_function", None)
    if not callable(function):
        raise ValueError(
            f"acting before each step works with samplers that step a function ('KSamplerSelect' and its kin); "
            f"{type(sampler).__name__} has none"
        )
    mine = copy.copy(sampler)
    mine.sampler_function = functools.wraps(function)(functools.partial(_sample, function, hooks, part))
    return mine


def level_of(model: Any, sigma: Tensor) -> NoiseLevel:
    """How the host's x is noisy at `sigma`: flow models mix, all others add. `model`: what a sampler calls."""
    sampling, at = model.inner_model.inner_model.model_sampling, float(sigma.flatten()[0])
    if isinstance(sampling, comfy.model_sampling.CONST):
        return NoiseLevel(1 - at, at * float(getattr(sampling, "noise_scale", 1.0)))
    return NoiseLevel(1.0, at)


def _sample(
    function: Callable[..., Any],
    hooks: list[StepHook],
    part: RunPart | None,
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
    part = part or RunPart.all_of(len(sigmas) - 1)
    for hook in hooks:
        hook.prefix_frames = int(
            extra_args.get("model_options", {}).get("transformer_options", {}).get(PREFIX_FRAMES, 0)
        )
        hook.seed = int(extra_args.get("seed") or 0)
        hook.begin(x, part)
    stepping = _Stepping(model, hooks, extra_args, part)
    if function in UNI_PC:
        shown = functools.partial(stepping.shown, sigmas.clone(), callback)
        return function(model, x.clone(), sigmas, extra_args=extra_args, callback=shown, disable=disable, **options)
    stepping.begins = first_calls(function, model, x, sigmas, options, extra_args.get("seed"))
    return function(stepping, x.clone(), sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)


class _Step:
    """The latent before a step, and the model there: a `StepContext`.

    model(x, sigma, **given) is what the sampler calls; known: its prediction at x, where that was made.
    """

    given_frames = None

    def __init__(
        self, model: Any, x: Tensor, known: Tensor | None, sigma: Tensor, step: float, steps: int, given: dict[str, Any]
    ) -> None:
        self.x, self.step, self.steps, self.level = x, step, steps, level_of(model, sigma)
        self._model, self._sigma, self._given = model, sigma, given
        self._at, self._known = x, known

    def denoised(self) -> Tensor:
        if self._known is None or self._at is not self.x:
            self._at, self._known = self.x, self._model(self.x, self._sigma, **self._given)
        return self._known

    def predict(self, x: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        unseen = {**self._given, "model_options": unwatched(self._given.get("model_options", {}))}
        self._at, self._known = x, self._model(x, self._sigma, **unseen)
        return self._known

    def gradient(self, losses: GradientHook, x: Tensor) -> Tensor | None:
        """The conditional prediction runs with gradients, as it is steered. Blocks are checkpointed where the guidance
        says so: memory then holds the input of each block and the activations of one."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        guider = self._model.inner_model
        options = self._given.get("model_options", {})
        inner = {
            **options.get("transformer_options", {}),
            PERTURBED_KEY: losses,
            GRADIENT_KEY: losses.guidance.checkpoint,
            "optimized_attention_override": pytorch_attention,
        }
        with differentiable():
            plain_weights(guider.inner_model.diffusion_model)
            leaf = x.detach().clone().requires_grad_()
            losses.start(leaf)
            comfy.samplers.calc_cond_batch(
                guider.inner_model,
                [guider.conds["positive"]],
                leaf,
                self._sigma.clone(),
                {**options, "transformer_options": inner},
            )
            found = losses.end(self.step)
        return None if found is None else found.to(x)

    def move(self, x: Tensor, mask: Tensor | None) -> None:
        """The latent is now x, in the places that `mask` leaves to be made. What was predicted last is its prediction,
        if it was predicted at x."""
        if x is not self._at:
            self._known = None
        self.x = x if mask is None else self.x + (x - self.x) * mask
        self._at = self.x


class _Proxy:
    """Something in front of the model that a sampler calls; other attributes are the model's own."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Stepping(_Proxy):
    """The model that a sampler steps: where a call begins a step, its x is changed in place first."""

    def __init__(self, model: Any, hooks: list[StepHook], extra_args: dict[str, Any], part: RunPart) -> None:
        super().__init__(model)
        self.hooks, self.part, self.extra_args = hooks, part, extra_args
        self.begins: dict[int, int] = {}
        self._calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        step = self.begins.get(self._calls)
        self._calls += 1
        if step is None or not self._acting(step):
            return self._model(x, sigma, **kwargs)
        moved, denoised = self._moved(x, None, sigma, step, kwargs)
        x.copy_(moved)
        return denoised

    def shown(self, sigmas: Tensor, callback: Callable[[dict[str, Any]], None] | None, state: dict[str, Any]) -> None:
        """UniPC's callback. Its x is then the corrected state of step i, from which the next one is predicted; that of
        the last step is the result, so that the last step is left alone."""
        step = int(state["i"])
        if step < len(self.part.places) - 1 and self._acting(step):
            sigma = sigmas[step].expand(len(state["x"]))
            scale = math.hypot(1.0, float(sigmas[step]))
            moved, denoised = self._moved(state["x"] * scale, state["denoised"], sigma, step, self.extra_args)
            state["x"].copy_(moved / scale)
            state["denoised"].copy_(denoised)
        if callback is not None:
            callback(state)

    def _acting(self, step: int) -> list[StepHook]:
        return [hook for hook in self.hooks if hook.acts(self.part.place(step), self.part.steps)]

    def _moved(
        self, x: Tensor, denoised: Tensor | None, sigma: Tensor, step: int, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        at = _Step(self._model, x, denoised, sigma, self.part.place(step), self.part.steps, given)
        for hook in self._acting(step):
            at.move(hook(at), given.get("denoise_mask"))
        return at.x, at.denoised()


class _Probe(_Proxy):
    """A model that predicts half of what it is shown, and counts. `fixed`: the call whose input it sets to 1. The same
    clean latent ("clean") or the same noise ("noise") is then predicted everywhere, which is what samplers remember of
    earlier steps, so that nothing but the state tells one run from another."""

    def __init__(self, model: Any, fixed: int | None = None, same: str = "") -> None:
        super().__init__(model)
        self.fixed, self.same = fixed, same
        self.seen: list[tuple[Tensor, float]] = []
        self.begins: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, **kwargs: Any) -> Tensor:
        if len(self.seen) == self.fixed:
            x.fill_(1.0)
        denoised = x * 0.5
        if self.same:
            denoised = torch.full_like(x, 0.5) if self.same == "clean" else x - 0.5 * float(sigma.flatten()[0])
        self.seen.append((x.clone(), float(sigma.flatten()[0])))
        for after in (model_options or {}).get("sampler_post_cfg_function", ()):  # samplers that want both predictions
            denoised = after({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
        return denoised

    def step_done(self, state: dict[str, Any]) -> None:
        self.begins.append(len(self.seen) - 1)


def first_calls(
    function: Callable[..., Any], model: Any, x: Tensor, sigmas: Tensor, options: dict[str, Any], seed: Any
) -> dict[int, int]:
    """{ordinal of a model call: the step that it begins} of a sampler's function over `sigmas`.

    `options`: of the sampler. Random numbers are left as they were. Raises ValueError for a sampler that does not take
    the steps of `sigmas`, or whose state cannot be reached.
    """
    point = x[(slice(None),) * 2 + (slice(0, 1),) * (x.ndim - 2)]
    devices = [x.device] if x.device.type == "cuda" else []

    def run(start: Tensor, fixed: int | None = None, same: str = "") -> _Probe:
        probe = _Probe(model, fixed, same)
        with torch.random.fork_rng(devices):
            function(
                probe, start.clone(), sigmas.clone(), extra_args={"model_options": {}, "seed": seed},
                callback=probe.step_done, disable=True, **options,
            )  # fmt: skip
        return probe

    probe = run(point)
    if len(probe.begins) != len(sigmas) - 1:
        raise ValueError(_hidden(function))
    found = {place: step for step, place in enumerate(probe.begins)}
    noisy = [(probe.seen[place][1], float(sigmas[step])) for place, step in found.items()]
    steps = all(at * 0.99 <= sigma <= at * 1.5 for sigma, at in noisy)  # or churned
    if steps and len(probe.begins) > 2:
        # With the state of the second step set, nothing may be left of the start in the third: a sampler that calls the
        # model with a copy, or whose corrector goes back to the state before, remembers it.
        _, second, third = probe.begins[:3]

        def forgets(same: str) -> bool:
            one, two = (run(start, second, same).seen[third][0] for start in (point, point + 3))
            return torch.allclose(one, two, rtol=1e-4, atol=1e-5)

        steps = forgets("clean") or forgets("noise")
    if not steps:
        raise ValueError(_hidden(function))
    return found


def _hidden(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
    return (
        f"the sampler {name!r} does not show where its steps begin, so nothing can be done before them. Use another: "
        "euler, heun, dpmpp_2m, uni_pc and most others do."
    )
