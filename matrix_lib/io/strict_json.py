"""JSON of files that come from strangers (bounded numbers, no surprises), and of files that we wrote ourselves."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["MOST_DIGITS", "own_object", "parse_json"]

MOST_DIGITS = 18  # of a whole number: all of them fit into 64 bits


def parse_json(text: str | bytes, digits: int = MOST_DIGITS) -> Any:
    """The value of a JSON text. Raises ValueError for anything that is no JSON, for NaN and infinite numbers, for whole
    numbers of more digits, and for lists in lists without end."""
    try:
        return json.loads(text, parse_int=partial(_whole, digits), parse_float=_number, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({str(error)[:200]})") from None


def own_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that this project wrote. Raises ValueError, naming the file, where it is none any more,
    and OSError where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({str(error)[:200]}): put it back, or begin in another folder") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (no JSON object): put it back, or begin in another folder")
    return found


def _whole(digits: int, text: str) -> int:
    if len(text.lstrip("-")) > digits:
        raise ValueError(f"it holds a number of {len(text)} digits, and the most are {digits}")
    return int(text)


def _number(text: str) -> float:
    if len(text) > 64 or not math.isfinite(float(text)):
        raise ValueError(f"it holds a number that is out of range: {text[:32]}")
    return float(text)


def _constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number")
