"""Clips to align on: latents, words, masks and conditions of interaction clips, made once and kept on the device.

N clips, B batch, T latent frames, C latent channels, h x w latents, D text rows, X channels of the mask condition,
K instance slots, F pixel frames, H x W pixels.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.world import Clips, make_clips

from ..models.mini_model import MiniModel
from ..run.config import AlignTask, Data
from .world import covered, seed_of, world_of

__all__ = ["EXTRA_CHANNELS", "AlignBatch", "AlignStream", "condition_of", "named_tracks"]

ALIGN_SEED = 73_000_000  # far from every seed that the mini model was trained or judged on
PIECE = 128
EXTRA_CHANNELS = {"none": 0, "id_map": 16, "target_mask": 1}


@dataclass(frozen=True)
class AlignBatch:
    """What one step trains on, on the device.

    latents (B, T, C, h, w); image (B, C, h, w) of the first latent frame; rows (B, D, width); weight (B, T, h, w) of
    the diffusion loss; condition (B, X, h, w) or None; objects: name of the phrase that is TAViD's target.
    """

    latents: Tensor
    image: Tensor
    rows: Tensor
    weight: Tensor
    condition: Tensor | None
    targets: TargetBatch
    objects: tuple[str, ...]


class AlignStream:
    """Batches of a fixed set of `data.chunk` clips of the mini world, in an order that seed and pass decide.

    The set depends on the task and the data alone: the runs of a comparison share it (`samples`).
    """

    def __init__(self, task: AlignTask, data: Data, seed: int, model: MiniModel) -> None:
        self.data, self.seed = data, seed
        self.samples = _samples(task, data, model)

    def batch(self, step: int) -> AlignBatch:
        """The batch of one step."""
        turn, place = divmod(step, self.data.chunk // self.data.batch)
        order = torch.Generator().manual_seed(seed_of(self.seed, turn, 7))
        rows = torch.randperm(self.data.chunk, generator=order)[place * self.data.batch :][: self.data.batch]
        return _select(self.samples, rows)

    def close(self) -> None:
        """Nothing to stop: the clips are there."""


def named_tracks(clips: Clips, index: int) -> MaskTracks:
    """Tracks of the instances that a clip's caption names, in slot order."""
    return mask_tracks(clips, index).select(list(clips.names[index][: int(clips.parts[index])]))


def condition_of(kind: str, clips: Clips, model: MiniModel) -> Tensor | None:
    """(N, X, h, w) of the first latent frame: the VAE-encoded palette picture of the named instances, or the mask of
    the object (of the mover, where nothing is done to anybody) at every 8th pixel; None for "none"."""
    if kind == "none":
        return None
    slots = torch.arange(clips.masks.shape[1], device=clips.masks.device)
    named = clips.masks[:, :, 0] & (slots < clips.parts[:, None])[:, :, None, None]  # (N, K, H, W)
    if kind == "target_mask":
        target = (clips.parts > 1).long()
        mask = named[torch.arange(len(clips), device=named.device), target]
        stride = mask.shape[-1] // model.sizes.latent_shape[2]
        return mask[:, None, ::stride, ::stride].float()
    palette = torch.tensor(FIXED[: named.shape[1]], dtype=torch.float32, device=named.device)
    picture = torch.einsum("nkhw,kc->nchw", named.float(), palette).clamp(0, 255).to(torch.uint8)
    return model.encode(picture[:, None])[:, 0]


_last: dict[str, tuple[object, AlignBatch]] = {}


def _samples(task: AlignTask, data: Data, model: MiniModel) -> AlignBatch:
    """The whole set as one batch. The last one is kept, for a comparison's next run."""
    about = (task.condition, task.look_alikes, task.clips_seed, task.foreground, task.change, bool(task.decoder))
    key = (model.folder, data.chunk, data.split, about, model.device)
    if "set" not in _last or _last["set"][0] != key:
        _last.clear()
        _last["set"] = (key, _make(task, data, model))
    return _last["set"][1]


def _make(task: AlignTask, data: Data, model: MiniModel) -> AlignBatch:
    sizes = model.sizes
    shape = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames}
    world = world_of(data, **shape, single_motion_share=0.0, distractor_share=task.look_alikes)

    def place(start: int) -> Clips:
        count = min(PIECE, data.chunk - start)
        return make_clips(seed_of(ALIGN_SEED, task.clips_seed, start), count, world, model.device)

    parts: list[tuple[Tensor, ...]] = []
    targets: list[Targets] = []
    objects: list[str] = []
    with ThreadPoolExecutor(data.workers, initializer=torch.set_num_threads, initargs=(2,)) as pool:
        for clips in pool.map(place, range(0, data.chunk, PIECE)):
            parts.append(_tensors(task, clips, model))
            cpu = clips.to("cpu")
            targets += [_targets(cpu, i, model) for i in range(len(cpu))]
            objects += [names[1 if parts > 1 else 0] for names, parts in zip(cpu.names, cpu.parts.tolist())]
    latents, rows, weight, *condition = (torch.cat(values) for values in zip(*parts))
    joined = TargetBatch.of(targets, pixels=task.decoder > 0).to(model.device)
    return AlignBatch(latents, latents[:, 0], rows, weight, condition[0] if condition else None, joined, tuple(objects))


def _tensors(task: AlignTask, clips: Clips, model: MiniModel) -> tuple[Tensor, ...]:
    """Latents, text rows, weights and condition of some clips."""
    cells = covered(clips.masks.flatten(0, 1)).unflatten(0, clips.masks.shape[:2])  # (N, K, T, h, w)
    moved = (cells != cells[:, :, :1]).any(dim=1).float()
    weight = 1.0 + task.foreground * cells.amax(dim=1) + task.change * moved
    found = (model.encode(clips.video), model.encode_text(clips.prompts), weight)
    condition = condition_of(task.condition, clips, model)
    return found if condition is None else (*found, condition)


def _targets(clips: Clips, index: int, model: MiniModel) -> Targets:
    binding = model.bind(clips.prompts[index], clips.phrases[index])
    return Targets.of(binding, named_tracks(clips, index), model.grid)


def _select(whole: AlignBatch, rows: Tensor) -> AlignBatch:
    there = rows.to(whole.latents.device)
    return AlignBatch(
        whole.latents[there],
        whole.image[there],
        whole.rows[there],
        whole.weight[there],
        None if whole.condition is None else whole.condition[there],
        whole.targets.select(rows),
        tuple(whole.objects[i] for i in rows.tolist()),
    )
