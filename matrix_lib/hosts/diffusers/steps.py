"""Step hooks in a diffusers pipeline: its scheduler's `step` is wrapped.

A hook that asks for predictions acts between a step's transformer calls and the step: the calls are repeated with
another sample, and their outputs combined as the pipeline combined them. One that asks for none acts on what the step
before gave, which costs nothing.

B batch, C channels, T latent frames, H, W latent rows and columns. Samples here are (B, C, T, H, W).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import BackboneSpec
from ...core.checkpointed import checkpointed
from ...core.guidance.part import RunPart
from ...core.no_compile import hidden
from ...core.noise import NoiseLevel
from ...instrument.gradient import GradientHook, StopForward
from ...instrument.steps import StepHook
from .attach import backbone_of, perturbed
from .batches import part_of, replayed, replaying
from .families import family
from .laid_out import LaidOut, Segment, Segments, arguments, clip_begins, output_of
from .schedules import Noise, noise_at, steps_of

__all__ = ["Call", "CfgReplay", "OutputContext", "acting_before_steps", "nets_of"]


_OWN_STATES = ("SASolverScheduler", "PNDMScheduler", "IPNDMScheduler")


class OutputContext:
    """The latent before a step, and the model there, where predictions are a network's outputs: a `StepContext`.

    Args:
        x: (B, C, T, H, W). output: of the network at x, after CFG. evaluate: the same at another x, watched by nobody.
        noise: of the step.
    """

    def __init__(
        self,
        x: Tensor,
        output: Tensor | None,
        evaluate: Callable[[Tensor], Tensor],
        noise: Noise,
        step: float,
        steps: int,
        given_frames: Tensor | None = None,
    ) -> None:
        self.x, self.level, self.step, self.steps, self.given_frames = x, noise.level, step, steps, given_frames
        self._evaluate, self._noise, self._at, self._output = evaluate, noise, x, output

    def output(self) -> Tensor:
        """The network's output at x."""
        if self._output is None or self._at is not self.x:
            self._at, self._output = self.x, self._evaluate(self.x)
        return self._output

    def denoised(self) -> Tensor:
        return self._noise.clean(self.x, self.output())

    def predict(self, x: Tensor) -> Tensor:
        self._at, self._output = x, self._evaluate(x)
        return self._noise.clean(x, self._output)

    def gradient(self, losses: GradientHook, x: Tensor) -> Tensor | None:
        raise ValueError("gradient guidance needs the calls of a pipeline's step: pass the pipeline to `steer`")


class _Step(OutputContext):
    """The sample before a step of a pipeline, whose calls can be repeated."""

    def __init__(self, replay: CfgReplay, x: Tensor, output: Tensor, noise: Noise, step: float, steps: int) -> None:
        super().__init__(x, output, replay.evaluate, noise, step, steps, replay.given_frames)
        self._replay = replay

    def gradient(self, losses: GradientHook, x: Tensor) -> Tensor | None:
        """The transformer calls of the step are repeated with gradients, as they are steered."""
        leaf = x.detach().float().requires_grad_()
        losses.start(leaf)
        try:
            for place, call in enumerate(self._replay.calls):
                with torch.enable_grad(), replaying(place), perturbed(losses):
                    with _differentiable(call.net, losses.guidance.checkpoint):
                        with contextlib.suppress(StopForward):
                            self._replay.repeat(place, leaf)
                        losses.forward_done(leaf, leaf)
            return losses.end(self.step)
        finally:
            losses.forget()


@dataclass(frozen=True)
class _Held:
    """The sample that a step gave, as the next one begins: a `StepContext` for hooks that ask for no predictions."""

    x: Tensor
    level: NoiseLevel
    step: float
    steps: int
    given_frames: Tensor | None


@contextlib.contextmanager
def _differentiable(net: nn.Module, again: bool) -> Iterator[None]:
    """While open, gradients reach the input and no weight; with `again` blocks run again in the backward pass."""
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    switch = again and not getattr(net, "is_gradient_checkpointing", True)
    for weight in weights:
        weight.requires_grad_(False)
    if switch:
        net.enable_gradient_checkpointing(checkpointed)
    try:
        yield
    finally:
        if switch:
            net.disable_gradient_checkpointing()
        for weight in weights:
            weight.requires_grad_()


def nets_of(pipe: Any) -> list[nn.Module]:
    """The denoising networks of a pipeline. Raises ValueError for what is no pipeline with a scheduler."""
    found = [net for name in ("transformer", "transformer_2", "unet") if (net := getattr(pipe, name, None)) is not None]
    if not found or not callable(getattr(getattr(pipe, "scheduler", None), "step", None)):
        raise ValueError(
            f"the sample of a pipeline's scheduler is what moves before a step; {type(pipe).__name__} has none. Pass "
            "the pipeline, or call an `IntrinsicHook` in your own loop (see hosts/diffusers/mini.py)"
        )
    return found


