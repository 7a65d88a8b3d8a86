"""Tiny diffusers transformers of every family with random weights, and their inputs."""

import torch
from support_mochi import SIZES
from support_models import randomize

from matrix_lib.core.grid import Grid

FAMILIES = [
    "cogvideox", "cogvideox15", "wan_t2v", "wan_i2v", "hunyuan", "ltx", "ltx2", "hunyuan15", "wan_vace", "skyreels",
    "kandinsky5", "wan_animate", "cosmos2", "minimax_h3", "mochi", "hunyuan_skyreels",
]  # fmt: skip
LAT = (3, 8, 12)
LTX_LAT = (3, 4, 6)
GLYPHS = (3, 5)  # of each row of HunyuanVideo 1.5, of 8 places
SOUND = 7  # audio tokens
FACE = 16  # pixels of a side of Wan Animate's face video


def build(family):
    """(transformer, forward arguments, grid, text rows) of a tiny random model."""
    torch.manual_seed(1)
    t, h, w = (4, 8, 12) if family == "cogvideox15" else LAT
    g = torch.Generator().manual_seed(2)

    def noise(*shape):
        return torch.randn(shape, generator=g)

    if family.startswith("cogvideox"):
        from diffusers import CogVideoXTransformer3DModel

        extra = {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 32} if family.endswith("15") else {}
        model = CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=64, in_channels=32, out_channels=16, time_embed_dim=32,
            text_embed_dim=64, num_layers=3, sample_width=w, sample_height=h, sample_frames=9,
            use_rotary_positional_embeddings=bool(extra), **extra,
        )  # fmt: skip
        args = dict(hidden_states=noise(2, t, 32, h, w), encoder_hidden_states=noise(2, 226, 64))
        args["timestep"] = torch.tensor([500, 500])
        if extra:
            args["ofs"] = torch.full((1,), 2.0)
            from diffusers.models.embeddings import get_3d_rotary_pos_embed

            args["image_rotary_emb"] = get_3d_rotary_pos_embed(
                64, None, (h // 2, w // 2), t // 2, grid_type="slice", max_size=(h // 2, w // 2)
            )
        return randomize(model), args, Grid.from_latent((t, h, w), (2 if extra else 1, 2, 2)), 226
    if family in ("wan_vace", "wan_animate", "skyreels"):
        return _on_wan(family, noise)
    if family.startswith("wan"):
        from diffusers import WanTransformer3DModel

        i2v = family.endswith("i2v")
        model = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=32, in_channels=36 if i2v else 16, out_channels=16, text_dim=64,
            freq_dim=32, ffn_dim=64, num_layers=3, image_dim=48 if i2v else None, added_kv_proj_dim=64 if i2v else None,
        )  # fmt: skip
        args = dict(hidden_states=noise(2, 36 if i2v else 16, t, h, w), encoder_hidden_states=noise(2, 512, 64))
        args["timestep"] = torch.tensor([500, 500])
        if i2v:
            args["encoder_hidden_states_image"] = noise(2, 257, 48)
        return randomize(model), args, Grid.from_latent((t, h, w)), 512
    if family.startswith("ltx"):
        return _ltx(family, noise)
    if family == "hunyuan15":
        return _hunyuan15(noise)
    if family == "kandinsky5":
        return _kandinsky5(noise)
    if family == "cosmos2":
        return _cosmos2(noise)
    if family == "minimax_h3":
        return _minimax_h3(noise)
    if family == "mochi":
        return _mochi(noise)
    from diffusers import HunyuanVideoTransformer3DModel

    channels = 32 if family == "hunyuan_skyreels" else 16  # with those of a picture
    model = HunyuanVideoTransformer3DModel(
        in_channels=channels, out_channels=16, num_attention_heads=2, attention_head_dim=32, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=64,
        pooled_projection_dim=32, rope_axes_dim=(8, 12, 12), guidance_embeds=True,
    )  # fmt: skip
    keep = torch.ones(2, 40, dtype=torch.long)
    keep[0, 30:] = 0
    args = dict(
        hidden_states=noise(2, channels, t, h, w), encoder_hidden_states=noise(2, 40, 64), encoder_attention_mask=keep,
        pooled_projections=noise(2, 32), guidance=torch.full((2,), 6000.0), timestep=torch.tensor([500, 500]),
    )  # fmt: skip
    return randomize(model), args, Grid.from_latent((t, h, w)), 40


