"""Runs a diffusers video pipeline on one clip and scores its attention while it runs.

Either it generates the clip from its prompt and first frame, or it sees the real clip under noise at given timesteps:
then the pipeline's own loop runs with a scheduler that hands out the noised latents in place of its own, so that text,
first frame and positions are prepared as the pipeline itself prepares them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...backbones import BackboneSpec
from ...core.grid import Framing
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...hosts.diffusers.attach import Watch, watch
from ...hosts.diffusers.families import family
from ...hosts.diffusers.latents import encode_clip
from ...hosts.diffusers.load import Model
from ...hosts.diffusers.model_shape import patch_of
from ...instrument.capture import Capture
from ...instrument.scores import AlignmentRecorder, LayerAlignment
from .scores import KindScores, reduce_alignment

__all__ = ["Probe", "Recipe", "fit_clip", "generate", "probe"]

Mode = Literal["generate", "noise"]


@dataclass(frozen=True)
class Recipe:
    """How every run is made.

    Args:
        mode: "generate" samples the clip; "noise" shows the real clip under noise.
        frames, height, width: pixels that the model makes.
        steps, guidance, negative: of sampling. timesteps: of 1000, the noise levels of mode "noise".
    """

    mode: Mode
    frames: int
    height: int
    width: int
    steps: int = 50
    guidance: float = 6.0
    negative: str = ""
    timesteps: tuple[int, ...] = (900, 700, 500, 300, 100)

    def __post_init__(self) -> None:
        if self.mode not in ("generate", "noise"):
            raise ValueError(f"mode is 'generate' or 'noise'; got {self.mode!r}")
        whole = self.frames % 4 == 1 or self.frames % 6 == 1  # what a model's VAE takes, its pipeline says
        if self.frames < 1 or not whole or self.height % 16 or self.width % 16 or min(self.size) < 16:
            raise ValueError(
                f"clips have 4 n + 1 frames (6 n + 1 for some models) and sides that are multiples of 16; got "
                f"{self.frames} frames of {self.height}x{self.width} (height x width)"
            )
        if self.steps < 1:
            raise ValueError(f"sampling takes at least 1 step; got {self.steps}")
        if self.mode == "noise" and not (self.timesteps and all(0 < t < 1000 for t in self.timesteps)):
            raise ValueError(f"timesteps are between 0 and 1000, at least one; got {list(self.timesteps)}")

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def forwards(self) -> int:
        """Steps that a run takes."""
        return len(set(self.timesteps)) if self.mode == "noise" else self.steps


@dataclass(frozen=True)
class Probe:
    """What one run gave: scores by kind, of two transformers that take turns also those of each one's own steps, by its
    name; the clip's frames (F, H, W, 3) uint8 and the maps, where they were wanted."""

    kinds: dict[str, KindScores]
    experts: dict[str, dict[str, KindScores]]
    frames: NDArray[np.uint8] | None
    capture: Capture | None
    notes: tuple[str, ...]


def fit_clip(frames: Tensor, tracks: MaskTracks, recipe: Recipe) -> tuple[Tensor, MaskTracks]:
    """Frames (n, H, W, 3) uint8 and tracks, cropped about the centre and resized to the size that the model makes.

    Raises ValueError where picture and masks differ in size, or a real clip is too short.
    """
    seen = (int(frames.shape[1]), int(frames.shape[2]))
    if seen != (tracks.height, tracks.width):
        raise ValueError(
            f"the picture is {seen[0]}x{seen[1]} pixels (height x width), the masks are {tracks.height}x{tracks.width}"
        )
    if recipe.mode == "noise" and len(frames) < recipe.frames:
        raise ValueError(
            f"the video has {len(frames)} frames; {recipe.frames} are wanted: set --frames, or leave it out"
        )
    framing = Framing(seen, recipe.size)
    fitted = framing.apply(frames.movedim(-1, 1).float(), "bilinear").round().clamp(0, 255).to(torch.uint8)
    return fitted.movedim(1, -1), tracks.framed(framing) if framing.box() != (0, 0, *recipe.size) else tracks