@contextlib.contextmanager
def acting_before_steps(
    pipe: Any, hooks: Sequence[StepHook], own: Mapping[Any, nn.Module] | None = None
) -> Iterator[None]:
    """While open, hooks act in turn before every step of a pipeline, those that ask for no predictions first.

    own: of transformers that take turns the one in whose steps alone a hook acts that asks for predictions.

    Raises ValueError for what is no pipeline, for an unknown model, and, when it runs, for a pipeline that feeds its
    transformer in another way than its scheduler steps, or combines predictions by more than CFG.
    """
    nets = nets_of(pipe)
    if not hooks:
        yield
        return
    scheduler: Any = pipe.scheduler
    if type(scheduler).__name__ in _OWN_STATES:
        raise ValueError(
            f"{type(scheduler).__name__} keeps states of earlier steps to itself, so its sample cannot be moved before "
            "a step. Use another scheduler: DDIM, Euler, DPM++, UniPC and most others work"
        )
    run = _Steps(scheduler, hooks, backbone_of(nets[0]), getattr(nets[0], "_orig_mod", nets[0]))
    run.own = own or {}
    with contextlib.ExitStack() as stack:
        for net in nets:
            plain = getattr(net, "_orig_mod", net)
            stack.callback(plain.register_forward_hook(hidden(run.called), with_kwargs=True).remove)
        run.original = scheduler.step
        run.begin = scheduler.set_timesteps
        for name, function in (("step", run.step), ("set_timesteps", run.set_timesteps)):
            stack.callback(functools.partial(_put_back, scheduler, name, vars(scheduler).get(name)))
            setattr(scheduler, name, _Wrapped(scheduler, name, function))
        yield


class _Wrapped:
    """`function` in the place of a scheduler's method, with its signature, which pipelines look at. A copy of the
    scheduler, which LTX-2 makes for its sound, has its own method."""

    def __init__(self, scheduler: Any, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, getattr(scheduler, name))
        self._scheduler, self._name, self._function = scheduler, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo[id(self._scheduler)]
        return getattr(type(copied), self._name).__get__(copied)


def _put_back(scheduler: Any, name: str, own: Any) -> None:
    if own is None:
        delattr(scheduler, name)
    else:
        setattr(scheduler, name, own)


@dataclass(frozen=True)
class Call:
    """One call of a transformer: what went in and what came out."""

    net: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def hidden(self) -> Tensor:
        return self.args[0] if self.args else self.kwargs[self._name]

    @property
    def _name(self) -> str:
        return "hidden_states" if "hidden_states" in self.kwargs else "sample"

    def again(self, hidden: Tensor) -> Tensor:
        if self.args:
            return output_of(self.net(hidden, *self.args[1:], **self.kwargs))
        return output_of(self.net(**{**self.kwargs, self._name: hidden}))


