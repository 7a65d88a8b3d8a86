"""A step of this trainer beside the same step of plain loops: the same model, LoRA, clips, batch, AdamW and formats.

The loops are written from reading them: that of diffusers' example for LoRAs of CogVideoX image-to-video
(`add_adapter`, the model's own gradient checkpointing, bf16 autocast as accelerate gives it, latents that stay in
memory), and that of finetrainers' SFT (PyTorch's checkpoint wrapper around every block, no autocast, PyTorch's native
attention, latents read from disk when a step needs them; its model of CogVideoX knows text alone, so the first frame's
latents are put beside the noisy ones here). Every block's attention has factors, as both have it, in float32.
Ours is `training.fit` itself: off, and with SGA and SPA.

Before anything is timed every loop is given the same factors, noise and timestep, and has to find the same loss and the
same norm of the gradients. `MATRIX_LOOPS_LAYERS`: blocks of the model, fewer than its 42 (13 at the least).
"""

from __future__ import annotations

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.data.alignment_clips import AlignmentBatch
from training.fit import Trainer, parse

from .timing import as_json, compare
from .two_gpus import SMALL, Case, make_inputs

__all__ = ["run"]

Save = Callable[[dict[str, Any]], None]
RANK, ALPHA = 128, 64.0
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OFF, BOTH = "this trainer, losses off", "this trainer, SGA and SPA"
DIFFUSERS, FINETRAINERS = "diffusers' loop", "finetrainers' loop"
CHECK_AT = 0.6  # of the schedule: near its ends latents that were predicted in half precision are poor


