"""Alignment LoRAs on a diffusers transformer: a wider input projection, factors in training, and a trained LoRA merged.

widen(transformer, 16)                                # room for the ID map, with kernels of zero
add_factors(transformer, modules, 16, 16.0)           # peft's factors; everything else is frozen
lora = read_lora(transformer, modules, 16.0, info)    # what `io.checkpoints.save_lora` writes
merge_lora(plain, lora)                               # another transformer, as if it had been trained
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.lora import AlignmentLoRA, Factors, Info
from ...core.sites import AttentionSite
from .attach import backbone_of, sites_of
from .picture_attention import picture_values

__all__ = [
    "add_factors",
    "input_projection",
    "merge_lora",
    "projections_of",
    "read_lora",
    "train_projection",
    "widen",
]

_ADAPTER = "default"


def input_projection(transformer: nn.Module) -> nn.Module:
    """The convolution or linear layer that turns latents into tokens."""
    return transformer.get_submodule(backbone_of(transformer).input_projection)


def projections_of(transformer: nn.Module, v2t: Iterable[int], v2v: Iterable[int]) -> tuple[str, ...]:
    """Module paths of the q, k, v and output projections of the sites that give these maps (Wan: cross-attention of
    the V2T layers, self-attention of the V2V layers).

    Raises ValueError for layers that the model has not.
    """
    wanted = {"v2t": set(v2t), "v2v": set(v2v)}
    sites = sites_of(transformer)
    existing = {site.layer for site in sites}
    if unknown := sorted((wanted["v2t"] | wanted["v2v"]) - existing):
        raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(existing)}")

    def chosen(site: AttentionSite) -> bool:
        return (site.has_v2t and site.layer in wanted["v2t"]) or (site.has_v2v and site.layer in wanted["v2v"])

    found = [f"{site.name}.{name}" for site in sites if chosen(site) for name in backbone_of(transformer).qkvo]
    have = dict(transformer.named_modules())
    return tuple(name for name in found if name in have)


def widen(transformer: Any, extra: int) -> None:
    """Gives the input projection `extra` more channels behind its own, with kernels of zero, in place.

    A linear projection (CogVideoX 1.5) reads each channel's patch in one run, so new channels are its last columns.

    Raises ValueError for a family whose input cannot be widened.
    """
    backbone_of(transformer).check_widens()
    old = input_projection(transformer)
    weight = old.weight
    assert isinstance(weight, Tensor)
    columns = extra
    if isinstance(old, nn.Linear):
        columns = extra * (old.in_features // int(transformer.config.in_channels))
    wide = torch.cat([weight.detach(), weight.new_zeros(weight.shape[0], columns, *weight.shape[2:])], dim=1)
    _place(transformer, wide, None)


def _place(transformer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Puts the weight of a projection of another width into the model, and its channels into the model's config."""
    old: Any = input_projection(transformer)
    columns = int(weight.shape[1])
    channels = int(transformer.config.in_channels)
    if isinstance(old, nn.Linear):
        each = old.in_features // channels
        old.in_features, channels = columns, columns // each
    else:
        old.in_channels = channels = columns
    old.weight = nn.Parameter(weight.to(old.weight), requires_grad=old.weight.requires_grad)
    if bias is not None and old.bias is not None:
        old.bias = nn.Parameter(bias.to(old.bias), requires_grad=old.bias.requires_grad)
    transformer.register_to_config(in_channels=channels)


def add_factors(transformer: nn.Module, modules: Sequence[str], rank: int, alpha: float, dora: bool = False) -> None:
    """Freezes the model and gives `modules` LoRA factors that train, with `dora` magnitudes, too; the output is
    unchanged until they do (with magnitudes but for rounding)."""
    from peft import LoraConfig, inject_adapter_in_model

    transformer.requires_grad_(False)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": list(modules)}
    settings |= {"use_dora": True} if dora else {}
    config = LoraConfig(**settings)
    inject_adapter_in_model(config, transformer, _ADAPTER)
    for name in modules:
        layer: Any = transformer.get_submodule(name)
        magnitude = [layer.lora_magnitude_vector[_ADAPTER]] if dora else []
        for factor in (layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER], *magnitude):
            factor.to(torch.float32).requires_grad_(True)


