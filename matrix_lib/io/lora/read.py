"""LoRA files of alignment training, in every format that people have them in.

`docs/lora-formats.md` lists the names.

| format      | files                                                                                                |
|-------------|------------------------------------------------------------------------------------------------------|
| `matrix`    | ours: one safetensors with factors, alphas, projection, decoder and a header                         |
| `diffusers` | safetensors with peft names and adapter header; a widened projection in `NAME.projection.safetensors` |
| `comfyui`   | one safetensors that ComfyUI's own LoRA loader reads too (without the projection)                    |
| `diffsynth` | the MATRIX authors': native names with `.default.`, `patch_embedding`, `seg_head`                    |
| `tavid`     | `pytorch_lora_weights.safetensors` beside `patch_embed_conv2d.pth`                                   |

Scale of a factor: its stored alpha, else the adapter's settings (`adapter.py`), else what the caller says, else that at
which its authors use it, else 1.0. Every safetensors file that is written carries the same JSON header, so that no
format loses the scale or what the LoRA says of itself.
PyTorch files are read by `io.torch_files`, and written for TAViD's projection only.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...backbones import REGISTRY
from ...backbones.lora import (
    AlignmentLoRA,
    Factors,
    Info,
    find_style,
    from_native,
    from_underscores,
    head_by_head,
    native_projection,
    respelt,
)
from ...backbones.weight_rules import SPLIT
from .adapter import SETTINGS, check_settings, kind_of, read_settings, with_settings
from .files import BESIDE, EXTRA, TAVID_LORA, TAVID_PROJECTION, find_file, read_file, read_header
from .write import FORMATS, Format, save_lora

__all__ = ["FORMATS", "Format", "describe", "files_of", "load_lora", "save_lora"]

_PREFIX = re.compile(r"^(?:(?:base_model\.model|pipe\.dit|dit|net|diffusion_model|transformer|model|unet)\.)+")
_UNDERSCORED = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_+")
_FACTOR = re.compile(
    r"^(?P<stem>.+?)\.(?:(?P<down>lora_A(?:(?:\.\w+)?\.weight)?|lora_down\.weight|lora\.down\.weight)"
    r"|(?P<up>lora_B(?:(?:\.\w+)?\.weight)?|lora_up\.weight|lora\.up\.weight)|(?P<alpha>alpha)"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.\w+)?(?:\.weight)?|dora_scale))$"
)
_SECOND = re.compile(r"^((?:base_model\.model\.)?)transformer_2\.")
_LARGEST = 65504.0  # of float16
_MATRIX_CHANNELS = 56  # that the authors' checkpoint reads: 16 latent, 20 of the first frame, 20 of the ID map
_AUTHORS = {
    "matrix": (0.5, "the file stores no scale: it is used at 0.5, as its authors merge it (it was trained at 1.0)"),
    "tavid": (1.0, "the file stores no scale: it is used at 1.0, as its authors do (alpha / rank was 0.5 in training)"),
}
"""Files that are known by what is in them, and the scale at which their authors use them."""
_TAVID_SAMPLER = (
    "its authors sample with CogVideoXDPMScheduler, 50 steps, dynamic CFG 6; its counterpart in ComfyUI is the sampler "
    "dpmpp_2m_sde (solver_type midpoint) with the scheduler simple"
)
_UNKNOWN_SCALE = (
    "! the file stores no scale and is of nobody known: it is used at 1.0. If it is too strong or too weak, give the "
    "alpha / rank of its training as the scale"
)


# -- reading ----------------------------------------------------------------------------------------------------------
def load_lora(
    path: str | os.PathLike[str],
    family: str | None = None,
    scale: float | None = None,
    projection: str | os.PathLike[str] | None = None,
    part: str = "",
) -> AlignmentLoRA:
    """Reads a LoRA of any format.

    Args:
        path: a file, or a folder that holds one LoRA (TAViD's two files, a diffusers adapter).
        family: the model's family, where it is known: settles names that several families share, refuses others.
        scale: of factors for which the file stores none. None uses that of its authors, where they are known, else
            1.0, and says so in `notes`.
        projection: a file with the widened input projection; None looks beside the LoRA.
        part: "transformer" or "transformer_2" of a file that holds LoRAs of both experts of Wan 2.2.

    Raises:
        ValueError: anything that is not a whole LoRA of a known family: missing, truncated, a pickle with more than
            tensors, factors without their other half, sizes that do not fit, tensors that nothing here knows, adapter
            settings that are not honoured.
    """
    source = find_file(Path(path))
    try:
        tensors, metadata = read_file(source)
        lora, settings = (
            (_own(tensors, metadata), {}) if _is_own(metadata) else _foreign(source, tensors, metadata, family, part)
        )
        lora = _with_projection(lora, source, None if projection is None else Path(projection))
        place = REGISTRY[lora.family].input_projection
        saved = (place, native_projection(lora.family)) if lora.projection else ()
        check_settings(settings, saved, len(lora.dora) == len(lora.factors))
        if place in lora.dora:
            raise ValueError("it is a DoRA of the input projection, which is not read: merge it with peft instead")
        if family not in (None, lora.family):
            raise ValueError(f"this is a LoRA of {lora.family}, and the model is {family}")
        if not lora.factors and not lora.projection:
            raise ValueError("it holds neither LoRA factors nor an input projection")
        _check_finite(lora, 1.0 if scale is None else scale)
    except ValueError as error:
        raise ValueError(f"{source.name!r} is not a LoRA that can be used: {error}") from None
    lora = replace(lora, notes=(*lora.notes, *_idle(lora)))
    if not lora.factors or lora.stored_scale:
        return lora
    if scale is not None:
        note = f"the file stores no scale: it is used at {scale:g}, as asked for"
        return replace(lora, notes=(*lora.notes, note)).with_scale(scale)
    authors = _authors_of(lora, metadata)
    used, note = _AUTHORS.get(authors, (1.0, _UNKNOWN_SCALE))
    lora = replace(lora, notes=(*lora.notes, note))
    return lora.with_scale(used) if used != 1.0 else lora


def files_of(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Every file that `load_lora` may read for this path, whether it is there or not: what a LoRA depends on."""
    source = find_file(Path(path))
    found = [source, source.with_name(source.stem + BESIDE)]
    found += [source.with_name(TAVID_PROJECTION)] if source.name == TAVID_LORA else []
    return (*found, source.with_name(SETTINGS)) if source.stem == "adapter_model" else tuple(found)


def _authors_of(lora: AlignmentLoRA, metadata: Mapping[str, str]) -> str:
    """Whose published file this is: "matrix", "tavid" or "". A file with our header says all that it knows itself."""
    if read_header(metadata):
        return ""
    if lora.source == "diffsynth" and (
        lora.extra or lora.projection
    ):  # its names alone are those of any DiffSynth LoRA
        return "matrix"
    return "tavid" if lora.source == "tavid" else ""


def _idle(lora: AlignmentLoRA) -> list[str]:
    """Sentences about factors that change nothing."""
    no_alpha = [name for name, one in lora.factors.items() if one.alpha == 0]
    empty = [name for name, one in lora.factors.items() if not (bool(one.up.any()) and bool(one.down.any()))]
    notes = []
    for names, why in ((no_alpha, "their alpha is 0"), (empty, "their factors are all zero, as before training")):
        if names:
            count = f"all {len(names)}" if len(names) == len(lora.factors) else f"{len(names)} of {len(lora.factors)}"
            notes.append(f"! {count} modules change nothing ({why}), first {sorted(names)[0]}")
    return notes


@dataclass
class _Sorted:
    """Tensors of a foreign file by what they are; module names without prefixes."""

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    alpha: dict[str, float]
    projection: dict[str, Tensor]
    extra: dict[str, Tensor]
    magnitude: dict[str, Tensor] = field(default_factory=dict)
    default: bool = False  # DiffSynth's `.default.` in the names
    prefixed: bool = False  # ComfyUI's prefix
    names: dict[str, str] = field(default_factory=dict)  # the modules' whole names, as peft counts them
    split: set[str] = field(default_factory=set)  # modules of `SPLIT`


def _check_finite(lora: AlignmentLoRA, scale: float) -> None:
    """Numbers are finite, and so are their products in any type that weights have. `scale`: where none is stored."""
    named = [(f"{name} {side}", part) for name, one in lora.factors.items() for side, part in one.parts.items()]
    for name, tensor in (*named, *((f"projection {name}", tensor) for name, tensor in lora.projection.items())):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds numbers that are not finite: its training went wrong")
    for name, one in lora.factors.items():
        largest = [float(tensor.detach().abs().max()) if tensor.numel() else 0.0 for tensor in (one.down, one.up)]
        most = abs(one.scale(scale)) * one.rank * largest[0] * largest[1]
        if not most <= _LARGEST:
            raise ValueError(
                f"{name} would change weights by up to {most:.3g}, and {_LARGEST:g} is the most that weights can hold: "
                "its training went wrong, or its scale is not the one of its training"
            )


def _sort(tensors: Mapping[str, Tensor], family: str | None) -> _Sorted:
    out = _Sorted({}, {}, {}, {}, {})
    projections = {path for spec in REGISTRY.values() for path in (spec.input_projection, native_projection(spec.name))}
    unknown = []
    for name, tensor in tensors.items():
        if found := _FACTOR.match(name):
            stem = _stem(found["stem"], family)
            out.default |= ".default." in name
            out.prefixed |= name.startswith(("diffusion_model.", "lora_unet_"))
            if found["alpha"]:
                if tensor.numel() != 1 or not bool(torch.isfinite(tensor).all()):
                    raise ValueError(f"{name!r} is one finite number; got {tuple(tensor.shape)}")
                out.alpha[stem] = float(tensor)
            elif found["magnitude"]:
                out.magnitude[stem] = _magnitude(name, tensor)
            else:
                side = out.down if found["down"] else out.up
                if stem in side:
                    raise ValueError(f"it has two factors for {stem}: one LoRA a file, please")
                side[stem] = tensor
                out.split |= {stem} if SPLIT[1].search(found["stem"]) else set()
                out.names[stem] = found["stem"].removeprefix("base_model.model.")
        elif EXTRA.match(name):
            out.extra[name.removeprefix("extra.")] = tensor
        elif (stem := _PREFIX.sub("", name)).rpartition(".")[0] in projections:
            out.projection[stem] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(tensors)} tensors are neither factors (lora_A, lora_B, alpha) nor an input "
            f"projection, first {sorted(unknown)[0]!r}: {kind_of(unknown) or 'another kind of file'}"
        )
    return out


