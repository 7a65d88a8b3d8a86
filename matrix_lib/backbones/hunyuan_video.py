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
    ),
    diffusers=Blocks(
        ("HunyuanVideoTransformer3DModel",),
        ((Stack("transformer_blocks.{}.attn", "joint"),), (Stack("single_transformer_blocks.{}.attn", "joint"),)),
        text_first=False,
    ),
    text_tokens=256,
    choices=(LayerChoice(60, (6, 7, 9, 10), (11, 26, 27, 29), "MATRIX (arXiv 2510.07310), HunyuanVideo-I2V"),),
)
