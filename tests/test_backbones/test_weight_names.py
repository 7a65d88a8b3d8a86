"""Key maps against the state dicts of both sides: every name and every shape, at the sizes of the released models."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from matrix_lib.backbones.weight_names import FAMILIES, VAES, diffusers_names, native_name, to_diffusers, to_native

COGVIDEOX = {
    "2b": {"num_attention_heads": 30, "num_layers": 2},
    "5b": {"num_attention_heads": 48, "num_layers": 2, "use_rotary_positional_embeddings": True},
    "5b-i2v": {
        "num_attention_heads": 48,
        "num_layers": 2,
        "in_channels": 32,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    },
    "1.5": {
        "num_attention_heads": 48,
        "num_layers": 2,
        "in_channels": 32,
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "ofs_embed_dim": 512,
        "patch_bias": False,
    },
}
WAN = {
    "t2v": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 2},
    "i2v": {"num_layers": 2, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "flf2v": {
        "num_layers": 2,
        "in_channels": 36,
        "image_dim": 1280,
        "added_kv_proj_dim": 5120,
        "pos_embed_seq_len": 514,
    },
    "2.2-i2v": {"num_layers": 2, "in_channels": 36},
    "ti2v-5b": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 2, "in_channels": 48, "out_channels": 48},
}
HUNYUAN = {
    "t2v": {"num_layers": 2, "num_single_layers": 2},
    "i2v": {"num_layers": 2, "num_single_layers": 2, "in_channels": 33, "guidance_embeds": False},
}
HUNYUAN15 = {"480p t2v": {"num_layers": 2, "task_type": "t2v"}, "step": {"num_layers": 2, "use_meanflow": True}}
KANDINSKY5 = {
    "lite": {"model_dim": 1792, "ff_dim": 7168, "num_visual_blocks": 2},
    "pro": {
        "model_dim": 4096,
        "ff_dim": 16384,
        "num_text_blocks": 4,
        "num_visual_blocks": 2,
        "axes_dims": (32, 48, 48),
    },
}
COSMOS2 = {
    "2b": {"num_attention_heads": 16, "num_layers": 28, "rope_scale": (1.0, 3.0, 3.0)},
    "14b": {"num_attention_heads": 40, "num_layers": 36, "rope_scale": (20 / 24, 2.0, 2.0)},
}
LTX = {"2b": {"num_layers": 2}, "13b": {"num_layers": 2, "attention_head_dim": 128, "cross_attention_dim": 4096}}
LTX2 = {
    "2.0": {"num_layers": 2, "rope_type": "split"},
    "2.3": {
        "num_layers": 2,
        "rope_type": "split",
        "gated_attn": True,
        "audio_gated_attn": True,
        "cross_attn_mod": True,
        "audio_cross_attn_mod": True,
        "use_prompt_embeddings": False,
    },
}


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def native_shapes(state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model that the host itself would build for this file."""
    import comfy.model_detection
    import comfy.ops

    config = comfy.model_detection.model_config_from_unet(state, "", metadata=metadata)
    assert config is not None, "the host does not recognise the file"
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = comfy.ops.disable_weight_init
    return shapes(config.get_model(state, "", device="meta").diffusion_model.state_dict())


def check(state: dict[str, torch.Tensor], family: str) -> None:
    native = to_native(state, FAMILIES[family])
    assert shapes(native) == native_shapes(native)


@pytest.mark.parametrize("name", COGVIDEOX)
def test_cogvideox_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import CogVideoXTransformer3DModel

    with torch.device("meta"):
        state = CogVideoXTransformer3DModel(**COGVIDEOX[name]).state_dict()
    check(state, "cogvideox")
    assert shapes(to_diffusers(to_native(state, FAMILIES["cogvideox"]), FAMILIES["cogvideox"])) == shapes(state)


@pytest.mark.parametrize("name", WAN)
def test_wan_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        state = WanTransformer3DModel(**WAN[name]).state_dict()
    check(state, "wan")
    kept = {k: v for k, v in state.items() if "norm_added_q" not in k}
    assert shapes(to_diffusers(to_native(state, FAMILIES["wan"]), FAMILIES["wan"])) == shapes(kept)


def test_wan_animate_face_adapter(comfy: ModuleType) -> None:
    from comfy.ldm.wan.model_animate import FaceBlock
    from diffusers.models.transformers import transformer_wan_animate

    theirs = transformer_wan_animate.WanAnimateFaceBlockCrossAttention(64, 4, 16, cross_attention_dim_head=16)
    state = {f"face_adapter.1.{k}": v for k, v in theirs.state_dict().items() if "norm" not in k}
    host = shapes(FaceBlock(64, 4, operations=torch.nn).state_dict())
    made = {f"face_adapter.fuser_blocks.1.{k}": shape for k, shape in host.items() if "norm" not in k}
    assert shapes(to_native(state, FAMILIES["wan"])) == made


