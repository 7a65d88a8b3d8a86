"""Nodes that open a video model, put native CogVideoX right, and turn a first frame into an image condition."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import node_helpers
import torch
from comfy_api.latest import io, ui

from ..matrix_lib.backbones import REGISTRY, every_model, families
from ..matrix_lib.hosts.bundle import load as load_bundle
from ..matrix_lib.hosts.comfy.clip_latent import first_latent
from ..matrix_lib.hosts.comfy.first_frame import image_condition
from ..matrix_lib.hosts.comfy.load import Loaded, find_folders, load_folder, load_native
from ..matrix_lib.hosts.comfy.mini import load_mini
from ..matrix_lib.hosts.comfy.model import grid_of
from ..matrix_lib.hosts.comfy.repair import needs_repair, repair
from ..matrix_lib.hosts.comfy.warn import warn
from .checks import Files
from .shown import shown_grid
from .sockets import TracksSocket, check_room

_DTYPES = {
    "default": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}
_VARIANTS = {"automatic": "auto", "1.0 2B": "2b", "1.0 5B": "5b"}
_DYNAMIC_CFG = {"off": "off", "grows over the steps": "steps", "as diffusers and TAViD": "diffusers"}


@dataclass(frozen=True)
class Source:
    """A kind of place that models come from: its widgets, and how its values become models."""

    inputs: Callable[[], list[io.Input]]
    load: Callable[[dict[str, Any], Callable[[float], None]], Loaded]


def _load_mini(values: dict[str, Any], progress: Callable[[float], None]) -> Loaded:
    progress(0.0)
    return load_mini(load_bundle(), _DTYPES[values["weight_dtype"]])


def _folder_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "folder",
            options=Files(find_folders(folder_paths.get_folder_paths("diffusers"))),
            tooltip="A model as Hugging Face keeps it (transformer, vae, text_encoder, ...), under ComfyUI's "
            f"models/diffusers folder. {every_model()}.",
        ),
        io.Boolean.Input(
            "text_encoder",
            default=True,
            tooltip="Off: the folder's text encoder is not opened, and CLIP comes from another loader.",
        ),
        io.Boolean.Input(
            "vae", default=True, tooltip="Off: the folder's VAE is not opened, and VAE comes from another loader."
        ),
    ]


def _load_folder(values: dict[str, Any], progress: Callable[[float], None], references: bool = False) -> Loaded:
    known = find_folders(folder_paths.get_folder_paths("diffusers"))
    if values["folder"] not in known:
        raise ValueError(
            f"the model folder {values['folder']!r} is not on this machine: put the whole diffusers download "
            "(transformer, vae, text_encoder, ...) into ComfyUI/models/diffusers and press R. "
            f"Folders there: {', '.join(known) or 'none'}."
        )
    folder, dtype = known[values["folder"]], _DTYPES[values["weight_dtype"]]
    return load_folder(folder, dtype, values["text_encoder"], values["vae"], progress, references)


def _file_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "file",
            options=Files(folder_paths.get_filename_list("diffusion_models")),
            tooltip="A single file in ComfyUI's own format, from models/diffusion_models. It holds no CLIP and no VAE.",
        )
    ]


def _load_file(values: dict[str, Any], progress: Callable[[float], None]) -> Loaded:
    path = folder_paths.get_full_path("diffusion_models", values["file"] or "")
    if path is None:
        raise ValueError(
            f"the model file {values['file']!r} is not on this machine: put it into ComfyUI/models/diffusion_models "
            "and press R, or choose another one."
        )
    if not path.endswith((".safetensors", ".sft")):
        raise ValueError(f"{values['file']} is no .safetensors file; pickles are not read")
    return load_native(path, _DTYPES[values["weight_dtype"]])


SOURCES: dict[str, Source] = {
    "mini": Source(list, _load_mini),
    "diffusers folder": Source(_folder_inputs, _load_folder),
    "native file": Source(_file_inputs, _load_file),
    # A choice of its own: one more input of a folder would take a saved workflow's value of weight_dtype.
    "diffusers folder, references": Source(_folder_inputs, partial(_load_folder, references=True)),
}
"""Where a model may come from, in the order of the menu."""


class MatrixLoadVideoDiT(io.ComfyNode):
    """A video model from any source, ready to sample."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixLoadVideoDiT",
            display_name="MATRIX Load Video Model",
            category="MATRIX/models",
            description=f"Opens {families()} from a diffusers folder or a native "
            "file, as ComfyUI's own MODEL, CLIP and VAE. CogVideoX comes out repaired, so that it samples as it was "
            "trained. Mini is a small model that comes with this pack, for trying things out on any CPU.",
            search_aliases=[
                "diffusers",
                "mini",
                *(spec.search_name for spec in REGISTRY.values()),
                "load diffusion model",
                "checkpoint",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[io.DynamicCombo.Option(name, source.inputs()) for name, source in SOURCES.items()],
                    tooltip="Where the model comes from. Mini comes with this pack: 17 frames of 128 x 128 pixels, "
                    "coloured shapes only. With references: a folder's transformer_ref, which MiniMax H3 has for clips "
                    "after references, in place of transformer.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(_DTYPES),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="Precision of the transformer's weights. Default: what ComfyUI finds best here.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer. Wan 2.2: the expert for high noise."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder with its tokenizer."),
                io.Vae.Output(display_name="vae", tooltip="The video VAE."),
                io.Model.Output(
                    display_name="low_noise_model",
                    tooltip="Wan 2.2: the expert for low noise, for a second sampler. Elsewhere the same as model.",
                ),
            ],
        )

    @classmethod
    def execute(cls, source: dict[str, Any], weight_dtype: str = "default") -> io.NodeOutput:
        bar = comfy.utils.ProgressBar(1000)

        def progress(share: float) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(int(1000 * share), 1000)

        loaded = SOURCES[source["source"]].load({**source, "weight_dtype": weight_dtype}, progress)
        bar.update_absolute(1000, 1000)
        for note in loaded.notes:
            logging.info("MATRIX: repaired %s: %s", loaded.family, note)
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, loaded.low_noise)


