"""Alignment fine-tuning: the diffusion loss on interaction clips, and losses that tell attention who is who.

B batch, T latent frames, C latent channels, h x w latents, D text rows, X channels of the mask condition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matrix_lib.backbones.lora import Info
from matrix_lib.core.grid import Grid
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.config import AlignmentConfig, TargetAwareConfig
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.lora import add_factors, input_projection, projections_of, read_lora, widen
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps, LossParts, TargetMaps
from matrix_lib.io.lora.read import save_lora

from ..data.alignment_clips import EXTRA_CHANNELS, AlignBatch, AlignStream
from ..models.mini_model import MiniModel
from ..run.config import AlignTask, FitConfig, TuneTask

__all__ = ["LORA", "AlignNet", "AlignStep", "mask_decoder"]

LORA = "lora.safetensors"
"""File of a finished run that MATRIX Apply LoRA takes."""
PARTS = {"off": (), "sga": ("sga",), "spa": ("spa",), "both": ("sga", "spa"), "tavid": ("target",)}
Maps = AlignmentMaps | TargetMaps


class AlignNet(nn.Module):
    """Transformer and mask decoder; one forward is the prediction and the losses of its attention.

    `half`: number format that the decoder computes in, where the transformer's own activations are in it.
    """

    def __init__(self, transformer: nn.Module, decoder: MaskDecoder | None, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.transformer, self.decoder, self.half = transformer, decoder, half

    def forward(self, inputs: dict[str, Any], maps: Maps | None, times: Tensor) -> tuple[Tensor, Tensor, dict]:
        """Prediction, total of the attention losses and its parts; `maps` have to be attached."""
        prediction = self.transformer(**inputs)[0]
        found = LossParts(prediction.new_zeros((), dtype=torch.float32), {})
        with self._decoding(prediction.device):
            if isinstance(maps, AlignmentMaps):
                found = maps.alignment(self.decoder, times)
            elif maps is not None:
                found = maps.target_aware()
        total = found.total.to(prediction.device)
        if self.decoder is not None and len(found.parts) < len(self.decoder.heads):
            # several processes wait for a gradient of every weight, also where this one had nothing to align
            total = total + 0.0 * torch.stack([p.sum() for p in self.decoder.parameters()]).sum()
        return prediction, total, found.parts

    def _decoding(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.half is None else torch.autocast(device.type, self.half)


def mask_decoder(task: AlignTask | TuneTask, grid: Grid) -> MaskDecoder | None:
    """Heads for the losses that are on; none for TAViD's, which compares on the token grid."""
    heads = {"sga": len(task.v2t), "spa": len(task.v2v)}
    used = {name: count if name in PARTS[task.method] else 0 for name, count in heads.items()}
    if not task.decoder or not any(used.values()):
        return None
    return MaskDecoder(
        DecoderConfig(
            grounding=used["sga"],
            propagation=used["spa"],
            width=task.decoder,
            patch=grid.patch,
            temporal_stride=grid.temporal_stride,
            spatial_stride=grid.spatial_stride,
            probabilities=task.scores == "probabilities",
        )
    )


