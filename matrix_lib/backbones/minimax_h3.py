"""MiniMax H3: one joint attention over words, given frames and references, sound, and the video, which stands last.

Qwen3-VL reads the words, and looks at the given frames. A latent covers one pixel frame, then four times four, and so
on anew; nobody cuts prompts, so their length is that of Qwen3-VL's own context. Diffusers has modular pipelines alone
for it, which pack everything into one sequence themselves: attention is reached and trained there, sampling is theirs.
"""

from .spec import BackboneSpec, Blocks, Stack

SPEC = BackboneSpec(
    name="minimax_h3",
    title="MiniMax H3",
    native=Blocks(
        ("MiniMaxH3Model",), ((Stack("blocks.{}.attn", "joint", 2),),), text_way="condition_proj|token_refiner"
    ),
    diffusers=Blocks(("MiniMaxH3Transformer3DModel",), ((Stack("transformer_blocks.{}.attn", "joint", 2),),)),
    modular="only blocks of those pipelines lay out a sequence to sample, clip and sound, and step both",
    pipelines="MiniMaxH3",
    image_pipelines="Modular",
    one_clip=True,
    text_encoder="qwen3vl",
    text_encoder_titles=("Qwen3-VL",),
    clip_loader="CLIPLoader of type minimax",
    text_tokens=262144,
    text_mixed="its token refiner",
    flow=True,
    first_frame={"": "tokens"},
    text_sees_image=("tokens",),
    picture_fit="stretch",
    spatial_stride=16,
    cycle=5,
    latent_channels=24,
    sound_rate=40.0,
    fps={"": 24},
    input_projection="proj_in",
    native_channels=(24,),
    head_size=128,
    heads_interleaved=True,
    widths=(5376,),
    vae="AutoencoderKLMiniMaxH3",
)
