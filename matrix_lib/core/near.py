"""The name that somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a `name` that is not there: "; did you mean 'van'?", or "" where none is near.
    Capitals do not matter."""
    spelled = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), spelled, 1, 0.6)
    return f"; did you mean {spelled[near[0]]!r}?" if near else ""