@pytest.mark.parametrize("name", HUNYUAN)
def test_hunyuan_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import HunyuanVideoTransformer3DModel

    with torch.device("meta"):
        state = HunyuanVideoTransformer3DModel(**HUNYUAN[name]).state_dict()
    check(state, "hunyuan_video")
    back = to_diffusers(to_native(state, FAMILIES["hunyuan_video"]), FAMILIES["hunyuan_video"], {"proj_mlp": 4 * 3072})
    assert shapes(back) == shapes(state)


@pytest.mark.parametrize("name", HUNYUAN15)
def test_hunyuan_15_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import HunyuanVideo15Transformer3DModel

    with torch.device("meta"):
        state = HunyuanVideo15Transformer3DModel(**HUNYUAN15[name]).state_dict()
    check(state, "hunyuan_video15")
    rules = FAMILIES["hunyuan_video15"]
    assert shapes(to_diffusers(to_native(state, rules), rules)) == shapes(state)


@pytest.mark.parametrize("name", KANDINSKY5)
def test_kandinsky5_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import Kandinsky5Transformer3DModel

    with torch.device("meta"):
        made: Any = Kandinsky5Transformer3DModel(
            in_visual_dim=16, out_visual_dim=16, visual_cond=True, **KANDINSKY5[name]
        )
    state = made.state_dict()
    check(state, "kandinsky5")
    assert shapes(to_diffusers(to_native(state, FAMILIES["kandinsky5"]), FAMILIES["kandinsky5"])) == shapes(state)


@pytest.mark.parametrize("name", COSMOS2)
def test_cosmos_predict2_names_and_shapes(comfy: ModuleType, name: str) -> None:
    from diffusers import CosmosTransformer3DModel

    with torch.device("meta"):
        made: Any = CosmosTransformer3DModel(in_channels=17, extra_pos_embed_type=None, **COSMOS2[name])
    state, rules = made.state_dict(), FAMILIES["cosmos_predict2"]
    check(state, "cosmos_predict2")
    assert shapes(to_diffusers(to_native(state, rules), rules)) == shapes(state)


def test_minimax_h3_names_and_shapes(comfy: ModuleType) -> None:
    """At its released size, but for its depth. Frequencies of positions are weights in ComfyUI alone."""
    from diffusers import MiniMaxH3Transformer3DModel

    with torch.device("meta"):
        state = MiniMaxH3Transformer3DModel(num_layers=2).state_dict()
    rules = FAMILIES["minimax_h3"]
    native = to_native(state, rules)
    assert shapes(to_diffusers(native, rules)) == shapes(state)
    native["rope.inv_freq"] = torch.empty(16, device="meta")
    assert shapes(native) == native_shapes(native)


def test_mochi_names_and_shapes(comfy: ModuleType) -> None:
    from diffusers import MochiTransformer3DModel

    with torch.device("meta"):
        state, rules = MochiTransformer3DModel().state_dict(), FAMILIES["mochi"]
    check(state, "mochi")
    assert shapes(to_diffusers(to_native(state, rules), rules)) == shapes(state)


@pytest.mark.parametrize("name", [*LTX, *LTX2])
def test_ltx_names_and_shapes(comfy: ModuleType, name: str, tmp_path: Path) -> None:
    """The connectors' weights, which natively are in the same file, come from another folder."""
    import diffusers

    from matrix_lib.hosts.comfy.families import family

    of = "ltx" if name in LTX else "ltx2"
    kind = diffusers.LTXVideoTransformer3DModel if of == "ltx" else diffusers.LTX2VideoTransformer3DModel
    with torch.device("meta"):
        made: Any = kind(**{**LTX, **LTX2}[name])
    native = to_native(made.state_dict(), FAMILIES[of])
    theirs = native_shapes(native, family(of).metadata(tmp_path, made.config))
    assert shapes(native) == {key: shape for key, shape in theirs.items() if "_embeddings_connector" not in key}
    assert shapes(to_diffusers(native, FAMILIES[of])) == shapes(made.state_dict())


