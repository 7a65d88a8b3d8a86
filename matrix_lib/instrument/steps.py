"""Acting before the steps of a sampling run: what a hook is told, and what it may ask of the model.

B batch, C channels, T latent frames, H, W latent rows and columns. Latents are (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from ..core.guidance.part import RunPart
from ..core.noise import NoiseLevel
from ..core.tracks.tracks import MaskTracks

__all__ = ["StepContext", "StepHook"]


class StepContext(Protocol):
    """The latent before one step of a run, and the model there. Hosts make one for each step.

    x: the latent. level: how noisy it is. step, steps: of the whole schedule, see `RunPart`. given_frames: latent
    frames (B, C, n, H, W) in front of x that the model sees and nobody samples, or None.
    """

    x: Tensor
    level: NoiseLevel
    step: float
    steps: int
    given_frames: Tensor | None

    def denoised(self) -> Tensor:
        """The sampler's own prediction of the clean latent at x, after guidance."""

    def predict(self, x: Tensor) -> Tensor:
        """The same at another x. It is steered as the sampler's own, and nobody watches it."""

    def gradient(self, losses: Any, x: Tensor) -> Tensor | None:
        """Conditional predictions at x with gradients, watched by `losses` alone (a `GradientHook`), and what it makes
        of them; None where it made nothing."""


class StepHook(Protocol):
    """Changes the latent before the steps of one run.

    asks_model: whether it asks for predictions; a hook that asks for none costs nothing.
    prefix_frames: latent frames in front of the clip. seed: row i of the batch draws its noise from `seed + i`. Both
    may be set before the run begins.
    """

    asks_model: bool
    prefix_frames: int
    seed: int

    def begin(self, x: Tensor | None, part: RunPart) -> None:
        """A run begins, with latents like x where these are known.

        Raises ValueError for what cannot work."""

    def follow(self, start: int, own: Callable[[MaskTracks], MaskTracks | None]) -> None:
        """What is sampled from here on is a segment of a long clip, which begins with this pixel frame of it. own: its
        part of tracks of the whole clip, None where they end before it.

        Raises ValueError where the hook has nothing to say of it."""

    def tell(self, note: str) -> None:
        """Adds a sentence for people to the notes of the run, once."""

    def acts(self, step: float, steps: int) -> bool:
        """Whether anything happens before a step of the whole schedule."""

    def __call__(self, at: StepContext) -> Tensor:
        """The latent before a step, changed; `at.x` itself where nothing changes. Where it is the last one that was
        predicted, the host takes that prediction for the step."""
