"""Tiny random models in the folders that diffusers writes, one function per family.

Every parameter and every stored buffer is random, so that a key which lands in the wrong place changes the result.
Sizes are as small as native ComfyUI allows: it fixes the head sizes (CogVideoX 64, Wan and HunyuanVideo 128), 16 latent
channels, Wan's 4096-wide words and HunyuanVideo's 768-wide pooled words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from support_mochi import SIZES as MOCHI
from torch import nn

__all__ = [
    "hunyuan15_vae", "make_cogvideox", "make_cosmos2", "make_hunyuan", "make_hunyuan15", "make_kandinsky5", "make_ltx",
    "make_mochi", "make_wan", "randomize", "spiece_model",
]  # fmt: skip

_SENTENCES = (
    "a woman in a red coat hands the paper cup to the old man",
    "the cyclist overtakes the white van on a narrow street",
    "two dogs pull a rope while a child watches them from the door",
    "the chef slices a green apple and throws the pieces into the bowl",
    "he picks up the target mug, turns around and gives it back",
    "robots carry boxes across the quiet warehouse at night",
)


def randomize(module: nn.Module, seed: int = 0, std: float = 0.08) -> nn.Module:
    """Fills all floating parameters and stored buffers with noise; scales of norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    stored = set(module.state_dict())
    tensors = [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if n in stored)]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            scale = (tensor.ndim == 1 and name.endswith("weight")) or name.endswith("gamma")
            tensor.copy_(1 + 0.3 * noise if scale else std * noise)
    return module.eval()


def spiece_model(folder: Path, vocab: int = 300) -> Path:
    """Trains a SentencePiece model on a few sentences, with T5's special ids; returns `folder/spiece.model`."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=vocab,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return folder / "spiece.model"


def make_cogvideox(
    folder: Path | str,
    version: Literal["1.0", "1.5"] = "1.0",
    size: Literal["2b", "5b"] = "5b",
    i2v: bool = True,
    sample: tuple[int, int, int] = (9, 16, 24),
    layers: int = 2,
    text_dim: int = 64,
    text_encoder: bool = True,
    vae: bool | Literal["wan"] = True,
    seed: int = 0,
) -> Path:
    """CogVideoX: 1.0 2B (sincos table), 1.0 5B (rotary; learned table as well where `i2v`), 1.5 (temporal patches).

    `sample` is (pixel frames, latent height, latent width) of the base grid that the positions refer to. ComfyUI has no
    small CogVideoX VAE: with `vae="wan"` the folder holds a small Wan VAE in its place, which opens natively.
    """
    from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    folder = Path(folder)
    new, rotary = version == "1.5", size == "5b"
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=32 if i2v else 16,
        out_channels=16,
        time_embed_dim=32,
        ofs_embed_dim=32 if new and i2v else None,
        text_embed_dim=text_dim,
        num_layers=layers,
        sample_frames=sample[0],
        sample_height=sample[1],
        sample_width=sample[2],
        patch_size_t=2 if new else None,
        patch_bias=not new,
        use_rotary_positional_embeddings=rotary,
        use_learned_positional_embeddings=rotary and i2v and not new,
    )
    randomize(transformer, seed, 0.15).save_pretrained(folder / "transformer")
    CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if rotary else 3.0,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    if vae == "wan":
        _wan_vae(folder / "vae", seed)
    elif vae:
        _cogvideox_vae(folder / "vae", 0.7 if rotary else 1.15258426, new and i2v, seed)
    if text_encoder:
        _t5(folder, text_dim, seed)
    name = "CogVideoXImageToVideoPipeline" if i2v else "CogVideoXPipeline"
    codec = "AutoencoderKLWan" if vae == "wan" else "AutoencoderKLCogVideoX"
    return _index(folder, name, {"transformer": "CogVideoXTransformer3DModel", "vae": codec})


def make_wan(
    folder: Path | str,
    i2v: bool = False,
    version: Literal["2.1", "2.2", "5b"] = "2.1",
    layers: int = 2,
    text_encoder: bool = True,
    vae: bool = True,
    seed: int = 0,
) -> Path:
    """Wan: 2.1 (image words beside the text words where `i2v`), 2.2 (two experts, no image words) and 2.2 5B."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    folder = Path(folder)
    image_words = i2v and version == "2.1"
    for index, part in enumerate(("transformer", "transformer_2") if version == "2.2" else ("transformer",)):
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=128,
            in_channels=48 if version == "5b" else 36 if i2v else 16,
            out_channels=48 if version == "5b" else 16,
            text_dim=4096,
            ffn_dim=64,
            num_layers=layers,
            image_dim=1280 if image_words else None,
            added_kv_proj_dim=256 if image_words else None,
        )
        randomize(transformer, seed + index, 0.06).save_pretrained(folder / part)
    FlowMatchEulerDiscreteScheduler(shift=8.0).save_pretrained(folder / "scheduler")
    if vae and version == "5b":
        sizes: dict[str, Any] = dict(
            base_dim=8, decoder_base_dim=8, z_dim=48, num_res_blocks=1, scale_factor_spatial=16
        )
        sizes |= dict(is_residual=True, in_channels=12, out_channels=12, patch_size=2)
        sizes |= dict(latents_mean=[0.1] * 48, latents_std=[0.8] * 48)
        randomize(AutoencoderKLWan(**sizes), seed + 10, 0.1).save_pretrained(folder / "vae")
    elif vae:
        _wan_vae(folder / "vae", seed)
    if text_encoder:
        _umt5(folder, seed)
    extra: dict[str, Any] = {"boundary_ratio": 0.9 if i2v else 0.875} if version == "2.2" else {}
    extra |= {"expand_timesteps": True} if version == "5b" else {}
    parts = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", **extra}
    if version == "2.2":
        parts["transformer_2"] = "WanTransformer3DModel"
    return _index(folder, "WanImageToVideoPipeline" if i2v else "WanPipeline", parts)


