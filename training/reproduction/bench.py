"""One base, opened to be judged: with and without a LoRA, in the sampler's precision, on the same clips and noise.

N clips, F frames, L layers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import Kind, TargetBatch, on_device
from matrix_lib.core.losses.config import AlignmentConfig
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.mini.judges import Verdict, judge
from matrix_lib.evaluation.quality.distances import kid
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.lora import merge_lora, projections_of
from matrix_lib.hosts.diffusers.mini import move, sample
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps
from matrix_lib.io.lora.read import load_lora
from matrix_lib.mini.verbs import VERB_NAMES
from matrix_lib.mini.world import Clips

from ..data.alignment_clips import condition_of, named_tracks, targeted, triggered
from ..data.world import diffusion_weight, seed_of
from ..models.mini_encoders import MiniEncoders
from ..models.video_model import VideoModel
from ..run.task_settings import AlignTask
from .scale import Scale
from .sets import NOISE, SEED, held_out

__all__ = ["BITS", "MEANS", "Bench", "BoxBench", "packed"]

BITS = ("right_roles", "right_path", "intact")
_SHOWN = 3
MEANS = ("kisa", "sgi", "spi", "interaction_fidelity")
Table = dict[str, NDArray[np.float64]]


def packed(flags: Sequence[float] | Tensor) -> str:
    """Yes and no as digits, one a prompt."""
    return "".join("1" if flag else "0" for flag in torch.as_tensor(flags).flatten().tolist())


class BoxBench:
    """What is asked of any base: clips of a set, videos from text alone, how far videos are from true ones.

    Args:
        encoders: whose codec and words the base has. pipeline: what guidance attaches to. sizes: of its clips.
    """

    def __init__(
        self, folder: Path, scale: Scale, device: torch.device, encoders: MiniEncoders, pipeline: Any, sizes: Any
    ) -> None:
        self.folder, self.scale, self.device = folder, scale, device
        self.encoders, self.pipeline, self.sizes = encoders, pipeline, sizes
        self._real: dict[int, tuple[Tensor, NDArray[np.float64]]] = {}

    def clips(self, name: str, count: int, trigger: bool = False, draw: int = 0, source: bool = False) -> Clips:
        """Clips of a set, see `sets.held_out`; with the word `target` where there is a ``trigger``, and the word
        `source` before the agent where there is a ``source`` as well."""
        sizes = self.sizes
        found = held_out(name, (sizes.frames, sizes.height, sizes.width), count, self.device, draw)
        return targeted(found, source) if trigger else found

    def from_text(
        self,
        prompts: Sequence[str],
        seed: int,
        intrinsic: IntrinsicDenoising | None = None,
        tracks: Sequence[MaskTracks] = (),
        scheduler: Any = None,
    ) -> Tensor:
        """(N, F, 3, H, W) uint8 sampled without a first frame. scheduler: as in `hosts.diffusers.mini.sample`."""
        scale = self.scale
        more: dict[str, Any] = {"intrinsic": intrinsic, "tracks": tracks} if intrinsic else {}
        more |= {"scheduler": scheduler} if scheduler is not None else {}
        return sample(self.pipeline, self.sizes, prompts, None, scale.box_sampling, scale.box_cfg, seed, **more)

    def features(self, video: Tensor) -> NDArray[np.float64]:
        """(N, D): mean and spread over the places of each channel and frame of the codec's latents."""
        latents = self.encoders.encode(video).float()
        parts = [latents.mean((-2, -1)), latents.std((-2, -1))]
        return torch.cat(parts, 1).flatten(1).double().cpu().numpy()

    def distance(self, made: Tensor, true: Tensor) -> float:
        """Kernel distance (KID) of videos to true ones, on the codec's features: lower is better, 0 for equal
        distributions."""
        key = id(true)
        if key not in self._real:
            self._real[key] = true, self.features(true)  # kept with its tensor, so that the number stays its own
        real, fake = self._real[key][1], self.features(made)
        centre, spread = real.mean(0), real.std(0).clip(1e-3)
        size = min(64, len(real), len(fake))
        return round(kid((real - centre) / spread, (fake - centre) / spread, subsets=50, size=size)[0], 5)


