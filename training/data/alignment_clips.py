"""Clips to align on, with everything that a step draws for them: of mini's own world, or of a folder.

N clips, B batch, T latent frames, C latent channels, h x w latents, D text rows, I and E channels of the first frame
and of the condition, K instance slots, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from matrix_lib.core.grid import Grid
from matrix_lib.core.losses.batch import TargetBatch
from matrix_lib.core.losses.flow import latents_on
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.hosts.diffusers.mini import token_ids
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.mask_noise import with_mask_noise
from matrix_lib.mini.world import Clips, make_clips

from ..clips.batches import ClipBatch, open_clips
from ..clips.encoders import ModelFiles
from ..clips.held_out import HoldOut, place_of
from ..clips.teacher import LATENTS, teacher_of
from ..models.mini_encoders import MiniEncoders
from ..run.config import Data, FitConfig
from ..run.task_settings import AlignTask, TuneTask
from .world import clip_makers, device_noise, diffusion_weight, schedule_positions, seed_of, step_generator, world_of

__all__ = [
    "TRIGGERS",
    "AlignStream",
    "AlignmentBatch",
    "ClipStream",
    "condition_of",
    "named_tracks",
    "others",
    "targeted",
    "targets_of",
    "triggered",
]

ALIGN_SEED = 73_000_000  # far from every seed that the mini model was trained or judged on
PIECE = 128


@dataclass(frozen=True)
class AlignmentBatch:
    """What one part of a step trains on.

    Args:
        latents: (B, T, C, h, w) clean. noise: the same shape, float32. u: (B,) position in the schedule, in [0, 1).
        image, extra: (B, T, I, h, w) and (B, T, E, h, w), what the network reads beside the noisy latents.
        text: as in `ClipBatch`, of the empty prompt in rows whose prompt is dropped.
        targets: what the attention is aligned with; None: no loss looks at it, or every prompt is dropped.
        target_names: name of the phrase that is TAViD's target, in each row. source_names: of the agent beside it,
            where the condition has its mask.
        trigger: (B, D, 2) how often a text row is the word `target` and the word `source`; None: nothing is learnt of
            them.
        weight: (B, T, h, w) of the diffusion loss; None: everything counts the same.
        prefix_frames: latent frames in front of the clip (CogVideoX 1.5).
    """

    latents: Tensor
    noise: Tensor
    u: Tensor
    image: Tensor
    extra: Tensor
    text: dict[str, Tensor]
    targets: TargetBatch | None
    target_names: tuple[str, ...]
    weight: Tensor | None = None
    prefix_frames: int = 0
    source_names: tuple[str, ...] = ()
    trigger: Tensor | None = None

    def to(self, device: torch.device) -> AlignmentBatch:
        """With its tensors there."""
        names = ("latents", "noise", "u", "image", "extra")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        moved["text"] = {name: value.to(device, non_blocking=True) for name, value in self.text.items()}
        moved["targets"] = None if self.targets is None else self.targets.to(device)
        moved["weight"] = None if self.weight is None else self.weight.to(device)
        return replace(self, **moved)


def _drop_prompts(text: dict[str, Tensor], empty: dict[str, Tensor], prompt_dropped: Tensor) -> dict[str, Tensor]:
    """With the empty prompt's text in the rows of `prompt_dropped` (B,) bool. One row alone may have another length."""
    if prompt_dropped.tolist() == [True]:
        return text | {name: value.to(text[name]) for name, value in empty.items() if name in text}
    out = dict(text)
    for name, value in empty.items():
        if bool(prompt_dropped.any()) and name in out:
            there = prompt_dropped.to(out[name].device).view(-1, *[1] * (value.ndim - 1))
            out[name] = torch.where(there, value.to(out[name]), out[name])
    return out


# --- a folder of clips