def make_hunyuan(
    folder: Path | str,
    i2v: Literal["", "latent_concat", "token_replace", "skyreels"] = "",
    layers: int = 1,
    single_layers: int = 1,
    text_dim: int = 64,
    guidance: bool | None = None,
    vae: bool = True,
    seed: int = 0,
) -> Path:
    """HunyuanVideo: text to video, the two kinds of image to video, and SkyReels'. Its text encoders are not made: the
    host fixes CLIP-L's and Llama's vocabularies, which are no tiny models.

    `guidance`: whether the guidance scale is an input; None takes what the released model of the kind does.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel

    folder = Path(folder)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels={"latent_concat": 33, "skyreels": 32}.get(i2v, 16),
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=128,
        num_layers=layers,
        num_single_layers=single_layers,
        guidance_embeds=i2v != "latent_concat" if guidance is None else guidance,
        text_embed_dim=text_dim,
        image_condition_type=None if i2v in ("", "skyreels") else i2v,
    )
    randomize(transformer, seed, 0.08).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=7.0).save_pretrained(folder / "scheduler")
    if vae:
        hunyuan_vae(seed).save_pretrained(folder / "vae")
    name = f"Hunyuan{'Skyreels' if i2v == 'skyreels' else 'Video'}{'ImageToVideo' if i2v else ''}Pipeline"
    parts = {"transformer": "HunyuanVideoTransformer3DModel", "vae": "AutoencoderKLHunyuanVideo"}
    return _index(folder, name, parts)


def make_hunyuan15(
    folder: Path | str, i2v: bool = False, layers: int = 2, text_dim: int = 64, vae: bool = True, seed: int = 0
) -> Path:
    """HunyuanVideo 1.5, whose kinds for text and for a picture have the same weights. The host fixes the widths of
    glyphs and picture, and the sizes of the VAE, which this tiny one has not."""
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideo15Transformer3DModel

    folder = Path(folder)
    transformer = HunyuanVideo15Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=128,
        num_layers=layers,
        text_embed_dim=text_dim,
        target_size=64,
        task_type="i2v" if i2v else "t2v",
    )
    randomize(transformer, seed, 0.08).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=7.0).save_pretrained(folder / "scheduler")
    if vae:
        hunyuan15_vae(seed).save_pretrained(folder / "vae")
    name = "HunyuanVideo15ImageToVideoPipeline" if i2v else "HunyuanVideo15Pipeline"
    parts = {"transformer": "HunyuanVideo15Transformer3DModel", "vae": "AutoencoderKLHunyuanVideo15"}
    return _index(folder, name, parts)


def hunyuan15_vae(seed: int = 0) -> nn.Module:
    """A small VAE of HunyuanVideo 1.5."""
    from diffusers import AutoencoderKLHunyuanVideo15

    vae = AutoencoderKLHunyuanVideo15(block_out_channels=(16, 16, 32, 64, 64), layers_per_block=1)
    return randomize(vae, seed + 10, 0.05)


def make_kandinsky5(
    folder: Path | str, i2v: bool = False, layers: int = 2, text_dim: int = 3584, vae: bool = True, seed: int = 0
) -> Path:
    """Kandinsky 5 video, whose kinds for text and for a picture have the same weights. The host fixes the widths of
    words and summary, and heads of 64."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5Transformer3DModel

    folder = Path(folder)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=16, out_visual_dim=16, in_text_dim=text_dim, time_dim=32, model_dim=128, ff_dim=64,
        num_text_blocks=1, num_visual_blocks=layers, visual_cond=True,
    )  # fmt: skip
    randomize(transformer, seed, 0.08).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=10.0).save_pretrained(folder / "scheduler")
    if vae:
        hunyuan_vae(seed).save_pretrained(folder / "vae")
    parts = {"transformer": "Kandinsky5Transformer3DModel", "vae": "AutoencoderKLHunyuanVideo"}
    return _index(folder, "Kandinsky5I2VPipeline" if i2v else "Kandinsky5T2VPipeline", parts)


