"""MiniMax H3 with its encoders: the host's tokenizer, and encoders that are tiny but for their vocabulary."""

from pathlib import Path

import torch
from support_models import randomize

WIDTH = 16  # of the words


def minimax_pipeline(comfy):
    """The modular pipeline, for every task. Its text encoder is as deep as the layer that is read asks for."""
    import diffusers
    import transformers
    from diffusers.modular_pipelines.minimax_h3.modular_blocks_minimax_h3 import MiniMaxH3Blocks

    torch.manual_seed(0)
    words = dict(
        vocab_size=151680, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=51, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 5e6},
    )  # fmt: skip
    looks = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH)
    looks |= dict(deepstack_visual_indexes=[0], num_position_embeddings=64)
    encoder = transformers.Qwen3VLConfig(text_config=words, vision_config=looks, tie_word_embeddings=True)
    files = Path(comfy.__path__[0]) / "text_encoders" / "qwen25_tokenizer"
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(files)
    net = diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=2, hidden_size=64, num_layers=2, num_refiner_layers=1, ffn_dim=64, text_dim=WIDTH,
        freq_dim=16, time_embed_hidden_dim=32, time_embed_dim=24,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMiniMaxH3(
        block_out_channels=(8,) * 6, layers_per_block=1, norm_num_groups=2, decoder_num_layers=1,
        decoder_num_attention_heads=2, decoder_attention_head_dim=16, latents_mean=[0.1] * 24, latents_std=[0.5] * 24,
    )  # fmt: skip
    sound = dict(encoder_dim=2, latent_dim=64, decoder_dim=128, latents_mean=[0.1] * 32, latents_std=[2.0] * 32)
    pictures, films = transformers.Qwen2VLImageProcessor(patch_size=16), transformers.Qwen3VLVideoProcessor()
    pipe = MiniMaxH3Blocks().init_pipeline()
    pipe.update_components(
        transformer=randomize(net, 0, 0.12), vae=randomize(vae, 1, 0.1), tokenizer=tokenizer,
        audio_vae=diffusers.AutoencoderKLMiniMaxH3Audio(**sound).eval(),
        text_encoder=randomize(transformers.Qwen3VLForConditionalGeneration(encoder), 2, 0.05),
        processor=transformers.Qwen3VLProcessor(pictures, tokenizer, films),
        scheduler=diffusers.MiniMaxH3Scheduler(12.0), audio_scheduler=diffusers.MiniMaxH3Scheduler(3.0),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
