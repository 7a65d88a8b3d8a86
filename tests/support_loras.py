"""Tiny random alignment LoRAs for tests, in our own types; names are those of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# (module, out, in) of tiny models: width 128 (CogVideoX) and 256 (Wan, HunyuanVideo), perceptrons 4 and .25 times that
_COG = [(f"attn1.to_{p}", 128, 128) for p in ("q", "k", "v", "out.0")] + [("ff.net.0.proj", 512, 128)]
_WAN = [(f"attn{n}.to_{p}", 256, 256) for n in (1, 2) for p in ("q", "k", "v", "out.0")] + [("ffn.net.2", 256, 64)]
_DOUBLE = [(f"attn.to_{p}", 256, 256) for p in ("q", "k", "v", "out.0")] + [("attn.add_k_proj", 256, 256)]
_SINGLE = [("attn.to_q", 256, 256), ("attn.to_k", 256, 256), ("attn.to_v", 256, 256), ("proj_mlp", 1024, 256)]
MODULES: dict[str, list[tuple[str, int, int]]] = {
    "cogvideox": [(f"transformer_blocks.{i}.{n}", o, w) for i in (0, 1) for n, o, w in _COG],
    "wan": [(f"blocks.{i}.{n}", o, w) for i in (0, 1) for n, o, w in _WAN],
    "hunyuan_video": [(f"transformer_blocks.0.{n}", o, w) for n, o, w in _DOUBLE]
    + [(f"single_transformer_blocks.0.{n}", o, w) for n, o, w in _SINGLE]
    + [("norm_out.linear", 512, 256)],
}
# (out, channels of the model, more dimensions) of the input projection; CogVideoX 1.5 has a matrix
PROJECTIONS = {"cogvideox": (128, 32, (2, 2)), "wan": (256, 36, (1, 2, 2)), "hunyuan_video": (256, 16, (1, 2, 2))}


def noise(shape: tuple[int, ...], seed: int, std: float = 0.1) -> Tensor:
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_lora(
    module: ModuleType,
    family: str,
    extra: int = 0,
    alpha: float | None = 8.0,
    rank: int = 4,
    decoder: bool = False,
    base: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Any:
    """A random LoRA, in the `backbones.lora` module that is passed.

    Args:
        extra: channels that the input projection is widened by; 0 leaves it out.
        base: weight and bias of the model's own projection, which the file then repeats in its first columns (and
            moves a little, as training does); None takes noise.
    """
    factors = {}
    for i, (name, out, width) in enumerate(MODULES[family]):
        up, down = noise((out, rank), seed + 2 * i + 1), noise((rank, width), seed + 2 * i)
        factors[name] = module.Factors(down, up, alpha)
    projection = {}
    if extra:
        out, channels, more = PROJECTIONS[family]
        weight = base["weight"] if base is not None else noise((out, channels, *more), seed + 900)
        bias = base["bias"] if base is not None else noise((out,), seed + 901)
        wide = torch.cat([weight.float(), noise((out, extra, *weight.shape[2:]), seed + 902)], dim=1)
        projection = {"weight": wide + noise(tuple(wide.shape), seed + 903, 0.02), "bias": bias.float() + 0.05}
    more_tensors = {"seg_head.conv.weight": noise((3, 2, 1), seed + 904), "mask.w": noise((4,), 5)} if decoder else {}
    info = module.Info(
        "id_map" if extra > 1 else "target_mask" if extra else "",
        PROJECTIONS[family][1],
        {"v2t": (7, 11), "v2v": (12,)},
        ((255, 0, 0), (0, 255, 0)),
        "target",
        'the word "target" before the noun',
        ("made for a test",),
    )
    return module.AlignmentLoRA(family, factors, projection, more_tensors, info)
