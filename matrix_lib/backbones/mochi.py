"""Mochi 1: joint attention over video and text, the video in front; of the text the words alone, without their padding.

T5 reads the words. What it makes of all of them is also pooled, and modulates every block; the last block changes no
words. Its VAE takes six frames to one.
"""

from .spec import BackboneSpec, Blocks, Stack

SPEC = BackboneSpec(
    name="mochi",
    title="Mochi 1",
    native=Blocks(
        ("AsymmDiTJoint",),
        ((Stack("blocks.{}.attn", "joint"),),),
        text_first=False,
        text_cropped=True,
        text_way="t5_yproj",
    ),
    diffusers=Blocks(
        ("MochiTransformer3DModel",),
        ((Stack("transformer_blocks.{}.attn1", "joint"),),),
        text_first=False,
        text_cropped=True,
        row_by_row=True,
    ),
    pipelines="Mochi",
    text_encoder="t5",
    text_encoder_titles=("T5",),
    clip_loader="CLIPLoader of type mochi",
    text_tokens=256,
    text_mixed="its pooling of the text",
    flow=True,
    fps={"": 30},
    temporal_stride=6,
    latent_channels=12,
    input_projection="patch_embed.proj",
    native_channels=(12,),
    widths=(3072,),
    depths=(48,),
    vae="AutoencoderKLMochi",
    vae_limits={
        "encoder_block_out_channels": [64, 128, 256, 384],
        "decoder_block_out_channels": [128, 256, 512, 768],
        "layers_per_block": [3, 3, 4, 6, 3],
        "latent_channels": 12,
    },
)
