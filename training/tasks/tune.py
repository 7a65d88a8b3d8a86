"""Alignment fine-tuning of released video transformers on folders of clips: MATRIX and TAViD, any family.

What a step sees follows from the seed, the step and a clip's place in the whole batch alone, however the batch is split
over processes and accumulation.

B batch, T latent frames, C latent channels, h x w latents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from matrix_lib.backbones.lora import AlignmentLoRA, Factors, Info
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.config import AlignmentConfig, MaskWeights, TargetAwareConfig
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.lora import add_factors, input_projection, projections_of, train_projection, widen
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps, TargetMaps
from matrix_lib.io.lora.read import save_lora

from ..clips.batches import ClipBatch, open_clips
from ..clips.encoders import ModelFiles
from ..clips.folder import FolderData
from ..data.world import seed_of
from ..models.video_model import VideoModel
from ..run.config import FitConfig, TuneTask
from ..run.quantise import attentions_of, quantise_blocks
from .align import LORA, PARTS, AlignNet, Maps, mask_decoder

__all__ = ["ClipStream", "TuneBatch", "TuneStep"]

_PREFIX = "transformer."


@dataclass(frozen=True)
class TuneBatch:
    """One part of a step's batch: clips, what they are aligned with (None: nothing), and which prompts are dropped."""

    clips: ClipBatch
    targets: TargetBatch | None
    bare: tuple[bool, ...]


class ClipStream:
    """Batches of the run, one ahead of the step, made by a thread."""

    def __init__(self, config: FitConfig, model: ModelFiles, state: PartialState, pixels: bool) -> None:
        task, data = config.task, config.data
        assert isinstance(task, TuneTask)
        assert isinstance(data, FolderData)
        self.seed, self.dropout, self.pixels, self.aligned = config.run.seed, task.dropout, pixels, task.method != "off"
        self.place, self.processes, self.accumulate = (
            state.process_index,
            state.num_processes,
            config.optim.accumulate,
        )
        whole = data.batch * self.processes * self.accumulate
        said = state.on_main_process(print)
        with state.main_process_first():  # the first one to look leaves a memo for the others
            self.clips = open_clips(data, model, self.seed, whole, said, bar=state.is_main_process)
        self.clips.fill(bar=state.is_main_process)
        state.wait_for_everyone()
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[tuple[int, int], Future[TuneBatch]] = {}

    def batch(self, step: int, micro: int = 0) -> TuneBatch:
        """This process's part of a step's batch, on the CPU."""
        asked = self.coming.pop((step, micro), None) or self.pool.submit(self._make, step, micro)
        following = (step, micro + 1) if micro + 1 < self.accumulate else (step + 1, 0)
        found = asked.result()
        self.coming = {following: self.pool.submit(self._make, *following)}
        return found

    def _make(self, step: int, micro: int) -> TuneBatch:
        clips = self.clips.batch(step, micro * self.processes + self.place, self.processes * self.accumulate)
        bare = tuple(self.draw(step, row, 1) < self.dropout for row in clips.rows)
        kept = [None if lost else target for lost, target in zip(bare, clips.targets)]
        some = self.aligned and any(target is not None for target in kept)
        return TuneBatch(clips, TargetBatch.of(kept, self.pixels) if some else None, bare)

    def draw(self, step: int, row: int, what: int) -> float:
        """A number in [0, 1) that belongs to a row of a step's whole batch."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, step, row, what))
        return float(torch.rand(1, generator=generator))

    def close(self) -> None:
        """Stops loading."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.clips.close()