class ClipStream:
    """Batches of a folder of clips, one ahead of the step, made by a thread. On the CPU. Nothing is encoded before
    `fill`.

    What a row of a step's whole batch is trained under follows from the seed, the step and the row, so it is the same
    however the batch is split over processes and accumulation.
    """

    def __init__(self, config: FitConfig, files: ModelFiles) -> None:
        self.task: TuneTask = config.task
        self.files, self.seed, state = files, config.run.seed, PartialState()
        self.process, self.processes = state.process_index, state.num_processes
        self.whole = config.data.batch * self.processes * config.optim.accumulate
        said, held = state.on_main_process(print), config.validation
        self.levels_held = held.levels
        with state.main_process_first():  # the first one to look leaves a memo for the others
            bar, hold = state.is_main_process, HoldOut(held.share, held.clips, held.prompts)
            teacher = teacher_of(self.task.teacher, files.device)
            self.clips = open_clips(config.data, files, self.seed, self.whole, said, bar, hold, teacher)
        self.empty: dict[str, Tensor] = {}
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[tuple[int, int], Future[AlignmentBatch]] = {}

    def fill(self) -> None:
        """Encodes what is missing, together with every other process. Called before the first batch."""
        state = PartialState()
        self.clips.fill(bar=state.is_main_process)
        state.wait_for_everyone()
        self.empty = self.clips.empty

    def batch(self, step: int, part: int = 0, parts: int = 1) -> AlignmentBatch:
        """This process's share of one of the parts that a step accumulates."""
        asked = self.coming.pop((step, part), None) or self.pool.submit(self._make, step, part, parts)
        following = (step, part + 1) if part + 1 < parts else (step + 1, 0)
        found = asked.result()
        self.coming = {following: self.pool.submit(self._make, *following, parts)}
        return found

    def _make(self, step: int, part: int, parts: int) -> AlignmentBatch:
        clips = self.clips.batch(step, part * self.processes + self.process, self.processes * parts)
        prompt_dropped = [self._draw(step, row, 1) < self.task.dropout for row in clips.rows]
        shown = torch.tensor([self._draw(step, row, 4) >= self.task.drop_condition for row in clips.rows])
        kept = [None if lost else target for lost, target in zip(prompt_dropped, clips.targets)]
        aligned = bool(self.task.losses) and any(target is not None for target in kept)
        return AlignmentBatch(
            latents=clips.latents,
            noise=self.noise(step, clips.rows, clips.latents.shape[1:]),
            u=self.levels(step, clips.rows),
            image=clips.image,
            extra=torch.where(shown.view(-1, 1, 1, 1, 1), clips.extra, 0.0),
            text=_drop_prompts(clips.text, self.empty, torch.tensor(prompt_dropped)),
            targets=TargetBatch.of(kept, self.task.decodes, self._features(clips)) if aligned else None,
            target_names=clips.target_names,
            weight=self._weight(clips),
            prefix_frames=clips.grid.prefix_frames,
        )

    def _features(self, clips: ClipBatch) -> Tensor | None:
        """What teaches flow beside masks."""
        latents = self.task.teacher == LATENTS
        return latents_on(clips.latents.transpose(1, 2), clips.grid) if latents else clips.features

    def _weight(self, clips: ClipBatch) -> Tensor | None:
        """(B, T, h, w) of the diffusion loss: 1, and `task.foreground` more where instances are, by their share."""
        if not self.task.foreground:
            return None
        grid, (frames, height, width) = clips.grid, clips.size
        strides = (grid.temporal_stride, grid.spatial_stride)
        latents = Grid.from_pixels(frames, height, width, (1, 1, 1), *strides, 0, grid.cycle)
        covered = torch.stack(
            [
                tracks.to_grid(latents, "area", framing).maps.amax(0)
                for tracks, framing in zip(clips.tracks, clips.framings)
            ]
        )
        lead = clips.latents.shape[1] - covered.shape[1]  # copies of the first latent frame
        return 1.0 + self.task.foreground * torch.cat([covered[:, :1]] * lead + [covered], dim=1)

    def held(self, index: int) -> AlignmentBatch:
        """A held-out sample at one of its noise levels, numbered together by `index`. Its noise follows from its name
        and the level: it is the same at every step and in every run."""
        sample, level = divmod(index, self.levels_held)
        clips = self.clips.alone(self.clips.held[sample])
        draw = torch.Generator().manual_seed(seed_of(int(place_of(clips.names[0]) * 2**31), level, 13))
        return AlignmentBatch(
            latents=clips.latents,
            noise=torch.randn(clips.latents.shape, generator=draw),
            u=torch.tensor([(level + 0.5) / self.levels_held]),
            image=clips.image,
            extra=clips.extra,
            text=clips.text,
            targets=TargetBatch.of(clips.targets, self.task.decodes, self._features(clips)),
            target_names=clips.target_names,
            weight=self._weight(clips),
            prefix_frames=clips.grid.prefix_frames,
        )

    def levels(self, step: int, rows: tuple[int, ...]) -> Tensor:
        """(B,) positions in the schedule, spread evenly over the whole batch of the step."""
        start = self._draw(step, 0, 2)
        return torch.tensor([(start + row / self.whole) % 1.0 for row in rows])

    def noise(self, step: int, rows: tuple[int, ...], shape: torch.Size) -> Tensor:
        """(B, *shape), each row from a generator of its own."""
        return torch.stack([torch.randn(shape, generator=self._generator(step, row, 3)) for row in rows])

    def _draw(self, step: int, row: int, what: int) -> float:
        """A number in [0, 1) that belongs to a row of a step's whole batch."""
        return float(torch.rand(1, generator=self._generator(step, row, what)))

    def _generator(self, step: int, row: int, what: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self.seed, step, row, what))

    def close(self) -> None:
        """Stops loading."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.clips.close()


# --- clips of mini's own world


@dataclass(frozen=True)
class _Samples:
    """The clips of a run, on the device: latents (N, T, C, h, w), text rows (N, D, width), weights (N, T, h, w),
    condition (N, E, h, w) of the first latent frame."""

    latents: Tensor
    rows: Tensor
    weight: Tensor
    condition: Tensor
    targets: TargetBatch
    target_names: tuple[str, ...]
    source_names: tuple[str, ...]
    trigger: Tensor | None


class AlignStream:
    """Batches of a fixed set of `data.chunk` clips of the mini world, in an order that seed and pass decide. On the
    device, where their noise is drawn, too.

    The set depends on the task and the data alone: the runs of a comparison share it (`samples`).
    """

    def __init__(self, config: FitConfig, encoders: MiniEncoders, process: int = 0) -> None:
        self.task: AlignTask = config.task
        self.data: Data = config.data
        self.seed, self.process, self.device = config.run.seed, process, encoders.device
        self.empty = {"rows": encoders.encode_text([""])}
        self.samples = _samples(self.task, self.data, encoders)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> AlignmentBatch:
        """The batch of one of the parts that a step accumulates."""
        turn, place = divmod(step * parts + part, self.data.chunk // self.data.batch)
        order = torch.Generator().manual_seed(seed_of(seed_of(self.seed, self.process), turn, 7))
        rows = torch.randperm(self.data.chunk, generator=order)[place * self.data.batch :][: self.data.batch]
        generator = step_generator(self.seed, step, self.process, part)
        u = self.levels(len(rows), generator)
        prompt_dropped = torch.rand(len(rows), generator=generator) < self.task.dropout
        found, there, said = self.samples, rows.to(self.device), ~prompt_dropped.to(self.device)
        latents = found.latents[there]
        return AlignmentBatch(
            latents=latents,
            noise=self.noise(latents.shape, generator),
            u=u,
            image=_in_first_frame(latents[:, 0], latents),
            extra=_in_first_frame(found.condition[there], latents),
            text=_drop_prompts({"rows": found.rows[there]}, self.empty, prompt_dropped),
            targets=found.targets.select(rows, ~prompt_dropped) if self.task.losses else None,
            target_names=tuple(found.target_names[i] for i in rows.tolist()),
            weight=found.weight[there],
            source_names=tuple(found.source_names[i] for i in rows.tolist()) if found.source_names else (),
            trigger=None if found.trigger is None else found.trigger[there] * said[:, None, None],
        )

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """(B,) positions in the schedule."""
        return schedule_positions(count, self.task.even, self.task.high_noise, generator)

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Of a batch, drawn on the device."""
        return device_noise(shape, generator, self.device)

    def close(self) -> None:
        """Nothing to stop: the clips are there."""


