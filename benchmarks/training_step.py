"""One training step of a real-sized model, of each kind that is compared."""

from __future__ import annotations

import contextlib
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matrix_lib.core.grid import Grid
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.config import AlignmentConfig, Scores
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.sites import AttentionCall
from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.lora import add_factors, projections_of, train_projection, widen
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps

from .capture import boxes

__all__ = ["INSTANCES", "Bench", "Case", "Variant"]

Variant = Literal["off", "logits", "probabilities", "whole rows"]
INSTANCES = 3
_LOADED = ("encoder_hidden_states", "encoder_hidden_states_image")


@dataclass(frozen=True)
class Case:
    """A model in training: layers of the losses, LoRA rank and alpha, channels of the ID map, rows of the text."""

    v2t: tuple[int, ...]
    v2v: tuple[int, ...]
    rank: int
    alpha: float
    extra: int
    text: int


class Bench:
    """A model in training. `step(variant)` is one whole step of one kind; all kinds train the same weights."""

    def __init__(
        self,
        model: Any,
        case: Case,
        latents: Tensor,
        args: dict[str, Tensor],
        device: torch.device,
        channels: int,
        frames_first: bool,
    ) -> None:
        self.model, self.case, self.device, self.frames_first = model, case, device, frames_first
        self.positions = {name: value for name, value in args.items() if name not in _LOADED}
        self.latents, t, (h, w) = latents, latents.shape[2], latents.shape[3:]
        self.grid = Grid.from_latent((t, h, w))
        self.pixels = ((t - 1) * 4 + 1, h * 8, w * 8)
        self.binding, self.tracks = ten_words(case.text), boxes(*self.pixels)
        modules = projections_of(model, case.v2t, case.v2v)
        add_factors(model, modules, case.rank, case.alpha)
        widen(model, case.extra)
        train_projection(model)
        model.train()
        model.enable_gradient_checkpointing()
        self.decoders = nn.ModuleDict({kind: self._decoder(kind) for kind in ("logits", "probabilities")}).to(device)
        self.trained = [p for p in (*model.parameters(), *self.decoders.parameters()) if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-5, fused=device.type == "cuda")
        self.losses: dict[str, dict[str, float]] = {}
        self.cached = {name: value.cpu().contiguous() for name, value in args.items() if name in _LOADED}
        self.cached["latents"] = latents.cpu().contiguous()
        beside = channels - 16 + case.extra
        self.cached["beside"] = torch.randn(1, beside, t, h, w).to(latents.dtype)

    def _decoder(self, kind: str) -> MaskDecoder:
        heads = {"grounding": len(self.case.v2t), "propagation": len(self.case.v2v)}
        return MaskDecoder(DecoderConfig(**heads, patch=self.grid.patch, probabilities=kind == "probabilities"))

    def __enter__(self) -> Bench:
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        save_file(self.cached, folder / "clip.safetensors")
        self.file = folder / "clip.safetensors"
        self.pool = self.stack.enter_context(ThreadPoolExecutor(1))
        self.coming: Future[tuple[dict[str, Tensor], TargetBatch]] = self.pool.submit(self._load)
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def _load(self) -> tuple[dict[str, Tensor], TargetBatch]:
        """What the loader's thread does for the next step."""
        return load_file(self.file), self.targets()

    @property
    def joint(self) -> bool:
        """Whether text and video share their attention."""
        return self.frames_first

    def half(self) -> torch.autocast:
        """What the decoder computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def targets(self) -> TargetBatch:
        return TargetBatch.of([Targets.of(self.binding, self.tracks, self.grid)], pixels=True)

    def targets_ms(self) -> float:
        """Time of a clip's masks on the CPU, which the loader's thread spends while the GPU works."""
        start = time.perf_counter()
        self.targets()
        return (time.perf_counter() - start) * 1e3

    def step(self, variant: Variant) -> None:
        """One training step."""
        data, targets = self.coming.result()
        self.coming = self.pool.submit(self._load)
        data = {name: value.to(self.device, non_blocking=True) for name, value in data.items()}
        clean = data.pop("latents")
        noise, share = torch.randn_like(clean), torch.rand(1, device=self.device)
        noisy = torch.cat([share.sqrt() * noise + (1 - share).sqrt() * clean, data.pop("beside")], dim=1).to(clean)
        if self.frames_first:
            noisy, clean, noise = noisy.transpose(1, 2), clean.transpose(1, 2), noise.transpose(1, 2)
        maps = self._maps(variant, targets)
        with contextlib.nullcontext() if maps is None else attach(self.model, Session([maps]), lambda forward: None):
            given = {**self.positions, **data, "timestep": (share * 999).long()}
            output = self.model(noisy, return_dict=False, **given)[0]
            loss = (output.float() - (noise - clean).float()).square().mean()
            found = {"diffusion": loss.detach()}
            if maps is not None:
                decoder = self.decoders["logits" if variant == "logits" else "probabilities"]
                with self.half():
                    aligned = maps.alignment(decoder)
                loss, found = loss + aligned.total, found | aligned.parts
            loss.backward()
        found["norm"] = torch.nn.utils.clip_grad_norm_([p for p in self.trained if p.grad is not None], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses[variant] = {name: float(value) for name, value in found.items()}

    def _maps(self, variant: Variant, targets: TargetBatch) -> AlignmentMaps | None:
        if variant == "off":
            return None
        scores: Scores = "logits" if variant == "logits" else "probabilities"
        config = AlignmentConfig(v2t=LayerDraw(self.case.v2t), v2v=LayerDraw(self.case.v2v), scores=scores)
        return (WholeRows if variant == "whole rows" else AlignmentMaps)(config, targets)


class WholeRows(AlignmentMaps):
    """The usual way to the same maps: the softmax of every row of every head, in float32, and autograd through it."""

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        batch, layer, heads = self._fitting(call), call.site.layer, call.q.shape[1]
        assert batch is not None
        assert call.video_q is not None
        start, length = call.video_q
        with torch.autocast(call.q.device.type, enabled=False):
            if call.site.has_v2t and layer in self.v2t:
                assert call.text_k is not None
                at = batch.words.to(call.q.device).moved(call.text_k)
                maps = torch.zeros(length, at.entities, device=call.q.device)
                for q, k in zip(call.q[0], call.k[0]):
                    p = (q[start : start + length] @ k.T * call.scale).softmax(-1, dtype=torch.float32)
                    maps = maps + p[:, at.indices[0]] @ at.weights[0] / heads
                self.keys["grounding"] = call.k.shape[2]
                self.grounding.setdefault(layer, maps.T[None].unflatten(-1, call.grid.shape))
            if call.site.has_v2v and layer in self.v2v:
                assert call.video_k is not None
                at = batch.queries.to(call.q.device).moved(call.video_q)
                first, count = call.video_k
                maps = torch.zeros(at.entities, count, device=call.q.device)
                for q, k in zip(call.q[0], call.k[0]):
                    p = (q[start : start + length] @ k.T * call.scale).softmax(-1, dtype=torch.float32)
                    maps = maps + at.weights[0].T @ p[at.indices[0] - start, first : first + count] / heads
                self.keys["propagation"] = call.k.shape[2]
                self.propagation.setdefault(layer, maps[None].unflatten(-1, call.grid.shape))


def ten_words(rows: int) -> PromptBinding:
    """Three instances, the verb of two of them, and six more words, two tokens each."""
    phrases = []
    for i in range(10):
        at = Phrase(f"word {i}", f"word {i}", "instance" if i < INSTANCES else "word", 0, 1, (2 * i + 1, 2 * i + 2))
        phrases.append(at)
    phrases[INSTANCES] = replace(phrases[INSTANCES], role="verb", subject="word 0", object="word 1")
    return PromptBinding("ten words", rows, (), tuple(phrases), "t5")
