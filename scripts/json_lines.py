"""JSON as short as it can be read and compared: lines for what is above a depth, one line for all below it."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["dumps"]


def dumps(value: Any, depth: int) -> str:
    """Entries of dicts and lists down to `depth` on a line each, without indents; deeper ones in one line."""
    if not depth or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, list):
        return "[\n" + ",\n".join(dumps(each, depth - 1) for each in value) + "\n]"
    lines = (f"{json.dumps(name, ensure_ascii=False)}:{dumps(each, depth - 1)}" for name, each in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"
