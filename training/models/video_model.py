"""Video transformers in training: their weights, their noise and their inputs, as each family was trained.

B batch, T latent frames, C latent channels, h x w latents, I and E channels of the first frame and of the condition.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import make_scheduler, rotary

from ..clips.batches import ClipBatch
from ..clips.encoders import ModelFiles
from ..clips.model_shape import ModelShape
from ..run.task_settings import AlignTask, TuneTask
from .mini_encoders import MiniEncoders
from .mini_run import pipeline_of

__all__ = ["Beside", "VideoModel"]

_TRAINED_STEPS = 1000  # of every family's schedule
_OFS = 2.0  # what the CogVideoX 1.5 pipeline passes as `ofs`


class Beside(Protocol):
    """What stands beside the noisy latents: image (B, T, I, h, w) and extra (B, T, E, h, w)."""

    @property
    def image(self) -> Tensor: ...

    @property
    def extra(self) -> Tensor: ...


class VideoModel:
    """The transformer of a diffusers folder or a bundle, without its encoders; or of a mini model that is open.

    CogVideoX predicts velocities of its DDPM schedule at uniform timesteps; Wan and HunyuanVideo predict noise minus
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
        elif task.model == "mini" or (Path(task.model) / bundle.MANIFEST).is_file():
            pipeline, self.sizes = pipeline_of(bundle.HOME if task.model == "mini" else Path(task.model))
            self.transformer = pipeline.transformer.to(self.dtype)
            self.scheduler = make_scheduler()
        else:
            self.transformer, self.scheduler = self._load(Path(task.model))
        self.flow = self.shape.family != "cogvideox"
        self._positions: dict[tuple[int, ...], Any] = {}

    def _load(self, folder: Path) -> tuple[Any, Any]:
        import diffusers

        index = json.loads((folder / "model_index.json").read_text())
        if (index.get("transformer_2") or [None])[0] is not None:
            raise ValueError(
                f"{folder} has two transformers (Wan 2.2 A14B), which are trained one at a time: that is not supported "
                "yet; use Wan 2.1"
            )
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
        """HunyuanVideo's kind whose first latent frame is given: it goes in without noise."""
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
        given: dict[str, Any] = {"timestep": t, "encoder_hidden_states": text["rows"].to(self.dtype)}
        config = self.transformer.config
        if self.shape.family == "cogvideox":
            given["image_rotary_emb"] = self._rotary(tuple(noisy.shape), noisy.device)
            if getattr(config, "ofs_embed_dim", None) is not None:
                given["ofs"] = hidden.new_full((1,), _OFS)
            return {"hidden_states": hidden, "return_dict": False, **given}
        if "image_rows" in text:
            given["encoder_hidden_states_image"] = text["image_rows"].to(self.dtype)
        if self.shape.family == "hunyuan_video":
            given["encoder_attention_mask"] = text["mask"].to(self.dtype)
            given["pooled_projections"] = text["pooled"].to(self.dtype)
            if config.guidance_embeds:
                given["guidance"] = hidden.new_full((len(hidden),), self.task.guidance * 1000.0)
        return {"hidden_states": hidden.transpose(1, 2), "return_dict": False, **given}

    def output(self, made: Tensor) -> Tensor:
        """The transformer's output as (B, T, C, h, w)."""
        return made if self.shape.family == "cogvideox" else made.transpose(1, 2)

    def _rotary(self, shape: tuple[int, ...], device: torch.device) -> Any:
        """Positions of CogVideoX, as its pipeline makes them for latents (B, T, C, h, w)."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        key = (shape[1], *shape[3:])
        if key not in self._positions:
            from diffusers import CogVideoXImageToVideoPipeline as Pipeline

            if self.sizes is not None:
                self._positions[key] = rotary(self.sizes, device)
            else:
                holder: Any = SimpleNamespace(transformer=self.transformer, vae_scale_factor_spatial=8)
                size = (shape[3] * 8, shape[4] * 8, shape[1], device)
                self._positions[key] = Pipeline._prepare_rotary_positional_embeddings(holder, *size)
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
        options = {"shift": self.task.shift} if self.flow else {}
        scheduler = getattr(diffusers, names[self.flow]).from_config(self.scheduler.config, **options)
        device = batch.latents.device
        scheduler.set_timesteps(steps, device=device)
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(batch.latents.shape, generator=draw).to(device)
        free = {**batch.text, **{name: value.to(device) for name, value in empty.items()}}

        def predict(text: dict[str, Tensor], t: Tensor) -> Tensor:
            noisy = self.given_first(x, batch.latents.float())
            return self.output(self.transformer(**self.inputs(noisy, batch, text, t))[0]).float()

        for t in scheduler.timesteps:
            made = predict(batch.text, t[None])
            if cfg != 1.0:
                plain = predict(free, t[None])
                made = plain + cfg * (made - plain)
            x = scheduler.step(made, t, x, return_dict=False)[0].float()
        return self.given_first(x, batch.latents.float())
