"""HunyuanVideo: double-stream blocks, then single-stream blocks, every one a joint attention over video and text.

The host puts text first, diffusers puts it last. Layers count on from the double into the single blocks.
"""

from .spec import BackboneSpec, Blocks, LayerChoice, Stack

SPEC = BackboneSpec(
    name="hunyuan_video",
    title="HunyuanVideo",
    native=Blocks(
        ("HunyuanVideo",),
        ((Stack("double_blocks.{}", "joint"),), (Stack("single_blocks.{}", "joint"),)),
        text_way="txt_in|byt5_in",
    ),
    diffusers=Blocks(
        ("HunyuanVideoTransformer3DModel",),
        ((Stack("transformer_blocks.{}.attn", "joint"),), (Stack("single_transformer_blocks.{}.attn", "joint"),)),
        text_first=False,
    ),
    pipelines="HunyuanVideo(?!15)|HunyuanSkyreels",
    text_encoder="llama",
    text_encoder_titles=("LLaMA", "CLIP-L"),
    clip_loader="DualCLIPLoader of type hunyuan_video",
    text_tokens=256,
    text_mixed="its token refiner",
    flow=True,
    first_frame={"": "padded", "latent_concat": "concat", "token_replace": "replace"},  # "": SkyReels
    text_sees_image=("concat", "replace"),
    guidance_input=True,
    input_projection="x_embedder.proj",
    native_channels=(16, 32, 33),
    head_size=128,
    fps={"": 24},
    vae="AutoencoderKLHunyuanVideo",
    vae_limits={"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16},
    choices=(LayerChoice(60, (6, 7, 9, 10), (11, 26, 27, 29), "MATRIX (arXiv 2510.07310), HunyuanVideo-I2V"),),
)
