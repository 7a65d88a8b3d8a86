"""What needs code in native ComfyUI, one file a family, named as its spec. Everything else is in the spec itself."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from .base import Around, Family

__all__ = ["Around", "Family", "family"]


@cache
def family(name: str) -> Family:
    """The family of this name."""
    found: Family = import_module(f".{name}", __package__).FAMILY
    return found
