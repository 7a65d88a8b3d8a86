"""Model families that the library knows. To add one, write a file with its `SPEC` and list it here."""

from . import cogvideox, hunyuan_video, wan
from .registry import BackboneSpec, match

REGISTRY: dict[str, BackboneSpec] = {spec.name: spec for spec in (cogvideox.SPEC, wan.SPEC, hunyuan_video.SPEC)}

__all__ = ["REGISTRY", "BackboneSpec", "match"]
