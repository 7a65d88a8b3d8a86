"""The ways of steering attention."""

from __future__ import annotations

from collections.abc import Iterable

from .partition import Partition
from .perturbation import Perturbation
from .region_bias import RegionBias

__all__ = ["Guidance", "check_names"]

Guidance = RegionBias | Partition | Perturbation


def check_names(guidance: Guidance, names: Iterable[str]) -> None:
    """Raises ValueError where a weight is given to an instance that has no track."""
    have = list(names)
    weights = guidance.weights if isinstance(guidance, RegionBias) else ()
    if strange := [name for name, _ in weights if name not in have]:
        raise ValueError(
            f"weights are given to {', '.join(map(repr, strange))}, but the tracks are named "
            f"{', '.join(map(repr, have)) or '(none)'}"
        )
