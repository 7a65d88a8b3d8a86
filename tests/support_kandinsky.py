"""Kandinsky 5 with text encoders: the host's tokenizers, and encoders that are tiny but for their vocabularies."""

from pathlib import Path

import torch
from support_models import randomize


def kandinsky5_text(folder, comfy, i2v=False, width=128, like=None):
    """A Kandinsky 5 pipeline around a folder's transformer, with its real tokenizers and tiny text encoders, whose rows
    are so wide (in heads of 128, as the host has them). like: a pipeline whose parts it has."""
    import diffusers

    kind = diffusers.Kandinsky5I2VPipeline if i2v else diffusers.Kandinsky5T2VPipeline
    pipe = kind(**(_parts(folder, comfy, width) if like is None else like.components))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _parts(folder, comfy, width):
    import diffusers
    import transformers

    files = Path(comfy.__path__[0])
    torch.manual_seed(3)
    words = transformers.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=151680, hidden_size=width, intermediate_size=16, num_hidden_layers=2, rms_norm_eps=1e-6,
            num_attention_heads=width // 128, num_key_value_heads=1, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24]},
        ),
        vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=width),
    )  # fmt: skip
    summary = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, eos_token_id=49407
    )
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(files / "text_encoders" / "qwen25_tokenizer")
    return {
        "text_encoder": randomize(transformers.Qwen2_5_VLForConditionalGeneration(words), 3, 0.05),
        "tokenizer": transformers.Qwen2_5_VLProcessor(
            transformers.Qwen2VLImageProcessor(), tokenizer, transformers.Qwen2VLVideoProcessor()
        ),
        "text_encoder_2": randomize(transformers.CLIPTextModel(summary), 4, 0.05),
        "tokenizer_2": transformers.CLIPTokenizer.from_pretrained(files / "sd1_tokenizer"),
        "transformer": diffusers.Kandinsky5Transformer3DModel.from_pretrained(folder / "transformer"),
        "vae": diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    }
