"""What is particular to native HunyuanVideo 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
from torch import Tensor

from ....backbones.hunyuan_video15 import SPEC
from ....backbones.weight_names import llama_to_native, t5_to_native
from ..weights import Progress, check_names, read_json, read_weights, told
from .base import Defect, FirstFrameInput, Variant, made_mask, no_image
from .hunyuan_video import HunyuanVideo

__all__ = ["FAMILY", "HunyuanVideo15"]

# of the configs of the text encoders, what the host reads under the same name
_QWEN = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
_BYT5 = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size", "relative_attention_num_buckets")


class HunyuanVideo15(HunyuanVideo):
    """HunyuanVideo 1.5 on HunyuanVideo's network. Picture and glyphs stand in front of the words. A model for text has
    the same input channels as one for a picture, and nothing tells them apart."""

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """Qwen2.5-VL, and the byT5 that reads glyphs."""
        from comfy.text_encoders import hunyuan_image, hunyuan_video

        words = llama_to_native(read_weights(folder / "text_encoder", "model", progress=progress))
        glyphs = t5_to_native(read_weights(folder / "text_encoder_2", "model"))
        options = {
            "qwen25_7b_model_config": _sizes(folder / "text_encoder", _QWEN),
            "_model_config": _sizes(folder / "text_encoder_2", _BYT5),  # the host gives byT5 no name
        }
        with told(folder / "text_encoder"):
            made = comfy.sd.CLIP(
                SimpleNamespace(
                    params={},
                    clip=hunyuan_image.te(**hunyuan_video.llama_detect(words)),
                    tokenizer=hunyuan_video.HunyuanVideo15Tokenizer,
                ),
                parameters=sum(comfy.utils.calculate_parameters(state) for state in (words, glyphs)),
                state_dict=[dict(words), dict(glyphs)],
                model_options=options,
            )
            inside = {name: set(getattr(made.cond_stage_model, name).transformer.state_dict()) for name in _PARTS}
        looks = {name for name in inside["qwen25_7b"] if name.startswith("visual.")}  # no prompt holds a picture
        check_names(folder / "text_encoder", set(words), inside["qwen25_7b"] - looks)
        check_names(folder / "text_encoder_2", set(glyphs), inside["byt5_small"])
        return made

    def defects(self, model: Any, variant: Variant = "auto", first_frame: bool = True) -> list[Defect]:
        """None: its first frame goes in by channels of its own."""
        return []

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """Beside the noise its latents, zeros behind them, and which frame is given. The upscaler takes a whole clip
        there."""
        if model.model.diffusion_model.in_channels not in self.spec.native_channels:
            raise no_image(self.spec.title)
        frames = empty.clone()
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {"concat_latent_image": frames, "concat_mask": made_mask(empty)}, {"samples": empty}


_PARTS = ("qwen25_7b", "byt5_small")


def _sizes(folder: Path, names: tuple[str, ...]) -> Mapping[str, Any]:
    config = read_json(folder / "config.json")
    return {name: config[name] for name in names if name in config}


FAMILY = HunyuanVideo15(SPEC)
