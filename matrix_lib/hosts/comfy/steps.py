"""Acting before each step of a sampling run, on the sampler's own latent.

Samplers are plain functions over `model(x, sigma)`; each owns its x. Heun and its relatives call the model again in
mid-step, on points that are not the state. `dry_run` finds which calls begin a step, and whether their input is the
state: then the sampler runs with a model in front of which x is changed in place at those calls. Where it is not, the
model is shown the moved latent, and the sampler goes on with the answer.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.extra_samplers import uni_pc
from torch import Tensor

from ...core.guidance.base import check_finite
from ...core.guidance.part import RunPart
from ...core.noise import NoiseLevel
from ...instrument.gradient import GradientHook
from ...instrument.steps import StepHook
from .attribution import prompt_lists
from .autograd import differentiable, plain_weights
from .clip_latent import ClipLatent, clip_shape
from .dry_run import Gains, Proxy, find_steps
from .extra import isolated, named_apart, noticing, unseen_cache
from .run import CLIP_LATENT, FRONT_FRAMES, GRADIENT_KEY, PERTURBED_KEY, PREFIX_FRAMES, unwatched

__all__ = ["level_of", "stepped"]

UNI_PC = (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2)
"""These feed copies to the model and own x / sqrt(1 + sigma^2), which their callback shows."""
_ANSWERED = (
    "a step cache (EasyCache, LazyCache) has answered predictions that were asked for before a step, so that they are "
    "guesses: let the cache begin later (start_percent), or take it off"
)
_IN_THE_DARK = (
    "this model is compiled and another pack keeps state in its run: whether a step cache answers predictions that are "
    "asked for before a step cannot be seen. Take one of the two off to know"
)
_NO_GAIN = 1e-9  # nothing is left of the start there, so the latent cannot be moved


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


def _clip_in(x: Tensor, options: Mapping[str, Any]) -> ClipLatent:
    """Where the clip lies in a sampler's x. Raises ValueError for a latent that is no video."""
    found: ClipLatent | None = options.get(CLIP_LATENT)
    return found or ClipLatent(clip_shape(x, None))


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
    part = part or RunPart.all_of(len(sigmas) - 1)
    inner = extra_args.get("model_options", {}).get("transformer_options", {})
    clip = _clip_in(x, inner)
    for hook in hooks:
        hook.prefix_frames = sum(int(inner.get(name, 0)) for name in (PREFIX_FRAMES, FRONT_FRAMES))
        hook.seed = int(extra_args.get("seed") or 0)
        hook.begin(clip.of(x), part)
        if unseen_cache(extra_args.get("model_options", {})):
            hook.tell(_IN_THE_DARK)
    stepping = _Stepping(model, hooks, extra_args, part)
    if function in UNI_PC:
        shown = functools.partial(stepping.shown, sigmas.clone(), callback)
        return function(model, x.clone(), sigmas, extra_args=extra_args, callback=shown, disable=disable, **options)
    stepping.begins, gains = find_steps(function, model, x, sigmas, options, extra_args.get("seed"))
    if gains is not None:
        carried = _Carried(stepping, gains)
        out = function(carried, x.clone(), sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)
        return carried.result(out)
    return function(stepping, x.clone(), sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)


