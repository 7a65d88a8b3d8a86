"""What each model family looks like: data only. A family file exports one `BackboneSpec`; `REGISTRY` lists them.

Hosts read a spec to find the attention modules and to lay out a call; nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.sites import SiteKind

__all__ = ["BackboneSpec", "Blocks", "LayerChoice", "Stack"]


@dataclass(frozen=True)
class Stack:
    """A run of equal blocks in a module tree: `path` holds `{}` for the index; `kind` is what attends there."""

    path: str
    kind: SiteKind


@dataclass(frozen=True)
class Blocks:
    """How one host's module tree names a family's attention.

    Args:
        classes: class names that identify the model (anywhere in the class's bases).
        stacks: lists of stacks; those in one inner tuple share their layer numbers (Wan's self and cross attention),
            each next tuple goes on counting after the one before (HunyuanVideo's single blocks). None for a U-Net,
            whose host walks its tree.
        text_first: whether text comes before video in a joint sequence.
    """

    classes: tuple[str, ...]
    stacks: tuple[tuple[Stack, ...], ...]
    text_first: bool = True


@dataclass(frozen=True)
class LayerChoice:
    """Interaction-dominant layers of one published model size.

    layers: depth of the network they belong to; a model of another depth has no default.
    """

    layers: int
    v2t: tuple[int, ...]
    v2v: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class BackboneSpec:
    """One family. `patch` is its usual patch (time, rows, columns); hosts read the real one off the model."""

    name: str
    title: str
    native: Blocks
    diffusers: Blocks
    patch: tuple[int, int, int] = (1, 2, 2)
    temporal_stride: int = 4
    spatial_stride: int = 8
    text_tokens: int = 226
    image_cross_attention: bool = False
    choices: tuple[LayerChoice, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def blocks(self, host: Literal["native", "diffusers"]) -> Blocks:
        return self.native if host == "native" else self.diffusers

    def dominant(self, layers: int) -> LayerChoice:
        """The published layers of a model with `layers` blocks. Raises ValueError where none are published."""
        for choice in self.choices:
            if choice.layers == layers:
                return choice
        known = ", ".join(str(choice.layers) for choice in self.choices) or "none"
        raise ValueError(
            f"no interaction-dominant layers are published for a {self.title} with {layers} blocks (known depths: "
            f"{known}). Name the layers yourself, or find them with the layer analysis."
        )


def match(names: Iterable[str], host: Literal["native", "diffusers"]) -> BackboneSpec:
    """The family of a model whose class and base classes are called `names`.

    Raises ValueError naming the families that are known.
    """
    from . import REGISTRY, UNETS

    every = list(names)
    for spec in (*REGISTRY.values(), *UNETS.values()):
        if set(spec.blocks(host).classes) & set(every):
            return spec
    known = ", ".join(spec.title for spec in REGISTRY.values())
    raise ValueError(f"{every[0] if every else 'this model'} is not a video DiT that this pack knows. Known: {known}.")