def _magnitude(name: str, tensor: Tensor) -> Tensor:
    """(out,) of peft's (out,) or, for convolutions, (1, out, 1, 1), and of kohya's (out, 1, ...).

    Raises ValueError for magnitudes of inputs, which LyCORIS has as well: (1, in)."""
    shape = tuple(tensor.shape)
    long = [n for n, size in enumerate(shape) if size > 1]
    if len(long) > 1 or (long and long[0] == 1 and len(shape) < 4):
        raise ValueError(
            f"{name!r} has magnitudes of inputs, {shape} (LyCORIS without wd_on_output), and those of outputs are read"
        )
    return tensor.flatten()


def _stem(name: str, family: str | None) -> str:
    if _UNDERSCORED.match(name):
        short = respelt(_UNDERSCORED.sub("", name)).replace(".", "_")
        return from_underscores(short, family) or short
    return respelt(_PREFIX.sub("", name))


def _of_expert(tensors: Mapping[str, Tensor], part: str) -> tuple[dict[str, Tensor], bool]:
    """What of a file is meant, without the name of Wan 2.2's second expert, and whether it is the second's."""
    second = {_SECOND.sub(r"\1", name): tensor for name, tensor in tensors.items() if _SECOND.match(name)}
    first = {name: tensor for name, tensor in tensors.items() if not _SECOND.match(name)}
    if first and second and part not in ("transformer", "transformer_2"):
        raise ValueError(
            "it holds a LoRA for each expert of Wan 2.2: say part='transformer' (the noisy steps) or 'transformer_2'; "
            "for ComfyUI take one out by `python -m training.convert --part`"
        )
    return (second, True) if second and (not first or part == "transformer_2") else (first, False)