class Bench(BoxBench):
    """Args: folder: the base's bundle."""

    def __init__(self, folder: Path, scale: Scale, device: torch.device) -> None:
        encoders = MiniEncoders(str(folder), device)
        super().__init__(folder, scale, device, encoders, encoders.pipeline, encoders.sizes)
        self.exact = copy.deepcopy(self.pipeline.transformer).float()
        move(self.pipeline, device, self.encoders.codec_dtype)
        self.base = self.pipeline.transformer
        self.model = VideoModel(AlignTask(), self.encoders)
        self.model.dtype = self.encoders.codec_dtype
        self.shown: dict[str, Tensor] = {}  # the first clips of each set that were judged last
        self.trigger: Tensor | None = None  # (2, D) what a LoRA that is merged adds to the words of `TRIGGERS`

    @contextlib.contextmanager
    def tuned(self, lora: Path | None) -> Iterator[None]:
        """While open, the pipeline's transformer is the base with a LoRA merged into it."""
        if lora is not None:
            net, read = copy.deepcopy(self.exact), load_lora(lora)
            with torch.no_grad():
                merge_lora(net, read)
            self.pipeline.transformer = torch.nn.Module.to(net, self.device, self.encoders.codec_dtype)
            if "trigger" in read.extra:
                self.trigger = read.extra["trigger"].to(self.device)
        try:
            yield
        finally:
            self.pipeline.transformer, self.trigger = self.base, None

    def text(self, prompts: Sequence[str]) -> Tensor:
        """(N, D, width) text rows, with what a LoRA learnt of its words."""
        rows = self.encoders.encode_text(list(prompts))
        return rows if self.trigger is None else rows + (triggered(prompts, self.encoders) @ self.trigger).to(rows)

    @torch.no_grad()
    def made(self, clips: Clips, condition: str = "none", purpose: int = NOISE) -> Tensor:
        """(N, F, 3, H, W) uint8 of the clips' first frames and captions."""
        scale, found = self.scale, []
        for start in range(0, len(clips), scale.batch):
            part = clips.select(slice(start, start + scale.batch))
            extra = condition_of(condition, part, self.encoders)
            seed = seed_of(SEED, purpose, start)
            sizes = self.encoders.sizes
            first = part.video[:, 0]
            learnt = {} if self.trigger is None else {"rows": self.text(part.prompts)}
            found.append(
                sample(self.pipeline, sizes, part.prompts, first, scale.sampling, scale.cfg, seed, extra, **learnt)
            )
        return torch.cat(found)

    def scores(self, names: Sequence[str], condition: str = "none", trigger: bool = False) -> dict[str, dict[str, Any]]:
        """{set: what the judge says}: a digit a prompt of what is true or false, means of the rest, and the kernel
        distance of the videos to true ones."""
        out = {}
        for name in names:
            clips = self.clips(name, self.scale.prompts, trigger, source=condition == "source_target")
            video = self.made(clips, condition)
            self.shown[name] = video[:_SHOWN]
            verdict = _judged(video, clips, self.scale.batch)
            bits = {score: packed(torch.cat([getattr(v, score) for v in verdict])) for score in BITS}
            means = {s: round(float(torch.cat([getattr(v, s) for v in verdict]).float().mean()), 4) for s in MEANS}
            out[name] = {**bits, **means, "distance": self.distance(video, clips.video)}
        return out

    @torch.no_grad()
    def attention(
        self, clips: Clips, condition: str = "none", masks: Tensor | None = None, video: Tensor | None = None
    ) -> Table:
        """Share of attention on the masks, under noise: v2t, verb, v2v (N, L), and chance (N,), an instance's share of
        the tokens.

        Of the true clips; or of a generated ``video`` with the ``masks`` that were seen in it.
        """
        shown = clips if masks is None else replace(clips, masks=masks)
        targets = self._each(shown)
        batch = TargetBatch.of(targets, pixels=False)
        clean = self.encoders.encode(clips.video if video is None else video).float()
        tables = [self._shares(clean, clips, condition, batch, time) for time in self.scale.noise_times]
        chance = np.array([float(t.token_masks(t.words.names[:1]).mean()) for t in targets])
        return {name: np.mean([table[name] for table in tables], axis=0) for name in tables[0]} | {"chance": chance}

    def _each(self, clips: Clips) -> list[Targets]:
        cpu = clips.to("cpu")
        return [
            Targets.of(self.encoders.bind(cpu.prompts[i], cpu.phrases[i]), named_tracks(cpu, i), self.encoders.grid)
            for i in range(len(cpu))
        ]

    def _shares(self, clean: Tensor, clips: Clips, condition: str, batch: TargetBatch, time: int) -> Table:
        """At one noise level."""
        layers = tuple(range(self.scale.layers))
        config = AlignmentConfig(v2t=LayerDraw(layers), v2v=LayerDraw(layers), scores="probabilities")
        inputs, _, _ = self._inputs(clean, clips, condition, time)
        maps = AlignmentMaps(config, batch)
        with attach(self.pipeline.transformer, Session([maps]), lambda forward: None):
            self.pipeline.transformer(**inputs)
        there = maps.batch_on(clean.device)
        words = _on_masks(maps.grounding, there, "words", layers, len(clean))
        queries = _on_masks(maps.propagation, there, "queries", layers, len(clean))
        return {"v2t": words[0], "verb": words[1], "v2v": queries[0]}

    def _inputs(self, clean: Tensor, clips: Clips, condition: str, time: int) -> tuple[dict[str, Any], Tensor, Tensor]:
        """What the transformer is called with at a noise level, the noisy latents, and what it is to predict."""
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(time)).to(clean.device)
        noisy, target, t, _ = self.model.add_noise(clean, noise, torch.full((len(clean),), time / 1000))
        image, extra = clean.new_zeros(clean.shape), condition_of(condition, clips, self.encoders)
        image[:, :1] = self.encoders.encode(clips.video[:, :1]).float()[:, :1]
        wide = clean.new_zeros(len(clean), clean.shape[1], 0 if extra is None else extra.shape[1], *clean.shape[3:])
        if extra is not None:
            wide[:, 0] = extra
        rows = {"rows": self.text(clips.prompts).to(self.model.dtype)}
        return self.model.inputs(noisy, SimpleNamespace(image=image, extra=wide), rows, t), noisy, target

    def agreement(self, clips: Clips) -> dict[str, list[float]]:
        """{"v2t", "v2v": a value a layer}: cosine between the gradient of the diffusion loss and that of SGA, or of
        SPA, where it reads this layer alone (probabilities on the token grid), at the projections that a LoRA trains.
        Mean over the noise levels; of the base without a LoRA, in float32."""
        layers = tuple(range(self.scale.layers))
        config = AlignmentConfig(v2t=LayerDraw(layers), v2v=LayerDraw(layers), scores="probabilities")
        net = copy.deepcopy(self.exact).to(self.device).requires_grad_(False)
        trained = [net.get_parameter(f"{name}.weight") for name in projections_of(net, layers, layers)]
        for weight in trained:
            weight.requires_grad_(True)
        batch, clean = TargetBatch.of(self._each(clips), pixels=False), self.encoders.encode(clips.video).float()
        weigh = diffusion_weight(clips.masks, AlignTask.foreground, AlignTask.change)
        found: dict[str, list[list[float]]] = {"v2t": [], "v2v": []}
        for time in self.scale.noise_times:
            inputs, noisy, target = self._inputs(clean, clips, "none", time)
            exact = {name: value.float() for name, value in inputs.items() if _floating(value)}
            maps = AlignmentMaps(config, batch)
            with attach(net, Session([maps]), lambda forward: None):
                made = self.model.output(net(**{**inputs, **exact})[0], noisy).float()
                error = (made - target).square().mean(2)
                aim = _direction((error * weigh).sum() / weigh.sum(), trained)
                for kind in found:
                    found[kind].append([])
                    for layer in layers:
                        alone = LayerDraw((layer,))
                        if kind == "v2t":
                            one = AlignmentMaps(replace(config, v2t=alone, spa=0.0), batch)
                            one.grounding[layer] = maps.grounding[layer]
                        else:
                            one = AlignmentMaps(replace(config, v2v=alone, sga=0.0), batch)
                            one.propagation[layer] = maps.propagation[layer]
                        found[kind][-1].append(float(aim @ _direction(one.alignment().total, trained)))
        return {kind: np.mean(rows, axis=0).round(4).tolist() for kind, rows in found.items()}


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _direction(loss: Tensor, trained: Sequence[Tensor]) -> Tensor:
    """The gradient as one vector of length 1; zeros where there is none."""
    parts = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    flat = torch.cat([(torch.zeros_like(w) if p is None else p).flatten() for p, w in zip(parts, trained, strict=True)])
    return flat / flat.norm().clamp_min(1e-20)


