"""Clips for training, made on the device that trains on them.

Every batch is a function of (seed, step) alone, so a resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from matrix_lib.mini.codec import SPATIAL, TEMPORAL
from matrix_lib.mini.verbs import VERB_NAMES
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from ..run.config import Data

__all__ = [
    "Stream",
    "as_input",
    "clip_makers",
    "device_noise",
    "diffusion_weight",
    "schedule_positions",
    "seed_of",
    "step_generator",
    "world_of",
]

_LARGE = 2**31 - 1


def as_input(video: Tensor) -> Tensor:
    """(B, F, 3, H, W) uint8 -> (B, 3, F, H, W) in [-1, 1]."""
    return video.transpose(1, 2).float().div(127.5).sub(1.0)


def diffusion_weight(masks: Tensor, foreground: float, change: float) -> Tensor:
    """What each latent counts, (B, T, h, w), from masks of the instances (B, K, F, H, W) bool: 1, and `foreground` more
    where an instance is, and `change` more where one has left or arrived since the first frame."""
    cells = _covered(masks.flatten(0, 1)).unflatten(0, masks.shape[:2])  # (B, K, T, h, w)
    moved = (cells != cells[:, :, :1]).any(dim=1).float()
    return 1.0 + foreground * cells.amax(dim=1) + change * moved


def _covered(masks: Tensor) -> Tensor:
    """(B, F, H, W) bool -> (B, T, h, w) float: latents that some masked pixel falls into; 1 or 0."""
    cells = F.max_pool2d(masks.float(), SPATIAL)
    later = cells[:, 1:].unflatten(1, (-1, TEMPORAL)).amax(dim=2)
    return torch.cat([cells[:, :1], later], dim=1)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, different for every tuple in practice."""
    value = 0
    for number in numbers:
        value = (value * 1_000_003 + number + 1) % _LARGE
    return value


def step_generator(seed: int, step: int, process: int, part: int = 0) -> torch.Generator:
    """What is drawn in one part of a step of one process, on the CPU."""
    return torch.Generator().manual_seed(seed_of(seed, step, process, 3, *([part] if part else [])))


def schedule_positions(count: int, even: float, high_noise: float, generator: torch.Generator) -> Tensor:
    """(count,) u in [0, 1): the share `even` of them evenly, the others mostly where noise is high, with a density that
    grows as u^(high_noise - 1). They are spread over the schedule: less variance than independent ones."""
    u = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
    high = ((u - even) / max(1.0 - even, 1e-6)).clamp_min(0.0) ** (1.0 / high_noise)
    return torch.where(u < even, u / max(even, 1e-6), high)


def device_noise(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Drawn on the device that trains; seeded from the step's generator."""
    local = torch.Generator(device).manual_seed(generator.initial_seed())
    return torch.randn(shape, generator=local, device=device)


def clip_makers(count: int) -> ThreadPoolExecutor:
    """So many threads that make clips. Each takes two cores, or one where this process was given one: tensors are
    small, and threads that have no core of their own would spin while they wait for each other."""
    threads = min(2, torch.get_num_threads())
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,))


class Prepares(Protocol):
    """What turns clips into the tensors that are trained on, each value (clips, ...)."""

    def prepare(self, clips: Clips) -> dict[str, Tensor]: ...


class Stream:
    """Batches of prepared clips. `task.prepare` turns a piece of a chunk into the tensors that the task trains on.

    The next chunk is made by threads while the present one is trained on.
    """

    def __init__(self, config: Data, task: Prepares, seed: int, device: torch.device, piece: int = 256) -> None:
        self.config, self.task, self.seed, self.device = config, task, seed, device
        self.piece = min(piece, config.chunk)
        self.world = world_of(config)
        self.index = -1
        self.chunk: dict[str, Tensor] = {}
        self.pool = clip_makers(config.workers)
        self.coming: dict[int, list[Future[dict[str, Tensor]]]] = {}

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """The batch of one of the parts that a step accumulates, each value (batch, ...) on the device."""
        per_pass = self.config.chunk // self.config.batch
        chunk, inside = divmod(step * parts + part, per_pass * self.config.reuse)
        if chunk != self.index:
            self._change(chunk)
        elif chunk + 1 not in self.coming:
            # Not before a step was made: compiling traces modules for all threads of the process.
            self.coming = {chunk + 1: self._order(chunk + 1)}
        turn, place = divmod(inside, per_pass)
        order = torch.Generator().manual_seed(seed_of(self.seed, chunk, turn, 7))
        rows = torch.randperm(self.config.chunk, generator=order)[place * self.config.batch :][: self.config.batch]
        rows = rows.to(self.device)
        return {name: value[rows] for name, value in self.chunk.items()}

    def close(self) -> None:
        """Stops making clips."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _change(self, chunk: int) -> None:
        pieces = self.coming.pop(chunk, None)
        if pieces is None:
            # By itself, so that the search for the fastest convolutions is not disturbed by its own neighbours.
            parts = [self.pool.submit(self._make, chunk, 0).result()]
            parts += [piece.result() for piece in self._order(chunk, self.piece)]
        else:
            parts = [piece.result() for piece in pieces]
        self.chunk, self.index = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, chunk

    def _order(self, chunk: int, begin: int = 0) -> list[Future[dict[str, Tensor]]]:
        return [self.pool.submit(self._make, chunk, start) for start in range(begin, self.config.chunk, self.piece)]

    def _make(self, chunk: int, start: int) -> dict[str, Tensor]:
        count = min(self.piece, self.config.chunk - start)
        with torch.no_grad():
            return self.task.prepare(make_clips(seed_of(self.seed, chunk, start), count, self.world, self.device))


def world_of(config: Data, **changes: Any) -> WorldConfig:
    """The world that a data configuration stands for."""
    settings: dict[str, Any] = {
        "height": config.height,
        "width": config.width,
        "frames": config.frames,
        "split": config.split,
        "distractor_share": config.distractors,
        "verbs": tuple(name for name in (config.verbs or VERB_NAMES) + config.often if name not in config.unseen),
        "captions": config.captions,
        "caption_share": config.caption_share,
        "single_motion_share": config.single,
        "max_instances": config.most,
        "pair_share": config.pairs,
        "size": config.size,
        "clutter": config.clutter,
        "occlusion_share": config.occlusion,
        "camera": config.camera,
    }
    return WorldConfig(**{**settings, **changes})
