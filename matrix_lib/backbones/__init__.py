"""Model families that the library knows. To add one, write a file with its `SPEC` and list it here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from . import (
    cogvideox,
    cosmos_predict2,
    hunyuan_video,
    hunyuan_video15,
    kandinsky5,
    ltx,
    ltx2,
    minimax_h3,
    mochi,
    wan,
    zeroscope,
)
from .spec import BackboneSpec

REGISTRY: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        cogvideox.SPEC,
        wan.SPEC,
        hunyuan_video.SPEC,
        ltx.SPEC,
        ltx2.SPEC,
        hunyuan_video15.SPEC,
        kandinsky5.SPEC,
        cosmos_predict2.SPEC,
        minimax_h3.SPEC,
        mochi.SPEC,
    )
}
UNETS: dict[str, BackboneSpec] = {spec.name: spec for spec in (zeroscope.SPEC,)}
"""Factorised U-Nets, which diffusers alone runs: attention in space, to words and in time, at several resolutions."""

__all__ = ["REGISTRY", "UNETS", "BackboneSpec", "every_model", "families", "match", "reader", "text_lengths"]


def families() -> str:
    """All families, as people call them: "CogVideoX, Wan or HunyuanVideo"."""
    *names, end = dict.fromkeys(spec.kin or spec.title for spec in REGISTRY.values())
    return f"{', '.join(names)} or {end}"


def every_model(image: bool = False) -> str:
    """All models, with their versions: "CogVideoX 1.0 and 1.5, Wan 2.1 and 2.2". image: that take a first frame."""
    found = (spec for spec in REGISTRY.values() if spec.first_frame or not image)
    return ", ".join(f"{spec.title} {spec.versions}".rstrip() for spec in found)


def text_lengths() -> str:
    """How many text tokens each reads: "226 tokens CogVideoX, 512 Wan"."""
    first, *others = (f"{spec.text_tokens} tokens {spec.title}" for spec in REGISTRY.values())
    return ", ".join([first, *(each.replace(" tokens", "") for each in others)])


def match(names: Iterable[str], host: Literal["native", "diffusers"]) -> BackboneSpec:
    """The family of a model whose class and base classes, the nearest first, are called `names`.

    Raises ValueError naming the families that are known.
    """
    every = list(names)
    for name in every:
        for spec in (*REGISTRY.values(), *UNETS.values()):
            if name in spec.blocks(host).classes:
                return spec
    known = ", ".join(spec.title for spec in REGISTRY.values())
    raise ValueError(f"{every[0] if every else 'this model'} is not a video DiT that this pack knows. Known: {known}.")


def reader(text_encoder: str, tokens: int | None = None) -> BackboneSpec | None:
    """The family whose prompts this kind of text encoder reads: of several the one that was trained with so many
    `tokens`, else the first; None where none is known."""
    found = [spec for spec in REGISTRY.values() if spec.text_encoder == text_encoder]
    return next((spec for spec in found if spec.text_tokens == tokens), next(iter(found), None))
