"""Temporal intrinsic denoising in diffusers: before a scheduler's step, its sample is refined and predicted again.

    with refining(pipe, IntrinsicDenoising(), tracks) as seen:
        video = pipe(prompt=prompt, num_inference_steps=50).frames

B batch, C channels, T latent frames, H, W latent rows and columns. Samples here are (B, C, T, H, W).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.intrinsic import IntrinsicDenoising
from ...core.tracks import MaskTracks
from ...instrument.refiner import Refiner
from .attach import backbone_of, perturbed
from .batches import replaying
from .schedules import Noise, noise_at, steps_of

__all__ = ["refine_output", "refining"]


def refine_output(
    refiner: Refiner,
    x: Tensor,
    output: Tensor,
    evaluate: Callable[[Tensor], Tensor],
    noise: Noise,
    step: int,
    steps: int,
    still: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A refiner where predictions are a model's outputs: the refined sample (B, C, T, H, W), and the output there.

    `output`: at x, after CFG. `evaluate`: that output for other x. `still`: see `Refiner`."""
    latest = [output]

    def predict(z: Tensor) -> Tensor:
        latest[0] = evaluate(z)
        return noise.clean(z, latest[0])

    x, _ = refiner(x, noise.clean(x, output), predict, noise.level, step, steps, still)
    return x, latest[0]


@contextlib.contextmanager
def refining(
    pipe: Any,
    config: IntrinsicDenoising,
    tracks: MaskTracks | Sequence[MaskTracks | None],
    *,
    lead: int = 0,
    seed: int = 0,
) -> Iterator[Refiner]:
    """While open, every step of a pipeline is preceded by the iterations of `config`.

    The scheduler's `step` is wrapped: the transformer calls that led to it are repeated with the refined sample, and
    their outputs combined as the pipeline combined them (plain, or CFG at the scale that the pipeline used in this very
    step). Under `steer` and `watch` the repeated calls are steered as the first ones, and not recorded.

    Args:
        pipe: a diffusers pipeline of CogVideoX, Wan, HunyuanVideo or ZeroScope, of any scheduler with a `step` that
            takes a model output, a timestep and a sample.
        tracks: mask tracks, or one per prompt.
        lead: as in `watch`.
        seed: of the noise that the iterations add; row i of the batch draws from `seed + i`.

    Yields the `Refiner`, for its `taus` and `notes`. Raises ValueError for a bare transformer, an unknown model, and,
    when it runs, for a pipeline that feeds its transformer in another way or combines predictions by more than CFG.
    """
    scheduler: Any = getattr(pipe, "scheduler", None)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"intrinsic denoising refines the sample of a pipeline's scheduler; {type(pipe).__name__} has none. Pass "
            "the pipeline, or call a `Refiner` in your own loop (see hosts/diffusers/mini.py)"
        )
    every = [tracks] if isinstance(tracks, MaskTracks) else list(tracks)
    nets = [net for name in ("transformer", "transformer_2", "unet") if (net := getattr(pipe, name, None)) is not None]
    spec = backbone_of(nets[0])
    follow = [[] if each is None else [each] for each in every]
    refiner = Refiner(config, follow, (spec.temporal_stride, spec.spatial_stride), lead, seed)
    if config.idle:
        yield refiner
        return
    run = _Run(scheduler, refiner, frames_first=spec.name == "cogvideox")
    with contextlib.ExitStack() as stack:
        for net in nets:
            plain = getattr(net, "_orig_mod", net)
            stack.callback(plain.register_forward_hook(run.called, with_kwargs=True).remove)
        run.original = scheduler.step
        own = "step" in vars(scheduler)
        scheduler.step = run.wrapped()
        stack.callback(lambda: setattr(scheduler, "step", run.original) if own else delattr(scheduler, "step"))
        yield refiner


@dataclass(frozen=True)
class _Call:
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
            return _first(self.net(hidden, *self.args[1:], **self.kwargs))
        return _first(self.net(**{**self.kwargs, self._name: hidden}))


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output.sample


