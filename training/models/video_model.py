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
from matrix_lib.hosts.diffusers.mini import make_scheduler
from matrix_lib.hosts.diffusers.model_shape import ModelShape

from ..clips.batches import ClipBatch
from ..clips.encoders import ModelFiles
from ..run.task_settings import AlignTask, TuneTask
from .mini_encoders import MiniEncoders
from .mini_run import pipeline_of

__all__ = ["Beside", "VideoModel", "check_one"]

_TRAINED_STEPS = 1000  # of every family's schedule


def check_one(index: Mapping[str, Any], folder: Path) -> None:
    """ValueError for the index of a pipeline with two transformers."""
    if (index.get("transformer_2") or [None])[0] is not None:
        raise ValueError(
            f"{folder} has two transformers (Wan 2.2 A14B), which are trained one at a time: that is not supported "
            "yet; use Wan 2.1"
        )


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

        index = json.loads((folder / "model_index.json").read_text())
        check_one(index, folder)
        kind = getattr(diffusers, index["transformer"][1])
        scheduler = getattr(diffusers, index["scheduler"][1])
        try:
            net = kind.from_pretrained(folder / "transformer", torch_dtype=self.dtype, local_files_only=True)
            return net, scheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"the transformer in {folder} cannot be loaded: {error}") from error

    # --- noise

    def add_noise(self, clean: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, what is to be predicted, timesteps as the transformer takes them, and times in [0, 1] (1 is
        pure noise).

        Args:
            clean, noise: (B, T, C, h, w) float32. u: (B,) position in the schedule, in [0, 1).
        """
        u = u.to(clean.device)
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
        """Latents (1, T, C, h, w) float32 sampled for a batch of one, with the family's own kind of scheduler.

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

        for t in scheduler.timesteps:
            made = predict(batch.text, t[None])
            if cfg != 1.0:
                plain = predict(free, t[None])
                made = plain + cfg * (made - plain)
            x = scheduler.step(made, t, x, return_dict=False)[0].float()
        return self.given_first(x, batch.latents.float())
