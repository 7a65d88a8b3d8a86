"""CogVideoX 1.0 (2B, 5B; T2V, I2V) and 1.5: one joint attention a block, text in front."""

from .spec import BackboneSpec, Blocks, LayerChoice, Stack

SPEC = BackboneSpec(
    name="cogvideox",
    title="CogVideoX",
    native=Blocks(("CogVideoXTransformer3DModel",), ((Stack("blocks.{}", "joint"),),)),
    diffusers=Blocks(("CogVideoXTransformer3DModel",), ((Stack("transformer_blocks.{}.attn1", "joint"),),)),
    text_tokens=226,
    choices=(
        LayerChoice(42, (7, 11), (12,), "MATRIX (arXiv 2510.07310), CogVideoX-5B-I2V"),
        LayerChoice(12, (8, 9, 10, 11), (3, 5, 7), "mini, docs/analysis.md: V2T dominant, V2V most influential"),
    ),
)
