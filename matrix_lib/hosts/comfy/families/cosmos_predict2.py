"""What is particular to native Cosmos Predict 2.

Two things differ from its diffusers pipeline, and are the host's own. Its positions in time do not go by frames per
second, where the pipeline spreads them by 24 / fps: both agree where it is called with fps=24. Frames that are given
are shown as clean, where the pipeline says a noise of 0.0001.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ....backbones.cosmos_predict2 import SPEC
from ..weights import Progress
from .base import Family, FirstFrameInput, made_mask, t5_clip

__all__ = ["FAMILY", "CosmosPredict2"]


class CosmosPredict2(Family):
    """Cosmos Predict 2 Video2World."""

    def adapt(self, model: Any, folder: Path, config: Mapping[str, Any], aside: Any) -> None:
        """How far positions are spread, which the host tells by the width of the network, as it does numbers of heads.
        Raises ValueError for another number of heads, and for other models of the class."""
        self.spec.check_settings(config)
        network = model.model.diffusion_model
        if (heads := config.get("num_attention_heads", network.num_heads)) != network.num_heads:
            raise ValueError(
                f"{folder} has {heads} heads; ComfyUI reads a {self.spec.title} of this width with {network.num_heads}"
            )
        places = network.pos_embedder
        sizes = len(places.dim_temporal_range), len(places.dim_spatial_range), len(places.dim_spatial_range)
        for axis, scale, half in zip("thw", config.get("rope_scale", (2.0, 1.0, 1.0)), sizes):
            setattr(places, f"{axis}_ntk_factor", scale ** (2 * half / (2 * half - 2)))

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """T5 1.0, of which the host has the tokenizer."""
        import comfy.text_encoders.cosmos as host

        return t5_clip(folder, "t5xxl", host.te, host.CosmosT5Tokenizer, progress)

    def check(self, network: nn.Module) -> None:
        """The same network also makes pictures, without a channel for frames that are given."""
        super().check(network)
        if (channels := getattr(network, "in_channels", 17)) not in SPEC.native_channels:
            why = f"with {channels} input channels it makes pictures, not video"
            raise self.unfollowed(network, SPEC.native.classes, type(network).__name__, why)

    def frame_rate(self, given: Iterable[Mapping[str, Any]], usual: float | None) -> float | None:
        """What conditionings say, where they do."""
        rates = {float(one["frame_rate"]) for one in given if one.get("frame_rate") is not None}
        if not rates:
            return usual
        return rates.pop() if len(rates) == 1 else None

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """The first latent frame is given and not noised; the latent's mask tells the network."""
        frames = model.get_model_object("latent_format").process_out(empty)
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {}, {"samples": frames, "noise_mask": made_mask(empty).expand(len(empty), -1, -1, -1, -1)}


FAMILY = CosmosPredict2(SPEC)
