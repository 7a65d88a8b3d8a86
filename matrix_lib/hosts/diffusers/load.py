"""What model lies at a path, and how it is opened: mini, a bundle, or the folder of a diffusers pipeline."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...backbones import match
from ...core.grid import Grid
from ...core.words.binding import PromptBinding
from ...core.words.phrases import PhraseSpec
from .. import bundle
from .attach import backbone_of
from .prompts import bind_prompt

__all__ = ["Model", "check_model", "open_model"]


@dataclass
class Model:
    """A pipeline on its device; `size` is (frames, height, width) that it makes when nothing else is asked for."""

    pipeline: Any
    backbone: str
    size: tuple[int, int, int]
    text_rows: int | None = None

    def bind(self, prompt: str, phrases: tuple[PhraseSpec, ...]) -> PromptBinding:
        return bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=self.text_rows)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip of this many pixels."""
        spec, config = backbone_of(self.pipeline.transformer), self.pipeline.transformer.config
        size = config.patch_size
        patch = (config.patch_size_t or 1, size, size) if isinstance(size, int) else tuple(size)
        stride = spec.spatial_stride
        latent = ((frames - 1) // spec.temporal_stride + 1, height // stride, width // stride)
        return Grid.from_latent(latent, patch, spec.temporal_stride, stride)


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
    from .mini import Sizes, build_pipeline

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
