"""Writes LoRA files in every format that `checkpoints` reads. `docs/lora-formats.md` lists the names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...backbones import REGISTRY
from ...backbones.lora import AlignmentLoRA, head_by_head, native_projection, to_native
from ..files import whole_file
from .files import ADAPTER, BESIDE, EXTRA, HEADER, PICKLED, SAFE, TAVID_LORA, TAVID_PROJECTION, VERSION

__all__ = ["FORMATS", "Format", "lost_scale", "save_lora"]

Format = Literal["matrix", "diffusers", "comfyui", "diffsynth", "tavid"]
FORMATS: tuple[Format, ...] = get_args(Format)


def save_lora(lora: AlignmentLoRA, path: str | os.PathLike[str], to: Format = "matrix") -> tuple[Path, ...]:
    """Writes a LoRA in a format; returns the files. Each file is written whole or not at all.

    Args:
        path: a .safetensors file, or a folder (always one for "tavid", whose two files have fixed names).

    Raises:
        ValueError: an unknown format, a name that does not end in .safetensors, or a format that has no room for it.
    """
    if to not in FORMATS:
        raise ValueError(f"formats are {', '.join(FORMATS)}; got {to!r}")
    target = Path(path)
    if to == "tavid":
        target = (target.parent if target.suffix in SAFE else target) / TAVID_LORA
    elif target.suffix.lower() in (*SAFE[1:], *PICKLED) and not target.is_dir():
        raise ValueError(f"LoRAs are written as .safetensors; got {target.name!r}")
    elif target.suffix != ".safetensors":
        target = target / (TAVID_LORA if to == "diffusers" else "lora.safetensors")
    if to == "tavid" and not lora.projection:
        raise ValueError("TAViD's format is a LoRA and its input projection; this LoRA has no projection")
    writer = {"matrix": _as_own, "comfyui": _as_native, "diffsynth": _as_native}.get(to, _as_diffusers)
    main, beside, metadata = writer(lora, to)
    files = [_write(main, target, metadata)]
    if to == "tavid":
        bare = {name.rpartition(".")[2]: beside.pop(name) for name in list(beside) if not EXTRA.match(name)}
        with whole_file(target.with_name(TAVID_PROJECTION)) as temporary:
            torch.save(bare, temporary)
        files.append(target.with_name(TAVID_PROJECTION))
    if beside:
        files.append(_write(beside, target.with_name(target.stem + BESIDE), metadata))
    return tuple(files)


def lost_scale(lora: AlignmentLoRA, to: Format) -> str:
    """A sentence where other programs will use the file at another scale than this LoRA's, since the format has no
    place for one; else ""."""
    used = {"diffsynth": 0.5 if lora.projection or lora.extra else 1.0, "tavid": 1.0}.get(to)
    if used is None or not lora.factors or lora.scales() == (used,):
        return ""
    scales = ", ".join(f"{scale:g}" for scale in lora.scales())
    return (
        f"! the format {to} has no place for a scale: other programs use it at {used:g} or as they are told, and this "
        f"LoRA's is {scales}. MATRIX reads it from the header; say it to others, or use format comfyui or matrix"
    )


Written = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]
"""Tensors of the file, tensors that go beside it, header."""


def _write(tensors: Mapping[str, Tensor], target: Path, metadata: dict[str, str]) -> Path:
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(target) as temporary:
        save_file(ready, temporary, metadata)
    return target


def _metadata(lora: AlignmentLoRA, stacked: Mapping[str, Any] | None = None, alphas: bool = True) -> dict[str, str]:
    header: dict[str, Any] = {"version": VERSION, "family": lora.family, "info": asdict(lora.info)}
    header["scale"] = list(lora.scales()) if lora.stored_scale else None
    if alphas:
        header["alphas"] = {name: f.alpha for name, f in lora.factors.items() if f.alpha is not None}
    if stacked:
        header["stacked"] = dict(stacked)
    return {HEADER: json.dumps(header)}


def _extras(lora: AlignmentLoRA) -> dict[str, Tensor]:
    return {name if EXTRA.match(name) else f"extra.{name}": tensor for name, tensor in lora.extra.items()}


def _as_own(lora: AlignmentLoRA, to: str) -> Written:
    out: dict[str, Tensor] = {}
    for name, factors in lora.factors.items():
        out |= {f"lora.{name}.{part}": tensor for part, tensor in factors.parts.items()}
        if factors.alpha is not None:
            out[f"lora.{name}.alpha"] = torch.tensor(factors.alpha, dtype=torch.float64)
    out.update({f"projection.{name}": tensor for name, tensor in lora.projection.items()})
    out.update({f"extra.{name}": tensor for name, tensor in lora.extra.items()})
    return out, {}, {**_metadata(lora, alphas=False), "format": "matrix-lora"}


def _as_native(lora: AlignmentLoRA, to: str) -> Written:
    """ComfyUI's names, or with `.default.` and without prefix and alphas the authors'."""
    native, stacked = to_native(lora)
    comfy = to == "comfyui"
    head, middle = ("diffusion_model.", "") if comfy else ("", ".default")
    if lora.dora and not comfy:
        raise ValueError("the format diffsynth has no place for the magnitudes of a DoRA: use comfyui or diffusers")
    native = native if comfy else head_by_head(native, lora.family)
    out: dict[str, Tensor] = {}
    for name, factors in native.items():
        out[f"{head}{name}.lora_A{middle}.weight"] = factors.down
        out[f"{head}{name}.lora_B{middle}.weight"] = factors.up
        if factors.magnitude is not None:
            out[f"{head}{name}.dora_scale"] = factors.magnitude[:, None]
        if comfy and factors.alpha is not None:
            out[f"{head}{name}.alpha"] = torch.tensor(factors.alpha, dtype=torch.float64)
    place = native_projection(lora.family)
    out.update({f"{head}{place}.{name}": tensor for name, tensor in lora.projection.items()})
    out.update(_extras(lora))
    return out, {}, _metadata(lora, stacked)


def _as_diffusers(lora: AlignmentLoRA, to: str) -> Written:
    """peft names; nothing but factors may lie in this file, or diffusers refuses it."""
    out = {}
    if lora.dora and len(lora.dora) < len(lora.factors):
        raise ValueError(f"diffusers has DoRA for all modules or none; here {len(lora.dora)} have magnitudes")
    for name, factors in lora.factors.items():
        out[f"transformer.{name}.lora_A.weight"] = factors.down
        out[f"transformer.{name}.lora_B.weight"] = factors.up
        if factors.magnitude is not None:
            out[f"transformer.{name}.lora_magnitude_vector"] = factors.magnitude
    place = REGISTRY[lora.family].input_projection
    beside = {f"transformer.{place}.{name}": tensor for name, tensor in lora.projection.items()}
    metadata = _metadata(lora)
    if lora.factors and lora.stored_scale:
        metadata[ADAPTER] = json.dumps(_peft_settings(lora), sort_keys=True)
    return out, {**beside, **_extras(lora)}, metadata


def _peft_settings(lora: AlignmentLoRA) -> dict[str, Any]:
    first = next(iter(lora.factors.values()))
    ranks = {name: f.rank for name, f in lora.factors.items() if f.rank != first.rank}
    alphas = {name: f.alpha for name, f in lora.factors.items() if f.alpha != first.alpha}
    settings = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": sorted(lora.factors),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }
    settings |= {"use_dora": True} if lora.dora else {}
    return {f"transformer.{key}": value for key, value in settings.items()}
