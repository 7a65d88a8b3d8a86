"""Nodes that put an alignment LoRA on a native model, and give its extra input channels their mask."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..matrix_lib.backbones import families
from ..matrix_lib.core.tracks.conditions import find_targets
from ..matrix_lib.hosts.bundle import example_loras
from ..matrix_lib.hosts.comfy.lora import add_extra, apply_lora, widened
from ..matrix_lib.hosts.comfy.mask_condition import behind_references, check_width, id_map, target_mask
from ..matrix_lib.hosts.comfy.model import backbone_of
from ..matrix_lib.io.lora.read import describe, files_of, load_lora
from .checks import Files
from .sockets import TracksSocket, start_frame

_PICTURE = {"automatic": "", "as the model has it": "on", "off": "off"}
_KINDS = {"automatic": "", "ID map": "id_map", "target mask": "target_mask"}


def _files() -> list[str]:
    """LoRA files of the `loras` folders, then mini's own; projections that lie beside a LoRA are read with it."""
    names = folder_paths.get_filename_list("loras")
    own = [n for n in names if n.endswith((".safetensors", ".sft")) and not n.endswith(".projection.safetensors")]
    return own + [name for name in example_loras() if name not in own]


def _find(name: str) -> Path | None:
    """The file of a name in the menu. A person's own file goes before one of ours that is called the same."""
    path = folder_paths.get_full_path("loras", name)
    return Path(path) if path else example_loras().get(name)


def _missing(name: str) -> str:
    """What to do about a LoRA that a workflow names and this machine lacks."""
    return (
        f"the LoRA {name!r} is not on this machine: put the file into ComfyUI/models/loras and press R, "
        "or choose another one"
    )