class MatrixRepairModel(io.ComfyNode):
    """The loader's corrections for a MODEL that something else loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixRepairModel",
            display_name="MATRIX Repair CogVideoX",
            category="MATRIX/models",
            description="Puts right what this ComfyUI gets wrong about CogVideoX: the sampler's scale and schedule, "
            "the positions, the image latents and odd clips of 1.5; and about HunyuanVideo with a given first frame. "
            "What is right already passes through.",
            search_aliases=["fix", "noise", "v prediction", "dynamic cfg", "zsnr"],
            inputs=[
                io.Model.Input("model", tooltip="A model from any loader; quantised ones and ones with LoRAs too."),
                io.Combo.Input(
                    "variant",
                    options=list(_VARIANTS),
                    default="automatic",
                    advanced=True,
                    tooltip="Which CogVideoX 1.0 it is. Automatic asks MATRIX Load Video Model where that made it, and "
                    "else goes by the width: 30 attention heads are the 2B.",
                ),
                io.Combo.Input(
                    "dynamic_cfg",
                    options=list(_DYNAMIC_CFG),
                    default="off",
                    advanced=True,
                    tooltip="Guidance that starts at 1 and grows to the sampler's CFG plus 1. 'As diffusers and TAViD' "
                    "repeats what those pipelines compute with use_dynamic_cfg.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The repaired model; the incoming one stays as it was.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, variant: str = "automatic", dynamic_cfg: str = "off") -> io.NodeOutput:
        mended, notes = repair(model, _VARIANTS[variant], _DYNAMIC_CFG[dynamic_cfg])
        text = "\n".join(f"Repaired: {note}" for note in notes) or "Nothing to repair."
        return io.NodeOutput(mended, ui=ui.PreviewText(text))


class MatrixImageCondition(io.ComfyNode):
    """First frame to I2V condition, for every family."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixImageCondition",
            display_name="MATRIX First Frame",
            category="MATRIX/models",
            description="Gives an image-to-video model its first frame, in the way that its family expects: "
            f"{every_model(image=True)}. The picture is cropped around its centre to the clip's shape.",
            search_aliases=["image to video", "i2v", "start image", "first frame", "cogvideox image"],
            inputs=[
                io.Model.Input("model", tooltip="The image-to-video model that will sample; it decides the layout."),
                io.Conditioning.Input("positive", tooltip="The prompt's conditioning."),
                io.Conditioning.Input(
                    "negative", tooltip="The negative prompt's conditioning; it gets the frame as well."
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Image.Input("image", tooltip="The first frame. Of several pictures the first counts."),
                io.Int.Input("width", default=720, min=16, max=8192, step=8, tooltip="Width of the clip in pixels."),
                io.Int.Input("height", default=480, min=16, max=8192, step=8, tooltip="Height of the clip in pixels."),
                io.Int.Input(
                    "length",
                    default=49,
                    min=1,
                    max=4097,
                    step=4,
                    tooltip="Frames of the clip, 4n + 1 (LTX: 8n + 1; MiniMax H3: 17n + 5, here 5, 73, "
                    "141 and so on, from another node any).",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips to make at once."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="Wan 2.1 I2V and HunyuanVideo 1.5 I2V: the first frame through CLIP Vision Encode. Others "
                    "do without.",
                ),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Tracks that say how a picture of another shape becomes the clip's (MATRIX Edit Tracks, "
                    "fit): cropped, stretched or padded. Without them: cropped.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the first frame."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with the first frame."),
                io.Latent.Output(display_name="latent", tooltip="The latent to sample, of the clip's size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        image: torch.Tensor,
        width: int,
        height: int,
        length: int,
        batch_size: int = 1,
        clip_vision_output: Any = None,
        tracks: Any = None,
    ) -> io.NodeOutput:
        check_room(length, height, width)
        for problem in needs_repair(model, first_frame=True):
            warn(f"this model needs MATRIX Repair CogVideoX: {problem}")
        fit = "center" if tracks is None else tracks.fit
        made = image_condition(model, vae, image, width, height, length, batch_size, clip_vision_output, fit)
        positive = node_helpers.conditioning_set_values(positive, made.values)
        negative = node_helpers.conditioning_set_values(negative, made.values)
        grid = grid_of(model, tuple(first_latent(made.latent["samples"]).shape[-3:]))
        return io.NodeOutput(positive, negative, made.latent, ui=shown_grid(grid, fit=fit))


NODES = [MatrixLoadVideoDiT, MatrixRepairModel, MatrixImageCondition]
