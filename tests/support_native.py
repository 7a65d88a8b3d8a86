"""Tiny native ComfyUI models with random weights, loaded through the host's own loader. Needs the `comfy` fixture.

Free dimensions are small; fixed by the host: head sizes (CogVideoX 64, Wan and HunyuanVideo 128), Wan's 4096-wide
words and Kandinsky 5's 3584-wide ones, 16 latent channels, HunyuanVideo 1.5's 32 with a picture 1152 wide. LTX has 128,
and LTX-2's audio 8 channels of 16 bands. Cosmos Predict 2 has 16 heads, and
MiniMax H3 24 channels, 32 of two sides of sound, and heads of 128.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from support_mochi import native_network
from torch import Tensor, nn

FAMILIES = ("cogvideox", "cogvideox15", "wan_t2v", "wan_i2v", "hunyuan", "ltx", "ltx2", "hunyuan15", "kandinsky5",
            "cosmos2", "minimax_h3", "mochi")  # fmt: skip
REFERENCES = "minimax_h3 references"  # the same network, with a picture, a video and sounds before the clip
SKYREELS = "hunyuan_skyreels"  # HunyuanVideo's network with a picture beside the noise: where tests name it
LATENT = (3, 8, 12)  # T, H, W: 72 tokens; CogVideoX 1.5 takes 4 frames
LTX_LATENT = (3, 4, 6)  # 72 tokens, too
SOUND = 7  # audio tokens
PICTURE = 4  # tokens in front of the words of HunyuanVideo 1.5; `test_hunyuan_video15.py` has glyphs, too
_FEW = ("ltx", "hunyuan15")  # families whose tokens are large
_LTX = {
    "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64, "caption_channels": 48,
}  # fmt: skip
_LTX2 = {
    "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64, "caption_channels": 64,
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 32,
    "connector_num_attention_heads": 2, "connector_attention_head_dim": 32, "connector_num_layers": 1,
    "rope_type": "split",
    "use_middle_indices_grid": True, "causal_temporal_positioning": True,
}  # fmt: skip
MINIMAX = {
    "hidden_size": 64, "token_refiner_num_layers": 1, "num_attention_heads": 2, "ffn_hidden_size": 64, "text_dim": 48,
    "timestep_input_dim": 16, "time_embed_hidden_size": 32, "time_embed_dim": 24,
}  # fmt: skip
_LTX23 = {
    "apply_gated_attention": True, "connector_apply_gated_attention": True, "cross_attention_adaln": True,
    "caption_proj_before_connector": True, "caption_projection_first_linear": False,
    "audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 16, "caption_channels": 96,
}  # fmt: skip
"""What 2.3 added to 2.0: gates, modulated words, projections in the text encoder."""


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
    if family.startswith("ltx"):
        return _ltx_state(family, layers, seed, ops)
    if family == "kandinsky5":
        from comfy.ldm.kandinsky5.model import Kandinsky5

        net = Kandinsky5(model_dim=128, time_dim=32, ff_dim=64, num_text_blocks=1, num_visual_blocks=layers, **ops)
        return _random(net, seed, 0.05)
    if family == "cosmos2":
        return _random(_cosmos2(ops), seed, 0.05)
    if family.startswith("minimax"):
        from comfy.ldm.minimax.model import MiniMaxH3Model

        state = _random(MiniMaxH3Model(num_layers=layers, **MINIMAX, **ops), seed, 0.1)
        return {**state, "rope.inv_freq": 10000.0 ** -(torch.arange(16) / 16)}
    if family == "mochi":
        return _random(native_network(layers, ops), seed, 0.05)
    new = family == "hunyuan15"
    kind: dict[str, Any] = {
        "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "depth": layers, "depth_single_blocks": 0,
        "patch_size": [1, 1, 1], "guidance_embed": False, "byt5": False, "use_cond_type_embedding": True,
        "vision_in_dim": 1152, "meanflow_sum": True,
    } if new else {
        "in_channels": 32 if family == SKYREELS else 16, "out_channels": 16, "vec_in_dim": 768,
        "depth": layers - 1, "depth_single_blocks": 1,
        "patch_size": [1, 2, 2], "guidance_embed": True, "byt5": False, "use_cond_type_embedding": False,
        "vision_in_dim": None, "meanflow_sum": False,
    }  # fmt: skip
    return _random(
        HunyuanVideo(
            image_model="hunyuan_video", context_in_dim=64, hidden_size=256, mlp_ratio=4.0, num_heads=2,
            axes_dim=[16, 56, 56], theta=256, qkv_bias=True, meanflow=False, **kind, **ops,
        ), seed, 0.05,
    )  # fmt: skip


def _cosmos2(ops: dict[str, Any]) -> nn.Module:
    """As the host builds it off its weights."""
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    return MiniTrainDIT(
        max_img_h=240, max_img_w=240, max_frames=128, in_channels=17, out_channels=16, patch_spatial=2,
        patch_temporal=1, model_channels=192, num_blocks=10, num_heads=16, crossattn_emb_channels=1024,
        pos_emb_cls="rope3d", use_adaln_lora=True, adaln_lora_dim=256, **ops,
    )  # fmt: skip


def ltx_config(family: str) -> dict[str, Any]:
    """What the header of an LTX file says of its network: "ltx", "ltx20", "ltx2" (which is 2.3)."""
    return _LTX if family == "ltx" else _LTX2 if family == "ltx20" else {**_LTX2, **_LTX23}


def _ltx_state(family: str, layers: int, seed: int, ops: dict[str, Any]) -> dict[str, Tensor]:
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.ldm.lightricks.model import LTXVModel

    net = LTXVModel if family == "ltx" else LTXAVModel
    state = _random(net(num_layers=layers, **ltx_config(family), **ops), seed, 0.1)
    return state


def native_model(family: str, layers: int = 2, seed: int = 0) -> Any:
    """A random native MODEL of a family."""
    import comfy.sd

    said = {"config": json.dumps({"transformer": ltx_config(family)})} if family.startswith("ltx") else None
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(
            native_state(family, layers, seed), model_options={"dtype": torch.float32}, metadata=said
        )
    assert model is not None, f"the host does not recognise {family}"
    if family == "cosmos2":  # of whose blocks the host counts 10
        del model.model.diffusion_model.blocks[layers:]
    return model


class ClipVision:
    """The one thing that the host reads off a CLIP vision output for Wan I2V. A real one has 257 tokens, as
    `test_load.py` has them."""

    def __init__(self, seed: int = 9) -> None:
        self.penultimate_hidden_states = torch.randn(1, 33, 1280, generator=torch.Generator().manual_seed(seed))


class Seen:
    """The one thing that the host reads off a CLIP vision output for HunyuanVideo 1.5."""

    def __init__(self, seed: int = 9) -> None:
        self.last_hidden_state = torch.randn(1, PICTURE, 1152, generator=torch.Generator().manual_seed(seed))


def text_rows(family: str) -> int:
    """Rows of a conditioning. LTX-2's connectors make 1024 of them. Wan's text encoder gives 512, as `test_load.py` has
    them; its network takes any number, and 512 of 4096 numbers each would take longer than all the rest of it."""
    rows = {"cogvideox": 226, "cogvideox15": 226, "wan_t2v": 64, "wan_i2v": 64, "hunyuan": 40, SKYREELS: 40, "ltx": 128}
    return 512 if family == "cosmos2" else rows.get(family, 32)


def strides(family: str) -> tuple[int, int]:
    """Pixel frames a latent frame, pixels a latent element."""
    special = {"hunyuan15": (4, 16), "minimax_h3": (4, 16), REFERENCES: (4, 16), "mochi": (6, 8)}
    return (8, 32) if family.startswith("ltx") else special.get(family, (4, 8))


def patch(family: str) -> tuple[int, int, int]:
    """Latents (time, rows, columns) of a token."""
    return (1, 1, 1) if family.startswith(_FEW) else (2 if family == "cogvideox15" else 1, 2, 2)


def channels(family: str) -> int:
    """Of a latent."""
    few = {"hunyuan15": 32, "minimax_h3": 24, REFERENCES: 24, "mochi": 12}
    return 128 if family.startswith("ltx") else few.get(family, 16)


def pixels(family: str, size: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """(frames, height, width) of the clip whose latent is of this size."""
    (t, h, w), (time, space) = clip_size(family, size), strides(family)
    return (t - 1) * time + 1, h * space, w * space


def clip_size(family: str, size: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """(T, H, W) of a clip's latent."""
    return size or ((4, 8, 12) if family == "cogvideox15" else LTX_LATENT if family.startswith(_FEW) else LATENT)


