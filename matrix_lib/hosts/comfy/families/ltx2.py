"""What is particular to native LTX-2."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ....backbones.ltx2 import SPEC
from ..weights import Progress, read_json, read_weights
from .base import Family
from .ltx import LTX

__all__ = ["FAMILY", "LTX2"]


# of the configs of a diffusers folder, what the host reads
_SAME = (
    "num_attention_heads", "attention_head_dim", "cross_attention_dim", "caption_channels", "rope_type",
    "audio_num_attention_heads", "audio_attention_head_dim", "audio_cross_attention_dim", "timestep_scale_multiplier",
)  # fmt: skip
_NAMES = {
    "gated_attn": "apply_gated_attention",
    "cross_attn_mod": "cross_attention_adaln",
    "cross_attn_timestep_scale_multiplier": "av_ca_timestep_scale_multiplier",
}
_CONNECTORS = {
    "video_connector_num_attention_heads": "connector_num_attention_heads",
    "video_connector_attention_head_dim": "connector_attention_head_dim",
    "video_connector_num_layers": "connector_num_layers",
    "audio_connector_num_attention_heads": "audio_connector_num_attention_heads",
    "audio_connector_attention_head_dim": "audio_connector_attention_head_dim",
    "video_gated_attn": "connector_apply_gated_attention",
}


class LTX2(LTX):
    """LTX-2.0 and 2.3. Words come out of the text encoder without padding; the network's connectors put registers
    behind them."""

    def metadata(self, folder: Path, config: Mapping[str, Any]) -> dict[str, str] | None:
        """Both towers, and the connectors, which lie in a folder of their own."""
        place = folder / "connectors" / "config.json"
        connectors = read_json(place) if place.is_file() else {}
        said = {name: config[name] for name in _SAME if name in config}
        said |= {native: config[name] for name, native in _NAMES.items() if name in config}
        said |= {native: connectors[name] for name, native in _CONNECTORS.items() if name in connectors}
        said |= {"use_middle_indices_grid": True, "causal_temporal_positioning": True}
        if config.get("rope_double_precision", True):
            said["frequencies_precision"] = "float64"
        if not config.get("use_prompt_embeddings", True):  # 2.3: the text encoder projects for each tower
            said |= {"caption_proj_before_connector": True, "caption_projection_first_linear": False}
        return {"config": json.dumps({"transformer": said})}

    def weights_beside(self, folder: Path, config: Mapping[str, Any], progress: Progress | None) -> dict[str, Tensor]:
        """The connectors; the projections in front of them are natively part of the text encoder's file."""
        if not (folder / "connectors").is_dir():
            raise ValueError(f"{folder} has no connectors: LTX-2's words go through them before its transformer")
        found = read_weights(folder / "connectors", "diffusion_pytorch_model", progress=progress)
        native = {}
        for name, weight in found.items():
            side, _, rest = name.partition("_connector.")
            if rest:
                rest = rest.replace("transformer_blocks.", "transformer_1d_blocks.")
                rest = rest.replace(".norm_q.", ".q_norm.").replace(".norm_k.", ".k_norm.")
                native[f"{side}_embeddings_connector.{rest}"] = weight
        return native

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """Refused: natively Gemma 3 and the connectors' projection are one file."""
        return Family.text_encoder(self, folder, progress)

    def sound_in_front(self, given: Mapping[str, Any]) -> int:
        """Those of a voice to speak with (LTXVReferenceAudio)."""
        reference = given.get("ref_audio")
        return 0 if reference is None else int(reference["tokens"].shape[1])

    def text_rows(self, network: nn.Module, cond: Mapping[str, Any]) -> int:
        """As many as fill whole sets of registers, 1024 at the least."""
        connector, rows = getattr(network, "video_embeddings_connector", None), cond.get("cross_attn")
        registers = getattr(connector, "num_learnable_registers", 0)
        if rows is None or not registers:
            return 0
        both: Any = network
        whole = (both.cross_attention_dim + both.audio_cross_attention_dim, 2 * both.caption_channels)
        if rows.shape[-1] in whole and not cond.get("unprocessed_ltxav_embeds", False):
            return 0  # they have been through the connectors
        return math.ceil(max(self.spec.text_tokens, rows.shape[1]) / registers) * int(registers)


FAMILY = LTX2(SPEC)
