"""Runs a diffusers video pipeline on one clip and scores its attention while it runs.

Either it generates the clip from its prompt and first frame, or it sees the real clip under noise at given timesteps:
then the pipeline's own loop runs with a scheduler that hands out the noised latents in place of its own, so that text,
first frame and positions are prepared as the pipeline itself prepares them.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..backbones import match
from ..core.binding import PromptBinding
from ..core.grid import Framing, Grid
from ..core.phrases import PhraseSpec
from ..core.tracks import MaskTracks
from ..hosts.diffusers.attach import backbone_of, watch
from ..hosts.diffusers.latents import encode_clip
from ..hosts.diffusers.words import bind_prompt
from ..instrument.alignment import AlignmentRecorder
from ..instrument.capture import Capture
from ..mini import bundle
from .clip_scores import KindScores, reduce_alignment

__all__ = ["Model", "Probe", "Recipe", "check_model", "fit_clip", "generate", "open_model", "probe"]

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
        if self.frames < 1 or self.frames % 4 != 1 or self.height % 16 or self.width % 16 or min(self.size) < 16:
            raise ValueError(
                f"clips have 4 n + 1 frames and sides that are multiples of 16; got {self.frames} frames of "
                f"{self.height}x{self.width} (height x width)"
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


@dataclass
class Model:
    """A pipeline on its device; `size` is (frames, height, width) that it makes when nothing else is asked for."""

    pipeline: Any
    backbone: str
    size: tuple[int, int, int]
    text_rows: int | None = None

    def bind(self, prompt: str, phrases: tuple[PhraseSpec, ...]) -> PromptBinding:
        return bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=self.text_rows)

    def grid(self, recipe: Recipe) -> Grid:
        """The token grid of a run."""
        spec, config = backbone_of(self.pipeline.transformer), self.pipeline.transformer.config
        size = config.patch_size
        patch = (config.patch_size_t or 1, size, size) if isinstance(size, int) else tuple(size)
        stride = spec.spatial_stride
        latent = ((recipe.frames - 1) // spec.temporal_stride + 1, recipe.height // stride, recipe.width // stride)
        return Grid.from_latent(latent, patch, spec.temporal_stride, stride)


@dataclass(frozen=True)
class Probe:
    """What one run gave: scores by kind, the clip's frames (F, H, W, 3) uint8 and the maps, where they were wanted."""

    kinds: dict[str, KindScores]
    frames: NDArray[np.uint8] | None
    capture: Capture | None
    notes: tuple[str, ...]