class _Steps:
    """The calls since the last step, and the step around them."""

    original: Callable[..., Any]
    begin: Callable[..., Any]
    own: Mapping[Any, nn.Module]

    def __init__(self, scheduler: Any, hooks: Sequence[StepHook], spec: BackboneSpec, net: nn.Module) -> None:
        self.scheduler, self.hooks, self.spec = scheduler, tuple(hooks), spec
        self.free = [hook for hook in hooks if not hook.asks_model]
        self.asking = [hook for hook in hooks if hook.asks_model]
        self.calls: list[Call] = []
        self.lead = [hook.prefix_frames for hook in hooks]
        self._segments, self._segment = Segments(spec, net), Segment()
        self._front = 0
        self._before: Noise | None = None
        self._fresh = True

    def called(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of the transformers."""
        if replayed() is None:
            given = arguments(net, args, kwargs)
            call = Call(net, args, kwargs, output_of(output))
            latents = LaidOut.of(self.spec, net, args, kwargs).latents(call.hidden)
            self._front = clip_begins(self.spec, given, latents.shape[2])
            clip = latents.shape[2] - self._front
            now = self._segments.of(given, clip) or Segment()
            if now != self._segment:
                self._segment = now
                own = functools.partial(part_of, segment=now, frames=(clip - 1) * self.spec.temporal_stride + 1)
                for hook in self.hooks:
                    hook.follow(now.start, own)
            self.calls.append(call)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the scheduler's: a run begins, whatever became of the one before."""
        self.calls.clear()
        self._fresh = True
        return self.begin(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the scheduler's `step`."""
        given = inspect.signature(self.original).bind(*args, **kwargs)
        calls, self.calls = self.calls, []
        timestep, sample, output = (given.arguments[name] for name in ("timestep", "sample", "model_output"))
        every = steps_of(self.scheduler)
        place = min(range(len(every)), key=lambda i: abs(every[i] - float(torch.as_tensor(timestep))))
        noise = noise_at(self.scheduler, timestep, self.spec.adds_noise)
        first = getattr(self.scheduler, "state_in_first_order", True)  # else the second half of a Heun step
        starts = first and (place == 0 or self._fresh)
        if starts:  # behind the first timestep in a pipeline that begins from a clip (strength below 1)
            for hook, lead in zip(self.hooks, self.lead):
                hook.prefix_frames = lead + self._front
                hook.begin(None, RunPart(tuple(range(place, len(every))), len(every), fresh=True))
            self._before, self._fresh = None, False
        replay = functools.cache(lambda: CfgReplay.of(calls, sample, output, noise, self.spec))
        mine = [hook for hook in self.asking if calls and self.own.get(hook, calls[0].net) is calls[0].net]
        acting = [hook for hook in mine if first and hook.acts(place, len(every))]
        # The pipeline made the first sample itself; where nothing of a reference is in it, holding changes no more than
        # the noise.
        if starts and noise.level.alpha > 0:
            acting = [hook for hook in self.free if hook.acts(place, len(every))] + acting
        if acting:
            x, out = replay().unfold(sample), replay().unfold(output)
            at = _Step(replay(), x, out, noise, place, len(every))
            for hook in acting:
                at.x = self._behind_references(x, hook(at))
            moved = replay().fold(at.x, sample)
            given.arguments["sample"], given.arguments["model_output"] = moved, replay().fold(at.output(), output)
            self._carry(moved - sample, self._before, noise)
        self._before = noise
        result = self.original(*given.args, **given.kwargs)
        if not calls:
            return result
        shape = functools.cache(lambda: CfgReplay.shaped(calls, sample, noise, self.spec))
        return self._held(result, shape, every, place + bool(first))  # half a step ends at its own

    def _held(self, result: Any, replay: Callable[[], CfgReplay], every: Sequence[float], step: int) -> Any:
        """What a step gives, as the hooks that ask for no predictions have it before the next one."""
        acting = [hook for hook in self.free if step < len(every) and hook.acts(step, len(every))]
        if not acting or not getattr(self.scheduler, "state_in_first_order", True):
            return result
        plain = result[0] if isinstance(result, tuple) else result.prev_sample
        noise, x = noise_at(self.scheduler, every[step], self.spec.adds_noise), replay().unfold(plain)
        for hook in acting:
            at: Any = _Held(x, noise.level, step, len(every), replay().given_frames)
            x = self._behind_references(x, hook(at))
        moved = replay().fold(x, plain)
        self._carry(moved - plain, self._before, noise)
        if isinstance(result, tuple):
            return (moved, *result[1:])
        result.prev_sample = moved
        return result

    def _behind_references(self, x: Tensor, moved: Tensor) -> Tensor:
        """What a hook has made of x, with the references in front of the clip as they were."""
        if torch.equal(moved[:, :, : self._front], x[:, :, : self._front]):
            return moved
        return torch.cat([x[:, :, : self._front], moved[:, :, self._front :]], 2)

    def _carry(self, moved: Tensor, before: Noise | None, noise: Noise) -> None:
        """UniPC corrects the sample from the one of the step before, which must have moved alike: the corrector takes
        it times sigma / sigma before."""
        last = getattr(self.scheduler, "last_sample", None)
        if last is None or before is None or not hasattr(self.scheduler, "disable_corrector"):
            return
        if not getattr(self.scheduler, "predict_x0", True):
            raise ValueError("moving the sample works with UniPC that predicts x0 (predict_x0=True), the default")
        self.scheduler.last_sample = last + moved * (before.level.sigma / noise.level.sigma)


@dataclass(frozen=True)
class CfgReplay:
    """How the calls of a step make its prediction: plainly, or as first + scale (second - first).

    given_frames: latent frames in front that the pipeline feeds to the model but does not sample; laid: how the model
    takes latents; flat: the scheduler's samples are (B T, C, H, W), of this many frames; adds_noise: see
    `BackboneSpec`.
    """

    calls: tuple[Call, ...]
    guidance: float | None
    channels: int
    noise: Noise
    given_frames: Tensor | None
    laid: LaidOut
    flat: int | None
    spec: BackboneSpec

    @classmethod
    def of(cls, calls: Sequence[Call], sample: Tensor, output: Tensor, noise: Noise, spec: BackboneSpec) -> CfgReplay:
        """Raises ValueError where the calls do not make `output`, or were not fed `sample`."""
        made = cls.shaped(calls, sample, noise, spec)
        hidden, x = made.laid.latents(calls[0].hidden), made.unfold(sample)
        if hidden.shape[2] < x.shape[2] or len(hidden) % len(x) or not _near(made._fed(x, calls[0]), calls[0].hidden):
            raise ValueError(
                "this pipeline does not feed its transformer the sample that its scheduler steps, so its calls "
                "cannot be repeated"
            )
        parts, want = made._parts([call.output for call in calls], x), made.unfold(output).double()
        if spec.adds_noise:
            want = noise.clean(x, want).double()
        if len(parts) == 1 and _near(parts[0], want):
            return made
        if len(parts) == 2:
            first, second = (part.double() for part in parts)
            way = second - first
            guidance = float(((want - first) * way).sum() / way.square().sum().clamp(min=1e-30))
            if _near(first + guidance * way, want):
                return replace(made, guidance=guidance)
        raise ValueError(
            f"the {len(parts)} predictions of a step are combined by more than CFG (guidance rescale, or another hook "
            "on the transformer: pass all guidance in one `steer`), so they cannot be repeated"
        )

    @classmethod
    def shaped(cls, calls: Sequence[Call], sample: Tensor, noise: Noise, spec: BackboneSpec) -> CfgReplay:
        """How samples lie in what the calls were fed; nothing is said of how predictions are combined."""
        first = calls[0]
        laid = LaidOut.of(spec, first.net, first.args, first.kwargs)
        hidden = laid.latents(first.hidden)
        flat = hidden.shape[2] if sample.ndim == 4 else None
        channels = sample.shape[1] if flat else laid.latents(sample).shape[1]
        bare = cls(tuple(calls), None, channels, noise, None, laid, flat, spec)
        x = bare.unfold(sample)
        front = hidden.shape[2] - x.shape[2]
        given = hidden[: x.shape[0], :channels, :front] if front > 0 else None
        return replace(bare, given_frames=given)

    def evaluate(self, x: Tensor) -> Tensor:
        """The prediction (B, C, T, H, W) at another sample."""
        outputs = []
        for place in range(len(self.calls)):
            with replaying(place), perturbed("before a step"):
                outputs.append(self.repeat(place, x))
        parts = self._parts(outputs, x)
        made = parts[0] if self.guidance is None else parts[0] + self.guidance * (parts[1] - parts[0])
        return (x - made) / self.noise.level.sigma if self.spec.adds_noise else made

    def repeat(self, place: int, x: Tensor) -> Tensor:
        """One of the calls at another sample: its output as the network gives it."""
        call = self.calls[place]
        return call.again(self._fed(x, call))

    def unfold(self, sample: Tensor) -> Tensor:
        """A scheduler's sample as (B, C, T, H, W)."""
        if self.flat:
            return sample.unflatten(0, (-1, self.flat)).transpose(1, 2)
        return self.laid.latents(sample)

    def fold(self, x: Tensor, like: Tensor) -> Tensor:
        """And back, in the dtype of `like`."""
        x = x.transpose(1, 2).flatten(0, 1) if self.flat else self.laid.back(x, like)
        return x.to(like.dtype)

    def _fed(self, x: Tensor, call: Call) -> Tensor:
        """What the call is fed at another sample: the latents' channels replaced, in every copy of the batch."""
        hidden = self.laid.latents(call.hidden).clone()
        front = 0 if self.given_frames is None else self.given_frames.shape[2]
        fed = (x * self.noise.scale).to(hidden).repeat(len(hidden) // len(x), 1, 1, 1, 1)
        held = self._held(call)
        own = hidden[:, : self.channels, front:]
        hidden[:, : self.channels, front:] = fed if held is None else torch.where(held, own, fed)
        return self.laid.back(hidden, call.hidden)

    def _held(self, call: Call) -> Tensor | None:
        return family(self.spec.name).held(arguments(call.net, call.args, call.kwargs))

    def _parts(self, outputs: Sequence[Tensor], x: Tensor) -> list[Tensor]:
        """What the pipeline combines, of each of its predictions at x: the network's output, or the clean latents that
        it means."""
        front = 0 if self.given_frames is None else self.given_frames.shape[2]
        parts: list[Tensor] = []
        for call, output in zip(self.calls, outputs, strict=True):
            made = self.laid.latents(output)[:, : self.channels, front:]
            if self.spec.adds_noise:
                mixed, scale, held = x.repeat(len(made) // len(x), 1, 1, 1, 1), self.noise.scale, self._held(call)
                made = scale * mixed - (1 - scale) * made.float()
                made = made if held is None else torch.where(held, self.laid.latents(call.hidden).to(made), made)
            parts += made.split(len(x))
        return parts


def _near(a: Tensor, b: Tensor) -> bool:
    """Equal but for the rounding of half precision."""
    a, b = a.double(), b.double()
    return a.shape == b.shape and bool((a - b).norm() <= 2e-2 * b.norm() + 1e-12)