def _on_wan(family, noise):
    """What is built on Wan's network."""
    from diffusers import SkyReelsV2Transformer3DModel, WanAnimateTransformer3DModel, WanVACETransformer3DModel

    sizes = dict(num_attention_heads=2, attention_head_dim=32, in_channels=16, out_channels=16, text_dim=64)
    sizes |= dict(freq_dim=32, ffn_dim=64, num_layers=3)
    args = dict(hidden_states=noise(2, 16, *LAT), encoder_hidden_states=noise(2, 512, 64))
    args["timestep"] = torch.tensor([500, 500])
    if family == "wan_animate":
        t, h, w = LAT
        args["hidden_states"] = noise(2, 36, t + 1, h, w)  # a reference in front
        args |= dict(encoder_hidden_states_image=noise(2, 257, 48), pose_hidden_states=noise(2, 16, *LAT))
        args["face_pixel_values"] = noise(2, 3, 4 * (t - 1) + 1, FACE, FACE)
        model = WanAnimateTransformer3DModel(
            image_dim=48, added_kv_proj_dim=64, inject_face_latents_blocks=3, motion_encoder_size=FACE,
            motion_encoder_channel_sizes={str(size): 4 for size in (4, 8, FACE)}, motion_style_dim=8, motion_dim=4,
            motion_encoder_dim=8, face_encoder_hidden_dim=8, face_encoder_num_heads=2, **sizes | dict(in_channels=36),
        )  # fmt: skip
    elif family == "wan_vace":
        args["control_hidden_states"] = noise(2, 96, *LAT)
        model = WanVACETransformer3DModel(vace_layers=[0, 2], vace_in_channels=96, **sizes)
    else:
        model = SkyReelsV2Transformer3DModel(num_frame_per_block=3, **sizes)  # a mask in every call
    return randomize(model), args, Grid.from_latent(LAT), 512


def _hunyuan15(noise):
    """With a picture, and with glyphs of another length in each row, so that words stand elsewhere in each."""
    from diffusers import HunyuanVideo15Transformer3DModel

    model = HunyuanVideo15Transformer3DModel(
        num_attention_heads=2, attention_head_dim=32, num_layers=3, num_refiner_layers=1, text_embed_dim=64,
        text_embed_2_dim=24, image_embed_dim=20, rope_axes_dim=(8, 12, 12),
    )  # fmt: skip
    args = dict(hidden_states=noise(2, 65, *LTX_LAT), encoder_hidden_states=noise(2, 40, 64))
    args |= dict(encoder_hidden_states_2=noise(2, 8, 24), image_embeds=noise(2, 6, 20))
    args["encoder_attention_mask"] = (torch.arange(40) < torch.tensor([[25], [30]])).float()
    args["encoder_attention_mask_2"] = (torch.arange(8) < torch.tensor(GLYPHS)[:, None]).float()
    args["timestep"] = torch.tensor([500.0, 500.0])
    return randomize(model), args, Grid.from_latent(LTX_LAT, (1, 1, 1), 4, 16), 40


