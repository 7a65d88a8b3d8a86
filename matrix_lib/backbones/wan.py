"""Wan 2.1 and 2.2: self-attention over the video, then cross-attention to the text (and, in 2.1 I2V, to the image)."""

from .spec import BackboneSpec, Blocks, LayerChoice, Stack

SPEC = BackboneSpec(
    name="wan",
    title="Wan",
    native=Blocks(
        ("WanModel",),
        ((Stack("blocks.{}.self_attn", "self"), Stack("blocks.{}.cross_attn", "cross")),),
    ),
    diffusers=Blocks(
        ("WanTransformer3DModel",),
        ((Stack("blocks.{}.attn1", "self"), Stack("blocks.{}.attn2", "cross")),),
    ),
    text_tokens=512,
    image_cross_attention=True,
    choices=(
        LayerChoice(
            40,
            (20, 21, 22, 23, 24),
            (6, 7, 8),
            "MATRIX (arXiv 2510.07310), Wan2.1-I2V-14B; its code trains 20, 24 and 6, 8",
        ),
    ),
)