def vae_pair(name: str) -> tuple[Any, Any]:
    """(diffusers, native) VAE of the released sizes, without memory."""
    import comfy.ldm.cogvideo.vae
    import comfy.ldm.genmo.vae.model
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2
    import diffusers
    from comfy.ldm.models.autoencoder import AutoencoderKL

    wan = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    with torch.device("meta"):
        if name == "cogvideox":
            return diffusers.AutoencoderKLCogVideoX(), comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX()
        if name == "wan":
            return diffusers.AutoencoderKLWan(), comfy.ldm.wan.vae.WanVAE(
                dim=96, z_dim=16, image_channels=3, conv_out_channels=3, dropout=0.0, **wan
            )
        if name == "wan2.2":
            theirs = diffusers.AutoencoderKLWan(
                base_dim=160,
                decoder_base_dim=256,
                z_dim=48,
                is_residual=True,
                in_channels=12,
                out_channels=12,
                patch_size=2,
            )
            return theirs, comfy.ldm.wan.vae2_2.WanVAE(dim=160, z_dim=48, dropout=0.0, **wan)
        if name == "mochi":
            return diffusers.AutoencoderKLMochi(), comfy.ldm.genmo.vae.model.VideoVAE()
        if name == "hunyuan_video15":
            return diffusers.AutoencoderKLHunyuanVideo15(), _hunyuan15_vae()
        config = {
            "double_z": True,
            "z_channels": 16,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
        }
        config |= {"num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0, "conv3d": True, "time_compress": 4}
        return diffusers.AutoencoderKLHunyuanVideo(), AutoencoderKL(ddconfig=config, embed_dim=16)


def _hunyuan15_vae() -> Any:
    """As `comfy.sd.VAE` builds it."""
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    config = {"block_out_channels": [128, 256, 512, 1024, 1024], "in_channels": 3, "out_channels": 3, "z_channels": 32}
    config |= {"num_res_blocks": 2, "ffactor_spatial": 16, "ffactor_temporal": 4}
    parts = {
        f"{side.lower()}_config": {"target": f"comfy.ldm.hunyuan_video.vae_refiner.{side}", "params": config}
        for side in ("Encoder", "Decoder")
    }
    regularizer = {"target": "comfy.ldm.models.autoencoder.EmptyRegularizer"}
    return AutoencodingEngine(regularizer_config=regularizer, **parts)


@pytest.mark.parametrize("name", ["cogvideox", "wan", "wan2.2", "hunyuan_video", "hunyuan_video15", "mochi"])
def test_vae_names_and_shapes(comfy: ModuleType, name: str) -> None:
    theirs, ours = vae_pair(name)
    state = theirs.state_dict()
    native = to_native(state, VAES[name]) if name in VAES else state
    places = {key: shape for key, shape in shapes(ours.state_dict()).items() if ".temb_proj." not in key}
    assert shapes(native) == places
    if name in VAES:
        assert shapes(to_diffusers(native, VAES[name])) == shapes(state)


def test_values_survive_the_round_trip() -> None:
    rules = FAMILIES["hunyuan_video"]
    names = [
        "norm_out.linear.weight",
        *(f"single_transformer_blocks.3.{n}.weight" for n in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        *(f"transformer_blocks.11.attn.add_{n}_proj.bias" for n in "qkv"),
    ]
    state = {name: torch.randn(16 if "mlp" in name else 4, 3) for name in names}
    native = to_native(state, rules)
    assert torch.equal(native["double_blocks.11.txt_attn.qkv.bias"][4:8], state[names[6]])
    assert torch.equal(native["final_layer.adaLN_modulation.1.weight"][:2], state[names[0]][2:])
    back = to_diffusers(native, rules, {"proj_mlp": 16})
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_one_name_at_a_time() -> None:
    rules = FAMILIES["hunyuan_video"]
    name = native_name(rules, "transformer_blocks.7.attn.to_k")
    assert name is not None
    assert (name.key, name.part, name.parts) == ("double_blocks.7.img_attn.qkv", 1, 3)
    assert diffusers_names(rules, "single_blocks.2.linear1.bias")[3] == "single_transformer_blocks.2.proj_mlp.bias"
    assert native_name(rules, "transformer_blocks.x.attn.to_k") is None


def test_unknown_and_missing_weights_are_named() -> None:
    with pytest.raises(ValueError, match=r"down_blocks\.0\.weight"):
        to_native({"down_blocks.0.weight": torch.zeros(1)}, FAMILIES["wan"])
    with pytest.raises(ValueError, match=r"parts \[1, 2\]"):
        to_native({"transformer_blocks.0.attn.to_q.weight": torch.zeros(2, 2)}, FAMILIES["hunyuan_video"])
