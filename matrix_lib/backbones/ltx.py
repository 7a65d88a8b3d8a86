"""LTX-Video 0.9: self-attention over the video, then cross-attention to the text. One latent element is one token."""

from .spec import BackboneSpec, Blocks, Stack

_STACKS = ((Stack("transformer_blocks.{}.attn1", "self"), Stack("transformer_blocks.{}.attn2", "cross")),)
SPEC = BackboneSpec(
    name="ltx",
    title="LTX-Video",
    kin="LTX",
    native=Blocks(("LTXVModel",), _STACKS, split_queries=True, text_way="caption_projection"),
    diffusers=Blocks(("LTXVideoTransformer3DModel",), _STACKS),
    pipelines="LTX(?!2)",
    text_encoder="t5",
    text_encoder_titles=("T5",),
    clip_loader="CLIPLoader of type ltxv",
    text_tokens=128,
    flow=True,
    first_frame={"": "replace"},
    patch=(1, 1, 1),
    temporal_stride=8,
    spatial_stride=32,
    latent_channels=128,
    fps={"": 25},
    flat=True,
    input_projection="proj_in",
    native_channels=(128,),
    widths=(2048, 4096),
    vae="AutoencoderKLLTXVideo",
)
