"""Which weight of diffusers is which of native ComfyUI: the rules of `weight_names`, family by family.

A rule pairs two module paths; `{i}` and `{j}` stand for block numbers. Several diffusers modules may be rows of one
native module (fused q, k, v): `part` is their order. `op` says what a tensor goes through on its way:
"swap" exchanges the two halves of its rows, "conv" appends unit dimensions up to a 3-D convolution's five. `narrow`: of
two diffusers modules that are one natively, in different blocks, that with fewer rows than columns.
The names are those of diffusers 0.42 and of ComfyUI 0.30, checked against both state dicts by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FAMILIES", "SPELLINGS", "SPLIT", "VAES", "Op", "Rule", "Rules"]

Op = Literal["", "swap", "conv"]


@dataclass(frozen=True)
class Rule:
    """`diffusers` and `native` module paths of one weight; rows `part` of `parts` of the native one."""

    diffusers: str
    native: str
    part: int = 0
    parts: int = 1
    op: Op = ""
    narrow: bool = False


Rules = tuple[Rule, ...]


def _same(*paths: str) -> list[Rule]:
    return [Rule(path, path) for path in paths]


def _renames(left: str, right: str, pairs: Mapping[str, str]) -> list[Rule]:
    return [Rule(left + a, right + b) for a, b in pairs.items()]


def _fused(left: str, names: Iterable[str], native: str) -> list[Rule]:
    every = list(names)
    return [Rule(left + name, native, part, len(every)) for part, name in enumerate(every)]


_COGVIDEOX = [
    *_same("patch_embed.proj", "patch_embed.text_proj", "patch_embed.pos_embedding"),
    *_same("norm_final", "norm_out.linear", "norm_out.norm", "proj_out"),
    Rule("time_embedding.linear_{i}", "time_embedding_linear_{i}"),
    Rule("ofs_embedding.linear_{i}", "ofs_embedding_linear_{i}"),
    *_renames(
        "transformer_blocks.{i}.",
        "blocks.{i}.",
        {
            "attn1.to_q": "q",
            "attn1.to_k": "k",
            "attn1.to_v": "v",
            "attn1.to_out.0": "attn_out",
            "attn1.norm_q": "norm_q",
            "attn1.norm_k": "norm_k",
            "ff.net.0.proj": "ff_proj",
            "ff.net.2": "ff_out",
            "norm1.linear": "norm1.linear",
            "norm1.norm": "norm1.norm",
            "norm2.linear": "norm2.linear",
            "norm2.norm": "norm2.norm",
        },
    ),
]
_WAN_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
_WAN_IMAGE = {"add_k_proj": "k_img", "add_v_proj": "v_img", "norm_added_k": "norm_k_img"}
_WAN = [
    *_same("patch_embedding"),
    *_renames(
        "condition_embedder.",
        "",
        {
            "time_embedder.linear_1": "time_embedding.0",
            "time_embedder.linear_2": "time_embedding.2",
            "time_proj": "time_projection.1",
            "text_embedder.linear_1": "text_embedding.0",
            "text_embedder.linear_2": "text_embedding.2",
            "image_embedder.norm1": "img_emb.proj.0",
            "image_embedder.ff.net.0.proj": "img_emb.proj.1",
            "image_embedder.ff.net.2": "img_emb.proj.3",
            "image_embedder.norm2": "img_emb.proj.4",
            "image_embedder.pos_embed": "img_emb.emb_pos",
        },
    ),
    *_renames("blocks.{i}.attn1.", "blocks.{i}.self_attn.", _WAN_ATTENTION),
    *_renames("blocks.{i}.attn2.", "blocks.{i}.cross_attn.", {**_WAN_ATTENTION, **_WAN_IMAGE}),
    *_renames(
        "blocks.{i}.",
        "blocks.{i}.",
        {"norm2": "norm3", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "scale_shift_table": "modulation"},
    ),
    Rule("scale_shift_table", "head.modulation"),
    Rule("proj_out", "head.head"),
]
_WAN += [  # VACE's blocks beside them
    *(
        Rule(f"vace_{rule.diffusers}", f"vace_{rule.native}")
        for rule in tuple(_WAN)
        if rule.diffusers.startswith("blocks.") and not rule.native.endswith("_img")
    ),
    *_renames("vace_blocks.{i}.", "vace_blocks.{i}.", {"proj_in": "before_proj", "proj_out": "after_proj"}),
    *_same("vace_patch_embedding"),
]
_WAN += [  # Animate's attention to the face
    *_fused("face_adapter.{i}.", ("to_k", "to_v"), "face_adapter.fuser_blocks.{i}.linear1_kv"),
    *_renames("face_adapter.{i}.", "face_adapter.fuser_blocks.{i}.", {"to_q": "linear1_q", "to_out": "linear2"}),
]
_QKV = ("to_q", "to_k", "to_v")
_HY_DOUBLE = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
}
_HY_REFINER = {
    "attn.to_out.0": "self_attn.proj",
    "ff.net.0.proj": "mlp.0",
    "ff.net.2": "mlp.2",
    "norm1": "norm1",
    "norm2": "norm2",
    "norm_out.linear": "adaLN_modulation.1",
}
_HY_REFINERS = ("context_embedder.token_refiner.refiner_blocks.{i}.", "txt_in.individual_token_refiner.blocks.{i}.")
_HUNYUAN = [
    *_renames(
        "",
        "",
        {
            "x_embedder.proj": "img_in.proj",
            "context_embedder.proj_in": "txt_in.input_embedder",
            "context_embedder.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.in_layer",
            "context_embedder.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.out_layer",
            "context_embedder.time_text_embed.text_embedder.linear_1": "txt_in.c_embedder.in_layer",
            "context_embedder.time_text_embed.text_embedder.linear_2": "txt_in.c_embedder.out_layer",
            "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
            "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
            "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
            "proj_out": "final_layer.linear",
        },
    ),
    # diffusers reads (scale, shift) off this projection, the original reads (shift, scale)
    Rule("norm_out.linear", "final_layer.adaLN_modulation.1", op="swap"),
    *_fused(_HY_REFINERS[0] + "attn.", _QKV, _HY_REFINERS[1] + "self_attn.qkv"),
    *_renames(*_HY_REFINERS, _HY_REFINER),
    *_fused("transformer_blocks.{i}.attn.", _QKV, "double_blocks.{i}.img_attn.qkv"),
    *_fused(
        "transformer_blocks.{i}.attn.",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        "double_blocks.{i}.txt_attn.qkv",
    ),
    *_renames("transformer_blocks.{i}.", "double_blocks.{i}.", _HY_DOUBLE),
    *_fused(
        "single_transformer_blocks.{i}.",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "single_blocks.{i}.linear1",
    ),
    *_renames(
        "single_transformer_blocks.{i}.",
        "single_blocks.{i}.",
        {
            "proj_out": "linear2",
            "norm.linear": "modulation.lin",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
        },
    ),
]
_HUNYUAN15 = [
    *_renames(
        "",
        "",
        {
            "x_embedder.proj": "img_in.proj",
            "cond_type_embed": "cond_type_embedding",
            "image_embedder.norm_in": "vision_in.proj.0",
            "image_embedder.linear_1": "vision_in.proj.1",
            "image_embedder.linear_2": "vision_in.proj.3",
            "image_embedder.norm_out": "vision_in.proj.4",
            "context_embedder_2.norm": "byt5_in.layernorm",
            "context_embedder_2.linear_{i}": "byt5_in.fc{i}",
            "time_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_embed.timestep_embedder_r.linear_1": "time_r_in.in_layer",
            "time_embed.timestep_embedder_r.linear_2": "time_r_in.out_layer",
        },
    ),
    *(
        rule
        for rule in _HUNYUAN
        if rule.diffusers.startswith(("context_embedder.", "norm_out.", "proj_out", "transformer_blocks."))
    ),
]
_LTX_ATTENTION = {
    **{name: name for name in ("to_q", "to_k", "to_v", "to_out.0", "to_gate_logits")},
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
_LTX_BLOCK = "transformer_blocks.{i}."


def _ltx_ada(names: Mapping[str, str]) -> list[Rule]:
    """Embeddings of time, and what they modulate."""
    parts = ("linear", "emb.timestep_embedder.linear_{i}")
    return [Rule(f"{left}.{part}", f"{right}.{part}") for left, right in names.items() for part in parts]


_LTX = [
    Rule("proj_in", "patchify_proj"),
    *_ltx_ada({"time_embed": "adaln_single"}),
    *_same("caption_projection.linear_{i}", "scale_shift_table", "proj_out"),
    *(rule for name in ("attn1.", "attn2.") for rule in _renames(_LTX_BLOCK + name, _LTX_BLOCK + name, _LTX_ATTENTION)),
    *_same(_LTX_BLOCK + "ff.net.0.proj", _LTX_BLOCK + "ff.net.2", _LTX_BLOCK + "scale_shift_table"),
]
_LTX2_ATTENTION = ("audio_attn1.", "audio_attn2.", "audio_to_video_attn.", "video_to_audio_attn.")
_LTX2_BLOCK = ("audio_ff.net.0.proj", "audio_ff.net.2", "audio_scale_shift_table")
_LTX2 = [
    *_LTX,
    Rule("audio_proj_in", "audio_patchify_proj"),
    *_ltx_ada(
        {
            "audio_time_embed": "audio_adaln_single",
            "prompt_adaln": "prompt_adaln_single",
            "audio_prompt_adaln": "audio_prompt_adaln_single",
            "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
            "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
            "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
            "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
        },
    ),
    *_same("audio_caption_projection.linear_{i}", "audio_scale_shift_table", "audio_proj_out"),
    *(rule for name in _LTX2_ATTENTION for rule in _renames(_LTX_BLOCK + name, _LTX_BLOCK + name, _LTX_ATTENTION)),
    *_same(
        *(_LTX_BLOCK + name for name in (*_LTX2_BLOCK, "prompt_scale_shift_table", "audio_prompt_scale_shift_table"))
    ),
    *_renames(
        _LTX_BLOCK,
        _LTX_BLOCK,
        {
            "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
            "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
        },
    ),
]
_K5_PARTS = {
    "text": ("text_modulation", "self_attention"),
    "visual": ("visual_modulation", "self_attention", "cross_attention"),
}
_K5_ATTENTION = ("to_query", "to_key", "to_value", "out_layer", "query_norm", "key_norm")
_K5 = [
    *_same("time_embeddings.in_layer", "time_embeddings.out_layer", "visual_embeddings.in_layer"),
    *_same("text_embeddings.in_layer", "text_embeddings.norm"),
    *_same("pooled_text_embeddings.in_layer", "pooled_text_embeddings.norm"),
    *_same("out_layer.modulation.out_layer", "out_layer.out_layer"),
    *_same(
        *(
            f"{kind}_transformer_blocks.{{i}}.{part}.{name}"
            for kind, (modulation, *attentions) in _K5_PARTS.items()
            for part, names in (
                (modulation, ("out_layer",)),
                ("feed_forward", ("in_layer", "out_layer")),
                *((attention, _K5_ATTENTION) for attention in attentions),
            )
            for name in names
        )
    ),
]
_COSMOS2_ATTENTION = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out.0": "output_proj",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
_COSMOS2_PARTS = ("self_attn", "cross_attn", "mlp")
_COSMOS2 = [
    Rule("patch_embed.proj", "x_embedder.proj.1"),
    Rule("time_embed.t_embedder.linear_{i}", "t_embedder.1.linear_{i}"),
    Rule("time_embed.norm", "t_embedding_norm"),
    Rule("norm_out.linear_{i}", "final_layer.adaln_modulation.{i}"),
    Rule("proj_out", "final_layer.linear"),
    *_renames("transformer_blocks.{i}.", "blocks.{i}.mlp.", {"ff.net.0.proj": "layer1", "ff.net.2": "layer2"}),
    *(
        Rule(f"transformer_blocks.{{i}}.norm{n}.linear_{{j}}", f"blocks.{{i}}.adaln_modulation_{part}.{{j}}")
        for n, part in enumerate(_COSMOS2_PARTS, 1)
    ),
    *(
        Rule(f"transformer_blocks.{{i}}.attn{n}.{theirs}", f"blocks.{{i}}.{part}.{own}")
        for n, part in enumerate(_COSMOS2_PARTS[:2], 1)
        for theirs, own in _COSMOS2_ATTENTION.items()
    ),
]
_H3_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "adaln_proj.linear": "adaln_proj.linear",
    "attn.norm_q": "attn.q_norm",
    "attn.norm_k": "attn.k_norm",
    "attn.to_out.0": "attn.out_proj",
    "ff.net.2": "mlp.fc2",
}
_H3_BLOCKS = {
    "transformer_blocks.{i}.": "blocks.{i}.",
    "token_refiner.refiner_blocks.{i}.": "token_refiner.blocks.{i}.",
}
_H3 = [
    *_renames(
        "",
        "",
        {
            "proj_in": "video_patch_proj",
            "audio_proj_in": "audio_patch_proj",
            "context_embedder": "condition_proj",
            "time_embedder.linear_1": "time_embedder.proj_in",
            "time_embedder.linear_2": "time_embedder.proj_out",
            "token_refiner.final_norm": "token_refiner.final_norm",
            "norm_out.norm": "final_layer.norm",
            "norm_out.linear": "final_layer.adaln_proj.linear",
            "proj_out": "final_layer.video_out",
            "audio_proj_out": "final_layer.audio_out",
        },
    ),
    *(rule for each in _H3_BLOCKS.items() for rule in _renames(*each, _H3_BLOCK)),
    *(rule for a, b in _H3_BLOCKS.items() for rule in _fused(a + "attn.", _QKV, b + "attn.qkv_proj")),
    *(Rule(a + "ff.net.0.proj", b + "mlp.fc1", op="swap") for a, b in _H3_BLOCKS.items()),  # the gate comes first
]
_MOCHI_BLOCK = ("transformer_blocks.{i}.", "blocks.{i}.")
_MOCHI_ATTENTION = ("transformer_blocks.{i}.attn1.", "blocks.{i}.attn.")
_MOCHI = [
    *_same("pos_frequencies"),
    *_renames(
        "",
        "",
        {
            "patch_embed.proj": "x_embedder.proj",
            "time_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_embed.caption_proj": "t5_yproj",
            "proj_out": "final_layer.linear",
        },
    ),
    *_renames("time_embed.pooler.", "t5_y_embedder.", {name: name for name in ("to_kv", "to_q", "to_out")}),
    Rule("norm_out.linear", "final_layer.mod", op="swap"),
    *_renames(*_MOCHI_BLOCK, {"norm1.linear": "mod_x", "norm1_context.linear": "mod_y"}),
    Rule("transformer_blocks.{i}.norm1_context.linear_1", "blocks.{i}.mod_y", narrow=True),  # of the last block
    *_fused(_MOCHI_ATTENTION[0], _QKV, "blocks.{i}.attn.qkv_x"),
    *_fused(_MOCHI_ATTENTION[0], ("add_q_proj", "add_k_proj", "add_v_proj"), "blocks.{i}.attn.qkv_y"),
    *_renames(
        *_MOCHI_ATTENTION,
        {
            "norm_q": "q_norm_x",
            "norm_k": "k_norm_x",
            "norm_added_q": "q_norm_y",
            "norm_added_k": "k_norm_y",
            "to_out.0": "proj_x",
            "to_add_out": "proj_y",
        },
    ),
    *(  # diffusers has (values, gate), the original (gate, values)
        rule
        for theirs, own in (("ff", "mlp_x"), ("ff_context", "mlp_y"))
        for rule in (
            Rule(f"transformer_blocks.{{i}}.{theirs}.net.0.proj", f"blocks.{{i}}.{own}.w1", op="swap"),
            Rule(f"transformer_blocks.{{i}}.{theirs}.net.2", f"blocks.{{i}}.{own}.w2"),
        )
    ),
]
_WAN_RESIDUAL = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}


def _wan_vae(blocks: int = 4, resnets: int = 2, nested: bool = False) -> list[Rule]:
    """The Wan VAEs: the native encoder and decoder count all layers of all blocks in one list (2.1) or in a list a
    block (2.2, `nested`)."""
    rules = [
        Rule("quant_conv", "conv1"),
        Rule("post_quant_conv", "conv2"),
    ]
    for side in ("encoder", "decoder"):
        rules += _renames(
            f"{side}.",
            f"{side}.",
            {
                "conv_in": "conv1",
                "norm_out": "head.0",
                "conv_out": "head.2",
                "mid_block.attentions.0.norm": "middle.1.norm",
                "mid_block.attentions.0.to_qkv": "middle.1.to_qkv",
                "mid_block.attentions.0.proj": "middle.1.proj",
            },
        )
        for left, right in ((0, 0), (1, 2)):
            rules += _renames(f"{side}.mid_block.resnets.{left}.", f"{side}.middle.{right}.", _WAN_RESIDUAL)
    rules += _wan_down(blocks, resnets, nested)
    rules += _wan_up(blocks, resnets, nested)
    return rules


_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}


def _wan_down(blocks: int, resnets: int, nested: bool) -> list[Rule]:
    rules: list[Rule] = []
    for block in range(blocks):
        for layer in range(resnets + 1):
            flat = block * (resnets + 1) + layer
            native = f"encoder.downsamples.{block}.downsamples.{layer}." if nested else f"encoder.downsamples.{flat}."
            if layer == resnets:
                left = f"encoder.down_blocks.{block}.downsampler." if nested else f"encoder.down_blocks.{flat}."
                rules += _renames(left, native, _RESAMPLE)
            else:
                left = f"encoder.down_blocks.{block}.resnets.{layer}." if nested else f"encoder.down_blocks.{flat}."
                rules += _renames(left, native, _WAN_RESIDUAL)
    return rules


def _wan_up(blocks: int, resnets: int, nested: bool) -> list[Rule]:
    rules: list[Rule] = []
    for block in range(blocks):
        for layer in range(resnets + 2):
            flat = block * (resnets + 2) + layer
            native = f"decoder.upsamples.{block}.upsamples.{layer}." if nested else f"decoder.upsamples.{flat}."
            if layer == resnets + 1:
                sampler = "upsampler." if nested else "upsamplers.0."
                rules += _renames(f"decoder.up_blocks.{block}.{sampler}", native, _RESAMPLE)
            else:
                rules += _renames(f"decoder.up_blocks.{block}.resnets.{layer}.", native, _WAN_RESIDUAL)
    return rules


def _hunyuan_vae(blocks: int = 4) -> list[Rule]:
    """HunyuanVideo's VAE; natively the decoder's blocks count from the output."""
    resnet = {
        "norm1": "norm1",
        "conv1.conv": "conv1.conv",
        "norm2": "norm2",
        "conv2.conv": "conv2.conv",
        "conv_shortcut.conv": "nin_shortcut.conv",
    }
    rules = _same("quant_conv", "post_quant_conv")
    for side in ("encoder", "decoder"):
        rules += _same(f"{side}.conv_in.conv", f"{side}.conv_out.conv")
        rules.append(Rule(f"{side}.conv_norm_out", f"{side}.norm_out"))
        rules.append(Rule(f"{side}.mid_block.attentions.0.group_norm", f"{side}.mid.attn_1.norm"))
        for left, right in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            rules.append(Rule(f"{side}.mid_block.attentions.0.{left}", f"{side}.mid.attn_1.{right}", op="conv"))
        for block in range(2):
            rules += _renames(f"{side}.mid_block.resnets.{block}.", f"{side}.mid.block_{block + 1}.", resnet)
    rules += _renames("encoder.down_blocks.{i}.resnets.{j}.", "encoder.down.{i}.block.{j}.", resnet)
    rules.append(Rule("encoder.down_blocks.{i}.downsamplers.0.conv.conv", "encoder.down.{i}.downsample.conv.conv"))
    for block in range(blocks):
        native = f"decoder.up.{blocks - 1 - block}."
        rules += _renames(f"decoder.up_blocks.{block}.resnets.{{j}}.", native + "block.{j}.", resnet)
        rules.append(Rule(f"decoder.up_blocks.{block}.upsamplers.0.conv.conv", native + "upsample.conv.conv"))
    return rules


def _hunyuan15_vae() -> list[Rule]:
    """HunyuanVideo 1.5's VAE; natively the decoder's blocks count from the input, as in diffusers."""
    resnet = {
        "norm1": "norm1",
        "conv1.conv": "conv1.conv",
        "norm2": "norm2",
        "conv2.conv": "conv2.conv",
        "conv_shortcut": "nin_shortcut.conv",
    }
    rules: list[Rule] = []
    for side, down, path in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        rules += _same(f"{side}.conv_in.conv", f"{side}.conv_out.conv", f"{side}.norm_out")
        attention = {"norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "proj_out": "proj_out"}
        rules += _renames(f"{side}.mid_block.attentions.0.", f"{side}.mid.attn_1.", attention)
        for block in range(2):
            rules += _renames(f"{side}.mid_block.resnets.{block}.", f"{side}.mid.block_{block + 1}.", resnet)
        rules += _renames(f"{side}.{down}_blocks.{{i}}.resnets.{{j}}.", f"{side}.{down}.{{i}}.block.{{j}}.", resnet)
        rules.append(Rule(f"{side}.{down}_blocks.{{i}}.{path}rs.0.conv.conv", f"{side}.{down}.{{i}}.{path}.conv.conv"))
    return rules


def _mochi_vae(blocks: int = 3, first: int = 3, resnets: int = 6) -> list[Rule]:
    """Mochi's VAE: natively the first layers of the encoder, its blocks and its last layers are counted in one list."""
    resnet = {
        "norm1.norm_layer": "stack.0",
        "conv1.conv": "stack.2",
        "norm2.norm_layer": "stack.3",
        "conv2.conv": "stack.5",
    }
    down = first + 1
    stages = [("block_in", "layers.", 1, first), ("block_out", "layers.", down + blocks, first)]
    stages += [(f"down_blocks.{i}", f"layers.{down + i}.layers.", 1, resnets) for i in range(blocks)]
    rules = _renames(
        "encoder.", "encoder.", {"proj_in": "layers.0", "norm_out.norm_layer": "output_norm", "proj_out": "output_proj"}
    )
    for stage, native, start, count in stages:
        for layer in range(count):
            left, right = f"encoder.{stage}.", f"encoder.{native}{start + layer}."
            rules += _renames(f"{left}resnets.{layer}.", right, resnet)
            rules.append(Rule(f"{left}norms.{layer}.norm_layer", f"{right}attn_block.norm"))
            rules += _fused(f"{left}attentions.{layer}.", _QKV, f"{right}attn_block.attn.qkv")
            rules.append(Rule(f"{left}attentions.{layer}.to_out.0", f"{right}attn_block.attn.out"))
    for i in range(blocks):
        rules.append(Rule(f"encoder.down_blocks.{i}.conv_in.conv", f"encoder.layers.{down + i}.layers.0"))
        rules.append(Rule(f"decoder.up_blocks.{i}.proj", f"decoder.blocks.{i + 1}.proj"))
        rules += _renames(f"decoder.up_blocks.{i}.resnets.{{j}}.", f"decoder.blocks.{i + 1}.blocks.{{j}}.", resnet)
    for layer in range(first):
        rules += _renames(f"decoder.block_in.resnets.{layer}.", f"decoder.blocks.0.{layer + 1}.", resnet)
        rules += _renames(f"decoder.block_out.resnets.{layer}.", f"decoder.blocks.{blocks + 1}.{layer}.", resnet)
    return [*rules, Rule("decoder.conv_in", "decoder.blocks.0.0"), Rule("decoder.proj_out", "decoder.output_proj")]


