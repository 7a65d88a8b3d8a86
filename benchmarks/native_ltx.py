"""What watching and steering cost on LTX-2.3 inside the real ComfyUI: a MODEL of its sizes with random weights, sound
beside the clip, under the host's sampler.

121 frames of 704x1280 pixels are 14,080 tokens of 48 layers; a text of 1,024 rows. `sound`: with 126 audio tokens, and
without. A figure is the mean of the steps of one run but its first, in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import native
from .timing import as_json, compare

__all__ = ["run"]


@dataclass(frozen=True)
class Size:
    """Of the model and of its runs. latent: of the clip; sound: audio tokens."""

    heads: int
    head: int
    layers: int
    latent: tuple[int, int, int]
    sound: int
    text: int
    steps: int


FULL = Size(32, 128, 48, (16, 22, 40), 126, 1024, 4)
SMALL = Size(2, 32, 2, (3, 4, 6), 7, 1024, 3)


class Bench(native.Bench):
    """LTX-2.3 in the place of CogVideoX."""

    def __init__(self, size: Size, device: torch.device, sound: bool = True) -> None:
        self.size: Any = size
        self.device, self.library = device, native.Library("matrix_lib")
        clip = torch.zeros(1, 128, *size.latent)
        self.latent: Any = clip
        if sound:
            from comfy.nested_tensor import NestedTensor

            self.latent = NestedTensor([clip, torch.zeros(1, 8, size.sound, 16)])

    @property
    def width(self) -> int:
        return int(self.size.heads * self.size.head)

    def model(self, layers: int) -> Any:
        """A native MODEL with random weights, made on the device and loaded by the host's own loader."""
        import comfy.ops
        import comfy.sd
        from comfy.ldm.lightricks.av_model import LTXAVModel

        said = {
            "num_attention_heads": self.size.heads, "attention_head_dim": self.size.head,
            "cross_attention_dim": self.width, "caption_channels": self.width - 256 * (self.size.heads > 2),
            "audio_num_attention_heads": self.size.heads, "audio_attention_head_dim": self.size.head // 2,
            "audio_cross_attention_dim": self.width // 2, "connector_num_attention_heads": self.size.heads,
            "connector_attention_head_dim": self.size.head, "audio_connector_attention_head_dim": self.size.head // 2,
            "apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True,
            "caption_projection_first_linear": False, "rope_type": "split", "use_middle_indices_grid": True,
            "causal_temporal_positioning": True, "connector_apply_gated_attention": True,
        }  # fmt: skip
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        given = {"device": self.device, "dtype": dtype, "operations": comfy.ops.disable_weight_init}
        net = LTXAVModel(num_layers=layers, **said, **given)
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.inference_mode():
            state = net.state_dict()
            for name, value in state.items():
                norm = name.endswith("weight") and value.ndim == 1
                value.normal_(float(norm), 0.1 if norm else 0.02, generator=generator)
            return comfy.sd.load_diffusion_model_state_dict(
                state, model_options={"dtype": dtype}, metadata={"config": json.dumps({"transformer": said})}
            )

    def conditioning(self, library: native.Library | None, seed: int = 1) -> list[Any]:
        """Rows that have been through the connectors; words and tracks where a library is given."""
        random = torch.Generator().manual_seed(seed)
        frames, height, width = self.size.latent
        sizes = (8 * frames - 7, 32 * height, 32 * width)
        given = {} if library is None else library.carried(*sizes, text=self.size.text, reads="gemma3")
        rows: Tensor = torch.randn(1, self.size.text, self.width + self.width // 2, generator=random)
        return [[rows, given]]


def run(rounds: int, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Plain, captured (all layers, ten words, three instances; then four layers), and steered on attention."""
    cuda = torch.cuda.is_available()
    native.start_host(cuda)
    if not cuda:
        print("no GPU: a small model on the CPU; these figures say nothing about a GPU")
    from matrix_lib.core.guidance.partition import Partition
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.core.layers import Layers
    from matrix_lib.hosts.comfy.steer import steer

    size, device = FULL if cuda else SMALL, torch.device("cuda" if cuda else "cpu")
    some = tuple(range(0, size.layers, max(1, size.layers // 4)))
    results: dict[str, Any] = {"layers": size.layers, "tokens": size.latent[0] * size.latent[1] * size.latent[2]}
    model = Bench(size, device).model(size.layers)
    for name, sound in (("sound", True), ("no sound", False)):
        bench = Bench(size, device, sound)
        own = bench.library
        variants = {
            "plain": bench.timed(model, None),
            "captured": bench.timed(own.recorded(model), own),
            "captured, 4 layers": bench.timed(own.recorded(model, layers=some), own),
            "region bias": bench.timed(steer(model, RegionBias()), own),
            "region bias, 4 layers": bench.timed(steer(model, RegionBias(layers=Layers.only(some))), own),
            "partition": bench.timed(steer(model, Partition(size.steps, match=None)), own),
        }
        print(name)
        results[name] = as_json(compare(variants, rounds, device))
        save(results)
    return results
