"""JSON as short as it can be read and compared: lines for what is above a depth, one line for all below it."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["dumps"]


def dumps(value: Any, depth: int) -> str:
    """Entries of dicts and lists down to `depth` on a line each, without indents; what is deeper in one line, and lists
    of numbers and texts. Keys are texts or whole numbers."""
    dicts, lists = isinstance(value, dict), isinstance(value, list) and any(isinstance(e, (dict, list)) for e in value)
    if not depth or not value or not (dicts or lists):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if lists:
        return "[\n" + ",\n".join(dumps(each, depth - 1) for each in value) + "\n]"
    lines = (f"{json.dumps(str(name), ensure_ascii=False)}:{dumps(each, depth - 1)}" for name, each in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"