FAMILIES: dict[str, Rules] = {
    "cogvideox": tuple(_COGVIDEOX),
    "wan": tuple(_WAN),
    "hunyuan_video": tuple(_HUNYUAN),
    "hunyuan_video15": tuple(_HUNYUAN15),
    "ltx": tuple(_LTX),
    "ltx2": tuple(_LTX2),
    "kandinsky5": tuple(_K5),
    "cosmos_predict2": tuple(_COSMOS2),
    "minimax_h3": tuple(_H3),
    "mochi": tuple(_MOCHI),
}
"""Rules of the transformers, by family."""
VAES: dict[str, Rules] = {
    "wan": tuple(_wan_vae()),
    "wan2.2": tuple(_wan_vae(nested=True)),
    "hunyuan_video": tuple(_hunyuan_vae()),
    "hunyuan_video15": tuple(_hunyuan15_vae()),
    "mochi": tuple(_mochi_vae()),
}
"""Rules of the VAEs. CogVideoX's VAE has the same names on both sides and no entry."""

SPELLINGS = (
    (
        r"(?:double_blocks|single_blocks|txt_in[._]individual_token_refiner[._]blocks)[._]\d+[._]",
        (
            (r"_attn_(qkv|proj)$", r"_attn.\1"),
            (r"mlp[._]fc1$", "mlp.0"),
            (r"mlp[._]fc2$", "mlp.2"),
            (r"(_mod|modulation)[._]linear$", r"\1.lin"),
            (r"^double_blocks[._](\d+)[._]img_attn[._]([qkv])$", r"transformer_blocks.\1.attn.to_\2"),
            (r"^double_blocks[._](\d+)[._]txt_attn[._]([qkv])$", r"transformer_blocks.\1.attn.add_\2_proj"),
        ),
    ),
)
"""Modules of HunyuanVideo as its authors' code spells them, and files of trainers that run it (diffusion-pipe, musubi):
the start of a path, and what is what at its end. Those of `SPLIT` get diffusers' names."""
SPLIT = "hunyuan_video15", re.compile(r"double_blocks[._]\d+[._](?:img|txt)_attn[._][qkv]$")
"""A family, and modules that only its authors' code has apart: ComfyUI stacks them."""
