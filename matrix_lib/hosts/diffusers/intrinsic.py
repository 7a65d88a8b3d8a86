"""Temporal intrinsic denoising in diffusers: before a scheduler's step, its sample is refined and predicted again.

    with refining(pipe, IntrinsicDenoising(), tracks) as seen:
        video = pipe(prompt=prompt, num_inference_steps=50).frames

B batch, C channels, T latent frames, H, W latent rows and columns. Samples here are (B, C, T, H, W).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ...core.guidance.intrinsic import IntrinsicDenoising
from ...core.tracks.tracks import MaskTracks
from ...instrument.intrinsic import Refiner
from .attach import backbone_of
from .schedules import Noise
from .steps import Mix, acting_before_steps, nets_of

__all__ = ["Refining", "refine_output", "refiner_of", "refining"]


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
    every = [tracks] if isinstance(tracks, MaskTracks) else list(tracks)
    refiner = refiner_of(pipe, config, every, lead, seed)
    with acting_before_steps(pipe, [] if config.idle else [Refining(refiner)]):
        yield refiner


def refiner_of(
    pipe: Any, config: IntrinsicDenoising, tracks: Sequence[MaskTracks | None], lead: int = 0, seed: int = 0
) -> Refiner:
    """The refiner of a pipeline's latents; see `refining`. Raises ValueError for an unknown model."""
    spec = backbone_of(nets_of(pipe)[0])
    follow = [[] if each is None else [each] for each in tracks]
    return Refiner(config, follow, (spec.temporal_stride, spec.spatial_stride), lead, seed)


class Refining:
    """Intrinsic denoising as a mover."""

    def __init__(self, refiner: Refiner) -> None:
        self.refiner = refiner
        self.begin, self.acts = refiner.begin, refiner.acts

    def __call__(
        self, mix: Mix, x: Tensor, output: Tensor, noise: Noise, step: int, steps: int
    ) -> tuple[Tensor, Tensor]:
        return refine_output(self.refiner, x, output, mix.evaluate, noise, step, steps, mix.still)
