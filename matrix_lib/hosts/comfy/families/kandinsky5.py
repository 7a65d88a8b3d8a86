"""What is particular to native Kandinsky 5.

Two things differ from its diffusers pipelines, and are the host's own. ComfyUI 0.30 gives the words as they are before
Qwen2.5-VL's last norm, behind a template that differs in a letter. And it spreads positions by the model's size, where
the pipelines go by the clip's: Lite's agree where both sides are between 480 and 854 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
from torch import Tensor, nn

from ....backbones.kandinsky5 import SPEC
from ....backbones.weight_names import llama_to_native
from ..weights import Progress, check_names, read_json, read_weights, told
from .base import Family, FirstFrameInput, made_mask

__all__ = ["FAMILY", "Kandinsky5"]

# of the configs of the text encoders, what the host reads under the same name
_QWEN = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
_CLIP = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_PARTS = ("qwen25_7b", "clip_l")


class Kandinsky5(Family):
    """Kandinsky 5 video, for text or a picture. A model for text has the same input channels as one for a picture, and
    nothing tells them apart."""

    def check(self, network: nn.Module) -> None:
        """The same network also makes pictures, without channels for a first frame."""
        super().check(network)
        cell, channels = 4, SPEC.native_channels[0]  # latents of a patch
        if (width := getattr(network, "visual_embed_dim", cell * channels)) != cell * channels:
            why = f"with {width} numbers a patch it makes pictures, not video"
            raise self.unfollowed(network, SPEC.native.classes, type(network).__name__, why)

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """Qwen2.5-VL, and CLIP-L for the summary."""
        from comfy.text_encoders import hunyuan_video, kandinsky5

        words = llama_to_native(read_weights(folder / "text_encoder", "model", progress=progress))
        summary = _named(read_weights(folder / "text_encoder_2", "model"))
        with told(folder / "text_encoder"):
            made = comfy.sd.CLIP(
                SimpleNamespace(
                    params={},
                    clip=kandinsky5.te(**hunyuan_video.llama_detect(words)),
                    tokenizer=kandinsky5.Kandinsky5Tokenizer,
                ),
                parameters=sum(comfy.utils.calculate_parameters(state) for state in (words, summary)),
                state_dict=[dict(words), dict(summary)],
                model_options={
                    "qwen25_7b_model_config": _sizes(folder / "text_encoder", _QWEN),
                    "clip_l_model_config": _sizes(folder / "text_encoder_2", _CLIP),
                },
            )
            inside = {name: set(getattr(made.cond_stage_model, name).transformer.state_dict()) for name in _PARTS}
        looks = {name for name in inside["qwen25_7b"] if name.startswith("visual.")}  # no prompt holds a picture
        check_names(folder / "text_encoder", set(words), inside["qwen25_7b"] - looks)
        check_names(folder / "text_encoder_2", set(summary), inside["clip_l"] - {"text_projection.weight"})
        return made

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """The network puts the first latent frame in the place of what is sampled there; so does the sampler in its
        result, by the mask, which the host shows the network, too."""
        frames, encoded = empty.clone(), vae.encode(first)
        frames[:, :, :1] = encoded.to(frames)
        mask = made_mask(empty)
        return {"time_dim_replace": encoded, "concat_mask": mask}, {
            "samples": frames,
            "noise_mask": mask.expand(len(empty), -1, -1, -1, -1),
        }


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP-L by the host's names: transformers 5 saves it without their first word, old files keep counts of places."""
    head = "text_model."
    return {head + name.removeprefix(head): value for name, value in state.items() if not name.endswith("position_ids")}


def _sizes(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    config = config.get("text_config", config)  # where the text model lies inside one that sees
    return {name: config[name] for name in names if name in config}


FAMILY = Kandinsky5(SPEC)
