"""What is particular to native HunyuanVideo.

Its I2V kind whose first latent frame is given ("replace") has the first frame's tokens modulated as clean ones, without
the guidance. ComfyUI 0.30 adds the guidance to them, too, and in the single blocks, where it puts the text in front,
counts them from the start of the text.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ....backbones.hunyuan_video import SPEC
from ....backbones.weight_names import llama_to_native
from ....core.grid import Grid
from ..weights import Progress, read_weights, told
from .base import Around, Defect, Family, FirstFrameInput, Variant, made_mask, writer_of

__all__ = ["FAMILY", "FirstFrameTokens", "HunyuanVideo"]

KEY = "matrix_repair"
_FIRST_FRAME = "a given first frame (HunyuanVideo I2V, replace) is marked on the wrong tokens"


class HunyuanVideo(Family):
    """HunyuanVideo, and SkyReels on its network."""

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """LLaMA and CLIP-L."""
        states = [
            llama_to_native(read_weights(folder / "text_encoder", "model")),
            read_weights(folder / "text_encoder_2", "model"),
        ]
        with told(folder / "text_encoder"):
            return comfy.sd.load_text_encoder_state_dicts(states, clip_type=comfy.sd.CLIPType.HUNYUAN_VIDEO)

    def defects(self, model: Any, variant: Variant = "auto", first_frame: bool = True) -> list[Defect]:
        """The first frame's tokens, where it is given."""
        return [Defect(_FIRST_FRAME, _mend_first_frame)] if first_frame and _first_frame_wrong(model) else []

    def check(self, network: nn.Module) -> None:
        """The same network also makes pictures, which have no frames."""
        if (writer := writer_of(network)) not in SPEC.native.classes:  # those of what is built on it have other names
            raise self.unfollowed(network, SPEC.native.classes, writer)
        if len(patch := list(network.patch_size)) != 3:
            why = f"its patches of {patch} make pictures, not video"
            raise self.unfollowed(network, SPEC.native.classes, writer, why)

    def around(self, network: nn.Module, grid: Grid, given: Mapping[str, Any]) -> Around:
        """Glyphs (byT5) and a picture beside the prompt, a reference in front of the clip."""
        before_text, after_text, before_clip = 0, 0, 0
        byt5, image, reference = given.get("txt_byt5"), given.get("clip_fea"), given.get("ref_latent")
        if byt5 is not None and getattr(network, "byt5_in", None) is not None:
            if getattr(network, "cond_type_embedding", None) is not None:
                before_text += byt5.shape[1]
            else:
                after_text += byt5.shape[1]
        if image is not None:
            before_text += image.shape[1]
        if reference is not None:
            before_clip = math.prod(-(-a // b) for a, b in zip(reference.shape[-3:], grid.patch))
        return Around(before_text, after_text, before_clip)

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """33 channels: image latent and mask beside the noise. 32 (SkyReels): image latent alone. 16: the first latent
        frame is given and marked as such ("replace")."""
        encoded, channels = vae.encode(first), model.model.diffusion_model.in_channels
        if channels > empty.shape[1]:
            mask = {"concat_mask": made_mask(empty)} if channels == 2 * empty.shape[1] + 1 else {}
            return {"concat_latent_image": encoded, **mask}, {"samples": empty}
        frames = empty.clone()
        frames[:, :, :1] = encoded.to(frames)
        return {"guiding_frame_index": 0}, {"samples": frames, "noise_mask": made_mask(empty)}


def _first_frame_wrong(model: Any) -> bool:
    """Whether the host runs this MODEL wrongly once its first frame is given."""
    network = model.model.diffusion_model
    if type(network).__name__ not in SPEC.native.classes:
        return False
    return not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY) and any(_host_misplaces(network.__class__))


def _mend_first_frame(model: Any) -> None:
    """Puts `FirstFrameTokens` on a clone. It sleeps unless a conditioning carries `guiding_frame_index`."""
    wrapper = FirstFrameTokens(*_host_misplaces(model.model.diffusion_model.__class__))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)


class FirstFrameTokens:
    """DIFFUSION_MODEL wrapper: counts the first frame from behind the text (`tokens`) and keeps the guidance off it
    (`guidance`), by hooks that live for one forward."""

    def __init__(self, tokens: bool = True, guidance: bool = True) -> None:
        self.tokens = tokens
        self.guidance = guidance

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        network = executor.class_obj
        call = inspect.signature(type(network)._forward).bind(network, *args, **kwargs).arguments
        if call.get("guiding_frame_index") is None:
            return executor(*args, **kwargs)
        handles = []
        try:
            if self.tokens:
                for block in network.single_blocks:
                    handles.append(block.register_forward_pre_hook(_behind_text, with_kwargs=True))
            if self.guidance and network.params.guidance_embed:
                handles.append(network.guidance_in.register_forward_hook(_not_first))
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()


def _behind_text(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    dims = kwargs.get("modulation_dims")
    if not dims or len(dims) != 2:
        return None
    text, first = kwargs["transformer_options"]["img_slice"][0], dims[0][1]
    return args, {**kwargs, "modulation_dims": [(0, text, 1), (text, text + first, 0), (text + first, None, 1)]}


def _not_first(embedder: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """(B, D) -> (B, 2, D): nothing for the first frame, the guidance for the rest."""
    return torch.stack([torch.zeros_like(out), out], dim=1)


@lru_cache(maxsize=8)
def _host_misplaces(transformer: Any) -> tuple[bool, bool]:
    """(first-frame tokens, guidance) that the host gets wrong, asked of a tiny network."""
    try:
        network = transformer(
            in_channels=4,
            out_channels=4,
            vec_in_dim=4,
            context_in_dim=4,
            hidden_size=128,
            mlp_ratio=1.0,
            num_heads=1,
            depth=1,
            depth_single_blocks=1,
            axes_dim=[16, 56, 56],
            theta=256,
            patch_size=[1, 2, 2],
            qkv_bias=True,
            guidance_embed=True,
            byt5=False,
            meanflow=False,
            use_cond_type_embedding=False,
            vision_in_dim=None,
            meanflow_sum=False,
            device="cpu",
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
        generator = torch.Generator().manual_seed(0)
        for weight in network.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
        seen: list[dict[str, Any]] = []
        network.single_blocks[0].register_forward_pre_hook(lambda _, args, kw: seen.append(kw), with_kwargs=True)
        for guidance in (1.0, 9.0):
            network(
                torch.zeros(1, 4, 2, 4, 4),
                torch.tensor([0.5]),
                torch.zeros(1, 3, 4),
                y=torch.zeros(1, 4),
                guidance=torch.tensor([guidance]),
                guiding_frame_index=torch.zeros(1),
                transformer_options={},
            )
        (start, _, kind), *_ = seen[0]["modulation_dims"]
        low, high = (kw["vec"][:, 0] for kw in seen)
        return (start, kind) == (0, 0), not torch.allclose(low, high)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        logging.warning("MATRIX: cannot ask this host how it marks HunyuanVideo's first frame (%s)", error)
        return False, False


FAMILY = HunyuanVideo(SPEC)