def make_cosmos2(folder: Path | str, text_dim: int = 1024, vae: bool = True, text: bool = False, seed: int = 0) -> Path:
    """Cosmos Predict 2 Video2World. The host fixes 16 heads, 10 blocks at this width, and words 1024 wide."""
    from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler

    folder = Path(folder)
    transformer = CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=16, attention_head_dim=12, num_layers=10, text_embed_dim=text_dim,
        rope_scale=(0.9, 3.0, 2.0), extra_pos_embed_type=None,
    )  # fmt: skip
    randomize(transformer, seed, 0.06).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True).save_pretrained(folder / "scheduler")
    if vae:
        _wan_vae(folder / "vae", seed)
    if text:
        _t5(folder, text_dim, seed, "relu")
    parts = {"transformer": "CosmosTransformer3DModel", "vae": "AutoencoderKLWan"}
    return _index(folder, "Cosmos2VideoToWorldPipeline", parts)


def make_mochi(folder: Path | str, layers: int = 2, vae: bool = True, text: bool = False, seed: int = 0) -> Path:
    """Mochi 1. The host fixes all of its sizes; `support_mochi.read_sizes` reads those of the transformer."""
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiTransformer3DModel

    folder = Path(folder)
    transformer = MochiTransformer3DModel(num_layers=layers, **MOCHI)
    randomize(transformer, seed, 0.08).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(invert_sigmas=True).save_pretrained(folder / "scheduler")
    if vae:
        codec = AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        )  # fmt: skip
        randomize(codec, seed + 10, 0.1).save_pretrained(folder / "vae")
    if text:
        _t5(folder, MOCHI["text_embed_dim"], seed)
    parts = {"transformer": "MochiTransformer3DModel", "vae": "AutoencoderKLMochi"}
    return _index(folder, "MochiPipeline", parts)