class _Run:
    """The calls since the last step, and the step around them."""

    original: Callable[..., Any]

    def __init__(self, scheduler: Any, refiner: Refiner, frames_first: bool) -> None:
        self.scheduler, self.refiner, self.frames_first = scheduler, refiner, frames_first
        self.calls: list[_Call] = []
        self._repeating = False
        self._before: Noise | None = None

    def called(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of the transformers."""
        if not self._repeating:
            self.calls.append(_Call(net, args, kwargs, _first(output)))

    def wrapped(self) -> Callable[..., Any]:
        """`step` as a function with the signature of the scheduler's, which pipelines look at."""

        @functools.wraps(self.original)
        def step(*args: Any, **kwargs: Any) -> Any:
            return self.step(*args, **kwargs)

        return step

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the scheduler's `step`."""
        given = inspect.signature(self.original).bind(*args, **kwargs)
        calls, self.calls = self.calls, []
        timestep, sample, output = (given.arguments[name] for name in ("timestep", "sample", "model_output"))
        every = steps_of(self.scheduler)
        place = min(range(len(every)), key=lambda i: abs(every[i] - float(torch.as_tensor(timestep))))
        noise = noise_at(self.scheduler, timestep)
        first = getattr(self.scheduler, "state_in_first_order", True)  # else the second half of a Heun step
        if first and place == 0:
            self.refiner.begin()
            self._before = None
        if first and calls and self.refiner.acts(place, len(every)):
            mix = _Mix.of(calls, sample, output, noise.scale, self.frames_first)
            x, out = self._refined(mix, sample, output, noise, place, len(every))
            given.arguments["sample"], given.arguments["model_output"] = x, out
            self._carry(x - sample, noise)
        self._before = noise
        return self.original(*given.args, **given.kwargs)

    def _refined(
        self, mix: _Mix, sample: Tensor, output: Tensor, noise: Noise, step: int, steps: int
    ) -> tuple[Tensor, Tensor]:
        def evaluate(z: Tensor) -> Tensor:
            self._repeating = True
            try:
                return mix.evaluate(z)
            finally:
                self._repeating = False

        sample_, output_ = mix.unfold(sample), mix.unfold(output)
        x, out = refine_output(self.refiner, sample_, output_, evaluate, noise, step, steps, mix.still)
        return mix.fold(x, sample), mix.fold(out, output)

    def _carry(self, moved: Tensor, noise: Noise) -> None:
        """UniPC corrects the sample from the one of the step before, which must have moved alike: the corrector takes
        it times sigma / sigma before."""
        last = getattr(self.scheduler, "last_sample", None)
        if last is None or self._before is None or not hasattr(self.scheduler, "disable_corrector"):
            return
        if not getattr(self.scheduler, "predict_x0", True):
            raise ValueError("intrinsic denoising works with UniPC that predicts x0 (predict_x0=True), the default")
        self.scheduler.last_sample = last + moved * (self._before.level.sigma / noise.level.sigma)


@dataclass(frozen=True)
class _Mix:
    """How the calls of a step make its prediction: plainly, or as first + scale (second - first).

    still: latent frames in front that the pipeline feeds to the model but does not sample; frames_first: the model
    takes (B, T, C, H, W); flat: the scheduler's samples are (B T, C, H, W), of this many frames.
    """

    calls: tuple[_Call, ...]
    guidance: float | None
    channels: int
    scale: float
    still: Tensor | None
    frames_first: bool
    flat: int | None

    @classmethod
    def of(cls, calls: Sequence[_Call], sample: Tensor, output: Tensor, scale: float, frames_first: bool) -> _Mix:
        """Raises ValueError where the calls do not make `output`, or were not fed `sample`."""
        hidden = _swap(calls[0].hidden, frames_first)
        flat = hidden.shape[2] if sample.ndim == 4 else None
        channels = sample.shape[1] if flat or not frames_first else sample.shape[2]
        bare = cls(tuple(calls), None, channels, scale, None, frames_first, flat)
        x = bare.unfold(sample)
        front = hidden.shape[2] - x.shape[2]
        still = hidden[: x.shape[0], :channels, :front] if front > 0 else None
        made = cls(bare.calls, None, channels, scale, still, frames_first, flat)
        if front < 0 or len(hidden) % len(x) or not _near(made._fed(x, calls[0]), calls[0].hidden):
            raise ValueError(
                "this pipeline does not feed its transformer the sample that its scheduler steps, so intrinsic "
                "denoising cannot repeat its calls"
            )
        parts, want = made._parts([call.output for call in calls], len(x)), bare.unfold(output).double()
        if len(parts) == 1 and _near(parts[0], want):
            return made
        if len(parts) == 2:
            first, second = (part.double() for part in parts)
            way = second - first
            guidance = float(((want - first) * way).sum() / way.square().sum().clamp(min=1e-30))
            if _near(first + guidance * way, want):
                return cls(made.calls, guidance, channels, scale, still, frames_first, flat)
        raise ValueError(
            f"the {len(parts)} predictions of a step are combined by more than CFG (guidance rescale, or another hook "
            "on the transformer: pass all guidance in one `steer`), so intrinsic denoising cannot repeat them"
        )

    def evaluate(self, x: Tensor) -> Tensor:
        """The prediction (B, C, T, H, W) at another sample."""
        outputs = []
        for place, call in enumerate(self.calls):
            with replaying(place), perturbed("intrinsic"):
                outputs.append(call.again(self._fed(x, call)))
        parts = self._parts(outputs, len(x))
        if self.guidance is None:
            return parts[0]
        return parts[0] + self.guidance * (parts[1] - parts[0])

    def unfold(self, sample: Tensor) -> Tensor:
        """A scheduler's sample as (B, C, T, H, W)."""
        if self.flat:
            return sample.unflatten(0, (-1, self.flat)).transpose(1, 2)
        return _swap(sample, self.frames_first)

    def fold(self, x: Tensor, like: Tensor) -> Tensor:
        """And back, in the dtype of `like`."""
        x = x.transpose(1, 2).flatten(0, 1) if self.flat else _swap(x, self.frames_first)
        return x.to(like.dtype)

    def _fed(self, x: Tensor, call: _Call) -> Tensor:
        """What the call is fed at another sample: the latents' channels replaced, in every copy of the batch."""
        hidden = _swap(call.hidden, self.frames_first).clone()
        front = 0 if self.still is None else self.still.shape[2]
        hidden[:, : self.channels, front:] = (x * self.scale).to(hidden).repeat(len(hidden) // len(x), 1, 1, 1, 1)
        return _swap(hidden, self.frames_first)

    def _parts(self, outputs: Sequence[Tensor], batch: int) -> list[Tensor]:
        front = 0 if self.still is None else self.still.shape[2]
        whole = [_swap(out, self.frames_first)[:, : self.channels, front:] for out in outputs]
        return [part for out in whole for part in out.split(batch)]


def _swap(x: Tensor, frames_first: bool) -> Tensor:
    return x.transpose(1, 2) if frames_first else x


def _near(a: Tensor, b: Tensor) -> bool:
    """Equal but for the rounding of half precision."""
    a, b = a.double(), b.double()
    return a.shape == b.shape and bool((a - b).norm() <= 2e-2 * b.norm() + 1e-12)
