"""HunyuanVideo 1.5: double-stream blocks alone, every one a joint attention over video, picture, glyphs and words.

Qwen2.5-VL reads the words; byT5 reads what a prompt has in quotation marks (glyphs), SigLIP looks at the first frame.
The host puts picture, glyphs and words in front of the clip, diffusers behind it, in this order. Its network in the
host is HunyuanVideo's class; the class of the model around it tells.
"""

from .spec import BackboneSpec, Blocks, Stack

SPEC = BackboneSpec(
    name="hunyuan_video15",
    title="HunyuanVideo 1.5",
    kin="HunyuanVideo",
    native=Blocks(("HunyuanVideo15",), ((Stack("double_blocks.{}", "joint"),),), text_way="txt_in|byt5_in"),
    diffusers=Blocks(
        ("HunyuanVideo15Transformer3DModel",), ((Stack("transformer_blocks.{}.attn", "joint"),),), text_first=False
    ),
    pipelines="HunyuanVideo15",
    text_encoder="qwen25",
    text_encoder_titles=("Qwen2.5-VL", "byT5"),
    clip_loader="DualCLIPLoader of type hunyuan_video_15",
    text_tokens=1000,
    text_mixed="its token refiner",
    flow=True,
    first_frame={"": "concat"},
    picture_fit="center",
    image_beside=True,
    patch=(1, 1, 1),
    spatial_stride=16,
    latent_channels=32,
    room_for_image=33,
    input_projection="x_embedder.proj",
    native_channels=(65,),
    head_size=128,
    widths=(2048,),
    fps={"": 24},
    vae="AutoencoderKLHunyuanVideo15",
)
