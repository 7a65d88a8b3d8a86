"""Model families that the library knows. To add one, write a file with its `SPEC` and list it here."""

from . import cogvideox, hunyuan_video, wan, zeroscope
from .spec import BackboneSpec, match

REGISTRY: dict[str, BackboneSpec] = {spec.name: spec for spec in (cogvideox.SPEC, wan.SPEC, hunyuan_video.SPEC)}
UNETS: dict[str, BackboneSpec] = {spec.name: spec for spec in (zeroscope.SPEC,)}
"""Factorised U-Nets, which diffusers alone runs: attention in space, to words and in time, at several resolutions."""

__all__ = ["REGISTRY", "UNETS", "BackboneSpec", "match"]
