"""Names of weights, both ways between diffusers and native ComfyUI, as pure functions over `weight_rules`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .weight_rules import FAMILIES, VAES, Op, Rule, Rules

__all__ = [
    "FAMILIES",
    "VAES",
    "NativeName",
    "Rule",
    "Rules",
    "diffusers_names",
    "llama_to_native",
    "native_name",
    "t5_to_native",
    "to_diffusers",
    "to_native",
]


@dataclass(frozen=True)
class NativeName:
    """Where a diffusers weight goes: the native key, which of how many stacked parts it is, and how it is changed."""

    key: str
    part: int = 0
    parts: int = 1
    op: Op = ""


# diffusers drops this one itself: Wan's image keys meet the text queries
_IGNORED = {"wan": (re.compile(r"blocks\.\d+\.attn2\.norm_added_q\."),)}


def native_name(rules: Rules, key: str) -> NativeName | None:
    """Where the diffusers weight or module `key` goes, or None where no rule knows it."""
    for pattern, rule in _compiled(rules, "diffusers"):
        if found := pattern.fullmatch(key):
            return NativeName(_fill(rule.native, found) + found["tail"], rule.part, rule.parts, rule.op)
    return None


def diffusers_names(rules: Rules, key: str, shape: tuple[int, ...] = ()) -> tuple[str, ...]:
    """The diffusers weights that the native weight or module `key` stacks, in order; () where no rule knows it.

    shape: of the weight, (rows, columns), which tells modules apart that are one natively; without, the usual one.
    """
    narrow = len(shape) > 1 and shape[0] < shape[1]
    found = [(rule, match) for pattern, rule in _compiled(rules, "native") if (match := pattern.fullmatch(key))]
    fits = [each for each in found if each[0].narrow == narrow] if any(rule.narrow for rule, _ in found) else found
    return tuple(_fill(rule.diffusers, match) + match["tail"] for rule, match in sorted(fits, key=lambda e: e[0].part))


def to_native(
    state: Mapping[str, Tensor], rules: Rules, progress: Callable[[int, int], None] | None = None
) -> dict[str, Tensor]:
    """Renames, stacks and reshapes a diffusers state dict. Tensors that need no change are passed on, not copied.

    Args:
        progress: called with (done, all) tensors.

    Raises:
        ValueError: a key that no rule knows, or a stacked weight of which some parts are missing.
    """
    parts: dict[NativeName, Tensor] = {}
    unknown = []
    for key, tensor in state.items():
        name = native_name(rules, key)
        if name is not None:
            parts[name] = tensor
        elif not _ignored(rules, key):
            unknown.append(key)
    if unknown:
        raise ValueError(f"{len(unknown)} weights have no native name, first {_sample(unknown)}: another architecture?")
    out: dict[str, Tensor] = {}
    for done, name in enumerate(parts):
        if name.part == 0 or name.key not in out:
            out[name.key] = _stack(parts, name)
        if progress is not None:
            progress(done + 1, len(parts))
    return out


def to_diffusers(
    state: Mapping[str, Tensor], rules: Rules, sizes: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """The way back: native names to diffusers names. Stacked rows are split evenly, except where `sizes` gives the rows
    of a diffusers module (for the four parts of HunyuanVideo's `linear1`: `{"proj_mlp": rows}`)."""
    out: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state.items():
        weight = state.get(f"{key.removesuffix('.bias')}.weight", tensor)
        names = diffusers_names(rules, key, tuple(weight.shape) if key.endswith(".bias") else tuple(tensor.shape))
        if not names:
            unknown.append(key)
            continue
        op = (native_name(rules, names[0]) or NativeName(key)).op
        rows = _rows(tensor.shape[0], names, sizes or {}) if len(names) > 1 else [tensor.shape[0]]
        for name, part in zip(names, tensor.split(rows), strict=True):
            out[name] = _undo(part, op)
    if unknown:
        raise ValueError(f"{len(unknown)} weights have no diffusers name, first {_sample(unknown)}")
    return out


def _rows(total: int, names: tuple[str, ...], sizes: Mapping[str, int]) -> list[int]:
    known = [next((n for end, n in sizes.items() if f".{end}." in f".{name}."), None) for name in names]
    rest = total - sum(n for n in known if n is not None)
    free = sum(n is None for n in known)
    return [n if n is not None else rest // free for n in known]


def _stack(parts: Mapping[NativeName, Tensor], name: NativeName) -> Tensor:
    if name.parts == 1:
        return _do(parts[name], name.op)
    every = [NativeName(name.key, part, name.parts, name.op) for part in range(name.parts)]
    if missing := [part.part for part in every if part not in parts]:
        raise ValueError(f"{name.key} is stacked from {name.parts} weights, but parts {missing} are not in the file")
    return torch.cat([parts[part] for part in every])


def _do(tensor: Tensor, op: Op) -> Tensor:
    if op == "swap":
        return torch.cat(tensor.chunk(2)[::-1])
    if op == "conv" and tensor.ndim == 2:
        return tensor[:, :, None, None, None]
    return tensor


def _undo(tensor: Tensor, op: Op) -> Tensor:
    if op == "conv" and tensor.ndim == 5:
        return tensor[:, :, 0, 0, 0]
    return _do(tensor, op) if op == "swap" else tensor


def _sample(keys: list[str]) -> str:
    return ", ".join(sorted(keys)[:3])


def _ignored(rules: Rules, key: str) -> bool:
    return any(p.match(key) for name, known in FAMILIES.items() if known is rules for p in _IGNORED.get(name, ()))


@lru_cache(maxsize=32)
def _compiled(rules: Rules, side: Literal["diffusers", "native"]) -> list[tuple[re.Pattern[str], Rule]]:
    return [(_pattern(getattr(rule, side)), rule) for rule in rules]


def _pattern(path: str) -> re.Pattern[str]:
    body = re.escape(path).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    return re.compile(body + r"(?P<tail>(?:\.(?:weight|bias|gamma))?)")


def _fill(template: str, found: re.Match[str]) -> str:
    numbers = found.groupdict()
    return template.replace("{i}", numbers.get("i") or "").replace("{j}", numbers.get("j") or "")


def t5_to_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A T5 or UMT5 encoder: the names agree; the embedding is stored once, under either of its two names."""
    out = {key: value for key, value in state.items() if key != "encoder.embed_tokens.weight"}
    if "shared.weight" not in out and "encoder.embed_tokens.weight" in state:
        out["shared.weight"] = state["encoder.embed_tokens.weight"]
    return out


def llama_to_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Llama text model, bare or inside a Llava: the host wants `model.` in front and no vision tower."""
    heads = ("model.language_model.", "language_model.model.", "model.", "")
    head = next(h for h in heads if h == "" or any(key.startswith(h + "layers.") for key in state))
    kept = ("layers.", "embed_tokens.", "norm.")
    return {"model." + k[len(head) :]: v for k, v in state.items() if k.startswith(tuple(head + part for part in kept))}
