"""Video transformers in training: their weights, their noise and their inputs, as each family was trained.

B batch, T latent frames, C latent channels, h x w latents, I and E channels of the first frame and of the condition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.load import index_file
from matrix_lib.hosts.diffusers.mini import make_scheduler
from matrix_lib.hosts.diffusers.model_shape import ModelShape

from ..clips.batches import ClipBatch
from ..clips.encoders import ModelFiles
from ..run.task_settings import EXPERTS, AlignTask, TuneTask
from .mini_encoders import MiniEncoders
from .mini_run import pipeline_of

__all__ = ["Beside", "VideoModel", "trained_part"]

_TRAINED_STEPS = 1000  # of every family's schedule


def trained_part(index: Mapping[str, Any], folder: Path, expert: str) -> str:
    """The part of a pipeline, by its index, that is trained: "transformer", or of two experts (`TuneTask.expert`) the
    other. Raises ValueError where it is open which one, and where there is one alone."""
    two = (index.get("transformer_2") or [None])[0] is not None
    if two and not (expert and index.get("boundary_ratio")):
        raise ValueError(
            f"{folder} has two transformers (Wan 2.2 A14B), which are trained one at a time, each at its own noise "
            "levels (boundary_ratio in model_index.json): say task.expert=high for the one of the noisy steps, or "
            "task.expert=low, and train each into a file of its own"
        )
    if expert and not two:
        raise ValueError(f"task.expert={expert} is about models with two transformers, and {folder} has one: leave it")
    return EXPERTS[expert] if expert else "transformer"


class Beside(Protocol):
    """What stands beside the noisy latents: image (B, T, I, h, w) and extra (B, T, E, h, w)."""

    @property
    def image(self) -> Tensor: ...

    @property
    def extra(self) -> Tensor: ...


class VideoModel:
    """The transformer of a diffusers folder or a bundle, without its encoders; or of a mini model that is open.

    CogVideoX predicts velocities of its DDPM schedule at uniform timesteps; the other families predict noise minus
    latents of straight paths, at noise levels that `task.shift` moves up.

    Raises ValueError for a model that is not there, or of a kind that cannot be trained.
    """

    def __init__(self, task: AlignTask | TuneTask, mini: MiniEncoders | None = None) -> None:
        self.task = task
        self.dtype = torch.bfloat16 if task.weights == "bf16" else torch.float32
        self.shape: ModelShape = ModelFiles(task.model).shape if mini is None else mini.shape
        self.sizes = None
        self.boundary: float | None = None  # the noise level at which one expert takes over from the other
        if mini is not None:
            self.transformer: Any = mini.pipeline.transformer.to(mini.device)
            self.sizes, self.scheduler = mini.sizes, make_scheduler()
        elif (found := bundle.find(task.model)) is not None:
            pipeline, self.sizes = pipeline_of(found)
            self.transformer = pipeline.transformer.to(self.dtype)
            self.scheduler = make_scheduler()
        else:
            self.transformer, self.scheduler = self._load(Path(task.model))
        self.family = family(self.shape.family)
        self.flow = self.shape.spec.flow
        self._positions: dict[tuple[int, ...], Any] = {}

    def _load(self, folder: Path) -> tuple[Any, Any]:
        import diffusers

        index = json.loads(index_file(folder).read_text())
        part = trained_part(index, folder, self.task.expert)
        self.boundary = float(index["boundary_ratio"]) if self.task.expert else None
        kind = getattr(diffusers, index[part][1])
        scheduler = getattr(diffusers, index["scheduler"][1])
        try:
            net = kind.from_pretrained(folder / part, torch_dtype=self.dtype, local_files_only=True)
            return net, scheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"the transformer in {folder} cannot be loaded: {error}") from error

    # --- noise

    def add_noise(self, clean: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, what is to be predicted, timesteps as the transformer takes them, and times in [0, 1] (1 is
        pure noise).

        Args:
            clean, noise: (B, T, C, h, w) float32. u: (B,) position in the schedule, in [0, 1); of an expert's part of
                it, whose noise levels are drawn as often as they are among all.
        """
        u = self._of_expert(u.to(clean.device))
        if self.task.times == "logit_normal":
            u = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6)).sigmoid().float()
        wide = (-1, 1, 1, 1, 1)
        if not self.flow:
            signal = self.scheduler.alphas_cumprod.float().to(clean.device)
            t = (u * len(signal)).long().clamp(max=len(signal) - 1)
            kept, lost = signal[t].sqrt().view(wide), (1.0 - signal[t]).sqrt().view(wide)
            return kept * clean + lost * noise, kept * noise - lost * clean, t, (t + 1) / len(signal)
        sigma = self.task.shift * u / (1.0 + (self.task.shift - 1.0) * u)
        s = sigma.view(wide)
        noisy, target = (1.0 - s) * clean + s * noise, noise - clean
        return self.given_first(noisy, clean), target, sigma * _TRAINED_STEPS, sigma

    def _of_expert(self, u: Tensor) -> Tensor:
        """Positions in the whole schedule that fall to the expert, high or low, of positions in its own part."""
        if self.boundary is None:
            return u
        shift = self.task.shift
        first = self.boundary / (shift - (shift - 1.0) * self.boundary)  # the position of that noise level
        if self.task.times == "logit_normal":
            first = float(torch.special.ndtr(torch.logit(torch.tensor(first, dtype=torch.float64))))
        return first + (1.0 - first) * u if self.task.expert == "high" else first * u

    def given_first(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Kinds whose first latent frame is given: it goes in without noise."""
        if self.shape.image != "replace":
            return noisy
        return torch.cat([clean[:, :1], noisy[:, 1:]], dim=1)

    @property
    def skipped(self) -> int:
        """Latent frames at the start that are given, and so not predicted."""
        return 1 if self.shape.image == "replace" else 0

    # --- inputs and outputs

    def inputs(self, noisy: Tensor, batch: Beside, text: dict[str, Tensor], t: Tensor) -> dict[str, Any]:
        """What the transformer is called with: `noisy` (B, T, C, h, w) beside the first frame and the condition."""
        hidden = torch.cat([noisy.to(self.dtype), batch.image.to(self.dtype), batch.extra.to(self.dtype)], dim=2)
        positions = self._positions_of(tuple(noisy.shape), noisy.device)
        config, guidance = self.transformer.config, self.task.guidance
        return self.family.inputs(config, hidden, t, text, positions, guidance, self.skipped)

    def output(self, made: Tensor, like: Tensor) -> Tensor:
        """The transformer's output as (B, T, C, h, w), of latents `like`."""
        return self.family.output(made, like)

    def _positions_of(self, shape: tuple[int, ...], device: torch.device) -> Any:
        """Positions for latents (B, T, C, h, w), made once a size."""
        key = (shape[1], *shape[3:])
        if key not in self._positions:
            self._positions[key] = self.family.positions(self.transformer, shape, device)
        return self._positions[key]

    # --- sampling

    @torch.no_grad()
    def denoise(self, batch: ClipBatch, empty: dict[str, Tensor], steps: int, cfg: float, seed: int) -> Tensor:
        """Latents (1, T, C, h, w) float32 sampled for a batch of one, with the family's own kind of scheduler. An
        expert makes its own steps: that of the low noise levels goes on from the noised clip, the other ends with what
        it predicts the clip to be.

        Args:
            empty: text of the empty prompt; its prediction comes second in each step, and not at all where cfg is 1.
        """
        import diffusers

        names = {False: "CogVideoXDDIMScheduler", True: "FlowMatchEulerDiscreteScheduler"}
        # plain flow, also where the pipeline's own scheduler steps x0 + sigma e, or from noise up
        plain = {"use_karras_sigmas": False, "invert_sigmas": False}
        options = {"shift": self.task.shift, **plain} if self.flow else {}
        scheduler = getattr(diffusers, names[self.flow]).from_config(self.scheduler.config, **options)
        device = batch.latents.device
        scheduler.set_timesteps(steps, device=device)
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(batch.latents.shape, generator=draw).to(device)
        free = {**batch.text, **{name: value.to(device) for name, value in empty.items()}}

        def predict(text: dict[str, Tensor], t: Tensor) -> Tensor:
            noisy = self.given_first(x, batch.latents.float())
            return self.output(self.transformer(**self.inputs(noisy, batch, text, t))[0], noisy).float()

        first, stop = (0, steps) if self.boundary is None else self._own_steps(scheduler.sigmas[:-1])
        if first:
            start = scheduler.sigmas[first].to(device)
            x = (1 - start) * batch.latents.float() + start * x
        for place, t in enumerate(scheduler.timesteps[first:stop], first):
            made = predict(batch.text, t[None])
            if cfg != 1.0:
                plain = predict(free, t[None])
                made = plain + cfg * (made - plain)
            if place == stop - 1 < steps - 1:
                x = x - scheduler.sigmas[place].to(device) * made
                break
            x = scheduler.step(made, t, x, return_dict=False)[0].float()
        return self.given_first(x, batch.latents.float())

    def _own_steps(self, sigmas: Tensor) -> tuple[int, int]:
        """(first, stop) of the steps at these noise levels, descending, that are the expert's."""
        assert self.boundary is not None
        high = int((sigmas >= self.boundary).sum())
        return (0, max(high, 1)) if self.task.expert == "high" else (min(high, len(sigmas) - 1), len(sigmas))
