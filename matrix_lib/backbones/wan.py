"""Wan 2.1 and 2.2: self-attention over the video, then cross-attention to the text (and, in 2.1 I2V, to the image).

VACE, Animate and SkyReels V2 are built on it. ComfyUI has more such networks: `hosts/comfy/families/wan_parts.py`.
"""

from .spec import BackboneSpec, Blocks, LayerChoice, Stack, TokenSize

SPEC = BackboneSpec(
    name="wan",
    title="Wan",
    versions="2.1 and 2.2",
    native=Blocks(
        ("WanModel",),
        ((Stack("blocks.{}.self_attn", "self"), Stack("blocks.{}.cross_attn", "cross")),),
        text_way="text_embedding",
    ),
    diffusers=Blocks(
        (
            "WanTransformer3DModel",
            "WanVACETransformer3DModel",
            "WanAnimateTransformer3DModel",
            "SkyReelsV2Transformer3DModel",
        ),
        ((Stack("blocks.{}.attn1", "self"), Stack("blocks.{}.attn2", "cross")),),
    ),
    pipelines="Wan|SkyReelsV2",
    text_encoder="umt5",
    text_encoder_titles=("UMT5",),
    clip_loader="CLIPLoader of type wan",
    text_tokens=512,
    flow=True,
    first_frame={"": "masked"},
    id_map="masked",
    variants={"Wan 2.2 5B": TokenSize(spatial_stride=16)},
    channel_strides={48: 16},
    fps={"": 16, "Wan 2.2 5B": 24},
    class_fps={
        "AnimateWanModel": 30,
        "WanAnimateTransformer3DModel": 30,
        "HumoWanModel": 25,
        "WanDancerModel": 30,
        "SkyReelsV2Transformer3DModel": 24,
    },
    option_fps={"audio_embeds": 25},  # InfiniteTalk, whose node counts its sound at 25
    doubted_fps={"WanModel": "SkyReels V2, which ComfyUI takes for Wan 2.1, makes 24"},
    image_beside=True,
    image_values=("v_img", "add_v_proj"),
    input_projection="patch_embedding",
    native_channels=(16, 36, 48),
    head_size=128,
    vae="AutoencoderKLWan",
    vae_limits={"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2},
    choices=(
        LayerChoice(
            40,
            (20, 21, 22, 23, 24),
            (6, 7, 8),
            "MATRIX (arXiv 2510.07310), Wan2.1-I2V-14B; its code trains 20, 24 and 6, 8",
        ),
    ),
)