def _foreign(
    source: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str | None, part: str
) -> tuple[AlignmentLoRA, dict[str, Any]]:
    """A file of any format but ours, and the adapter's settings that count for it."""
    header = read_header(metadata)
    tensors, second = _of_expert(tensors, part)
    parts = _sort(tensors, family)
    for halves, others, what in ((parts.down, parts.up, "lora_B"), (parts.up, parts.down, "lora_A")):
        if lonely := sorted(set(halves) - set(others)):
            raise ValueError(f"{len(lonely)} factors lack their {what}, first that of {lonely[0]}")
    if lonely := sorted(set(parts.alpha) - set(parts.down)):
        raise ValueError(f"{len(lonely)} alphas have no factors, first that of {lonely[0]}")
    if lonely := sorted(set(parts.magnitude) - set(parts.down)):
        raise ValueError(f"{len(lonely)} magnitudes (DoRA) have no factors, first that of {lonely[0]}")
    projection = {name.rpartition(".")[2]: tensor for name, tensor in parts.projection.items()}
    if projection and "weight" not in projection:
        raise ValueError("its input projection has a bias, but no weight")
    modules = [*parts.down, *{name.rpartition(".")[0] for name in parts.projection}]
    if not modules and set(parts.extra) != set(tensors):
        raise ValueError("it holds neither LoRA factors nor an input projection")
    columns = {name: int(down.shape[1]) for name, down in parts.down.items() if down.ndim > 1}
    known = header.get("family") or (SPLIT[0] if parts.split else family)
    found, style = find_style([name for name in modules if name not in parts.split] or modules, known, columns)
    factors = {}
    for stem, down in parts.down.items():
        try:
            factors[stem] = Factors(down, parts.up[stem], parts.alpha.get(stem), parts.magnitude.get(stem))
        except ValueError as error:
            raise ValueError(f"{stem}: {error}") from None
    settings = {} if header.get("alphas") else read_settings(metadata, source, second)
    factors = with_settings(factors, parts.names, settings)
    if style == "native":
        apart = {name: factors.pop(name) for name in parts.split}
        factors = head_by_head(factors, found, back=True) if parts.default else factors
        factors = from_native(factors, found, header.get("stacked"))
        if twice := sorted(set(factors) & set(apart)):
            raise ValueError(f"it has two factors for {twice[0]}: one LoRA a file, please")
        factors |= apart
    factors = _with_header_alpha(factors, dict(header.get("alphas") or {}))
    info, kind = header.get("info", Info()), _format_of(source, style, parts)
    if not header:
        info = _authors_info(kind, projection.get("weight"))
    notes = ("it is for transformer_2, Wan 2.2's expert for little noise",) if second else ()
    return AlignmentLoRA(found, factors, projection, parts.extra, info, kind, notes), settings


