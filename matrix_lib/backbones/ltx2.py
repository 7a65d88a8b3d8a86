"""LTX-2: a video tower like LTX-Video's beside one of audio, each with its own text, and attention between the two.

Gemma 3 reads the words. A connector puts learnable registers behind them, so that the text has a fixed length.
"""

from .spec import BackboneSpec, Blocks, Stack

_STACKS = (
    (
        Stack("transformer_blocks.{}.attn1", "self"),
        Stack("transformer_blocks.{}.attn2", "cross"),
        Stack("transformer_blocks.{}.audio_attn2", "sound_text"),
        Stack("transformer_blocks.{}.video_to_audio_attn", "sound_video"),
    ),
)
SPEC = BackboneSpec(
    name="ltx2",
    title="LTX-2",
    kin="LTX",
    native=Blocks(("LTXAVModel",), _STACKS, split_queries=True, text_way=".*caption_projection|.*_connector"),
    diffusers=Blocks(("LTX2VideoTransformer3DModel",), _STACKS),
    pipelines="LTX2",
    text_encoder="gemma3",
    text_encoder_titles=("Gemma 3",),
    clip_loader="LTXV Audio Text Encoder Loader",
    text_tokens=1024,
    text_mixed="its text connector",
    flow=True,
    first_frame={"": "replace"},
    patch=(1, 1, 1),
    temporal_stride=8,
    spatial_stride=32,
    latent_channels=128,
    sound_rate=25.0,
    fps={"": 24},
    flat=True,
    input_projection="proj_in",
    native_channels=(128,),
    widths=(4096,),
    vae="AutoencoderKLLTX2Video",
)