def _kandinsky5(noise):
    from diffusers import Kandinsky5Transformer3DModel

    model = Kandinsky5Transformer3DModel(
        in_visual_dim=16, out_visual_dim=16, in_text_dim=64, in_text_dim2=24, time_dim=32, model_dim=64, ff_dim=64,
        num_text_blocks=1, num_visual_blocks=3, axes_dims=(8, 12, 12), visual_cond=True,
    )  # fmt: skip
    t, h, w = LAT
    args = dict(hidden_states=noise(2, t, h, w, 33), encoder_hidden_states=noise(2, 40, 64))
    args |= dict(pooled_projections=noise(2, 24), timestep=torch.tensor([500.0, 500.0]))
    args |= dict(visual_rope_pos=[torch.arange(n) for n in (t, h // 2, w // 2)], text_rope_pos=torch.arange(40))
    return randomize(model), args, Grid.from_latent(LAT), 40


def _cosmos2(noise):
    """With a first frame that is given."""
    from diffusers import CosmosTransformer3DModel

    model = CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=2, attention_head_dim=16, num_layers=3, text_embed_dim=64,
        adaln_lora_dim=16, max_size=(8, 32, 32), rope_scale=(1.0, 3.0, 3.0), extra_pos_embed_type=None,
    )  # fmt: skip
    t, h, w = LAT
    args = dict(hidden_states=noise(2, 16, *LAT), encoder_hidden_states=noise(2, 512, 64), fps=16)
    args |= dict(condition_mask=torch.zeros(2, 1, *LAT), padding_mask=torch.zeros(1, 1, h * 8, w * 8))
    args["condition_mask"][:, :, 0] = 1.0
    args["timestep"] = torch.full((2, 1, t, 1, 1), 0.8)
    args["timestep"][:, :, 0] = 1e-4
    return randomize(model), args, Grid.from_latent(LAT), 512


def _minimax_h3(noise):
    """With a first frame, which the text encoder has seen as well: rows of that stand in front of 40 words."""
    from diffusers import MiniMaxH3Transformer3DModel
    from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3PrepareLayoutStep

    model = MiniMaxH3Transformer3DModel(
        num_attention_heads=2, attention_head_dim=32, hidden_size=48, num_layers=3, num_refiner_layers=1, ffn_dim=64,
        text_dim=64, freq_dim=16, time_embed_hidden_dim=32, time_embed_dim=24, rope_freq_dim=4,
    )  # fmt: skip
    tags = torch.tensor([0] * 5 + [1] * 40)
    packed = MiniMaxH3PrepareLayoutStep.build_packed_sequence(tags, *LAT, SOUND, (1, 2, 2), 2, 2, 0, ("first",))
    names = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
    args = dict(zip(names, packed)) | dict(encoder_hidden_states=noise(2, len(tags), 64))
    args |= dict(hidden_states=noise(2, len(packed[2]), 96), audio_hidden_states=noise(2, 2 * SOUND, 32))
    args |= dict(timestep=torch.tensor([0.3, 0.6]), timestep_indices=(packed[1] == 2).long())
    return randomize(model), args, Grid.from_latent(LAT, spatial_stride=16, cycle=5), 40


def _mochi(noise):
    """With words of another number in each row."""
    from diffusers import MochiTransformer3DModel

    model = MochiTransformer3DModel(num_layers=3, **SIZES)
    args = dict(hidden_states=noise(2, 12, *LAT), encoder_hidden_states=noise(2, 40, 64))
    args["encoder_attention_mask"] = torch.arange(40) < torch.tensor([[25], [30]])
    args["timestep"] = torch.tensor([500.0, 500.0])
    return randomize(model), args, Grid.from_latent(LAT, (1, 2, 2), 6), 40


def _ltx(family, noise):
    from diffusers import LTX2VideoTransformer3DModel, LTXVideoTransformer3DModel

    sizes = dict(num_attention_heads=2, attention_head_dim=32, cross_attention_dim=64, num_layers=3)
    (t, h, w), length = LTX_LAT, 128 if family == "ltx" else 64
    args = dict(hidden_states=noise(2, t * h * w, 128), encoder_hidden_states=noise(2, length, 48))
    args |= dict(num_frames=t, height=h, width=w, timestep=torch.tensor([500.0, 500.0]))
    keep = (torch.arange(length) < 30).float()[None].repeat(2, 1)
    grid = Grid.from_latent(LTX_LAT, (1, 1, 1), 8, 32)
    if family == "ltx":
        model = LTXVideoTransformer3DModel(caption_channels=48, **sizes)
        args |= dict(encoder_attention_mask=keep, rope_interpolation_scale=(8 / 25, 32, 32))
        return randomize(model), args, grid, length
    model = LTX2VideoTransformer3DModel(
        caption_channels=48, audio_num_attention_heads=2, audio_attention_head_dim=16, audio_cross_attention_dim=32,
        gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True, rope_type="split",
        perturbed_attn=True, **sizes,
    )  # fmt: skip
    args |= dict(
        audio_hidden_states=noise(2, SOUND, 128), audio_encoder_hidden_states=noise(2, length, 48),
        audio_num_frames=SOUND, sigma=torch.tensor([500.0, 500.0]), use_cross_timestep=True,
    )  # fmt: skip
    return randomize(model), args, grid, length


def forward(model, args):
    with torch.no_grad():
        made = model(**args, return_dict=False)
        return made if isinstance(made, torch.Tensor) else made[0]