def _format_of(source: Path, style: str, parts: _Sorted) -> str:
    if style == "native":
        return "diffsynth" if parts.default or (parts.extra and not parts.prefixed) else "comfyui"
    beside = source.name == TAVID_LORA and (source.parent / TAVID_PROJECTION).is_file()
    return "tavid" if beside else "diffusers"


def _authors_info(kind: str, projection: Tensor | None) -> Info:
    """What the authors' own files do not say of themselves. Other people's LoRAs in MATRIX' format have no projection
    that is wider by an ID map."""
    if kind == "diffsynth":
        theirs = projection is not None and projection.ndim == 5 and projection.shape[1] == _MATRIX_CHANNELS
        form = "each instance carries its tag, <id1> to <id5>, in the prompt"
        return Info(prompt_form=form, image_attention="off" if theirs else "")
    if kind == "tavid":
        return Info(
            "target_mask",
            32,
            trigger="target",
            prompt_form='the word "target" before the noun',
            notes=(_TAVID_SAMPLER,),
        )
    return Info()


def _with_header_alpha(factors: Mapping[str, Factors], alphas: Mapping[str, float]) -> dict[str, Factors]:
    """Alphas that our header holds, for factors that store none."""
    out = {}
    for name, one in factors.items():
        stacked = one.alpha is not None and name in alphas and math.isclose(alphas[name], one.alpha, rel_tol=1e-6)
        if name in alphas and (one.alpha is None or stacked):
            one = replace(one, alpha=alphas[name])  # the exact one of a factor that was stacked
        out[name] = one
    return out