class _Step:
    """The clip's latent before a step, and the model there: a `StepContext`.

    model(x, sigma, **given) is what the sampler calls; known: its prediction at x, where that was made. Both are the
    sampler's whole latent, of which x is the clip alone.
    """

    given_frames = None
    answered = False  # whether a cache has answered what was asked for

    def __init__(
        self, model: Any, x: Tensor, known: Tensor | None, sigma: Tensor, step: float, steps: int, given: dict[str, Any]
    ) -> None:
        inner = given.get("model_options", {}).get("transformer_options", {})
        self._clip, self._whole = _clip_in(x, inner), x
        self.x, self.step, self.steps, self.level = self._clip.of(x), step, steps, level_of(model, sigma)
        self._model, self._sigma, self._given = model, sigma, given
        self._front = int(inner.get(FRONT_FRAMES, 0))
        self._at, self._known = self.x, known

    @property
    def whole(self) -> Tensor:
        """The sampler's latent with this clip in it."""
        return self._clip.into(self._whole, self.x)

    def whole_denoised(self) -> Tensor:
        """The prediction there."""
        if self._known is None or self._at is not self.x:
            self._at, self._known = self.x, self._model(self.whole, self._sigma, **self._given)
        return self._known

    def denoised(self) -> Tensor:
        return self._clip.of(self.whole_denoised())

    def predict(self, x: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = unwatched(self._given.get("model_options", {}))
        options["transformer_options"] = isolated(options["transformer_options"])
        unseen = {**self._given, "model_options": options}
        with noticing(options) as forwards:
            self._at, self._known = x, self._model(self._clip.into(self._whole, x), self._sigma, **unseen)
        self.answered = self.answered or not forwards
        return self._clip.of(self._known)

    def gradient(self, losses: GradientHook, x: Tensor) -> Tensor | None:
        """The conditional prediction runs with gradients, as it is steered. Blocks are checkpointed where the guidance
        says so: memory then holds the input of each block and the activations of one."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        guider = self._model.inner_model
        conds = [cond for name in prompt_lists(guider.conds) for cond in guider.conds[name]]
        options = self._given.get("model_options", {})
        inner = {
            **isolated(options.get("transformer_options", {})),
            PERTURBED_KEY: losses,
            GRADIENT_KEY: losses.guidance.checkpoint,
        }
        with differentiable():
            plain_weights(guider.inner_model.diffusion_model)
            leaf = x.detach().clone().requires_grad_()
            losses.start(leaf)
            try:
                comfy.samplers.calc_cond_batch(
                    guider.inner_model,
                    [named_apart(conds, losses)],
                    self._clip.into(self._whole.detach(), leaf),
                    self._sigma.clone(),
                    {**options, "transformer_options": inner},
                )
                found = losses.end(self.step)
            finally:
                losses.forget()
        return None if found is None else found.to(x)

    def move(self, x: Tensor, mask: Tensor | None) -> None:
        """The latent is now x, in the places that `mask` leaves to be made and behind reference frames. What was
        predicted last is its prediction, if it was predicted at x."""
        front = self.x[:, :, : self._front]
        if not torch.equal(x[:, :, : self._front], front):
            x = torch.cat([front, x[:, :, self._front :]], 2)
        if x is not self._at:
            self._known = None
        self.x = x if mask is None else self.x + (x - self.x) * self._clip.of(mask)
        self._at = self.x


class _Stepping(Proxy):
    """The model that a sampler steps: where a call begins a step, its x is changed in place first."""

    def __init__(self, model: Any, hooks: list[StepHook], extra_args: dict[str, Any], part: RunPart) -> None:
        super().__init__(model)
        self.hooks, self.part, self.extra_args = hooks, part, extra_args
        self.begins: dict[int, int] = {}
        self._calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        step = self.begins.get(self._calls)
        self._calls += 1
        if step is None or not self.acting(step):
            return self._model(x, sigma, **kwargs)
        moved, denoised = self.moved(x, None, sigma, step, kwargs)
        x.copy_(moved)
        return denoised

    def plain(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The model's own prediction."""
        return self._model(x, sigma, **kwargs)

    def shown(self, sigmas: Tensor, callback: Callable[[dict[str, Any]], None] | None, state: dict[str, Any]) -> None:
        """UniPC's callback. Its x is then the corrected state of step i, from which the next one is predicted; that of
        the last step is the result, so that the last step is left alone."""
        step = int(state["i"])
        if step < len(self.part.places) - 1 and self.acting(step):
            sigma = sigmas[step].expand(len(state["x"]))
            scale = math.hypot(1.0, float(sigmas[step]))
            moved, denoised = self.moved(state["x"] * scale, state["denoised"], sigma, step, self.extra_args)
            state["x"].copy_(moved / scale)
            state["denoised"].copy_(denoised)
        if callback is not None:
            callback(state)

    def acting(self, step: int) -> list[StepHook]:
        return [hook for hook in self.hooks if hook.acts(self.part.place(step), self.part.steps)]

    def moved(
        self, x: Tensor, denoised: Tensor | None, sigma: Tensor, step: int, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        at = _Step(self._model, x, denoised, sigma, self.part.place(step), self.part.steps, given)
        for hook in self.acting(step):
            moved = hook(at)
            check_finite(at.x, moved, getattr(hook, "title", "this guidance"), step, at.level.scale)
            at.move(moved, given.get("denoise_mask"))
            if at.answered:
                hook.tell(_ANSWERED)
                at.answered = False
        return at.whole, at.whole_denoised()


class _Carried(Proxy):
    """The model that a sampler with a hidden state calls: it is shown the latent as if the run had begun elsewhere.

    `_start`: by how much elsewhere, so far; times a call's gain, what the latent there is moved by."""

    def __init__(self, stepping: _Stepping, gains: Gains) -> None:
        super().__init__(stepping)
        self._stepping, self._gains, self._calls = stepping, gains, 0
        self._start: Tensor | float = 0.0

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        stepping, call = self._stepping, self._calls
        self._calls += 1
        if call >= len(self._gains.calls):
            raise ValueError(
                f"this sampler has called the model more often than the {len(self._gains.calls)} times that its steps "
                "take, so nothing can be done before them: use another sampler, or switch off what makes it go on"
            )
        gain, step = self._gains.calls[call], stepping.begins.get(call)
        x = x + self._start * gain if isinstance(self._start, Tensor) else x
        if step is None or not stepping.acting(step) or abs(gain) < _NO_GAIN:
            return stepping.plain(x, sigma, **kwargs)
        moved, denoised = stepping.moved(x, None, sigma, step, kwargs)
        self._start = self._start + (moved - x) / gain
        return denoised

    def result(self, out: Tensor) -> Tensor:
        """What the sampler gives, of the run that was shown: where it ends with noise, that is moved, too."""
        return out + (self._start * self._gains.out).to(out) if isinstance(self._start, Tensor) else out
