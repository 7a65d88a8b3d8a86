"""HunyuanVideo with text encoders: the host's tokenizers, and encoders that are tiny but for their vocabularies."""

from pathlib import Path

import torch


def hunyuan_text(folder, comfy, i2v, width=16, pooled=16, kind="HunyuanVideoPipeline"):
    """A HunyuanVideo pipeline with its real tokenizers and tiny text encoders, whose rows are so wide. kind: its class,
    where the text encoder sees no picture."""
    import diffusers
    import transformers
    from transformers import CLIPTextConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig

    files = Path(comfy.__path__[0])
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(files / "text_encoders" / "llama_tokenizer" / "tokenizer.json"),
        bos_token="<|begin_of_text|>",
        pad_token="<|end_of_text|>",
    )
    llama = LlamaConfig(
        vocab_size=128320, hidden_size=width, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    torch.manual_seed(3)
    if i2v:
        config = LlavaConfig(vision_config=vision, text_config=llama, image_token_index=128257, pad_token_id=128258)
        encoder = transformers.LlavaForConditionalGeneration(config)
        encoder.config.pad_token_id = 128258
    else:
        encoder = transformers.LlamaModel(llama)
    clip = CLIPTextConfig(hidden_size=pooled, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    parts = {
        "text_encoder": encoder.eval(),
        "tokenizer": words,
        "text_encoder_2": transformers.CLIPTextModel(clip).eval(),
        "tokenizer_2": transformers.CLIPTokenizer.from_pretrained(files / "sd1_tokenizer"),
        "transformer": diffusers.HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer"),
        "vae": diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    }
    if not i2v:
        return getattr(diffusers, kind)(**parts)
    parts["image_processor"] = transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336)
    return diffusers.HunyuanVideoImageToVideoPipeline(**parts)


def hunyuan15_text(folder, comfy, i2v, width=128, like=None):
    """A HunyuanVideo 1.5 pipeline with its real tokenizers and tiny text encoders: Qwen's rows are so wide (in heads of
    128, as the host has them), those of glyphs 1472 and those of a picture 1152. like: a pipeline for text, whose parts
    it has."""
    import diffusers
    import transformers

    parts = _hunyuan15_parts(folder, comfy, width) if like is None else dict(like.components)
    if not i2v:
        return diffusers.HunyuanVideo15Pipeline(**parts)
    looks = transformers.SiglipVisionConfig(
        hidden_size=1152, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    parts["image_encoder"] = transformers.SiglipVisionModel(looks).eval()
    parts["feature_extractor"] = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return diffusers.HunyuanVideo15ImageToVideoPipeline(**parts)


def _hunyuan15_parts(folder, comfy, width):
    import diffusers
    import transformers

    files = Path(comfy.__path__[0]) / "text_encoders"
    torch.manual_seed(3)
    words = transformers.Qwen2_5_VLTextConfig(
        vocab_size=151680, hidden_size=width, intermediate_size=16, num_hidden_layers=4, num_key_value_heads=1,
        num_attention_heads=width // 128, rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24]},
        rms_norm_eps=1e-6,
    )  # fmt: skip
    glyphs = transformers.T5Config(
        vocab_size=1510, d_model=1472, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return {
        "text_encoder": transformers.Qwen2_5_VLTextModel(words).eval(),
        "tokenizer": transformers.Qwen2Tokenizer.from_pretrained(files / "qwen25_tokenizer"),
        "text_encoder_2": transformers.T5EncoderModel(glyphs).eval(),
        "tokenizer_2": transformers.ByT5Tokenizer.from_pretrained(files / "byt5_tokenizer"),
        "transformer": diffusers.HunyuanVideo15Transformer3DModel.from_pretrained(folder / "transformer"),
        "vae": diffusers.AutoencoderKLHunyuanVideo15.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "guider": diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    }