def run(rounds: int, save: Save) -> dict[str, Any]:
    """Steps of all four in turn; memory that each needs alone; how far their losses and gradients are apart."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: a tiny model on the CPU; these figures say nothing about a GPU")
    case = _case(cuda)
    with tempfile.TemporaryDirectory() as place:
        folder, found = Path(place), dict[str, Any]()
        settings = make_inputs(folder, case, ["0"] if cuda else [], found)
        found |= {"pixels": [case.frames, case.height, case.width], "layers": case.layers, "batch": case.batch}
        loops: dict[str, Loop] = {}
        held: dict[str, float] = {}
        for name, build in _builders(folder, settings).items():
            before = torch.cuda.memory_allocated() if cuda else 0
            loops[name] = build(loops)
            loops[name].step()  # the optimiser's state is made by the first one
            if isinstance(first := loops[name], Ours):
                first.waited = first.took = 0.0  # nobody could load its batch ahead
            held[name] = (torch.cuda.memory_allocated() - before) / 1e9 if cuda else 0.0
        found["trained_parameters"] = {name: sum(p.numel() for p in loop.trained()) for name, loop in loops.items()}
        found["same_work"] = same_work(loops)
        print(found, flush=True)
        save(found)

        def seen(figures: list[Any]) -> None:
            found["step"] = as_json(figures)
            save(found)

        compare({name: loop.step for name, loop in loops.items()}, rounds, device, seen=seen)
        found["waits_for_data"] = {n: round(x.waited / x.took, 6) for n, x in loops.items() if isinstance(x, Ours)}
        print("share of the steps that waits for data:", found["waits_for_data"], flush=True)
        found["peak_gb_alone"] = {name: round(_peak(loop, held[name]), 3) for name, loop in loops.items()}
        print("peak memory of each alone, GB:", found["peak_gb_alone"], flush=True)
        for loop in loops.values():
            if isinstance(loop, Ours):
                loop.trainer.stream.close()
        check(found["same_work"], 0.03 if cuda else 1e-4)
    return found


def _case(cuda: bool) -> Case:
    layers = int(os.environ.get("MATRIX_LOOPS_LAYERS", 42 if cuda else SMALL.layers))
    every = ",".join(map(str, range(layers)))
    own = ["data.condition=none", f"task.lora_v2t={every}", f"task.lora_v2v={every}", "task.dropout=0"]
    own += [f"task.rank={RANK if cuda else 4}", f"task.alpha={ALPHA}", "optim.lr=1e-5"]
    if not cuda:
        return replace(SMALL, layers=layers, clips=2, settings=(*SMALL.settings, *own, "task.weights=fp32"))
    if layers < 13:
        raise ValueError(f"MATRIX_LOOPS_LAYERS is 13 or more, for losses at layers 7, 11 and 12; got {layers}")
    return Case(49, 480, 720, 2, layers, 48, 1, tuple(own), 0, 0, 0.0, (320, 480))


def _builders(folder: Path, settings: Sequence[str]) -> dict[str, Callable[[dict[str, Any]], Any]]:
    def ours(name: str, method: str) -> Callable[[dict[str, Any]], Ours]:
        return lambda made: Ours(
            Trainer(parse([*settings, f"task.method={method}", f"run.out={folder / name}", "run.steps=100000"]))
        )

    return {
        OFF: ours("off", "off"),
        BOTH: ours("both", "both"),
        DIFFUSERS: lambda made: DiffusersLoop(folder / "model", made[OFF]),
        FINETRAINERS: lambda made: FinetrainersLoop(folder / "model", made[OFF]),
    }


def _peak(loop: Loop, held: float) -> float:
    """GB at the peak of a step, were nothing else on the device."""
    if not torch.cuda.is_available():
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loop.step()
    return held + (torch.cuda.max_memory_allocated() - before) / 1e9


def same_work(loops: dict[str, Loop]) -> dict[str, Any]:
    """The diffusion loss and the norm of the gradients of each, from the same factors, clip, noise and timestep, and
    how far they are off the first one's, relatively. Raises RuntimeError where one trains other modules."""
    first = loops[OFF]
    random = torch.Generator().manual_seed(1)
    factors = {name: 0.02 * torch.randn(p.shape, generator=random) for name, p in first.factors().items()}
    batch = replace(first.trainer.stream.batch(0), u=torch.full((len(first.clips()[0].u),), CHECK_AT))  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for name, loop in loops.items():
        own = loop.factors()
        if own.keys() != factors.keys():
            raise RuntimeError(f"{name} trains other modules: {sorted(own.keys() ^ factors.keys())[:4]}")
        kept = {key: p.detach().clone() for key, p in own.items()}
        with torch.no_grad():
            for key, p in own.items():
                p.copy_(factors[key])
        loss, norm = loop.check(batch)
        with torch.no_grad():
            for key, p in own.items():
                p.copy_(kept[key])
        found[name] = {"loss": loss, "norm": norm}
        off = {key: abs(value / found[OFF][key] - 1) for key, value in found[name].items()}
        found[name]["off"] = {key: float(f"{value:.2g}") for key, value in off.items()}
    return found


def check(found: dict[str, Any], most: float) -> None:
    """Raises RuntimeError where a loop is off by more than `most`: then their times do not compare. With SGA and SPA
    the gradients are others, so that their norm is told alone."""
    for name, made in found.items():
        wrong = {key: value for key, value in made["off"].items() if value > most and (key, name) != ("norm", BOTH)}
        if wrong:
            raise RuntimeError(f"{name} does other work than {OFF}: off by {wrong}, of at most {most:g}; {found}")


class Loop(ABC):
    """A loop with a model of its own."""

    net: nn.Module

    @abstractmethod
    def step(self) -> None:
        """One optimiser step on the next clip, everything included that the loop does each step but for files."""

    @abstractmethod
    def check(self, batch: AlignmentBatch) -> tuple[float, float]:
        """The diffusion loss of a batch, and the norm of the gradients; nothing is learnt."""

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.net.parameters() if p.requires_grad]

    def factors(self) -> dict[str, nn.Parameter]:
        """LoRA factors by name, as a transformer without any wrapper has them."""
        named = {n.replace("_checkpoint_wrapped_module.", ""): p for n, p in self.net.named_parameters()}
        return {name: p for name, p in named.items() if p.requires_grad and ".lora_" in name}

    def norm(self) -> float:
        """Of all gradients, which are gone afterwards."""
        grads = [p.grad for p in self.factors().values() if p.grad is not None]
        found = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))
        for p in self.trained():
            p.grad = None
        return found


