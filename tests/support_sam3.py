"""SAM 3 for videos with random weights: the classes of `transformers`, as small as they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["write_tiny_sam3"]

_SIDE, _PATCH, _WIDTH = 112, 14, 128  # its tracker's memory has 64 channels, and the rest has to have more
_WORDS = ("[PAD]", "<|startoftext|>", "<|endoftext|>", "man", "woman", "bicycle", "shape")


def write_tiny_sam3(folder: Path) -> Path:
    """A folder as `Sam3VideoModel` and its processor save it; whatever it looks for counts as found."""
    from transformers import Sam2VideoVideoProcessor, Sam3ImageProcessor, Sam3VideoModel, Sam3VideoProcessor

    torch.manual_seed(0)
    Sam3VideoModel(_config()).eval().save_pretrained(folder)
    size = {"height": _SIDE, "width": _SIDE}
    Sam3VideoProcessor(Sam3ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size), _tokenizer()).save_pretrained(
        folder
    )
    return folder


def _config() -> Any:
    from transformers import Sam3VideoConfig

    cells = _SIDE // _PATCH
    part: dict[str, Any] = {"hidden_size": _WIDTH, "num_attention_heads": 2}
    layer = {**part, "num_layers": 1, "intermediate_size": 32}
    backbone = {
        "model_type": "sam3_vit_model", **part, "intermediate_size": 32, "num_hidden_layers": 2, "image_size": _SIDE,
        "patch_size": _PATCH, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": _SIDE,
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": _WIDTH,
        "backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2],
    }  # fmt: skip
    text = {
        "model_type": "clip_text_model", **part, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "intermediate_size": 32, "projection_dim": _WIDTH, "num_hidden_layers": 1,
        "max_position_embeddings": 32,
    }  # fmt: skip
    detector = {
        "model_type": "sam3", "vision_config": vision, "text_config": text,
        "geometry_encoder_config": {"model_type": "sam3_geometry_encoder", **layer},
        "detr_encoder_config": {"model_type": "sam3_detr_encoder", **layer},
        "detr_decoder_config": {"model_type": "sam3_detr_decoder", **layer, "num_queries": 6},
        "mask_decoder_config": {"model_type": "sam3_mask_decoder", **part},
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": _WIDTH, "image_size": _SIDE, "patch_size": _PATCH},
        "mask_decoder_config": {**part, "mlp_dim": 32, "iou_head_hidden_dim": _WIDTH},
        "memory_attention_hidden_size": _WIDTH, "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32, "memory_attention_rope_feat_sizes": [cells, cells],
        "memory_encoder_hidden_size": _WIDTH, "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": _WIDTH, "memory_fuser_embed_dim": _WIDTH, "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }  # fmt: skip
    config = Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * cells, score_threshold_detection=0.0,
        new_det_thresh=0.0, hotstart_delay=0, fill_hole_area=0,
    )  # fmt: skip
    config.image_size = _SIDE
    return config


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(_WORDS)}, unk_token=_WORDS[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "bos_token", "eos_token"), _WORDS))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=_WORDS[0], **names)