def train_projection(transformer: nn.Module) -> nn.Module:
    """Lets the input projection train, in float32 inside a model of another precision: what comes in is cast to its
    weights, and what goes out back, so that the model's own dtype stays. Returns the projection."""
    place = input_projection(transformer)
    place.to(torch.float32).requires_grad_(True)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        module.came_as = args[0].dtype  # type: ignore[assignment]
        return (args[0].float(), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return out.to(module.came_as)  # type: ignore[call-overload]

    place.register_forward_pre_hook(before)
    place.register_forward_hook(after)
    return place


def read_lora(
    transformer: nn.Module,
    modules: Sequence[str],
    alpha: float,
    info: Info | None = None,
    projection: bool = False,
) -> AlignmentLoRA:
    """What training left in the factors of `modules`, and with `projection` in the input projection; float32 copies."""
    factors = {}
    for name in modules:
        layer: Any = transformer.get_submodule(name)
        down, up = (_copy(part[_ADAPTER].weight) for part in (layer.lora_A, layer.lora_B))
        lengths = [_copy(part.weight) for key, part in layer.lora_magnitude_vector.items() if key == _ADAPTER]
        factors[name] = Factors(down, up, alpha, *lengths)
    place: Any = input_projection(transformer)
    trained = {"weight": _copy(place.weight)} if projection else {}
    if projection and place.bias is not None:
        trained["bias"] = _copy(place.bias)
    return AlignmentLoRA(backbone_of(transformer).name, factors, trained, {}, info or Info(), "matrix")


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu().clone()


@torch.no_grad()
def merge_lora(transformer: Any, lora: AlignmentLoRA, strength: float = 1.0) -> None:
    """Adds a LoRA to the model's own weights and widens its input projection, in place.

    A transformer that is widened so takes the extra channels from whoever calls it: for loops of one's own. Pipelines
    of diffusers give it its own alone, and fail; `apply_lora` feeds them there, and a warning says so.

    Raises ValueError for a LoRA of another family or size, and for modules that the model has not.
    """
    family = backbone_of(transformer).name
    if lora.family != family:
        raise ValueError(f"this is a LoRA of {lora.family}, and the model is {family}")
    have = dict(transformer.named_modules())
    if missing := sorted(set(lora.factors) - set(have)):
        raise ValueError(f"the model has no {missing[0]} ({len(missing)} modules are missing)")
    for name, factors in lora.factors.items():
        weight: Any = have[name].weight
        shape = (factors.up.shape[0], factors.down.flatten(1).shape[1])
        if shape != weight.shape:
            raise ValueError(f"{name} is {tuple(weight.shape)}, and the LoRA is for {shape}")
        weight.add_((strength * factors.change(weight)).to(weight))
    if lora.info.image_attention == "off" and strength:
        for values in picture_values(transformer):
            for part in values.parameters():
                part.zero_()
    if lora.projection:
        before = int(transformer.config.in_channels)
        _merge_projection(transformer, lora, strength)
        if before < (now := int(transformer.config.in_channels)):
            logging.getLogger(__name__).warning(
                "MATRIX: with this LoRA merged the transformer takes %d channels, and diffusers' pipelines give it %d: "
                "feed the others in a loop of your own, or sample with matrix_lib.apply_lora(pipe, lora, tracks)",
                now,
                before,
            )


def _merge_projection(transformer: Any, lora: AlignmentLoRA, strength: float) -> None:
    old: Any = input_projection(transformer)
    weight, own = lora.projection["weight"].to(old.weight), old.weight
    if weight.shape[0] != own.shape[0] or weight.shape[2:] != own.shape[2:] or weight.shape[1] < own.shape[1]:
        raise ValueError(f"the LoRA's projection {tuple(weight.shape)} does not fit the model's {tuple(own.shape)}")
    base = torch.cat([own, own.new_zeros(own.shape[0], weight.shape[1] - own.shape[1], *own.shape[2:])], dim=1)
    bias = lora.projection.get("bias")
    if bias is not None and old.bias is not None:
        bias = torch.lerp(old.bias, bias.to(old.bias), strength)
    _place(transformer, torch.lerp(base, weight, strength), bias)