def latent(family: str, batch: int = 1, size: tuple[int, int, int] | None = None) -> Any:
    """An empty latent; of LTX-2 and MiniMax H3 with sound beside the clip, as the host keeps both."""
    clip = torch.zeros(batch, channels(family), *clip_size(family, size))
    return with_sound(clip) if family.startswith(("ltx2", "minimax")) else clip


def with_sound(clip: Tensor, tokens: int = SOUND) -> Any:
    """A latent of clip and sound."""
    from comfy.nested_tensor import NestedTensor

    sound = (8, tokens, 16) if clip.shape[1] == 128 else (32, 2, tokens)
    return NestedTensor([clip, torch.zeros(len(clip), *sound)])


def clip_of(family: str, x: Tensor, size: tuple[int, int, int] | None = None) -> Tensor:
    """The clip (B, C, T, H, W) in what a sampler holds."""
    if x.ndim == 5:
        return x
    shape = (channels(family), *clip_size(family, size))
    return x.flatten(1)[:, : torch.Size(shape).numel()].unflatten(1, shape)


def rate(family: str) -> float:
    """Frames per second that a clip has where nobody says: of LTX-2 those that the host tells the network."""
    rates = {"wan_t2v": 16, "wan_i2v": 16, "cogvideox": 8, "cogvideox15": 16, "ltx": 25, "ltx2": 25, "cosmos2": 16,
             "mochi": 30}  # fmt: skip
    return float(rates.get(family, 24))