def _in_first_frame(values: Tensor, latents: Tensor) -> Tensor:
    """(B, X, h, w) as (B, T, X, h, w): of the first latent frame, and 0 in later ones."""
    out = values.new_zeros(len(values), latents.shape[1], *values.shape[1:])
    out[:, 0] = values
    return out


def named_tracks(clips: Clips, index: int) -> MaskTracks:
    """Tracks of the instances that a clip's caption names, in slot order."""
    return mask_tracks(clips, index).select(list(clips.names[index][: int(clips.named[index].sum())]))


TRIGGERS = ("target", "source")


def triggered(prompts: Sequence[str], encoders: MiniEncoders) -> Tensor:
    """(N, D, 2) float32: 1 where a text row is the word `target`, and where it is the word `source`."""
    tokenizer = encoders.pipeline.tokenizer
    ids = token_ids(tokenizer, list(prompts), encoders.sizes.text_length)
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in TRIGGERS]
    if any(len(word) != 1 for word in words):
        raise ValueError(f"the words {' and '.join(TRIGGERS)} are one token each in mini's vocabulary; got {words}")
    return torch.stack([ids == word[0] for word in words], -1).float().to(encoders.device)


def targeted(clips: Clips, source: bool = False) -> Clips:
    """With TAViD's word `target` in captions and phrases, before the thing whose mask is the target mask; with the word
    `source` before the agent, too, where `source`.

    Raises ValueError for clips of two interactions at once, which have two targets."""
    if any(clips.second):
        raise ValueError("the word target says one thing, and clips of two interactions have two: data.pairs=0")
    prompts, phrases = [], []
    for prompt, lines, names, parts in zip(clips.prompts, clips.phrases, clips.names, clips.parts.tolist()):
        look = names[1 if parts > 1 else 0]
        marks = {look: "target", **({names[0]: "source"} if source and parts > 1 else {})}
        for name, word in marks.items():
            prompt = prompt.replace(f"the {name}", f"the {word} {name}")
            lines = lines.replace(f": the {name}", f": the {word} {name}")
        prompts.append(prompt)
        phrases.append(lines)
    return replace(clips, prompts=prompts, phrases=phrases)