class TuneStep:
    """The trainer's task. `net` trains LoRA factors, the widened input projection and the mask decoder, in float32;
    everything else is frozen. Encoders are opened where the cache lacks something, and gone before `net` is loaded."""

    def __init__(self, config: FitConfig, device: torch.device) -> None:
        assert isinstance(config.task, TuneTask)
        self.config, self.task, self.device = config, config.task, device
        state = PartialState()
        if not self.task.model:
            raise ValueError("which model? Set task.model to the folder of a diffusers pipeline, or to mini")
        kind = torch.bfloat16 if self.task.weights == "bf16" and device.type != "cpu" else torch.float32
        self.files = ModelFiles(self.task.model, device, kind, offload=True)
        pixels = self.task.decoder > 0 and self.task.method in ("sga", "spa", "both")
        self.source = ClipStream(config, self.files, state, pixels)
        self.whole = config.data.batch * state.num_processes * config.optim.accumulate
        self.model = VideoModel(self.task)
        transformer = self.model.transformer
        self.base_channels = int(transformer.config.in_channels)
        self.modules = projections_of(transformer, *self.task.lora_layers)
        if self.task.quantise != "no":
            quantise_blocks(transformer, self.task.quantise, attentions_of(self.modules), device)
        add_factors(transformer, self.modules, self.task.rank, self.task.alpha)
        self.extra = self.files.shape.extra_channels(config.data.condition)
        if self.extra:
            widen(transformer, self.extra)
            train_projection(transformer)
        if self.task.checkpointing:
            transformer.enable_gradient_checkpointing()
        grid = self.files.shape.grid(config.data.frames, config.data.height, config.data.width)
        decoder = mask_decoder(self.task, grid)
        half = torch.bfloat16 if self.task.weights == "bf16" else None
        self.net: nn.Module = AlignNet(transformer.train(), decoder, half).to(device)
        self.empty = {name: value.to(device) for name, value in self.source.clips.empty.items()}
        self.step = 0
        self.open = contextlib.ExitStack()
        torch.backends.cudnn.benchmark = False  # the decoder sees another number of entities at every step

    def compile(self, net: nn.Module) -> nn.Module:
        """Blocks that nobody watches; a watched one would be traced anew at every step."""
        task = self.task
        watched = {*task.v2t, *task.v2v, *task.lora_layers[0], *task.lora_layers[1]}
        at = 0
        for stack in ("transformer_blocks", "single_transformer_blocks", "blocks"):
            for block in getattr(self.model.transformer, stack, ()):
                if at not in watched:
                    block.compile(dynamic=False)
                at += 1
        return net

    def stream(self, seed: int) -> ClipStream:
        """Batches of the run; the seed is the run's, for every process the same."""
        return self.source

    @contextlib.contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Around forward and backward of one step: attention stays watched, also while blocks run again."""
        self.step = step
        with contextlib.ExitStack() as self.open:
            yield

    def loss(self, net: nn.Module, batch: TuneBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion loss and the weighted losses of the attention; call it inside `during`."""
        clips, rows = batch.clips.to(self.device), batch.clips.rows
        clean = clips.latents.float()
        start = self.source.draw(self.step, 0, 2)  # levels are spread evenly over the whole batch of the step
        share = torch.tensor([(start + row / self.whole) % 1.0 for row in rows])
        noise = torch.stack([self._noise(row, clean.shape[1:]) for row in rows])
        noisy, target, t, times = self.model.corrupt(clean, noise, share)
        text = self._text(clips.text, batch.bare)
        maps = self._watch(batch)
        prediction, aligned, parts = net(self.model.inputs(noisy, clips, text, t), maps, times)
        error = (self.model.output(prediction).float() - target)[:, self.model.skipped :].square()
        diffusion = error.mean()
        values = {"loss": diffusion + aligned, "diffusion": diffusion.detach()}
        return values | {name: parts.get(name, diffusion.new_zeros(())).detach() for name in PARTS[self.task.method]}

    def _noise(self, row: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.config.run.seed, self.step, row, 3))
        return torch.randn(shape, generator=generator).to(self.device)

    def _text(self, text: dict[str, Tensor], bare: tuple[bool, ...]) -> dict[str, Tensor]:
        """With the empty prompt in rows whose prompt is dropped."""
        lost = torch.tensor(bare, device=self.device)
        out = dict(text)
        for name, value in self.empty.items():
            if any(bare) and name in out:
                out[name] = torch.where(lost.view(-1, *[1] * (value.ndim - 1)), value.to(out[name]), out[name])
        return out

    def _watch(self, batch: TuneBatch) -> Maps | None:
        """Attaches what collects the maps of this step; None where no loss looks at attention."""
        if batch.targets is None:
            return None
        task, seed = self.task, self.config.run.seed
        targets = batch.targets.to(self.device)
        maps: Maps
        if task.method == "tavid":
            layers = LayerDraw(task.v2t, task.draw or None)
            config = TargetAwareConfig(task.tavid, layers, task.track, task.normalise)
            maps = TargetMaps(config, targets, batch.clips.target_names, self.step, seed)
        else:
            maps = AlignmentMaps(self._losses(), targets, self.step, seed)
        transformer = self.model.transformer
        session = Session([maps])
        self.open.enter_context(attach(transformer, session, lambda forward: None, batch.clips.grid.lead))
        return maps

    def _losses(self) -> AlignmentConfig:
        task = self.task
        on = PARTS[task.method]
        return AlignmentConfig(
            sga=task.sga if "sga" in on else 0.0,
            spa=task.spa if "spa" in on else 0.0,
            mask=MaskWeights(task.bce, task.dice, task.l2),
            v2t=LayerDraw(task.v2t),
            v2v=LayerDraw(task.v2v),
            scores=task.scores,
            timestep=task.timestep,
        )

    def finish(self, net: nn.Module) -> None:
        """Nothing more to do with the weights; `publish` writes them."""

    def publish(self, state: dict[str, Tensor], path: Path | None = None, steps: int | None = None) -> Path:
        """Writes the LoRA file of a state of `net`; the decoder has done its work and is left out."""
        task, data = self.task, self.config.data
        wide = self.extra > 0
        info = Info(
            condition=data.condition if wide else "",
            base_channels=self.base_channels,
            layers={"v2t": task.v2t, "v2v": task.v2v},
            palette=FIXED if data.condition == "id_map" else (),
            trigger="target" if data.prompt_form in ("target_word", "target_sentence") else "",
            prompt_form=data.prompt_form,
            notes=(f"{task.method}, {steps or self.config.run.steps} steps, seed {self.config.run.seed}",),
        )

        def of(name: str) -> Tensor:
            return state[_PREFIX + name].detach().float().cpu()

        factors = {
            name: Factors(of(f"{name}.lora_A.default.weight"), of(f"{name}.lora_B.default.weight"), task.alpha)
            for name in self.modules
        }
        names = {id(module): name for name, module in self.model.transformer.named_modules()}
        place = names[id(input_projection(self.model.transformer))]
        projection = {part: of(f"{place}.{part}") for part in ("weight", "bias") if f"{_PREFIX}{place}.{part}" in state}
        lora = AlignmentLoRA(self.files.shape.family, factors, projection if wide else {}, {}, info, "matrix")
        target = path or Path(self.config.run.out) / LORA
        save_lora(lora, target)
        return target
