"""The settings that peft and diffusers keep beside a LoRA's factors: how strong it is, and what is refused.

The rules are peft's own (`LoraConfig`): scale = alpha / r, or alpha / sqrt(r) with `use_rslora`; r and alpha of a
module are those of the pattern, a regular expression, that ends its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...backbones.lora import Factors
from ..files import parse_object
from .files import ADAPTER, LONGEST_HEADER, number

__all__ = ["SETTINGS", "check_settings", "kind_of", "read_settings", "with_settings"]

SETTINGS = "adapter_config.json"
_USED = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "bias"),
    "peft_type",
}
# What does not change how factors are used: which modules got them is seen in the file itself.
_OF_TRAINING = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "runtime_config"),
    *("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("ensure_weight_tying", "init_lora_weights"),
}
_BASE_STAYS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the model's own weights as they were; the others move a part of them into
the factors, which then fit no other model."""
_LONGEST_PATTERN = 400
_NESTED = re.compile(r"\([^()]*[+*}][^()]*\)[+*{]|\([^()]*\([^()]*\)[+*{]?[^()]*\)[+*{]")
_KINDS = (
    (r"hada_|lokr_|lora_mid|oft_|ia3|boft", "another kind of LoRA (LoHa, LoKr, Tucker, OFT, IA3)"),
    (r"lora_B(?:\.\w+)?\.bias$|lora_up\.bias$", "biases of the factors (lora_bias)"),
    (r"lora_embedding_", "factors of an embedding"),
    (r"\.bias$|\.diff_b$", "trained biases, or whole modules that were trained along (modules_to_save)"),
    (r"\.weight$|\.diff$", "weights of whole modules: a whole model, or modules_to_save"),
)


def kind_of(names: Iterable[str]) -> str:
    """What tensors are that are neither factors nor an input projection, by their names; "" where nothing is known."""
    every = sorted(names)
    return next((said for pattern, said in _KINDS if any(re.search(pattern, name) for name in every)), "")


def read_settings(metadata: Mapping[str, str], source: Path, second: bool = False) -> dict[str, Any]:
    """peft's settings: diffusers' header, or `adapter_config.json` beside peft's file; or one alpha that the header has
    for all; {} where there are none. second: those of Wan 2.2's second expert."""
    text, beside = metadata.get(ADAPTER), source.with_name(SETTINGS)
    if text is None and source.stem == "adapter_model" and beside.is_file():
        if beside.stat().st_size > LONGEST_HEADER:
            raise ValueError(f"{SETTINGS} has {beside.stat().st_size} bytes, too many for settings")
        text = beside.read_text(encoding="utf-8", errors="replace")
    if text is None:
        alpha = metadata.get("alpha", "")  # one for all, as some files of MiniMax H3 have it
        return {"lora_alpha": float(alpha)} if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", alpha) else {}
    found = parse_object(text, "its adapter settings")
    mine = "transformer_2." if second else "transformer."
    own = {key.removeprefix(mine): value for key, value in found.items()}
    return {key: value for key, value in own.items() if "." not in key}  # others are of another part


def check_settings(settings: Mapping[str, Any], saved: Iterable[str] = (), dora: bool = False) -> None:
    """ValueError, with its name, for a setting that changes what a LoRA does and is not honoured here.

    Args:
        saved: modules whose whole weights were read (the input projection).
        dora: every factor has its magnitudes.
    """
    if settings.get("use_dora") and not dora:
        raise ValueError("its settings say DoRA, and not all of its factors have magnitudes: it is not whole")
    if str(settings.get("peft_type") or "LORA").rpartition(".")[2] != "LORA":
        raise ValueError(f"its settings are of {settings['peft_type']}, and LoRA alone is read")
    found = list(saved)
    for name in settings.get("modules_to_save") or ():
        if not any(module == name or module.endswith(f".{name}") for module in found):
            raise ValueError(
                f"its settings name {name!r} in modules_to_save: a whole module that was trained along. Of those the "
                "input projection alone is read; merge the LoRA into its model with peft instead"
            )
    if settings.get("bias") not in (None, "none"):
        raise ValueError(
            f"its settings train biases (bias={settings['bias']!r}), which are not read: merge it with peft"
        )
    if settings.get("init_lora_weights") not in _BASE_STAYS:
        raise ValueError(
            f"it was begun with init_lora_weights={settings['init_lora_weights']!r}, which changes the model's own "
            "weights: save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    for name, value in settings.items():
        if name not in _USED | _OF_TRAINING and value:
            told = f"the setting {name}={str(value)[:60]}"
            raise ValueError(f"its settings ask for {told}, which is not honoured here: merge it with peft instead")


def with_settings(
    factors: Mapping[str, Factors], names: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Factors]:
    """Factors with the alpha that the settings give them, where they store none.

    Args:
        names: the whole name of each module as the file has it, which patterns may be written for.

    Raises ValueError for settings that do not fit the factors.
    """
    if settings.get("lora_alpha") is None and not settings.get("alpha_pattern"):
        return dict(factors)
    out = {}
    for stem, one in factors.items():
        whole = names.get(stem, stem)
        ranks = _of(settings, "rank_pattern", "r", whole, stem)
        if ranks and one.rank not in ranks:
            said = " or ".join(f"{rank:g}" for rank in ranks)
            raise ValueError(f"{stem} has rank {one.rank}, and its settings say {said}: they are of another file")
        alphas = _of(settings, "alpha_pattern", "lora_alpha", whole, stem) if one.alpha is None else []
        if len(alphas) > 1:
            raise ValueError(
                f"several patterns match {stem} and give alphas {', '.join(f'{alpha:g}' for alpha in alphas)}: peft "
                "keeps them in the order of the alphabet, so which one counted in training is not known. Leave the one "
                "that was the first in training"
            )
        alpha = alphas[0] if alphas else None
        if one.alpha is None and alpha is not None:
            root = bool(settings.get("use_rslora"))
            one = replace(one, alpha=alpha * math.sqrt(one.rank) if root else alpha)
        out[stem] = one
    return out


def _of(settings: Mapping[str, Any], patterns: str, default: str, *names: str) -> list[float]:
    """The distinct values of the patterns that end the module's name, behind a dot or from its beginning; else the
    default's, [] where there is none. In peft the first pattern wins, and its files do not keep which that was."""
    found = settings.get(patterns) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{patterns} is {{pattern: number}}; got {str(found)[:60]}")
    values = [
        number(value, f"the {patterns} of {pattern}")
        for pattern, value in found.items()
        if any(_ends(pattern, name) for name in names)
    ]
    value = settings.get(default)
    return list(dict.fromkeys(values)) or ([] if value is None else [number(value, default)])


def _ends(pattern: str, name: str) -> bool:
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters is none of a module's name")
    if re.fullmatch(r"[\w.]+", pattern):  # plain names, as most are: no need to search
        return re.match(rf"(?:.*\.)?{pattern}$", name) is not None
    if _NESTED.search(pattern):
        raise ValueError(f"its pattern {pattern[:60]!r} repeats what repeats, which could take for ever to search")
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error as error:
        raise ValueError(f"its pattern {pattern[:60]!r} is no regular expression: {error}") from None