def condition_of(kind: str, clips: Clips, encoders: MiniEncoders) -> Tensor | None:
    """(N, E, h, w) of the first latent frame: the VAE-encoded palette picture of the named instances, or the mask of
    the object (of the mover, where nothing is done to anybody) at every 8th pixel, with the agent's mask in front of it
    for "source_target"; None for "none"."""
    if kind == "none":
        return None
    named = clips.masks[:, :, 0] & clips.named[:, :, None, None]  # (N, K, H, W)
    if kind in ("target_mask", "source_target"):
        target = (clips.parts > 1).long()
        mask = named[torch.arange(len(clips), device=named.device), target][:, None]
        if kind == "source_target":
            mask = torch.cat([named[:, :1], mask], 1)
        stride = mask.shape[-1] // encoders.sizes.latent_shape[2]
        return mask[:, :, ::stride, ::stride].float()
    named = named[:, : len(FIXED)]  # a sixth one is nobody that a verb names
    palette = torch.tensor(FIXED[: named.shape[1]], dtype=torch.float32, device=named.device)
    picture = torch.einsum("nkhw,kc->nchw", named.float(), palette).clamp(0, 255).to(torch.uint8)
    return encoders.encode(picture[:, None])[:, 0]


_last: dict[str, tuple[object, _Samples]] = {}


def _samples(task: AlignTask, data: Data, encoders: MiniEncoders) -> _Samples:
    """The whole set. The last one is kept, for a comparison's next run."""
    about = (
        *(task.condition, task.look_alikes, task.clips_seed, task.foreground, task.change),
        *(bool(task.decoder), task.control == "wrong_masks", task.trigger, task.learn_trigger, task.even_look_alikes),
        *(task.mask_shift, task.mask_lost, task.mask_boxes, task.teacher),
    )
    key = (encoders.folder, replace(data, batch=1, reuse=1, workers=1), about, encoders.device)
    if "set" not in _last or _last["set"][0] != key:
        _last.clear()
        _last["set"] = (key, _make(task, data, encoders))
    return _last["set"][1]


