"""CogVideoX 1.0 (2B, 5B; T2V, I2V) and 1.5: one joint attention a block, text in front."""

from .spec import BackboneSpec, Blocks, LayerChoice, Stack, TokenSize

SPEC = BackboneSpec(
    name="cogvideox",
    title="CogVideoX",
    versions="1.0 and 1.5",
    native=Blocks(
        ("CogVideoXTransformer3DModel",), ((Stack("blocks.{}", "joint"),),), text_way=r"patch_embed($|\.text_proj)"
    ),
    diffusers=Blocks(("CogVideoXTransformer3DModel",), ((Stack("transformer_blocks.{}.attn1", "joint"),),)),
    pipelines="CogVideoX",
    text_encoder="t5",
    text_encoder_titles=("T5",),
    clip_loader="CLIPLoader of type cogvideox",
    text_tokens=226,
    flow=False,
    first_frame={"": "padded"},
    variants={"CogVideoX 1.5": TokenSize((2, 2, 2))},
    fps={"": 8, "CogVideoX 1.5": 16},
    frames_first=True,
    input_projection="patch_embed.proj",
    native_channels=(16, 32, 48),
    head_size=64,
    vae="AutoencoderKLCogVideoX",
    vae_limits={"block_out_channels": [128, 256, 256, 512], "layers_per_block": 3, "latent_channels": 16},
    choices=(
        LayerChoice(42, (7, 11), (12,), "MATRIX (arXiv 2510.07310), CogVideoX-5B-I2V"),
        LayerChoice(12, (8, 9, 10, 11), (3, 5, 7), "mini, docs/analysis.md: V2T dominant, V2V most influential"),
    ),
)