class MatrixApplyLoRA(io.ComfyNode):
    """A LoRA of any format on a native MODEL, widened input included."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixApplyLoRA",
            display_name="MATRIX Apply LoRA",
            category="MATRIX/lora",
            description=f"Puts a MATRIX or TAViD LoRA on a {families()} model: the "
            "attention weights, and the wider input that reads the ID map or the target mask. Says what matched, and "
            "fails where nothing does. Other LoRAs may come before or behind it.",
            search_aliases=[
                "lora",
                "lora loader",
                "matrix",
                "interaction",
                "who does what",
                "wan lora",
                "tavid",
                "alignment",
                "target",
                "peft",
                "diffusers lora",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that the LoRA was trained on; it stays as it was."),
                io.Combo.Input(
                    "lora",
                    options=Files(_files()),
                    tooltip="A file of models/loras: ours, diffusers or peft, ComfyUI, the MATRIX authors' checkpoint, "
                    "or TAViD's pytorch_lora_weights with patch_embed_conv2d.pth in the same folder. mini_matrix and "
                    "mini_tavid come with this pack, for mini.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How strongly the LoRA acts, on top of its own scale. At 0 the model is as it was.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Scale (alpha / rank) of a file that stores none; 0 takes that of its authors where they "
                    "are known (MATRIX 0.5), else 1.0. A stored scale always wins.",
                ),
                io.Combo.Input(
                    "image_attention",
                    options=list(_PICTURE),
                    default="automatic",
                    optional=True,
                    advanced=True,
                    tooltip="Wan 2.1 I2V: its cross-attention to the picture. The MATRIX authors' code has it off, "
                    "ComfyUI always runs it. Automatic: as the LoRA was trained; off for the authors' checkpoint.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(
                    display_name="report", tooltip="What the file is, what matched, the scale, and the prompt it wants."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        return lora is None or _find(lora) is not None or _missing(lora)

    @classmethod
    def fingerprint_inputs(cls, lora: str, **kwargs: Any) -> Any:
        path = _find(lora)
        if path is None:
            return lora, None
        stats = [
            file.stat() if file.is_file() else None for file in files_of(path)
        ]  # the projection's file counts, too
        return lora, *((s.st_mtime_ns, s.st_size) if s is not None else None for s in stats)

    @classmethod
    def execute(
        cls, model: Any, lora: str, strength: float = 1.0, scale: float = 0.0, image_attention: str = "automatic"
    ) -> io.NodeOutput:
        family = backbone_of(model).name
        path = _find(lora)
        if path is None:
            raise ValueError(_missing(lora))
        loaded = load_lora(path, family, scale or None)
        patched, applied = apply_lora(model, loaded, strength, _PICTURE[image_attention])
        report = f"{describe(loaded)}\n{applied}"
        return io.NodeOutput(patched, report, ui=ui.PreviewText(report))


class MatrixMaskCondition(io.ComfyNode):
    """Tracks to the mask channels of a widened model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixMaskCondition",
            display_name="MATRIX Mask Condition",
            category="MATRIX/lora",
            description="Gives a model with a MATRIX or TAViD LoRA the mask that it was trained to read: the ID map, a "
            "picture of all instances in their colours, or the mask of the target. Both conditionings get it.",
            search_aliases=["id map", "target mask", "tavid", "matrix", "mask conditioning", "concat"],
            inputs=[
                io.Model.Input("model", tooltip="The model from MATRIX Apply LoRA; it decides what it needs."),
                io.Conditioning.Input("positive", tooltip="The prompt's conditioning, with the first frame on it."),
                io.Conditioning.Input("negative", tooltip="The negative prompt's conditioning; it gets the mask too."),
                TracksSocket.Input("tracks", tooltip="Masks of the instances in the first frame."),
                io.Latent.Input("latent", tooltip="The latent that goes to the sampler, for its size."),
                io.Combo.Input(
                    "kind",
                    options=list(_KINDS),
                    default="automatic",
                    tooltip="ID map: MATRIX, needs the VAE. Target mask: TAViD. Automatic takes what the LoRA on the "
                    "model was trained with.",
                ),
                io.String.Input(
                    "target",
                    default="",
                    tooltip="Target mask: names of the instances, separated by commas. Empty takes those in the role "
                    "of the object, or the only one.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the model; for the ID map."),
                io.Mask.Input(
                    "grey_mask",
                    optional=True,
                    advanced=True,
                    tooltip="Target mask: the first frame's mask with its grey values, in place of the tracks' own, "
                    "as the TAViD authors' code reads it. Of the tracks' size. Of several the one at start_frame.",
                ),
                start_frame(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the mask."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with the mask."),
                io.Image.Output(display_name="picture", tooltip="The mask as the model sees it, cropped as the frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        tracks: Any,
        latent: dict[str, torch.Tensor],
        kind: str = "automatic",
        target: str = "",
        vae: Any = None,
        grey_mask: torch.Tensor | None = None,
        start_frame: int = 0,
    ) -> io.NodeOutput:
        tracks = tracks.starting(start_frame)
        wide = widened(model)
        wanted = _KINDS[kind] or (wide.condition if wide is not None else "")
        if not wanted:
            raise ValueError("this MODEL carries no widening LoRA: put MATRIX Apply LoRA in front, or choose the kind")
        if wanted == "target_mask":
            stride = model.get_model_object("latent_format").spacial_downscale_ratio
            grey = None if grey_mask is None else _at(grey_mask, start_frame)
            make = partial(target_mask, tracks, find_targets(tracks, target), stride=stride, grey=grey)
        elif grey_mask is not None:
            raise ValueError("a grey mask is a target mask (TAViD), and this LoRA reads the ID map: disconnect it")
        elif vae is None:
            raise ValueError("the ID map is encoded by the model's VAE: connect it")
        else:
            palette = wide.info.palette if wide is not None else ()
            make = partial(id_map, model, vae, tracks, palette=palette)
        made = behind_references(make, model, (positive, negative), latent["samples"])
        check_width(made, wide)
        both = [add_extra(side, made.channels) for side in (positive, negative)]
        return io.NodeOutput(*both, made.picture, ui=ui.PreviewImage(made.picture, cls=cls))


def _at(masks: torch.Tensor, frame: int) -> torch.Tensor:
    """(rows, columns) of a MASK of a clip's frames, or of the one frame that is meant."""
    every = masks.reshape(-1, *masks.shape[-2:])
    if len(every) > 1 and frame >= len(every):
        raise ValueError(f"grey_mask has {len(every)} masks, and start_frame is {frame}: give those of the whole clip")
    return every[frame if len(every) > 1 else 0].cpu()


NODES = [MatrixApplyLoRA, MatrixMaskCondition]
