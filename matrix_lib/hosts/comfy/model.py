"""What a native MODEL is: its family, its attention sites, its token grid."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...backbones import BackboneSpec, match
from ...core.grid import Grid
from ...core.sites import AttentionSite
from ..modules import find_sites

__all__ = [
    "FRAME_RATE",
    "backbone_of",
    "diffusion_model",
    "grid_of",
    "modules_of",
    "patch_of",
    "rate_doubt",
    "rate_of",
    "sites_of",
]

FRAME_RATE = "matrix_frame_rate"
"""Transformer option: frames per second that the MODEL makes, where its folder or file says it."""

_NETWORK = "diffusion_model."  # in front of what object patches name


def backbone_of(model: Any) -> BackboneSpec:
    """The family of a MODEL. Raises ValueError where it is not a video DiT that we know."""
    kinds = (type(model.model), type(diffusion_model(model.model)))  # families may share the class of a network
    return match((cls.__name__ for kind in kinds for cls in kind.__mro__), "native")


def sites_of(model: Any) -> list[AttentionSite]:
    """Every attention site of a MODEL, in layer order."""
    module = diffusion_model(model.model)
    return [site for _, site in find_sites(module, backbone_of(model).native, modules_of(model))]


def modules_of(model: Any, patched: bool = True) -> dict[str, nn.Module]:
    """The modules of a MODEL's network by path, as they are once it is loaded: with those that its own object patches
    put there, and without those of a clone that was sampled last. patched: False for the network's own alone."""
    tree = dict(diffusion_model(model.model).named_modules())
    changed = {**model.object_patches_backup, **(model.object_patches if patched else {})}
    for path in sorted(name for name in changed if name.startswith(_NETWORK)):  # a part comes behind its whole
        module, name = changed[path], path.removeprefix(_NETWORK)
        if not isinstance(module, nn.Module):
            continue
        tree = {key: each for key, each in tree.items() if key != name and not key.startswith(f"{name}.")}
        tree |= {f"{name}.{key}".removesuffix("."): each for key, each in module.named_modules()}
    return tree


def grid_of(model: Any, latent: tuple[int, int, int], prefix_frames: int = 0) -> Grid:
    """The token grid of a latent (T, H, W) in this MODEL; `prefix_frames`: latent frames that are put in front."""
    spec, stride, patch = backbone_of(model), _stride(model), patch_of(model)
    return Grid.from_latent(latent, patch, spec.temporal_stride, stride, prefix_frames, rate_of(model), spec.cycle)


def rate_of(model: Any) -> float | None:
    """Frames per second that a MODEL makes; None where nobody says."""
    spec = backbone_of(model)
    if FRAME_RATE in _options(model):
        return float(_options(model)[FRAME_RATE])
    told = [rate for option, rate in spec.option_fps.items() if option in _options(model)]
    return told[0] if told else spec.rate(patch_of(model), _stride(model), diffusion_model(model.model))


def rate_doubt(model: Any) -> str:
    """A sentence about what else a MODEL may be that makes clips of another rate, where nothing tells; or ""."""
    spec = backbone_of(model)
    other = spec.doubted_fps.get(type(diffusion_model(model.model)).__name__)
    rate = rate_of(model)
    if (
        not other
        or rate != spec.fps.get("")
        or any(option in _options(model) for option in (FRAME_RATE, *spec.option_fps))
    ):
        return ""
    return (
        f"seconds are counted at {rate:g} frames per second, those of {spec.title}; {other}: give the frame rate there"
    )


def _options(model: Any) -> Any:
    return getattr(model, "model_options", {}).get("transformer_options", {})


def _stride(model: Any) -> int:
    usual = backbone_of(model).spatial_stride
    return int(getattr(getattr(model.model, "latent_format", None), "spacial_downscale_ratio", usual))


def patch_of(model: Any) -> tuple[int, int, int]:
    """Latent frames, rows and columns that make one token of a MODEL."""
    module = diffusion_model(model.model)
    size = getattr(module, "patch_size", backbone_of(model).patch)
    if isinstance(size, int):
        return getattr(module, "patch_size_t", None) or 1, size, size
    t, h, w = size
    return int(t), int(h), int(w)


def diffusion_model(model: Any) -> nn.Module:
    module = model.diffusion_model
    return getattr(module, "_orig_mod", module)