def probe(
    model: Model,
    recipe: Recipe,
    binding: PromptBinding,
    tracks: MaskTracks,
    frames: Tensor,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    maps: bool = False,
    picture: bool = False,
    bins: int = 1,
    heads: Sequence[int] | Literal["all"] = (),
    points: str = "",
) -> Probe:
    """One run. `frames` and `tracks` come from `fit_clip`.

    Args:
        seed: of the noise. The same seed gives the same run, whatever ran before.
        on_step: called with the number of steps done; may raise to stop.
        maps: also record the maps of every layer, as `bins` means over steps (0: every step); with these heads apart
            and these points pinned, see `watch`. picture: decode what was generated.
    """
    pipe, generator = model.pipeline, torch.Generator().manual_seed(seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if recipe.mode == "noise":  # before anybody watches: watching reads the scheduler's timesteps
            stack.enter_context(_replaying(model, frames[: recipe.frames], recipe.timesteps, generator))
        asked: dict[str, Any] = {"bins": bins, "heads": heads, "points": points}
        seen_maps = stack.enter_context(watch(pipe, binding, tracks, **asked)) if maps else None
        seen = stack.enter_context(watch(pipe, binding, tracks, recorder=AlignmentRecorder))
        made = _run(model, recipe, binding.prompt, frames, generator, on_step, picture or maps)
    assert isinstance(seen.recorder, AlignmentRecorder)
    (alignments,) = seen.recorder.alignments().values()
    kinds: dict[str, KindScores] = {found.kind: reduce_alignment(found) for found in alignments}
    capture = seen_maps.capture() if seen_maps is not None else None
    return Probe(kinds, _by_expert(alignments, seen), made, capture, tuple(dict.fromkeys(seen.recorder.notes)))


def _by_expert(alignments: Sequence[LayerAlignment], seen: Watch) -> dict[str, dict[str, KindScores]]:
    found: dict[str, dict[str, KindScores]] = {}
    for one in alignments:
        took = seen.took([step.index for step in one.steps])
        for name in dict.fromkeys(names[0] for names in took if len(names) == 1):
            own = one.take([at for at, names in enumerate(took) if names == (name,)])
            if bool((own.counts > 0).any()):
                found.setdefault(name, {})[one.kind] = reduce_alignment(own)
    return found


@torch.inference_mode()
def generate(
    model: Model,
    recipe: Recipe,
    prompt: str,
    frames: Tensor,
    seed: int,
    on_step: Callable[[int], None] = lambda s: None,
) -> NDArray[np.uint8]:
    """The clip (F, H, W, 3) uint8 that `probe` would make of the same seed, without watching."""
    made = _run(model, recipe, prompt, frames, torch.Generator().manual_seed(seed), on_step, picture=True)
    assert made is not None
    return made


def _run(
    model: Model,
    recipe: Recipe,
    prompt: str,
    frames: Tensor,
    generator: torch.Generator,
    on_step: Callable[[int], None],
    picture: bool,
) -> NDArray[np.uint8] | None:
    pipe = model.pipeline

    def done(pipeline: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        on_step(step + 1)
        return {}

    given: dict[str, Any] = {
        "prompt": prompt, "negative_prompt": recipe.negative or None, "image": Image.fromarray(frames[0].numpy()),
        "height": recipe.height, "width": recipe.width, "num_frames": recipe.frames, "generator": generator,
        "num_inference_steps": recipe.forwards, "guidance_scale": recipe.guidance, "callback_on_step_end": done,
        "max_sequence_length": model.text_rows,
    }  # fmt: skip
    accepted = inspect.signature(pipe.__call__).parameters
    given = {name: value for name, value in given.items() if name in accepted and value is not None}
    if recipe.mode == "generate":
        made = pipe(**given, output_type="np" if picture else "latent").frames
        return (np.asarray(made[0]) * 255).round().clip(0, 255).astype(np.uint8) if picture else None
    if not model.spec.guidance_input:
        given["guidance_scale"] = 1.0
    start = family(model.spec.name).started(pipe, pipe.scheduler.start(), lambda: _encode(model, frames[:1]))
    pipe(**given, latents=start, output_type="latent")
    return frames[: recipe.frames].numpy() if picture else None


def _encode(model: Model, frames: Tensor) -> Tensor:
    """Latents of a real clip as its pipeline has them: (1, T, C, h, w) for CogVideoX, (1, T, h, w, C) for Kandinsky 5,
    else (1, C, T, h, w)."""
    pipe = model.pipeline
    latents = encode_clip(pipe, frames)[None]
    if model.spec.channels_last:
        return latents.movedim(1, -1).contiguous()
    if not model.spec.frames_first:
        return latents
    latents = latents.transpose(1, 2)
    prefix_frames = -latents.shape[1] % patch_of(pipe.transformer.config)[0]
    return torch.cat([latents[:, :1]] * prefix_frames + [latents], dim=1)


class _Replay:
    """Stands in for a pipeline's scheduler: whatever the model predicts, the next latents are the clean ones under the
    next timestep's noise. Everything else is the scheduler's own."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self, scheduler: Any, clean: Tensor, noise: Tensor, timesteps: tuple[int, ...], spec: BackboneSpec
    ) -> None:
        self._real, self._clean, self._noise, self._spec = scheduler, clean, noise, spec
        self.timesteps = torch.tensor(sorted(set(timesteps), reverse=True), device=clean.device)
        levels = self.timesteps / 1000.0
        if spec.adds_noise:  # no noisier than its pipeline begins
            levels = (levels / (1.0 - levels)).clamp(max=float(scheduler.config.sigma_max))
        self._levels = self.sigmas = torch.cat([levels, torch.zeros(1, device=clean.device)])
        if getattr(scheduler.config, "invert_sigmas", False):  # it counts how much of the clip there is
            self.timesteps, self.sigmas = 1000 - self.timesteps, 1.0 - self._levels
        self._at = 0

    @property
    def step_index(self) -> int:
        return min(self._at, len(self.timesteps) - 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, **rest: Any
    ) -> None:
        """The timesteps are given."""

    def set_begin_index(self, index: int = 0) -> None:
        """They always begin with the first."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def start(self) -> Tensor:
        return self._noised(0)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **rest: Any
    ) -> tuple[Tensor]:
        self._at += 1
        made = self._noised(min(self._at, len(self.timesteps) - 1)).to(sample)
        for axis, size in enumerate(sample.shape):  # frames that a pipeline does not step stand in front
            made = made.narrow(axis, made.shape[axis] - size, size)
        return (made,)

    def _noised(self, index: int) -> Tensor:
        t = self.timesteps[index]
        if not self._spec.flow:
            return self._real.add_noise(self._clean, self._noise, t[None])
        sigma = float(self._levels[index])
        if self._spec.adds_noise:
            return self._clean + sigma * self._noise
        # flow matching: a straight line from clip to noise
        return (1 - sigma) * self._clean + sigma * self._noise


@contextlib.contextmanager
def _replaying(model: Model, frames: Tensor, timesteps: tuple[int, ...], generator: torch.Generator) -> Iterator[None]:
    """The pipeline with a `_Replay` of this clip as its scheduler. It goes past the pipeline's own setter, which would
    write the stand-in into the pipeline's config."""
    pipe = model.pipeline
    latents = _encode(model, frames)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    before = pipe.scheduler
    vars(pipe)["scheduler"] = _Replay(before, latents, noise, timesteps, model.spec)
    try:
        yield
    finally:
        vars(pipe)["scheduler"] = before
