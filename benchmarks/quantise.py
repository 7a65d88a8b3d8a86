"""Frozen weights in fewer bits: what unpacking one matrix costs, beside its product and beside a copy of it.

One matrix of CogVideoX-5B's feed-forward layers (12,288 x 3,072), 20 times in a row; its product is that with 17,776
tokens. A training step unpacks each matrix three times: in the forward pass, when its block runs again, and in the
backward pass. Bytes are counted for each weight; a copy in bfloat16 reads two and writes two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.run.quantise import PackedLinear

from .timing import as_json, compare

__all__ = ["run"]

BYTES = {"copy": 4.0, "int8": 7.0, "fp8": 7.0, "nf4": 10.6}
"""Read and written for a weight: nf4's codes .5 and as integers 2, twice, two numbers of 2, scaled once more."""


def run(rounds: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16
    wide, high, tokens, times = (3072, 12288, 17776, 20) if cuda else (256, 512, 32, 2)
    if not cuda:
        print("no GPU: a small matrix on the CPU; these figures say nothing about a GPU")
    torch.manual_seed(0)
    layer = nn.Linear(wide, high, device=device, dtype=dtype)
    x = torch.randn(tokens, wide, device=device, dtype=dtype)
    packed = {bits: PackedLinear(layer, bits) for bits in ("int8", "fp8", "nf4")}
    weight = layer.weight.detach()
    ways: dict[str, Callable[[], Tensor]] = {"product": lambda: x @ weight.T, "copy": weight.clone}
    ways |= {bits: (lambda one=one: one.unpacked(dtype)) for bits, one in packed.items()}
    with torch.inference_mode():
        repeated = {name: (lambda way=way: [way() for _ in range(times)]) for name, way in ways.items()}
        figures = compare(repeated, rounds, device)
    speed = {f.name: BYTES[f.name] * weight.numel() * times / f.ms / 1e9 for f in figures if f.name in BYTES}
    print("TB a second:", {name: round(value, 3) for name, value in speed.items()})
    return {"matrix": [high, wide], "tokens": tokens, "times": times, "ways": as_json(figures), "tb_s": speed}