def _with_projection(lora: AlignmentLoRA, source: Path, given: Path | None) -> AlignmentLoRA:
    """Adds the projection and the extra tensors that lie in a file of their own."""
    beside = source.with_name(source.stem + BESIDE)
    files = [given] if given is not None else [beside] if beside.is_file() else []
    if given is None and lora.source == "tavid":
        files.append(source.with_name(TAVID_PROJECTION))
    for file in files:
        if not file.is_file():
            raise ValueError(f"there is no projection file {file.name!r}")
        try:
            tensors, _ = read_file(file)
        except ValueError as error:
            raise ValueError(f"{file.name!r}: {error}") from None
        bare = {"weight", "bias"} >= set(tensors)
        parts = _Sorted({}, {}, {}, dict(tensors), {}) if bare else _sort(tensors, lora.family)
        if parts.down or parts.up or parts.alpha or parts.magnitude:
            raise ValueError(f"{file.name!r} holds LoRA factors, where an input projection was expected")
        found = {name.rpartition(".")[2]: tensor for name, tensor in parts.projection.items()}
        if found and "weight" not in found:
            raise ValueError(f"{file.name!r} has a bias, but no weight")
        lora = replace(lora, projection={**lora.projection, **found}, extra={**lora.extra, **parts.extra})
    return lora


# -- our own format ----------------------------------------------------------------------------------------------------
def _is_own(metadata: Mapping[str, str]) -> bool:
    return metadata.get("format") == "matrix-lora"


def _own(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AlignmentLoRA:
    header = read_header(metadata)
    if not header:
        raise ValueError("it lacks the header of its format")
    sides: dict[str, dict[str, Tensor]] = {}
    projection, extra = {}, {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        stem, _, side = rest.rpartition(".")
        if kind == "lora" and side in ("down", "up", "alpha", "magnitude"):
            sides.setdefault(stem, {})[side] = tensor
        elif kind == "projection" and rest in ("weight", "bias"):
            projection[rest] = tensor
        elif kind == "extra" and rest:
            extra[rest] = tensor
        else:
            raise ValueError(f"it has a tensor {name!r}, which is not of its format")
    factors = {}
    for stem, found in sides.items():
        if "down" not in found or "up" not in found:
            raise ValueError(f"the factors of {stem} lack their {'up' if 'down' in found else 'down'}")
        alpha = found.get("alpha")
        if alpha is not None and (alpha.numel() != 1 or not bool(torch.isfinite(alpha).all())):
            raise ValueError(f"the alpha of {stem} is one finite number")
        scale = None if alpha is None else float(alpha)
        factors[stem] = Factors(found["down"], found["up"], scale, found.get("magnitude"))
    return AlignmentLoRA(header["family"], factors, projection, extra, header["info"], "matrix")


def describe(lora: AlignmentLoRA) -> str:
    """What a LoRA is, for people; a few lines."""
    ranks = sorted({factors.rank for factors in lora.factors.values()})
    blocks = ", ".join(lora.blocks) or "none"
    scales = ", ".join(f"{scale:g}" for scale in lora.scales())
    lines = [
        f"{lora.family}, {lora.source or 'new'} format: {len(lora.factors)} modules in {blocks}",
        f"rank {', '.join(map(str, ranks)) or '-'}, scale {scales or '-'}",
    ]
    if lora.dora:
        lines.append(f"DoRA: {len(lora.dora)} of its modules have magnitudes")
    if "weight" in lora.projection:
        lines.append(f"input projection {list(lora.projection['weight'].shape)}")
    if lora.extra:
        lines.append(f"{len(lora.extra)} tensors of a decoder, not used here")
    for label, text in (("condition", lora.info.condition), ("trigger", lora.info.trigger)):
        lines += [f"{label}: {text}"] if text else []
    lines += [f"prompt: {lora.info.prompt_form}"] if lora.info.prompt_form else []
    if lora.info.image_attention == "off":
        lines.append("trained without the model's cross-attention to the picture, which it turns off")
    return "\n".join([*lines, *lora.info.notes, *lora.notes])
