"""What is particular to native LTX-Video."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ....backbones import BackboneSpec
from ....backbones.ltx import SPEC
from ..weights import Progress
from .base import Family, FirstFrameInput, made_mask, t5_clip

__all__ = ["FAMILY", "LTX"]

_RATE = 25.0  # frames per second that the host tells the network where no conditioning says a rate
# of a diffusers transformer's config, what the host reads under the same name
_SHARED = ("in_channels", "cross_attention_dim", "attention_head_dim", "num_attention_heads", "caption_channels")


class LTX(Family):
    """LTX-Video 0.9. Frames that guide it trail the clip in its latent; guides whose latents were spread out leave
    gaps, which are dropped before the first block."""

    adds_in_place = True
    reads_tokens = True

    def __init__(self, spec: BackboneSpec = SPEC) -> None:
        super().__init__(spec)

    def metadata(self, folder: Path, config: Mapping[str, Any]) -> dict[str, str] | None:
        """Numbers of heads, which the host cannot see in the weights, and where time begins: pipelines that take
        conditions at any frame count a first latent as one frame."""
        said = {name: config[name] for name in _SHARED if name in config}
        index = folder / "model_index.json"
        if index.is_file():
            name = str(json.loads(index.read_text(encoding="utf-8")).get("_class_name", ""))
            said["causal_temporal_positioning"] = "Condition" in name
        return {"config": json.dumps({"transformer": said})}

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """T5 with its mask, of which the host has the tokenizer."""
        import comfy.text_encoders.lt as host

        return t5_clip(folder, "t5xxl", host.ltxv_te, host.LTXVT5Tokenizer, progress)

    def frames_behind(self, given: Iterable[Mapping[str, Any]], latent: tuple[int, int, int]) -> int:
        """Frames of the guides that nodes like LTXVAddGuide put there."""
        frames, height, width = latent
        counts = {each.shape[2] for one in given if (each := one.get("keyframe_idxs")) is not None}
        counts.discard(0)
        if not counts:
            return 0
        (tokens, *others) = counts
        if others or tokens % (height * width) or tokens // (height * width) >= frames:
            raise ValueError(
                f"the conditionings count {sorted(counts)} tokens of guide frames, and the latent has {frames} frames "
                f"of {height}x{width}: give positive and negative, and the latent, of one and the same guide node"
            )
        return int(tokens // (height * width))

    def frame_rate(self, given: Iterable[Mapping[str, Any]], usual: float | None) -> float | None:
        """LTXVConditioning's; without that node the host's own, whatever is usual: the network is told that."""
        rates = {float(one["frame_rate"]) for one in given if one.get("frame_rate") is not None}
        return (rates or {_RATE}).pop() if len(rates) < 2 else None

    def left_out(self, given: Mapping[str, Any]) -> int:
        """Tokens of a guide's latent that its `denoise_mask` marks as gaps."""
        guides, mask = given.get("keyframe_idxs"), given.get("denoise_mask")
        if guides is None or mask is None:
            return 0
        gaps = (mask[0] < 0).any(0).flatten()  # (T*H*W,)
        if gaps[: len(gaps) - guides.shape[2]].any():
            raise ValueError("the latent's mask is below 0 in frames of the clip, whose tokens the network drops")
        return int(gaps.sum())

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """The first latent frame is given and not noised."""
        frames = empty.clone()
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {}, {"samples": frames, "noise_mask": made_mask(empty).expand(len(empty), -1, -1, -1, -1)}


FAMILY = LTX()
