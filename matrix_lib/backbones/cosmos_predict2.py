"""Cosmos Predict 2 Video2World: self-attention over the video, then cross-attention to the text.

T5 reads the words, Wan's VAE makes the latents. Every clip goes on from frames that are given, which a mask channel
tells. The classes of both hosts are also those of models of pictures, and diffusers' of other generations of Cosmos.
"""

from .spec import BackboneSpec, Blocks, Stack

SPEC = BackboneSpec(
    name="cosmos_predict2",
    title="Cosmos Predict 2",
    native=Blocks(("MiniTrainDIT",), ((Stack("blocks.{}.self_attn", "self"), Stack("blocks.{}.cross_attn", "cross")),)),
    diffusers=Blocks(
        ("CosmosTransformer3DModel",),
        ((Stack("transformer_blocks.{}.attn1", "self"), Stack("transformer_blocks.{}.attn2", "cross")),),
        settings={
            "in_channels": (17,),
            "extra_pos_embed_type": (None,),
            "use_crossattn_projection": (None, False),
            "img_context_dim_in": (None,),
        },
    ),
    pipelines="Cosmos2VideoToWorld",
    image_pipelines="VideoToWorld",
    text_encoder="t5",
    text_encoder_titles=("T5",),
    clip_loader="CLIPLoader of type cosmos",
    text_tokens=512,
    flow=True,
    adds_noise=True,
    first_frame={"": "replace"},
    fps={"": 16},
    room_for_image=1,
    input_projection="patch_embed.proj",
    narrow="further channels have no place behind the latents' in the patches that it reads",
    native_channels=(17,),
    widths=(2048, 5120),
    text_width=1024,
    vae="AutoencoderKLWan",
)
