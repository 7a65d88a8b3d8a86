"""JSON of files that come from strangers: bounded numbers, no surprises."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["MOST_DIGITS", "parse_json"]

MOST_DIGITS = 18  # of a whole number: what 64 bits hold


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for anything that is no JSON, for NaN and infinite numbers, for whole
    numbers of more than 18 digits, and for lists in lists without end."""
    try:
        return json.loads(text, parse_int=_whole, parse_float=_number, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({str(error)[:200]})") from None


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits, and the most are {MOST_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    if len(text) > 64 or not math.isfinite(float(text)):
        raise ValueError(f"it holds a number that is out of range: {text[:32]}")
    return float(text)


def _constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number")