def check_model(where: str) -> str:
    """The family of the model at `where` ("mini", a bundle's or a diffusers folder), without loading it.

    Raises ValueError where there is no model, or none of a family that is known.
    """
    if where == "mini" or (Path(where) / bundle.MANIFEST).is_file():
        bundle.load(None if where == "mini" else where)
        return "cogvideox"
    index = Path(where) / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"no model at {where!r}: give 'mini', or a folder of a diffusers pipeline (with model_index.json) of "
            "CogVideoX, Wan or HunyuanVideo"
        )
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        name = parts["transformer"][1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{index} does not say which transformer the model has ({error!r})") from None
    return match([str(name)], "diffusers").name


def open_model(where: str, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Model:
    """Loads a model onto its device. `offload` keeps its parts in main memory until they run."""
    check_model(where)
    if where == "mini" or (Path(where) / bundle.MANIFEST).is_file():
        model = _open_mini(None if where == "mini" else where, dtype)
    else:
        pipeline = _load(where, dtype)
        model = Model(pipeline, backbone_of(pipeline.transformer).name, _default_size(pipeline))
    model.pipeline.set_progress_bar_config(disable=True)
    if offload and device.type != "cpu":
        model.pipeline.enable_model_cpu_offload(device=device)
    else:
        model.pipeline.to(device)
    return model


def _load(where: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions call it dtype, older ones know only this
            return DiffusionPipeline.from_pretrained(where, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"diffusers cannot load the model at {where!r}: {error}") from error


def _open_mini(where: str | None, dtype: torch.dtype) -> Model:
    from ..hosts.diffusers.mini import Sizes, build_pipeline

    found = bundle.load(where)
    sizes = Sizes(**found.sizes)
    codec, text, transformer = (found.weights(part) for part in ("codec", "text", "transformer"))
    pipeline = build_pipeline(sizes, codec, text, transformer, found.tokenizer, dtype)
    return Model(pipeline, "cogvideox", (sizes.frames, sizes.height, sizes.width), sizes.text_length)


def _default_size(pipeline: Any) -> tuple[int, int, int]:
    given = inspect.signature(pipeline.__call__).parameters
    config, stride = pipeline.transformer.config, 8
    height = given["height"].default or config.sample_height * stride
    width = given["width"].default or config.sample_width * stride
    frames = given["num_frames"].default
    if backbone_of(pipeline.transformer).name == "cogvideox":
        frames = config.sample_frames
    return int(frames), int(height), int(width)


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
) -> Probe:
    """One run. `frames` and `tracks` come from `fit_clip`.

    Args:
        seed: of the noise. The same seed gives the same run, whatever ran before.
        on_step: called with the number of steps done; may raise to stop.
        maps: also record the maps of every layer, as one mean over steps. picture: decode what was generated.
    """
    pipe, generator = model.pipeline, torch.Generator().manual_seed(seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if recipe.mode == "noise":  # before anybody watches: watching reads the scheduler's timesteps
            stack.enter_context(_replaying(model, frames[: recipe.frames], recipe.timesteps, generator))
        seen_maps = stack.enter_context(watch(pipe, binding, tracks, bins=1)) if maps else None
        seen = stack.enter_context(watch(pipe, binding, tracks, recorder=AlignmentRecorder))
        made = _run(model, recipe, binding.prompt, frames, generator, on_step, picture or maps)
    assert isinstance(seen.recorder, AlignmentRecorder)
    (alignments,) = seen.recorder.alignments().values()
    kinds: dict[str, KindScores] = {found.kind: reduce_alignment(found) for found in alignments}
    capture = seen_maps.capture() if seen_maps is not None else None
    return Probe(kinds, made, capture, tuple(dict.fromkeys(seen.recorder.notes)))


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
    if model.backbone != "hunyuan_video":  # its guidance is an input of the model, not a second branch
        given["guidance_scale"] = 1.0
    pipe(**given, latents=pipe.scheduler.start(), output_type="latent")
    return frames[: recipe.frames].numpy() if picture else None


def _encode(model: Model, frames: Tensor) -> Tensor:
    """Latents of a real clip as its pipeline has them: (1, T, C, h, w) for CogVideoX, else (1, C, T, h, w)."""
    pipe = model.pipeline
    latents = encode_clip(pipe, frames)[None]
    if model.backbone != "cogvideox":
        return latents
    latents = latents.transpose(1, 2)
    lead = -latents.shape[1] % (pipe.transformer.config.patch_size_t or 1)
    return torch.cat([latents[:, :1]] * lead + [latents], dim=1)


class _Replay:
    """Stands in for a pipeline's scheduler: whatever the model predicts, the next latents are the clean ones under the
    next timestep's noise. Everything else is the scheduler's own."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self, scheduler: Any, clean: Tensor, noise: Tensor, timesteps: tuple[int, ...], diffusion: bool
    ) -> None:
        self._real, self._clean, self._noise, self._diffusion = scheduler, clean, noise, diffusion
        self.timesteps = torch.tensor(sorted(set(timesteps), reverse=True), device=clean.device)
        self.sigmas = torch.cat([self.timesteps / 1000.0, torch.zeros(1, device=clean.device)])
        self._at = 0

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
        return (self._noised(min(self._at, len(self.timesteps) - 1)).to(sample),)

    def _noised(self, index: int) -> Tensor:
        t = self.timesteps[index]
        if self._diffusion:
            return self._real.add_noise(self._clean, self._noise, t[None])
        sigma = float(t) / 1000.0  # flow matching: a straight line from clip to noise
        return (1 - sigma) * self._clean + sigma * self._noise


@contextlib.contextmanager
def _replaying(model: Model, frames: Tensor, timesteps: tuple[int, ...], generator: torch.Generator) -> Iterator[None]:
    """The pipeline with a `_Replay` of this clip as its scheduler. It goes past the pipeline's own setter, which would
    write the stand-in into the pipeline's config."""
    pipe = model.pipeline
    latents = _encode(model, frames)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    before = pipe.scheduler
    vars(pipe)["scheduler"] = _Replay(before, latents, noise, timesteps, model.backbone == "cogvideox")
    try:
        yield
    finally:
        vars(pipe)["scheduler"] = before