class Ours(Loop):
    """This trainer: what `training.fit` does for one step, its log's reading of the loss included."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.waited, self.took = trainer, 0.0, 0.0
        self.net = trainer.plain.get_submodule("transformer")

    def trained(self) -> list[nn.Parameter]:
        return list(self.trainer.params)

    def clips(self) -> list[AlignmentBatch]:
        """The clips as its data gives them, for the other loops."""
        return [self.trainer.stream.batch(step) for step in range(2)]

    def step(self) -> None:
        stream, began = self.trainer.stream, time.perf_counter()
        batch = stream.batch

        def timed(*place: int) -> AlignmentBatch:
            asked = time.perf_counter()
            found: AlignmentBatch = batch(*place)
            self.waited += time.perf_counter() - asked
            return found

        with patch.object(stream, "batch", timed):
            values = self.trainer.advance()
        self.trainer.step += 1
        float(values["loss"])
        self.took += time.perf_counter() - began

    def check(self, batch: AlignmentBatch) -> tuple[float, float]:
        trainer = self.trainer
        if trainer.task.task.losses and batch.targets is None:
            batch = replace(batch, targets=trainer.stream.batch(0).targets)
        with trainer.task.during(trainer.step):
            values = trainer.task.loss(trainer.net, batch, torch.Generator())
            trainer.accelerator.backward(values["loss"])
        return float(values["diffusion"]), self.norm()


class Plain(Loop):
    """What both plain loops share: the model with peft's factors, its scheduler, and AdamW."""

    def __init__(self, folder: Path, ours: Ours, scheduler: str) -> None:
        import diffusers
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig

        config, self.device = ours.trainer.config, ours.trainer.device
        self.dtype = ours.trainer.task.model.dtype
        kind = diffusers.CogVideoXTransformer3DModel
        self.net: Any = kind.from_pretrained(folder / "transformer", torch_dtype=self.dtype).to(self.device)
        self.net.requires_grad_(False)
        options: dict[str, Any] = {"r": config.task.rank, "lora_alpha": config.task.alpha, "target_modules": TARGETS}
        self.net.add_adapter(LoraConfig(init_lora_weights=True, **options))
        cast_training_params([self.net], dtype=torch.float32)
        self.config = self.net.config
        self.scheduler = getattr(diffusers, scheduler).from_pretrained(folder / "scheduler")
        optim = config.optim
        self.optimizer: Any = torch.optim.AdamW(
            self.trained(), lr=optim.lr, betas=(0.9, optim.beta2), eps=1e-8, weight_decay=optim.weight_decay
        )
        self.lr_scheduler: Any = get_scheduler("constant", self.optimizer)
        self.most = optim.clip
        self.net.train()

    def rotary(self, latents: Tensor) -> Any:
        """Rotary positions, made anew for every step."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config, frames, size = self.config, latents.shape[1], tuple(n // 2 for n in latents.shape[3:])
        crops = get_resize_crop_region_for_grid(size, config.sample_width // 2, config.sample_height // 2)
        return get_3d_rotary_pos_embed(config.attention_head_dim, crops, size, frames, device=latents.device)

    def error(self, latents: Tensor, image: Tensor, text: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted squared error of the clean latents that the model predicts, (B, T, C, h, w)."""
        noisy = self.scheduler.add_noise(latents, noise, t)
        velocity = self.net(
            hidden_states=torch.cat([noisy, image], dim=2).to(self.dtype),
            encoder_hidden_states=text,
            timestep=t,
            image_rotary_emb=self.rotary(latents),
            return_dict=False,
        )[0]
        predicted = self.scheduler.get_velocity(velocity, noisy, t)
        weights = 1 / (1 - self.scheduler.alphas_cumprod[t])
        return weights.float().view(-1, 1, 1, 1, 1) * (predicted.float() - latents.float()).square()

    def check(self, batch: AlignmentBatch) -> tuple[float, float]:
        batch = batch.to(self.device)
        given = (each.to(self.dtype) for each in (batch.latents, batch.image, _rows(batch), batch.noise))
        loss = self.error(*given, (batch.u * 1000).long()).mean()
        loss.backward()
        return float(loss.detach()), self.norm()


