"""What a run will train of a model, and what memory it will take, from the model's configuration alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState, init_empty_weights
from torch import nn

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.attach import backbone_of
from matrix_lib.hosts.diffusers.load import index_file
from matrix_lib.hosts.diffusers.lora import input_projection, projections_of
from matrix_lib.hosts.diffusers.model_shape import ModelShape

from ..clips.folder import Sample
from ..run.config import FitConfig
from ..run.memory import Need, free_memory, need_of
from ..run.swap import last_blocks
from ..run.task_settings import TuneTask
from .video_model import trained_part

__all__ = ["ModelSizes"]


class ModelSizes:
    """The transformer of a diffusers folder without its weights. Of a bundle, which is small, nothing is known here.

    Attributes:
        modules: that get factors; None where nothing is known. trained: how many weights train, but for a decoder.

    Raises ValueError for layers that the model has not, before any clip is looked at.
    """

    def __init__(self, config: FitConfig, shape: ModelShape) -> None:
        self.config, self.shape = config, shape
        self.net: nn.Module | None = None
        self.modules: tuple[str, ...] | None = None
        task: TuneTask = config.task
        if bundle.find(task.model) is not None:
            return
        self.net = _empty(Path(task.model), task.expert)
        # also the layers of losses that get no factors
        projections_of(self.net, task.v2t, task.v2v)
        last_blocks(self.net, task.swap)
        self.modules = projections_of(self.net, *task.lora_layers)
        modules = [self.net.get_submodule(name) for name in self.modules]
        self.trained = sum(task.rank * sum(m.weight.shape) for m in modules if isinstance(m.weight, torch.Tensor))
        if task.dora:
            self.trained += sum(int(m.weight.shape[0]) for m in modules if isinstance(m.weight, torch.Tensor))
        extra = shape.extra_channels(config.data.condition)
        if extra:
            place = input_projection(self.net)
            self.trained += sum(p.numel() for p in place.parameters()) + extra * _per_channel(place, self.net)

    def told(self, device: torch.device, samples: Sequence[Sample]) -> list[str]:
        """Lines of the start summary: the need of the largest bucket, and a warning where the device has less."""
        if self.net is None:
            return []
        need, free = self.need(samples), free_memory(device)
        lines = [f"memory: about {need} a process"]
        if free and need.total > 0.97 * free:
            lines.append(
                f"note: the device has {free / 2**30:.1f} GiB, which may be too little: smaller data.frames, "
                "data.height, data.width or data.batch; task.quantise=nf4; task.swap; run.sharding=fsdp2 on several "
                "GPUs"
            )
        return lines

    def need(self, samples: Sequence[Sample]) -> Need:
        assert self.net is not None
        task, config = self.config.task, self.net.config
        spec = backbone_of(self.net)
        blocks = sum(len(self.net.get_submodule(path)) for path in spec.diffusers.lists)  # type: ignore[arg-type]
        heads = ("num_attention_heads", "attention_head_dim")
        width = int(config.get("model_dim") or math.prod(config[name] for name in heads))  # type: ignore[union-attr, operator]
        grids = [self.shape.grid(*bucket) for bucket in {sample.bucket for sample in samples}]
        frames = 2 if self.shape.image == "tokens" else 0  # once as latents, once as the text encoder sees it
        words = max((sample.binding.length for sample in samples if sample.binding), default=self.shape.text_rows)
        tokens = max(grid.size + frames * grid.frame_size for grid in grids) + words
        split = self.config.run.sharding == "fsdp2"
        return need_of(
            self.net,
            blocks,
            width,
            tokens * self.config.data.batch,
            self.trained,
            half=task.weights == "bf16",
            quantise=task.quantise,
            checkpointing=task.checkpointing,
            eight_bit=self.config.optim.eight_bit,
            swapped=task.swap,
            shares=PartialState().num_processes if split else 1,
        )


def _empty(folder: Path, expert: str) -> nn.Module:
    import diffusers

    index = json.loads(index_file(folder).read_text(encoding="utf-8"))
    part = trained_part(index, folder, expert)
    kind = getattr(diffusers, index[part][1])
    settings = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    with init_empty_weights():
        return kind.from_config(settings)


def _per_channel(place: nn.Module, net: nn.Module) -> int:
    """Weights of the input projection that one more channel brings."""
    weight = place.weight
    assert isinstance(weight, torch.Tensor)
    return weight.numel() // int(net.config.in_channels)  # type: ignore[union-attr, arg-type]
