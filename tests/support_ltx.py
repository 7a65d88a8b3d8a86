"""Guide frames and sound of tiny native LTX models, made by the host's own nodes, which need the `comfy` fixture; and
tiny pipelines, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from support_native import clip_size, conditioning, latent, with_sound
from torch import Tensor

__all__ = ["Given", "gemma_tokenizer", "given", "ltx_pipeline", "native_vae"]

SCALES = (8, 32, 32)


class Given(NamedTuple):
    """What a sampler is given: conditionings, the latent, its mask (None: all is made)."""

    positive: list
    negative: list
    latent: Any
    mask: Any

    @property
    def options(self) -> dict[str, Any]:
        return {"noise_mask": self.mask}

    def __iter__(self) -> Any:
        return iter((self.positive, self.negative, self.latent))


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(
    family: str,
    positive: list,
    guides: int = 0,
    strength: float = 1.0,
    region: bool = False,
    spread: bool = False,
    image: bool = False,
    sound: bool | None = None,
) -> Given:
    """A run with so many guide frames behind the clip, as LTXVAddGuide puts them there.

    strength: of the guides; others than 1 and `region` split the attention. spread: the first guide is half as large,
    and its tokens are spread out. image: the first frame is given. sound: None for what is usual of the family.
    """
    from comfy_extras.nodes_lt import LTXVAddGuide, _append_guide_attention_entry

    negative = conditioning(family, 2)
    _, height, width = clip_size(family)
    clip = torch.zeros(1, 128, *clip_size(family))
    mask = torch.ones(1, 1, clip.shape[2], 1, 1)
    if image:
        clip[:, :, :1] = _noise(30, 1, 128, 1, height, width)
        mask[:, :, :1] = 0.0
    for place in range(guides):
        small = spread and place == 0
        made = _noise(20 + place, 1, 128, 1, height // (2 if small else 1), width // (2 if small else 1))
        shape, gaps = list(made.shape[2:]), None
        if small:
            made, gaps = LTXVAddGuide.dilate_latent(made, 2)
        positive, negative, clip, mask = LTXVAddGuide.append_keyframe(
            positive, negative, 8 * place, clip, mask, made, strength, SCALES, guide_mask=gaps,
            latent_downscale_factor=2 if small else 1,
        )  # fmt: skip
        pixels = torch.rand(1, height * 32, width * 32, generator=torch.Generator().manual_seed(4)) if region else None
        positive, negative = _append_guide_attention_entry(
            positive, negative, made[0, 0].numel(), shape, strength=strength, attention_mask=pixels
        )
    whole: Any = mask if guides or image else None
    if (family != "ltx") if sound is None else sound:
        samples, beside = with_sound(clip), latent(family)
        if whole is not None:
            whole = type(samples)([whole, torch.ones_like(beside.unbind()[1])])
        return Given(positive, negative, samples, whole)
    return Given(positive, negative, clip, whole)


def native_vae() -> Any:
    """The host's own VAE of LTX, tiny and random, made of a state dict and a header as its loader makes it."""
    import comfy.sd
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    third: list[list[Any]] = [["compress_all", {}]] * 3
    config = {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "latent_channels": 128, "patch_size": 4,
        "encoder_blocks": [["res_x", {"num_layers": 1}], *third], "encoder_base_channels": 8,
        "decoder_blocks": [*third, ["res_x", {"num_layers": 1}]], "decoder_base_channels": 8,
        "norm_layer": "pixel_norm", "latent_log_var": "uniform", "causal_decoder": False,
    }  # fmt: skip
    shapes = VideoVAE(config=config).state_dict()
    state = {name: 0.2 * _noise(place, *weight.shape) for place, (name, weight) in enumerate(shapes.items())}
    state["per_channel_statistics.std-of-means"] = torch.ones(128)
    return comfy.sd.VAE(sd=state, metadata={"config": json.dumps({"vae": config})}, dtype=torch.float32)


def gemma_tokenizer(folder: Path) -> Any:
    """transformers' Gemma tokenizer around a small vocabulary: the real one is in the model's folder only."""
    import transformers
    from support_words import spiece

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(spiece(gemma=True))
    return transformers.GemmaTokenizer.from_pretrained(folder, add_bos_token=True, bos_token="<s>", eos_token="</s>")


def ltx_pipeline(folder: Path, family: str, t5: Path) -> Any:
    """A tiny image-to-video pipeline of LTX-Video ("ltx") or LTX-2.3 ("ltx2") with everything that it needs. t5: the
    folder of T5's own tokenizer."""
    import diffusers
    import transformers
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from support_models import make_ltx, randomize
    from support_pipelines import ltx_vae, sound_vae

    make_ltx(folder / "parts", "0.9" if family == "ltx" else "2.3")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "parts" / "scheduler")
    if family == "ltx":
        sizes = transformers.T5Config(vocab_size=32128, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
        return diffusers.LTXImageToVideoPipeline(
            scheduler=scheduler, vae=ltx_vae(1), text_encoder=randomize(transformers.T5EncoderModel(sizes)),
            tokenizer=transformers.T5TokenizerFast.from_pretrained(t5),
            transformer=diffusers.LTXVideoTransformer3DModel.from_pretrained(folder / "parts" / "transformer"),
        )  # fmt: skip
    gemma = transformers.Gemma3TextConfig(
        vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return diffusers.LTX2ImageToVideoPipeline(
        scheduler=scheduler, vae=ltx_vae(2), audio_vae=sound_vae(), vocoder=None,
        tokenizer=gemma_tokenizer(folder / "g"), text_encoder=randomize(transformers.Gemma3TextModel(gemma)),
        connectors=LTX2TextConnectors.from_pretrained(folder / "parts" / "connectors"),
        transformer=diffusers.LTX2VideoTransformer3DModel.from_pretrained(folder / "parts" / "transformer"),
    )  # fmt: skip
