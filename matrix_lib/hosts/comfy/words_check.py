"""What has to agree between a MODEL and the positive conditioning, checked before the first step and not after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...backbones import BackboneSpec
from .attach import BINDING, TRACKS

__all__ = ["checked_positives"]

_READS = {"cogvideox": "t5", "wan": "umt5", "hunyuan_video": "llama"}
_TITLES = {
    "t5": "CogVideoX's text encoder (T5)",
    "umt5": "Wan's text encoder (UMT5)",
    "llama": "HunyuanVideo's text encoders (LLaMA and CLIP-L)",
}


def checked_positives(spec: BackboneSpec, positives: list[dict], words: bool) -> tuple[list[dict], list[str]]:
    """The positives of a guider with bindings that count every row of their conditioning, and notes for people.

    Args:
        words: whether words will be recorded; without them every prompt that is bound needs mask tracks.

    Raises ValueError where no positive carries a binding, or one is of another text encoder or another conditioning.
    """
    bound = [cond for cond in positives if BINDING in cond]
    if not bound:
        raise ValueError(
            "The guider's positive conditioning carries no binding, so there are no words to look at. Connect the "
            "CONDITIONING output of 'MATRIX Bind Prompt' to the guider (through any conditioning nodes)."
        )
    if not words and not any(cond.get(TRACKS) is not None for cond in bound):
        raise ValueError(
            "Only instances are to be recorded, but the conditioning carries no mask tracks. Connect tracks to "
            "'MATRIX Bind Prompt', or switch words on."
        )
    notes = []
    if len(bound) < len(positives):
        notes.append(
            f"{len(positives) - len(bound)} of {len(positives)} positive prompts carry no binding and were not watched"
        )
    return [_checked(spec, cond) if BINDING in cond else cond for cond in positives], notes


def _checked(spec: BackboneSpec, cond: dict[str, Any]) -> dict[str, Any]:
    binding, wanted = cond[BINDING], _READS.get(spec.name)
    if binding.model and wanted and binding.model != wanted:
        raise ValueError(
            f"This prompt was bound with {_TITLES.get(binding.model, binding.model)}, but the MODEL is {spec.title}, "
            f"which reads {_TITLES[wanted]}. Bind the prompt with the CLIP that belongs to the model."
        )
    rows = getattr(cond.get("cross_attn"), "shape", (0, binding.length))[1]
    if rows < binding.length:
        raise ValueError(
            f"The binding was made for a conditioning of {binding.length} rows, but this one has {rows}: a node behind "
            "'MATRIX Bind Prompt' exchanged it. Bind the prompt that is sampled."
        )
    if rows > binding.length:  # further rows came behind, of Conditioning (Concat): ours keep their places
        return {**cond, BINDING: replace(binding, length=rows)}
    return cond
