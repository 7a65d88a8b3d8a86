"""Kandinsky 5 video, Lite and Pro: self-attention over the video, then cross-attention to the text.

Qwen2.5-VL reads the words, CLIP-L a summary of them. Models for text have the channels of a first frame, too. The
host's network is also that of models of pictures. Diffusers samples the large ones with block-sparse attention (NABLA).
"""

from .spec import BackboneSpec, Blocks, Stack

_STACKS = (
    (
        Stack("visual_transformer_blocks.{}.self_attention", "self"),
        Stack("visual_transformer_blocks.{}.cross_attention", "cross"),
    ),
)
SPEC = BackboneSpec(
    name="kandinsky5",
    title="Kandinsky 5",
    native=Blocks(("Kandinsky5",), _STACKS, text_way="text_embeddings|text_transformer_blocks"),
    diffusers=Blocks(("Kandinsky5Transformer3DModel",), _STACKS),
    pipelines="Kandinsky5(?:T2V|I2V)",
    text_encoder="qwen25_clip",
    text_encoder_titles=("Qwen2.5-VL", "CLIP-L"),
    clip_loader="DualCLIPLoader of type kandinsky5",
    text_tokens=512,
    text_mixed="its text blocks",
    flow=True,
    first_frame={"": "replace"},
    fps={"": 24},
    channels_last=True,
    room_for_image=17,
    input_projection="visual_embeddings.in_layer",
    narrow="further channels have no place behind the latents' in the patches that it reads",
    qkvo=("to_query", "to_key", "to_value", "out_layer"),
    native_channels=(33,),
    vae="AutoencoderKLHunyuanVideo",
)