def _judged(video: Tensor, clips: Clips, batch: int) -> list[Verdict]:
    return [
        judge(video[start : start + batch], clips.select(slice(start, start + batch)))
        for start in range(0, len(clips), batch)
    ]


def _on_masks(
    maps: dict[int, Tensor], batch: TargetBatch, kind: Kind, layers: Sequence[int], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, L) shares of the maps on their masks, mean over a clip's instances, and over its verbs."""
    pairs = torch.tensor(batch.pairs(kind))
    rows, entities = on_device(pairs, batch.tokens.device).unbind(1)
    mask = batch.masks(kind, rows, entities, pixels=False).float()
    found = [maps[layer][rows, entities].float() for layer in layers]
    table = torch.stack([(m * mask).sum((1, 2, 3)) / m.sum((1, 2, 3)).clamp_min(1e-20) for m in found], 1).cpu()
    is_verb = torch.zeros(len(pairs), dtype=torch.bool)
    if kind == "words":
        # the second of two equal verbs has a number behind its name
        is_verb = torch.tensor([batch.names[i][j].split(" ")[0] in VERB_NAMES for i, j in pairs.tolist()])
    out = []
    for chosen in (~is_verb, is_verb):
        mean = torch.zeros(count, len(layers)).index_add_(0, pairs[chosen, 0], table[chosen])
        number = torch.zeros(count).index_add_(0, pairs[chosen, 0], torch.ones(int(chosen.sum())))
        out.append((mean / number.clamp_min(1)[:, None]).double().numpy())
    return out[0], out[1]