def _make(task: AlignTask, data: Data, encoders: MiniEncoders) -> _Samples:
    sizes = encoders.sizes
    shape = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames}
    alike = {"distractor_share": task.look_alikes, "even_twins": task.even_look_alikes}
    world = world_of(data, **shape, single_motion_share=0.0, **alike)
    both = task.condition == "source_target"

    def place(start: int) -> Clips:
        count = min(PIECE, data.chunk - start)
        clips = make_clips(seed_of(ALIGN_SEED, task.clips_seed, start), count, world, encoders.device)
        return targeted(clips, both) if task.trigger else clips

    parts: list[tuple[Tensor, ...]] = []
    targets: list[Targets] = []
    objects: list[str] = []
    agents: list[str] = []
    marks: list[Tensor] = []
    taught: list[Tensor] = []
    teacher = teacher_of(task.teacher, encoders.device)
    with clip_makers(data.workers) as pool:
        for clips in pool.map(place, range(0, data.chunk, PIECE)):
            parts.append(_tensors(task, clips, encoders))
            if teacher is not None:
                frames = clips.video.movedim(2, -1)
                taught.append(torch.stack([teacher.features(clip, encoders.grid) for clip in frames]))
            cpu = clips.to("cpu")
            noise = seed_of(ALIGN_SEED, task.clips_seed, len(targets), 11)
            cpu = with_mask_noise(cpu, noise, task.mask_shift, task.mask_lost, task.mask_boxes)
            shown = others(cpu) if task.control == "wrong_masks" else list(range(len(cpu)))
            targets += [targets_of(cpu, i, encoders, j) for i, j in enumerate(shown)]
            objects += [names[1 if parts > 1 else 0] for names, parts in zip(cpu.names, cpu.parts.tolist())]
            agents += [names[0] for names in cpu.names] if both else []
            marks += [triggered(clips.prompts, encoders)] if task.learn_trigger else []
    latents, rows, weight, condition = (torch.cat(values) for values in zip(*parts))
    if task.teacher == LATENTS:
        taught.append(latents_on(latents.transpose(1, 2), encoders.grid))
    joined = TargetBatch.of(targets, task.decoder > 0, torch.cat(taught) if taught else None).to(encoders.device)
    trigger = torch.cat(marks) if marks else None
    return _Samples(latents, rows, weight, condition, joined, tuple(objects), tuple(agents), trigger)


def _tensors(task: AlignTask, clips: Clips, encoders: MiniEncoders) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, text rows, weights and condition of some clips."""
    latents = encoders.encode(clips.video)
    condition = condition_of(task.condition, clips, encoders)
    if condition is None:
        condition = latents.new_zeros(len(latents), 0, *latents.shape[3:])
    weight = diffusion_weight(clips.masks, task.foreground, task.change)
    return latents, encoders.encode_text(clips.prompts), weight, condition


def others(clips: Clips) -> list[int]:
    """For each clip the next one, in a circle, whose caption names as many instances.

    Raises ValueError where a clip is alone with its number."""
    counts, found = clips.named.sum(1).tolist(), []
    for place, parts in enumerate(counts):
        turns = (at % len(counts) for at in range(place + 1, place + len(counts)))
        other = next((at for at in turns if counts[at] == parts), None)
        if other is None:
            raise ValueError(f"no other clip names {parts} instances: use more clips (data.chunk) for wrong masks")
        found.append(other)
    return found


def targets_of(clips: Clips, index: int, encoders: MiniEncoders, shown: int) -> Targets:
    """What the attention of a clip should look like, with the masks of the clip `shown`, which may be another one.

    Wrong masks are those of another clip's instances under this one's names: words and query tokens stay its own."""
    binding = encoders.bind(clips.prompts[index], clips.phrases[index])
    own = Targets.of(binding, named_tracks(clips, index), encoders.grid)
    if shown == index:
        return own
    names, given = clips.names[index], clips.names[shown]
    parts = int(clips.named[index].sum())
    foreign = named_tracks(clips, shown).rename(dict(zip(given[:parts], names[:parts])))
    wrong = Targets.of(binding, foreign, encoders.grid)
    return replace(wrong, queries=own.queries)
