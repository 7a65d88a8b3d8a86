"""The few names that are imported by hand, and where they have been: the newest place first."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["PLACES", "find"]

# name: (module below matrix_lib, name in it) or, for a module, (module, "")
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "binding": (("core.words.binding", ""), ("core.binding", "")),
    "tracks": (("core.tracks.tracks", ""), ("core.tracks", "")),
    "lora": (("backbones.lora", ""),),
    "save_lora": (("io.lora.read", "save_lora"), ("io.lora.write", "save_lora"), ("io.checkpoints", "save_lora")),
    "watch": (("hosts.diffusers.attach", "watch"),),
    "steer": (("hosts.diffusers.steer", "steer"), ("hosts.diffusers.guidance", "steer")),
    "Layers": (("core.layers", "Layers"), ("core.guidance", "Layers")),
    "Schedule": (("core.guidance.schedule", "Schedule"), ("core.guidance", "Schedule")),
    "RegionBias": (("core.guidance.region_bias", "RegionBias"), ("core.guidance", "RegionBias")),
    "Partition": (("core.guidance.partition", "Partition"), ("core.guidance", "Partition")),
    "Perturbation": (("core.guidance.perturbation", "Perturbation"), ("core.guidance", "Perturbation")),
    "GradientGuidance": (("core.guidance.gradient", "GradientGuidance"), ("core.guidance", "GradientGuidance")),
    "IntrinsicDenoising": (("core.guidance.intrinsic", "IntrinsicDenoising"), ("core.intrinsic", "IntrinsicDenoising")),
    "DualClockDenoising": (
        ("core.guidance.dual_clock", "DualClockDenoising"), ("core.dual_clock", "DualClockDenoising"),
    ),
    "make_clips": (("mini.world", "make_clips"),),
    "WorldConfig": (("mini.world", "WorldConfig"),),
    "export_clips": (("mini.export", "export_clips"),),
}  # fmt: skip


def find(name: str, library: str = "matrix_lib") -> Any:
    """A class, function or module of the tree. Raises LookupError where it is in none of its places."""
    for module, inner in PLACES[name]:
        full = f"{library}.{module}"
        try:
            found = importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name is None or not full.startswith(error.name):
                raise
            continue
        if not inner:
            return found
        if hasattr(found, inner):
            return getattr(found, inner)
    raise LookupError(
        f"{name} is in none of {', '.join(module for module, _ in PLACES[name])}: tell scripts/fingerprint/names.py"
    )