class AlignStep:
    """The trainer's task. `net` trains LoRA factors, the widened input projection and the decoder; the rest is frozen.

    The weights that every method trains are the same and start the same: the decoder comes last.
    """

    def __init__(self, config: FitConfig, device: torch.device) -> None:
        assert isinstance(config.task, AlignTask)
        self.config, self.task, self.device = config, config.task, device
        self.model = MiniModel(self.task.bundle, device)
        transformer = self.model.transformer
        self.base_channels = int(transformer.config.in_channels)
        self.modules = projections_of(transformer, *self.task.lora_layers)
        add_factors(transformer, self.modules, self.task.rank, self.task.alpha)
        if extra := EXTRA_CHANNELS[self.task.condition]:
            widen(transformer, extra)
            input_projection(transformer).requires_grad_(True)
        self.net: nn.Module = AlignNet(transformer.train(), mask_decoder(self.task, self.model.grid)).to(device)
        self.empty = self.model.encode_text([""])
        self.step = 0
        self.open = contextlib.ExitStack()
        torch.backends.cudnn.benchmark = False  # the decoder sees another number of entities at every step

    def compile(self, net: nn.Module) -> nn.Module:
        """Blocks that nobody watches; a watched one would be traced anew at every step."""
        watched = {*self.task.v2t, *self.task.v2v, *self.task.lora_layers[0], *self.task.lora_layers[1]}
        for i, block in enumerate(self.model.transformer.transformer_blocks):
            if i not in watched:
                block.compile(dynamic=False)
        return net

    def stream(self, seed: int) -> AlignStream:
        """Batches of the run."""
        return AlignStream(self.task, self.config.data, seed, self.model)

    @contextlib.contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Around forward and backward of one step: attention stays watched, also while blocks run again."""
        self.step = step
        with contextlib.ExitStack() as self.open:
            yield

    def loss(self, net: nn.Module, batch: AlignBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion loss and the weighted losses of the attention; call it inside `during`."""
        clean = batch.latents.float()
        count = len(clean)
        start, drop = torch.rand(1, generator=generator), torch.rand(count, generator=generator)
        share = self._share((start + torch.arange(count) / count) % 1.0)
        local = torch.Generator(self.device).manual_seed(generator.initial_seed())
        noise = torch.randn(clean.shape, generator=local, device=self.device)
        noisy, target, t, times = self.model.corrupt(clean, noise, share)
        bare = drop < self.task.dropout
        rows = torch.where(bare.to(self.device)[:, None, None], self.empty, batch.rows)
        inputs = self.model.inputs(noisy, batch.image.float(), batch.condition, rows, t)
        maps = self._watch(batch, ~bare)
        prediction, aligned, parts = net(inputs, maps, times)
        error = (prediction.float() - target).square().mean(dim=2)
        diffusion = (error * batch.weight).sum() / batch.weight.sum()
        values = {"loss": diffusion + aligned, "diffusion": diffusion.detach(), "mse": error.detach().mean()}
        return values | {name: parts.get(name, diffusion.new_zeros(())).detach() for name in PARTS[self.task.method]}

    def _share(self, place: Tensor) -> Tensor:
        """Places in the schedule: the first `even` of them evenly, the others mostly where noise is high."""
        even = self.task.even
        high = ((place - even) / max(1.0 - even, 1e-6)).clamp_min(0.0) ** (1.0 / self.task.high_noise)
        return torch.where(place < even, place / max(even, 1e-6), high)

    def _watch(self, batch: AlignBatch, keep: Tensor) -> Maps | None:
        """Attaches what collects the maps of this step; None where no loss looks at attention."""
        task = self.task
        if task.method == "off":
            return None
        targets = batch.targets.select(torch.arange(len(keep)), keep)
        maps: Maps
        if task.method == "tavid":
            config = TargetAwareConfig(weight=task.tavid, layers=LayerDraw(task.v2t))
            maps = TargetMaps(config, targets, batch.objects, self.step, self.config.run.seed)
        else:
            maps = AlignmentMaps(self._losses(), targets, self.step, self.config.run.seed)
        self.open.enter_context(attach(self.model.transformer, Session([maps]), lambda forward: None))
        return maps

    def _losses(self) -> AlignmentConfig:
        task = self.task
        on = PARTS[task.method]
        return AlignmentConfig(
            sga=task.sga if "sga" in on else 0.0,
            spa=task.spa if "spa" in on else 0.0,
            v2t=LayerDraw(task.v2t),
            v2v=LayerDraw(task.v2v),
            scores=task.scores,
            timestep=task.timestep,
        )

    def finish(self, net: nn.Module) -> None:
        """Writes the LoRA file of the weights that `net` has now; the decoder has done its work and is left out."""
        assert isinstance(net, AlignNet)
        task = self.task
        wide = task.condition != "none"
        info = Info(
            condition=task.condition if wide else "",
            base_channels=self.base_channels,
            layers={"v2t": task.v2t, "v2v": task.v2v},
            palette=FIXED if task.condition == "id_map" else (),
            notes=(f"mini model, method {task.method}, {self.config.run.steps} steps, seed {self.config.run.seed}",),
        )
        lora = read_lora(net.transformer, self.modules, task.alpha, info, projection=wide)
        save_lora(lora, Path(self.config.run.out) / LORA)
