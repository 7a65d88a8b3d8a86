"""Every setting with its default and its meaning, from the docstrings of the settings themselves."""

from __future__ import annotations

import dataclasses
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from .config import FitConfig
from .presets import PRESETS

__all__ = ["meanings", "settings_text"]

_ENTRY = re.compile(r"^(?P<names>[a-z]\w*(?:, [a-z]\w*)*): (?P<text>.*)", re.DOTALL)
_WIDTH = 110


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of a settings class, and of those that it derives from, says of each field."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        text = textwrap.dedent("    " + (each.__doc__ or "")).partition("Args:\n")[2].partition("\n\n")[0]
        for entry in re.split(r"\n(?=    \S)", "\n" + text.rstrip()):
            if said := _ENTRY.match(" ".join(entry.split())):
                found |= dict.fromkeys(said["names"].split(", "), said["text"].rstrip("."))
    return {field.name: found.get(field.name, "") for field in dataclasses.fields(kind)}


def settings_text(preset: str = "") -> str:
    """Lines `group.name=default  (kind) meaning` of a preset; without one of every kind of task and data."""
    if preset:
        return f"settings of {preset}:\n\n" + _groups(PRESETS[preset]())
    kinds: dict[tuple[type, type], tuple[str, FitConfig]] = {}
    for name, make in PRESETS.items():
        config = make()
        kinds.setdefault((type(config.task), type(config.data)), (name, config))
    told, lines = set(), []
    for name, config in kinds.values():
        for group, values in _parts(config):
            if type(values) not in told:
                told.add(type(values))
                lines.append(f"{group}.*, such as in {name}:\n{_group(group, values)}")
    return (
        "settings, with the defaults of one preset (PRESET --help has those of another):\n\n"
        + "\n\n".join(lines)
        + "\n"
    )


def _parts(config: FitConfig) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        yield field.name, getattr(config, field.name)


def _groups(config: FitConfig) -> str:
    return "\n\n".join(_group(group, values) for group, values in _parts(config)) + "\n"


def _group(group: str, values: Any) -> str:
    hints, said, lines = typing.get_type_hints(type(values)), meanings(type(values)), []
    for field in dataclasses.fields(values):
        head = f"  {group}.{field.name}={_value(getattr(values, field.name))}"
        text = f"{_kind(hints[field.name])}{said[field.name]}"
        lines += [head, *textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"[{', '.join(map(str, typing.get_args(kind)))}] "
    if typing.get_origin(kind) is tuple:
        word = "numbers" if typing.get_args(kind)[0] is int else "words"
        return f"[{word} with commas] "
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return ""
    return {bool: "[true or false] ", int: "[a whole number] ", float: "[a number] "}.get(kind, "")