def clip_part(samples: Any) -> Tensor:
    """The clip's latent of a LATENT's samples."""
    return samples.unbind()[0] if samples.is_nested else samples


def flat(samples: Any) -> Tensor:
    """All of a latent in one tensor."""
    if not samples.is_nested:
        return samples
    return torch.cat([part.flatten(1) for part in samples.unbind()], 1)


def references(seed: int = 3) -> list[dict[str, Any]]:
    """What MiniMax H3 is given by its reference node: a picture, a video with its sound, and a sound."""
    g = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=g)

    return [
        {"kind": "image", "latent_h": 4, "latent_w": 4, "latent": made(24, 1, 4, 4)},
        {"kind": "video_audio", "latent_t": 2, "latent_h": 2, "latent_w": 4, "ref_audio_t": 3,
         "latent": made(24, 2, 2, 4), "audio_latent": made(32, 2, 3)},
        {"kind": "audio", "ref_audio_t": 2, "audio_latent": made(32, 2, 2)},
    ]  # fmt: skip


def conditioning(family: str, seed: int, size: tuple[int, int, int] | None = None, rows: int = 0, **more: Any) -> list:
    """A random CONDITIONING of a family, with whatever else its forward needs."""
    g = torch.Generator().manual_seed(seed)
    widths = {"ltx": 48, "ltx2": 96, "ltx20": 64, "kandinsky5": 3584, "cosmos2": 1024, "minimax_h3": 48}
    widths[REFERENCES] = 48
    width = 4096 if family.startswith("wan") else widths.get(family, 64)
    shape = (1, channels(family), *clip_size(family, size))
    extra: dict[str, Any] = dict(more)
    if family.startswith("cogvideox") or family == "wan_i2v":
        extra["concat_latent_image"] = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if family in ("wan_i2v", "kandinsky5", "cosmos2"):
        mask = torch.ones(1, 1, *shape[2:])
        mask[:, :, :1] = 0
        extra["concat_mask"] = mask
    if family == "wan_i2v":
        extra["clip_vision_output"] = ClipVision()
    if family == "mochi":  # of one length, as words of another are no batch
        count = rows or text_rows(family)
        extra.setdefault("attention_mask", (torch.arange(count) < min(count - 3, 25)).long()[None])
    if family == "ltx":
        extra.setdefault("attention_mask", (torch.arange(rows or text_rows(family)) < 30).long()[None])
    if family.startswith("ltx2"):
        extra.setdefault("unprocessed_ltxav_embeds", True)
    if family == "hunyuan15":
        extra |= {"clip_vision_output": Seen(), "pooled_output": None}
    if family == "kandinsky5":
        first = torch.randn(*shape[:2], 1, *shape[3:], generator=torch.Generator().manual_seed(3))
        extra.update(pooled_output=torch.randn(1, 768, generator=g), time_dim_replace=first)
    if family == "minimax_h3":  # a first frame
        first = torch.randn(*shape[:2], 1, *shape[3:], generator=torch.Generator().manual_seed(3))
        extra.setdefault("minimax_keyframes", [{"resolved_frame_index": 0, "latent": first}])
    if family == REFERENCES:
        extra["minimax_refs"] = references()
    if family == SKYREELS:
        first = torch.randn(*shape[:2], 1, *shape[3:], generator=torch.Generator().manual_seed(3))
        extra["concat_latent_image"] = first
    if family in ("hunyuan", SKYREELS):
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
    noise_mask: Any = None,
) -> Tensor:
    """The host's own KSampler path, under inference mode as the host runs nodes. Sound lies behind the clip, flat."""
    import comfy.sample

    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latent_image, seed)
        return flat(comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent_image, denoise=1.0,
            callback=callback, disable_pbar=True, seed=seed, noise_mask=noise_mask,
        ))  # fmt: skip
