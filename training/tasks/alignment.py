"""Alignment fine-tuning, MATRIX and TAViD: the diffusion loss on clips, and losses that tell attention who is who.

One trainer for every model; the mini model on its own world and any model on a folder of clips differ in where their
batches come from (`data.alignment_clips`) and in what a LoRA file says of itself.

B batch, T latent frames, C latent channels, h x w latents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from matrix_lib.backbones.lora import AlignmentLoRA, Factors, Info
from matrix_lib.backbones.spec import input_channels
from matrix_lib.core.grid import Grid
from matrix_lib.core.losses.config import timestep_weight
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.lora import add_factors, input_projection, projections_of, train_projection, widen
from matrix_lib.hosts.diffusers.model_shape import Condition
from matrix_lib.hosts.diffusers.picture_attention import without_picture
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps, DetachedMaps, LossParts, TargetMaps
from matrix_lib.io.lora.read import save_lora

from ..clips.encoders import ModelFiles
from ..clips.model_parts import check_parts
from ..clips.teacher import teacher_of
from ..data.alignment_clips import TRIGGERS, AlignmentBatch, AlignStream, ClipStream
from ..models.mini_encoders import MiniEncoders
from ..models.mini_run import identity
from ..models.model_sizes import ModelSizes
from ..models.video_model import VideoModel
from ..run.config import FitConfig
from ..run.log import Log
from ..run.quantise import attentions_of, quantise_blocks
from ..run.record import LORA
from ..run.swap import BlockSwap, last_blocks, move, parking
from ..run.task_settings import AlignTask, TuneTask, expert_note
from .factors import alpha_of, drop_out, load_start, start_state
from .task import Look, Task

__all__ = ["LORA", "AlignmentNet", "AlignmentStep", "FolderAlignment", "MiniAlignment"]

_PREFIX = "transformer."
AttentionLoss = Callable[[MaskDecoder | None, Tensor], LossParts]
"""From the mask decoder and times (B,) in [0, 1]: the losses of the attention of the forward pass that just ran."""


class AlignmentNet(nn.Module):
    """Transformer and mask decoder; one forward is the prediction and the losses of its attention.

    `half`: number format that the decoder computes in, where the transformer's own activations are in it.
    """

    def __init__(self, transformer: nn.Module, decoder: MaskDecoder | None, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.transformer, self.decoder, self.half = transformer, decoder, half
        self.trigger: nn.Parameter | None = None  # (2, D) what the words of `TRIGGERS` add to the text, where learnt

    def forward(
        self, inputs: dict[str, Any], attention_loss: AttentionLoss | None, times: Tensor, trigger: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Prediction, total of the attention losses and its parts. trigger: (B, D, 2), see `AlignmentBatch`."""
        if self.trigger is not None and trigger is not None:
            rows = inputs["encoder_hidden_states"]
            inputs = {**inputs, "encoder_hidden_states": rows + (trigger @ self.trigger).to(rows)}
        prediction = self.transformer(**inputs)[0]
        found = LossParts(prediction.new_zeros((), dtype=torch.float32), {})
        if attention_loss is not None:
            with self._decoding(prediction.device):
                found = attention_loss(self.decoder, times)
        total = found.total.to(prediction.device)
        if self.decoder is not None and len(found.parts) < len(self.decoder.heads):
            # several processes wait for a gradient of every weight, also where this one had nothing to align
            total = total + 0.0 * torch.stack([p.sum() for p in self.decoder.parameters()]).sum()
        return prediction, total, found.parts

    def _decoding(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.half is None else torch.autocast(device.type, self.half)


def _mask_decoder(task: AlignTask | TuneTask, grid: Grid) -> MaskDecoder | None:
    """Heads for the losses that are on."""
    if not task.decodes:
        return None
    return MaskDecoder(
        DecoderConfig(
            grounding=_maps(task, task.v2t) if "sga" in task.losses else 0,
            propagation=_maps(task, task.v2v) if "spa" in task.losses else 0,
            width=task.decoder,
            patch=grid.patch,
            temporal_stride=grid.temporal_stride,
            spatial_stride=grid.spatial_stride,
            probabilities=task.scores == "probabilities",
        )
    )


def _maps(task: AlignTask | TuneTask, layers: tuple[int, ...]) -> int:
    """How many maps the decoder sees side by side."""
    return min(1, len(layers)) if task.average_layers else len(layers)


class AlignmentStep(Task):
    """`net` trains LoRA factors, the widened input projection and the mask decoder; everything else is frozen.

    The weights that every method trains are the same and start the same: the decoder comes last.

    Args:
        model: the transformer to align. grid: tokens of a clip. condition: what its new input channels take.
    """

    def __init__(
        self, config: FitConfig, device: torch.device, model: VideoModel, grid: Grid, condition: Condition
    ) -> None:
        self.config, self.device, self.model, self.condition = config, device, model, condition
        self.task: AlignTask | TuneTask = config.task
        task, transformer = self.task, model.transformer
        self.base_channels = input_channels(transformer.config)
        self.modules = projections_of(transformer, *task.lora_layers)
        if task.quantise != "no":
            quantise_blocks(transformer, task.quantise, attentions_of(self.modules), device)
        add_factors(transformer, self.modules, task.rank, alpha_of(task), task.dora)
        drop_out(transformer, self.modules, task.lora_dropout)
        self.extra = model.shape.extra_channels(condition)
        if self.extra:
            widen(transformer, self.extra)
            if task.own_formats:
                train_projection(transformer)
            else:
                input_projection(transformer).requires_grad_(True)
        swapped = last_blocks(transformer, task.swap)
        if task.checkpointing:
            transformer.enable_gradient_checkpointing(parking(swapped) if swapped else None)
        if not task.image_attention and not without_picture(transformer):
            raise ValueError(
                "task.image_attention=false is about Wan 2.1 I2V, which attends to its picture; this model does not"
            )
        half = torch.bfloat16 if task.weights == "bf16" else None
        self.net: AlignmentNet = AlignmentNet(transformer.train(), _mask_decoder(task, grid), half)
        move(self.net, device, BlockSwap(swapped, device) if swapped else None)
        self.step = 0
        self.open = contextlib.ExitStack()
        torch.backends.cudnn.benchmark = False  # the decoder sees another number of entities at every step

    def compile(self, net: nn.Module) -> nn.Module:
        """Blocks that nobody watches; a watched one would be traced anew at every step."""
        task = self.task
        watched = {*task.v2t, *task.v2v, *task.lora_layers[0], *task.lora_layers[1]}
        lists = self.model.shape.spec.diffusers.lists
        blocks = [block for path in lists for block in self.model.transformer.get_submodule(path)]
        for at, block in enumerate(blocks):
            if at not in watched:
                block.compile(dynamic=False)
        return net

    @contextlib.contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Attention stays watched in the backward pass, too, where blocks may run again."""
        self.step = step
        with contextlib.ExitStack() as self.open:
            yield

    def loss(self, net: nn.Module, batch: AlignmentBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion loss and the weighted losses of the attention. Everything drawn is part of the batch."""
        return self._losses(net, batch.to(self.device))

    def _losses(self, net: nn.Module, batch: AlignmentBatch, *beside: AlignmentMaps) -> dict[str, Tensor]:
        """The losses of a batch on the device; `beside` see its attention, too."""
        model = self.model
        noisy, target, t, times = model.add_noise(batch.latents.float(), batch.noise, batch.u)
        inputs = model.inputs(noisy, batch, batch.text, t)
        prediction, aligned, parts = net(inputs, self._watch(batch, *beside), times, batch.trigger)
        error = (model.output(prediction, noisy).float() - target)[:, model.skipped :].square()
        weight = None if batch.weight is None else batch.weight[:, model.skipped :]
        values = self._diffusion(error, weight, times if self.task.weigh_diffusion else None)
        values = {"loss": values["diffusion"] + aligned} | {name: value.detach() for name, value in values.items()}
        return values | {name: parts.get(name, aligned.new_zeros(())).detach() for name in self.task.losses}

    def _diffusion(self, error: Tensor, weight: Tensor | None, times: Tensor | None = None) -> dict[str, Tensor]:
        """Mean of squared errors (B, T, C, h, w), and where places (B, T, h, w) or times (B,) weigh them the plain mean
        beside it."""
        if weight is None and times is None:
            return {"diffusion": error.mean()}
        error = error.mean(dim=2)
        weighed = error
        if times is not None:
            by_time = timestep_weight(times, self.task.timestep, self.task.shift)
            weighed = error * by_time.to(error).view(-1, 1, 1, 1)
        mean = weighed.mean() if weight is None else (weighed * weight).sum() / weight.sum()
        return {"diffusion": mean, "mse": error.mean()}

    def _watch(self, batch: AlignmentBatch, *beside: AlignmentMaps) -> AttentionLoss | None:
        """Attaches what collects the maps of this step; None where nothing is aligned."""
        attention_loss, maps = self._aligning(batch)
        if watching := [*maps, *beside]:
            session = Session(watching)
            self.open.enter_context(attach(self.model.transformer, session, lambda forward: None, batch.prefix_frames))
        return attention_loss

    def _aligning(self, batch: AlignmentBatch) -> tuple[AttentionLoss | None, list[AlignmentMaps | TargetMaps]]:
        if batch.targets is None or not self.task.losses:
            return None, []
        at = self.step, self.config.run.seed
        if self.task.method == "tavid":
            named = [names for names in (batch.target_names, batch.source_names) if names]
            several = [TargetMaps(self.task.target_aware(), batch.targets, names, *at) for names in named]

            def attention_loss(decoder: MaskDecoder | None, times: Tensor) -> LossParts:
                found = [each.target_aware() for each in several]
                parts = [part.parts["target"] for part in found if part.parts]
                total = torch.stack([part.total for part in found]).sum()
                return LossParts(total, {"target": torch.stack(parts).sum()} if parts else {})

            return attention_loss, [*several]
        kind = DetachedMaps if self.task.control == "blind" else AlignmentMaps
        maps = kind(self.task.matrix(), batch.targets, *at)
        return maps.alignment, [maps]

    def info(self, step: int) -> Info:
        """What the LoRA file of a step says about itself."""
        task, run = self.task, self.config.run
        at = f"{step} steps" if step >= run.steps else f"step {step} of {run.steps}"
        return Info(
            condition=self.condition if self.extra else "",
            base_channels=self.base_channels,
            layers={"v2t": task.v2t, "v2v": task.v2v},
            palette=FIXED if self.condition == "id_map" else (),
            notes=(f"{task.method}, {at}, seed {run.seed}", *expert_note(task.expert)),
            image_attention="" if task.image_attention else "off",
        )

    def _place(self) -> str:
        """Path of the input projection."""
        transformer = self.model.transformer
        names = {id(module): name for name, module in transformer.named_modules()}
        return names[id(input_projection(transformer))]

    def start(self) -> dict[str, Tensor]:
        """The factors and the projection of `task.start`."""
        if not self.task.start:
            return {}
        condition = self.condition if self.extra else ""
        lora = load_start(self.task, self.model.shape.family, condition, self.modules)
        return {_PREFIX + name: value for name, value in start_state(lora, self.task, self._place()).items()}

    def publish(self, state: dict[str, Tensor], step: int) -> None:
        self.export(state, Path(self.config.run.out), step)

    def export(self, state: dict[str, Tensor], folder: Path, step: int) -> None:
        """Writes the LoRA file of a state of `net`; the decoder has done its work and is left out."""

        def of_net(name: str) -> Tensor:
            return state[name].detach().float().cpu()

        def of(name: str) -> Tensor:
            return of_net(_PREFIX + name)

        factors = {
            name: Factors(
                of(f"{name}.lora_A.default.weight"),
                of(f"{name}.lora_B.default.weight"),
                alpha_of(self.task),
                of(f"{name}.lora_magnitude_vector.default.weight") if self.task.dora else None,
            )
            for name in self.modules
        }
        place = self._place()
        trained = [part for part in ("weight", "bias") if self.extra and f"{_PREFIX}{place}.{part}" in state]
        projection = {part: of(f"{place}.{part}") for part in trained}
        beside = {"trigger": of_net("trigger")} if "trigger" in state else {}
        lora = AlignmentLoRA(self.model.shape.family, factors, projection, beside, self.info(step), "matrix")
        save_lora(lora, folder / LORA)


class MiniAlignment(AlignmentStep):
    """The mini model, on interaction clips of its own world."""

    @classmethod
    def look(cls, config: FitConfig, device: torch.device) -> Look:
        found: dict[str, dict[str, Any]] = {"model": identity(Path(config.task.bundle or bundle.HOME))}
        teacher = teacher_of(config.task.teacher)
        return Look(found | (teacher.fingerprint() if teacher else {}))

    def __init__(self, config: FitConfig, device: torch.device, seen: Look) -> None:
        task: AlignTask = config.task
        self.encoders = MiniEncoders(task.bundle, device)
        super().__init__(config, device, VideoModel(task, self.encoders), self.encoders.grid, task.condition)
        if task.learn_trigger:
            width = int(self.encoders.text.config.d_model)
            self.net.trigger = nn.Parameter(torch.zeros(len(TRIGGERS), width, device=device))

    def batches(self, process: int) -> AlignStream:
        return AlignStream(self.config, self.encoders, process)

    def info(self, step: int) -> Info:
        found = super().info(step)
        return replace(found, notes=tuple(f"mini model, method {note}" for note in found.notes))


def _clips_told(source: ClipStream) -> list[str]:
    """What the start summary says of clips."""
    clips = source.clips
    trained, held = (len({sample.clip.name for sample in each}) for each in (clips.samples, clips.held))
    buckets = len({sample.bucket for sample in clips.samples})
    steps = clips.steps_per_epoch
    lines = [f"clips: {trained} ({len(clips.samples)} samples in {buckets} sizes), {steps} steps an epoch"]
    if held:
        names = sorted({sample.clip.name for sample in clips.held})
        lines.append(f"held out: {held} clips ({', '.join(names[:5])}{' ...' if held > 5 else ''})")
    return lines


class FolderLook(Look):
    """A folder of clips and a model's files, looked at; no weights are open yet."""

    def __init__(self, config: FitConfig, device: torch.device) -> None:
        task = config.task
        if not task.model:
            raise ValueError("which model? Set task.model to the folder of a diffusers pipeline, or to mini")
        kind = torch.bfloat16 if task.weights == "bf16" and device.type != "cpu" else torch.float32
        if task.swap and (config.run.compile or PartialState().num_processes > 1):
            raise ValueError(
                "task.swap is for one process without run.compile: several share their weights by run.sharding=fsdp2"
            )
        self.files = ModelFiles(task.model, device, kind, True, config.data.prompt_form == "tag_ids")
        check_parts(self.files)
        self.sizes = ModelSizes(config, self.files.shape)
        if task.foreground and config.data.masks != "all":
            raise ValueError(
                "task.foreground weighs every frame by its masks: set data.masks=all, or task.foreground=0"
            )
        if task.start:
            extra = self.files.shape.extra_channels(config.data.condition)
            load_start(task, self.files.shape.family, config.data.condition if extra else "", self.sizes.modules)
        self.source = ClipStream(config, self.files)
        clips, teacher = self.source.clips, self.source.clips.cache.teacher
        held = {"held-out clips": clips.fingerprint(clips.held)} if clips.held else {}
        self.notes = [*self.sizes.told(device, self.source.clips.samples), *_clips_told(self.source)]
        told = teacher.fingerprint() if teacher else {}
        super().__init__({"clips": clips.fingerprint(clips.samples), **held, "model": self.files.fingerprint(), **told})


class FolderAlignment(AlignmentStep):
    """Any model, on a folder of clips. What is trained is in float32. Encoders are opened where the cache lacks
    something, and gone before the transformer is loaded."""

    @classmethod
    def look(cls, config: FitConfig, device: torch.device) -> FolderLook:
        return FolderLook(config, device)

    def __init__(self, config: FitConfig, device: torch.device, seen: FolderLook) -> None:
        task, data = config.task, config.data
        self.files, self.source, self.notes = seen.files, seen.source, seen.notes
        self.source.fill()
        grid = self.files.shape.grid(data.frames, data.height, data.width)
        super().__init__(config, device, VideoModel(task), grid, data.condition)

    def batches(self, process: int) -> ClipStream:
        return self.source

    def info(self, step: int) -> Info:
        form = self.config.data.prompt_form
        trigger = "target" if form in ("target_word", "target_sentence") else ""
        return replace(super().info(step), trigger=trigger, prompt_form=form)

    def facts(self) -> list[str]:
        return self.notes

    def held(self) -> int:
        settings, samples = self.config.validation, len(self.source.clips.held)
        return settings.levels * (min(samples, settings.most) if settings.most else samples)

    @torch.no_grad()
    def measure(self, net: nn.Module, index: int) -> dict[str, Tensor]:
        """The losses as they are trained, and SGA and SPA on the token grid where the method has them not."""
        batch = self.source.held(index).to(self.device)
        task = self.task
        beside = AlignmentMaps(task.measured(), batch.targets, 0, 0) if batch.targets and task.unmeasured else None
        values = self._losses(net, batch, *([] if beside is None else [beside]))
        if beside is not None:
            times = self.model.add_noise(batch.latents.float(), batch.noise, batch.u)[3]
            parts = beside.alignment(None, times).parts
            zero = values["loss"].new_zeros(())
            values |= {name: parts.get(name, zero) for name in task.unmeasured}
        return values

    def preview(self, step: int, log: Log) -> None:
        """Sample videos with their attention."""
        from .preview import write_previews

        write_previews(self.model, self.source, self.config.run, step, log)
