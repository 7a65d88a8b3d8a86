"""A LoRA file of any format on a diffusers pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...backbones.lora import AlignmentLoRA
from ...core.grid import Fit
from ...core.tracks.tracks import MaskTracks
from ...hosts.diffusers.apply_lora import AppliedLoRA, apply, transformer_of
from ...hosts.diffusers.attach import backbone_of
from ...hosts.diffusers.batches import Branch
from .read import load_lora

__all__ = ["AppliedLoRA", "apply_lora"]


def apply_lora(
    pipe: Any,
    file: str | os.PathLike[str] | AlignmentLoRA,
    tracks: MaskTracks | Sequence[MaskTracks] | None = None,
    *,
    strength: float = 1.0,
    scale: float | None = None,
    target: str = "",
    part: str = "",
    branches: Sequence[Branch] | None = None,
    fit: Fit | None = None,
    mask: Tensor | None = None,
) -> AppliedLoRA:
    """Puts a LoRA on a diffusers pipeline of a family that is known, widened input included.

        with apply_lora(pipe, "lora.safetensors", tracks):
            video = pipe(image=image, prompt=prompt).frames[0]

    Args:
        file: a LoRA in any format that `load_lora` reads, or what it gave.
        tracks: masks of the instances in the first frame, or one per prompt of the batch: the ID map or the target mask
            that a widened LoRA reads is made of them. An ordinary LoRA needs none.
        strength: how strongly it acts, on top of its own scale.
        scale: alpha / rank of a file that stores none; None takes 1.0.
        target: target mask: names of the instances, separated by commas. Empty takes those in the role of the object,
            or the only one.
        part: "transformer" or "transformer_2" of a pipeline with two experts (Wan 2.2), and of a file with LoRAs of
            both; "transformer_ref" of MiniMax H3's.
        branches: as in `watch`; for several prompts.
        fit: how the picture becomes the first frame, as in `watch`; None asks the pipeline.
        mask: target mask: (rows, columns) in [0, 1] of the tracks' size, whose grey values stay, as in TAViD's code; of
            a clip that is made in segments (Wan Animate) those of all its frames (frames, rows, columns).

    Returns:
        a handle: `strength` may be changed, `remove()` takes the LoRA off, and so does the end of a `with` block. The
        model is then as it was, to the bit.

    Raises:
        ValueError: a file that is no LoRA, or of another family or size; tracks without the target; an ID map without a
            VAE; a second widening LoRA; a transformer that is compiled already (apply it before torch.compile).
    """
    lora = file
    if not isinstance(lora, AlignmentLoRA):
        lora = load_lora(lora, backbone_of(transformer_of(pipe, part)).name, scale, part=part)
    return apply(pipe, lora, tracks, strength=strength, target=target, part=part, branches=branches, fit=fit, mask=mask)
