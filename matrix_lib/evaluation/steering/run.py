"""Samples the mini model under a condition and measures what came out, many clips at a time.

N clips, F frames, H, W pixels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...core.guidance.cut_and_drag import cut_and_drag
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...hosts.diffusers.latents import encode_clip
from ...hosts.diffusers.mini import Sizes, sample
from ...hosts.diffusers.prompts import bind_prompt
from ...hosts.diffusers.steer import steer
from ...mini.export import mask_tracks
from ...mini.paths import given
from ...mini.verbs import VERBS
from ...mini.world import Clips, WorldConfig, make_clips
from ..mini.object_tracking import look
from .measures import MEASURES, measure
from .plan import CODEC, EXCHANGED, STILL, UNSAMPLED, Cell, Condition
from .results import Measured, fingerprint

__all__ = ["Bench", "SteerRecipe", "steered_tracks"]

_SEED = 73_000_000  # far from every seed that training, the evaluation or an analysis draws


@dataclass(frozen=True)
class SteerRecipe:
    """How every clip of a table is made.

    Args:
        prompts: clips of each condition; the first ones are the same whatever the number.
        steps, cfg: of sampling. batch: clips sampled together.
        seed: clip i gets the noise of `seed + i`.
        draw: which clips; a sweep takes others than the table that it chooses for.
    """

    prompts: int = 256
    steps: int = 24
    cfg: float = 1.0
    batch: int = 128
    seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"prompts, steps and batch are 1 or more; got {self.prompts}, {self.steps} and {self.batch}"
            )
        if not self.cfg >= 1:
            raise ValueError(f"the guidance scale is 1 or more; got {self.cfg}")


def steered_tracks(clips: Clips, index: int) -> MaskTracks:
    """The tracks that steer clip `index`: those whom its prompt names."""
    return mask_tracks(clips, index).select(clips.names[index][: int(clips.parts[index])])


class Bench:
    """The mini model, the clips and the recipe of one table."""

    def __init__(self, pipeline: Any, sizes: Sizes, recipe: SteerRecipe, model: str = "") -> None:
        self.pipeline, self.sizes, self.recipe = pipeline, sizes, recipe
        device = pipeline.transformer.device
        self.plan = {
            "model": model,
            "prompts": recipe.prompts,
            "steps": recipe.steps,
            "cfg": recipe.cfg,
            "seed": recipe.seed,
            "draw": recipe.draw,
            "precision": str(pipeline.transformer.dtype).removeprefix("torch."),
            "clip": [sizes.frames, sizes.height, sizes.width],
        }
        self.mark = fingerprint(self.plan)
        world = WorldConfig(
            height=sizes.height,
            width=sizes.width,
            frames=sizes.frames,
            single_motion_share=0.0,
            distractor_share=0.0,
            verbs=tuple(verb.name for verb in VERBS if verb.parts == 2),
        )
        self._packed: dict[tuple[str, bool, int], list[MaskTracks]] = {}
        self._dragged: dict[tuple[int, str], Tensor] = {}
        self.clips = make_clips(_SEED + recipe.draw, recipe.prompts, world, device)

    @cached_property
    def bindings(self) -> list[PromptBinding]:
        rows = self.sizes.text_length
        texts = zip(self.clips.prompts, self.clips.phrases)
        return [bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=rows) for prompt, phrases in texts]

    def run(self, cell: Cell) -> list[Measured]:
        """Samples a cell and measures it under each kind of its tracks."""
        recipe, condition = self.recipe, cell.condition
        rows: dict[str, list[dict[str, Tensor]]] = {kind: [] for kind in cell.tracks}
        seconds, notes = 0.0, dict[str, None]()
        for start in range(0, recipe.prompts, recipe.batch):
            clips = self.clips.select(slice(start, start + recipe.batch))
            truth = {kind: given(kind, clips) for kind in cell.tracks}
            if condition.name.startswith(UNSAMPLED):
                for kind in cell.tracks:
                    video = self._unsampled(condition, kind, clips, truth[kind], start)
                    rows[kind].append(measure(self._through_codec(video), truth[kind], clips))
                continue
            began = self._now()
            first = cell.tracks[0]
            tracks = [] if condition.blind else self._tracks(first, condition.boxes, truth[first], start)
            video = self.sample(condition, clips, tracks, start, notes)
            seconds += self._now() - began
            sight = look(video, clips)
            for kind in cell.tracks:
                rows[kind].append(measure(video, truth[kind], clips, sight))
        return [
            Measured(
                condition.name,
                kind,
                condition.settings,
                self.mark,
                seconds / recipe.prompts,
                {name: torch.cat([row[name] for row in rows[kind]]).double().cpu().numpy() for name in MEASURES},
                tuple(notes),
                condition.said,
            )
            for kind in cell.tracks
        ]

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        clips: Clips,
        tracks: Sequence[MaskTracks],
        start: int = 0,
        notes: dict[str, None] | None = None,
    ) -> Tensor:
        """Clips (N, F, 3, H, W) uint8 under a condition, steered by one of `tracks` each; `start` is the number of the
        first. `notes` is told what could not be steered."""
        recipe = self.recipe
        guidance: list[Any] = [*condition.guidance]
        more: dict[str, Any] = {}
        held = any(guide.needs_reference for guide in guidance)
        if any(guide.where == "step" for guide in guidance):
            more["scheduler"] = self.pipeline.scheduler  # they act before the steps of this one, and so must the other
            guidance += [condition.intrinsic] if condition.intrinsic is not None else []
        elif condition.intrinsic is not None:
            more |= {"intrinsic": condition.intrinsic, "tracks": tracks}
        with contextlib.ExitStack() as stack:
            if guidance:
                self.pipeline.scheduler.set_timesteps(recipe.steps)  # guidance reads the number of steps there
                acting = stack.enter_context(
                    steer(
                        self.pipeline,
                        guidance,
                        self.bindings[start : start + len(clips)],
                        None if condition.blind else tracks,
                        branches=("uncond", "cond") if recipe.cfg != 1 else ("cond",),
                        seed=recipe.seed + start,
                        reference=self._references(clips, tracks, start) if held else None,
                    )
                )
            video = sample(
                self.pipeline,
                self.sizes,
                clips.prompts,
                clips.video[:, 0],
                recipe.steps,
                recipe.cfg,
                recipe.seed + start,
                **more,
            )
            if guidance and notes is not None:
                notes.update(dict.fromkeys(note for editor in acting for note in editor.notes))
        return video

    def _unsampled(self, condition: Condition, kind: str, clips: Clips, truth: Clips, start: int) -> Tensor:
        """(N, F, 3, H, W) uint8 of a row of `UNSAMPLED`; clips: whose prompts and first frames, from `start` on."""
        if condition.name == STILL:
            return clips.video[:, :1].expand_as(clips.video)
        if condition.name == EXCHANGED:
            places = [(start + 1 + at) % len(self.clips) for at in range(len(clips))]
            paths, acting = truth.trajectories.clone(), slice(0, 2)
            paths[:, acting] = given(kind, self.clips.select(places)).trajectories[:, acting]
            return truth.repaint(trajectories=paths)
        if condition.name == CODEC:
            return truth.video
        return self._rough(clips, self._tracks(kind, condition.boxes, truth, start), start)

    def _tracks(self, kind: str, boxes: bool, truth: Clips, start: int) -> list[MaskTracks]:
        """What steers a batch; packed once for all conditions."""
        if (kind, boxes, start) not in self._packed:
            tracks = [steered_tracks(truth, i) for i in range(len(truth))]
            self._packed[kind, boxes, start] = [each.boxed() for each in tracks] if boxes else tracks
        return self._packed[kind, boxes, start]

    def _rough(self, clips: Clips, tracks: Sequence[MaskTracks], start: int) -> Tensor:
        """(N, F, 3, H, W) uint8: rough animations of first frames and tracks, made once for all conditions."""
        found = []
        for place, each in enumerate(tracks):
            key = (start + place, each.digest)
            if key not in self._dragged:
                self._dragged[key] = cut_and_drag(clips.video[place, 0].permute(1, 2, 0).cpu(), each)
            found.append(self._dragged[key].permute(0, 3, 1, 2))
        return torch.stack(found).to(clips.video.device)

    def _references(self, clips: Clips, tracks: Sequence[MaskTracks], start: int) -> list[Tensor]:
        """Their latents."""
        return [encode_clip(self.pipeline, rough.permute(0, 2, 3, 1)) for rough in self._rough(clips, tracks, start)]

    @torch.no_grad()
    def _through_codec(self, video: Tensor) -> Tensor:
        out = []
        for piece in video.split(32):
            pixels = piece.transpose(1, 2).to(self.pipeline.vae.dtype).div(127.5).sub(1.0)
            found = self.pipeline.vae.decode(self.pipeline.vae.encode(pixels).latent_dist.mode()).sample
            out.append(found.transpose(1, 2).float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8))
        return torch.cat(out)

    def _now(self) -> float:
        if self.pipeline.transformer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()