class DiffusersLoop(Plain):
    """As diffusers' example goes about it."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        from accelerate import Accelerator
        from accelerate.utils.operations import convert_outputs_to_fp32
        from torch.utils.data import DataLoader

        super().__init__(folder, ours, "CogVideoXDPMScheduler")
        self.net.enable_gradient_checkpointing()
        self.accelerator = Accelerator()  # its number format is the process's; what bf16 makes of a model follows
        if self.dtype == torch.bfloat16:
            half = torch.autocast(self.device.type, dtype=torch.bfloat16)
            self.net.forward = convert_outputs_to_fp32(half(self.net.forward))
        self.optimizer, self.lr_scheduler = self.accelerator.prepare(self.optimizer, self.lr_scheduler)
        there = [clip.to(self.device) for clip in ours.clips()]
        samples = [(clip.latents, clip.image, _rows(clip)) for clip in there]
        self.loader = DataLoader(samples, batch_size=1, shuffle=True, collate_fn=_collated)  # type: ignore[arg-type]
        self.coming = iter(self.loader)

    def step(self) -> None:
        try:
            data = next(self.coming)
        except StopIteration:
            self.coming = iter(self.loader)
            data = next(self.coming)
        with self.accelerator.accumulate(self.net):
            latents, image, text = (each.to(dtype=self.dtype) for each in data)
            t = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device).long()
            loss = self.error(latents, image, text, torch.randn_like(latents), t).reshape(len(latents), -1)
            loss = loss.mean(dim=1).mean()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.net.parameters(), self.most)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.lr_scheduler.step()
        loss.detach().item()


class FinetrainersLoop(Plain):
    """As finetrainers' SFT goes about it."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        super().__init__(folder, ours, "CogVideoXDDIMScheduler")
        for name, block in list(self.net.transformer_blocks.named_children()):
            self.net.transformer_blocks.register_module(name, checkpoint_wrapper(block, preserve_rng_state=False))
        self.files = []
        for at, clip in enumerate(ours.clips()):
            self.files.append(folder / f"precomputed-{at}.safetensors")
            kept = {"latents": clip.latents, "image": clip.image, "text": _rows(clip)}
            save_file({name: value.contiguous() for name, value in kept.items()}, self.files[-1])
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.random = torch.Generator(self.device).manual_seed(0)
        self.at = 0

    def step(self) -> None:
        from diffusers.models.attention_dispatch import attention_backend

        read = load_file(self.files[self.at % len(self.files)])
        self.at += 1
        data = {name: value.to(self.device, self.dtype).contiguous() for name, value in read.items()}
        latents = data["latents"]
        share = torch.rand(len(latents), device=self.device, generator=self.random)
        t = (share * self.scheduler.config.num_train_timesteps).long()
        noise = torch.zeros_like(latents).normal_(generator=self.random)
        with attention_backend("native"):
            error = self.error(latents, data["image"], data["text"], noise, t)
            loss = error.mean(list(range(1, error.ndim))).mean()
            loss.backward()
            loss.detach().item()
        norm = torch.nn.utils.clip_grad_norm_(list(self.net.parameters()), self.most, foreach=True)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        norm.detach().item()
        t.cpu()


def _rows(batch: AlignmentBatch) -> Tensor:
    (rows,) = batch.text.values()
    return rows


def _collated(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    latents, image, text = (torch.cat(each) for each in zip(*samples))
    return latents.float(), image.float(), text
