"""JSON objects out of files that anybody may have written: bounded before anything is built from them."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["parse_object"]

_MOST_DIGITS = 15  # whole numbers that a float holds too


def parse_object(text: str | bytes, what: str, longest: int = 1 << 22) -> dict[str, Any]:
    """The JSON object in `text`.

    Args:
        what: what is read, for errors: "its header".
        longest: characters (or bytes) that it may have.

    Raises ValueError for a longer text, for what is no JSON or no object, for whole numbers of more than 15 digits, and
    for numbers that are not finite.
    """
    if len(text) > longest:
        raise ValueError(f"{what} has {len(text)} characters, and {longest} are the most")
    try:
        found = json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=_constant)
    except _BoundsError as error:
        raise ValueError(f"{what} holds {error}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{what} cannot be read as JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what} is no JSON object")
    return found


class _BoundsError(ValueError):
    pass


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS + 1:
        raise _BoundsError(f"a whole number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise _BoundsError(f"the number {text[:40]}, which is not finite")
    return value


def _constant(text: str) -> float:
    raise _BoundsError(f"{text}, which is no number")
