"""Configurations from files: the `config.json` that a run leaves, or a JSON or TOML file with some of its settings."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from matrix_lib.io.clips.text import read_text
from matrix_lib.io.strict_json import parse_json

from .config import FitConfig
from .presets import PRESETS
from .task_settings import AlignTask, CodecTask, DenoiseTask, TuneTask, UNetTask

__all__ = ["read_config"]

_KINDS = {kind.__name__: kind for kind in (CodecTask, DenoiseTask, UNetTask, AlignTask, TuneTask)}
_SEED = 19  # digits of a seed of 64 bits
_BESIDE = ("kind", "preset", "processes", "changes")


def read_config(path: Path, preset: str = "") -> tuple[FitConfig, frozenset[str]]:
    """A configuration, and the settings that the file gives (`run.out`).

    Args:
        path: groups of settings, `{"optim": {"lr": 1e-4}}`; `preset` or, as in `config.json`, `kind` says what is
            trained.
        preset: what the settings of the file change; empty: what the file says.

    Raises ValueError for a file that is missing, cannot be read, or has a setting that does not exist or is of another
    type.
    """
    found = _read(path)
    preset = preset or str(found.get("preset", ""))
    if preset and preset not in PRESETS:
        raise ValueError(f"{path}: no preset {preset!r}; there are {', '.join(sorted(PRESETS))}")
    if preset:
        config = PRESETS[preset]()
        kind = type(config.task).__name__
        if found.get("kind", kind) != kind:
            raise ValueError(f"{path} is of {found['kind']}, and {preset} trains {kind}: leave the preset out")
    elif found.get("kind") in _KINDS:
        config = _bare(_KINDS[found["kind"]])
    else:
        raise ValueError(f"{path} does not say what to train: give a preset, or write one into it (preset)")
    given: set[str] = set()
    for group, values in found.items():
        if group in _BESIDE:
            continue
        names = [field.name for field in dataclasses.fields(config)]
        if group not in names or not isinstance(values, Mapping):
            raise ValueError(f"{path}: {group!r} is no group of settings; there are {', '.join(names)}")
        config = dataclasses.replace(config, **{group: _group(getattr(config, group), values, f"{path}: {group}")})
        given |= {f"{group}.{name}" for name in values}
    return config, frozenset(given)


def _bare(kind: Any) -> FitConfig:
    """The configuration of the first preset of this kind: a whole file replaces all of it."""
    return next(config for make in PRESETS.values() if type((config := make()).task) is kind)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else parse_json(text, _SEED)
    except OSError as error:
        raise ValueError(f"the configuration {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no {'TOML' if path.suffix.lower() == '.toml' else 'JSON'}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no groups of settings")
    return found


def _group(values: Any, given: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(type(values))
    names = [field.name for field in dataclasses.fields(values)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"{where} has no setting {unknown[0]!r}; it has {', '.join(names)}")
    made = {name: _typed(value, hints[name], f"{where}.{name}") for name, value in given.items()}
    try:
        return dataclasses.replace(values, **made)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _typed(value: Any, kind: Any, where: str) -> Any:
    """The value as the setting has it; ValueError where it is of another type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{where} is one of {', '.join(map(str, inner))}; got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is a list; got {value!r}")
        return tuple(_typed(each, inner[0], where) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where} takes {getattr(kind, '__name__', kind)}; got {value!r}")
    return value
