"""Tiny native ComfyUI models with random weights, loaded through the host's own loader. Needs the `comfy` fixture.

Free dimensions are small; fixed by the host: head sizes (CogVideoX 64, Wan and HunyuanVideo 128), Wan's 4096-wide
words, 16 latent channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FAMILIES = ("cogvideox", "cogvideox15", "wan_t2v", "wan_i2v", "hunyuan")
LATENT = (3, 8, 12)  # T, H, W: 72 tokens; CogVideoX 1.5 takes 4 frames


def _random(net: nn.Module, seed: int, std: float) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in net.state_dict().items():
        noise = torch.randn(value.shape, generator=g)
        out[name] = 1 + 0.1 * noise if name.endswith("weight") and value.ndim == 1 else std * noise
    return out


def native_state(family: str, layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """A random native state dict of a family."""
    import comfy.ops
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel
    from comfy.ldm.hunyuan_video.model import HunyuanVideo
    from comfy.ldm.wan.model import WanModel

    ops = {"device": "cpu", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    if family.startswith("cogvideox"):
        new = family.endswith("15")
        return _random(
            CogVideoXTransformer3DModel(
                num_attention_heads=2, attention_head_dim=64, in_channels=32, out_channels=16, time_embed_dim=32,
                ofs_embed_dim=32 if new else None, text_embed_dim=64, num_layers=layers,
                patch_size_t=2 if new else None, use_rotary_positional_embeddings=True, **ops,
            ), seed, 0.05,
        )  # fmt: skip
    if family.startswith("wan"):
        kind = family.removeprefix("wan_")
        return _random(
            WanModel(
                model_type=kind, in_dim=16 if kind == "t2v" else 36, dim=256, ffn_dim=64, num_heads=2,
                num_layers=layers, **ops,
            ), seed, 0.02,
        )  # fmt: skip
    return _random(
        HunyuanVideo(
            image_model="hunyuan_video", in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=64,
            hidden_size=256, mlp_ratio=4.0, num_heads=2, depth=layers - 1, depth_single_blocks=1,
            axes_dim=[16, 56, 56], theta=256, patch_size=[1, 2, 2], qkv_bias=True, guidance_embed=True, byt5=False,
            meanflow=False, use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False, **ops,
        ), seed, 0.05,
    )  # fmt: skip


def native_model(family: str, layers: int = 2, seed: int = 0) -> Any:
    """A random native MODEL of a family."""
    import comfy.sd

    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(
            native_state(family, layers, seed), model_options={"dtype": torch.float32}
        )
    assert model is not None, f"the host does not recognise {family}"
    return model


class ClipVision:
    """The one thing that the host reads off a CLIP vision output for Wan I2V."""

    def __init__(self, seed: int = 9) -> None:
        self.penultimate_hidden_states = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(seed))


def text_rows(family: str) -> int:
    return {"cogvideox": 226, "cogvideox15": 226, "wan_t2v": 512, "wan_i2v": 512, "hunyuan": 40}[family]


def latent(family: str, batch: int = 1, size: tuple[int, int, int] | None = None) -> Tensor:
    t, h, w = size or ((4, 8, 12) if family == "cogvideox15" else LATENT)
    return torch.zeros(batch, 16, t, h, w)


def conditioning(family: str, seed: int, size: tuple[int, int, int] | None = None, rows: int = 0, **more: Any) -> list:
    """A random CONDITIONING of a family, with whatever else its forward needs."""
    g = torch.Generator().manual_seed(seed)
    width = 4096 if family.startswith("wan") else 64
    shape = tuple(latent(family, 1, size).shape)
    extra: dict[str, Any] = dict(more)
    if family.startswith("cogvideox") or family == "wan_i2v":
        extra["concat_latent_image"] = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if family == "wan_i2v":
        mask = torch.ones(1, 1, *shape[2:])
        mask[:, :, :1] = 0
        extra.update(concat_mask=mask, clip_vision_output=ClipVision())
    if family == "hunyuan":
        extra.update(pooled_output=torch.randn(1, 768, generator=g), guidance=6.0)
    return [[torch.randn(1, rows or text_rows(family), width, generator=g), extra]]


def sample(
    model: Any,
    positive: list,
    negative: list,
    latent_image: Tensor,
    steps: int = 2,
    cfg: float = 6.0,
    seed: int = 7,
    sampler: str = "euler",
    scheduler: str = "simple",
    callback: Any = None,
) -> Tensor:
    """The host's own KSampler path, under inference mode as the host runs nodes."""
    import comfy.sample

    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latent_image, seed)
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent_image, denoise=1.0,
            callback=callback, disable_pbar=True, seed=seed,
        )  # fmt: skip