def make_ltx(folder: Path | str, version: Literal["0.9", "2.0", "2.3"] = "0.9", layers: int = 2, seed: int = 0) -> Path:
    """LTX-Video, and LTX-2 with its connectors. Natively neither text encoder nor VAE is read of such a folder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTX2VideoTransformer3DModel, LTXVideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    folder = Path(folder)
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64}
    sizes |= {"num_layers": layers, "caption_channels": 64}
    new = version == "2.3"
    if version == "0.9":
        transformer: Any = LTXVideoTransformer3DModel(**sizes)
    else:
        transformer = LTX2VideoTransformer3DModel(
            **sizes, audio_num_attention_heads=2, audio_attention_head_dim=16, audio_cross_attention_dim=32,
            gated_attn=new, audio_gated_attn=new, cross_attn_mod=new, audio_cross_attn_mod=new, rope_type="split",
            use_prompt_embeddings=not new,
        )  # fmt: skip
        audio = 16 if new else 32
        connectors = LTX2TextConnectors(
            caption_channels=16 if new else 64, text_proj_in_factor=3, rope_type="split", per_modality_projections=new,
            video_hidden_dim=64, audio_hidden_dim=32, video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=32, video_connector_num_layers=1, video_gated_attn=new,
            audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=audio,
            audio_connector_num_layers=1, audio_gated_attn=new,
        )  # fmt: skip
        randomize(connectors, seed + 5, 0.15).save_pretrained(folder / "connectors")
    randomize(transformer, seed, 0.15).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    kind = "LTXVideoTransformer3DModel" if version == "0.9" else "LTX2VideoTransformer3DModel"
    return _index(folder, "LTXPipeline" if version == "0.9" else "LTX2Pipeline", {"transformer": kind})


def _cogvideox_vae(folder: Path, scaling: float, invert: bool, seed: int) -> None:
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=scaling,
        invert_scale_latents=invert,
    )
    randomize(vae, seed + 10, 0.1).save_pretrained(folder)


def _wan_vae(folder: Path, seed: int) -> None:
    from diffusers import AutoencoderKLWan

    randomize(AutoencoderKLWan(base_dim=4, z_dim=16), seed + 10, 0.1).save_pretrained(folder)


def hunyuan_vae(seed: int = 0) -> nn.Module:
    """A tiny VAE of HunyuanVideo's; the host makes it in one size only."""
    from diffusers import AutoencoderKLHunyuanVideo

    vae = AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    return randomize(vae, seed + 10, 0.1)


def _t5(folder: Path, width: int, seed: int, kind: str = "gated-gelu") -> None:
    from transformers import T5Config, T5EncoderModel

    # the vocabulary of T5: the host's CogVideoX tokenizer is T5's own
    config = T5Config(
        vocab_size=32128, d_model=width, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj=kind
    )
    randomize(T5EncoderModel(config), seed + 20).save_pretrained(folder / "text_encoder")
    spiece_model(folder / "tokenizer")


def _umt5(folder: Path, seed: int) -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    spiece_model(folder / "tokenizer")
    config = UMT5Config(
        vocab_size=384, d_model=4096, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    randomize(UMT5EncoderModel(config), seed + 20).save_pretrained(folder / "text_encoder")


def _index(folder: Path, pipeline: str, parts: dict[str, Any]) -> Path:
    """Writes `model_index.json` for what the folder holds."""
    index: dict[str, Any] = {"_class_name": pipeline}
    for name, value in parts.items():
        if not isinstance(value, str):
            index[name] = value
        elif (folder / name).is_dir():
            index[name] = ["diffusers", value]
    if (folder / "text_encoder").is_dir():
        encoder = "UMT5EncoderModel" if pipeline.startswith("Wan") else "T5EncoderModel"
        index["text_encoder"] = ["transformers", encoder]
        index["tokenizer"] = ["transformers", "T5Tokenizer"]
    index["scheduler"] = ["diffusers", json.loads(_scheduler(folder).read_text())["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _scheduler(folder: Path) -> Path:
    return folder / "scheduler" / "scheduler_config.json"


def make_minimax_h3(folder: Path | str, seed: int = 0) -> Path:
    """MiniMax H3's transformer for words and given frames, of those that its folder holds. Heads are of 128."""
    from diffusers import MiniMaxH3Transformer3DModel

    folder = Path(folder)
    transformer = MiniMaxH3Transformer3DModel(
        num_attention_heads=2, hidden_size=64, num_layers=2, num_refiner_layers=1, ffn_dim=64, text_dim=48,
        freq_dim=16, time_embed_hidden_dim=32, time_embed_dim=24,
    )  # fmt: skip
    randomize(transformer, seed, 0.12).save_pretrained(folder / "transformer")
    return folder
