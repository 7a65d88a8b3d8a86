"""What a claim comes to, by one rule.

cannot be asked   a check failed: the base stands at its floor or ceiling, or the manipulation did not happen
holds             the interval of the difference lies above 0, after correction for all comparisons made
does not hold     the interval lies below the margin, after the same correction: whatever there is, it is smaller than
                  what would matter
open              none of these: more runs are needed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .statistics import Estimate, smallest_difference

__all__ = ["Check", "Outcome", "Word", "ceiling", "floor", "manipulated", "verdict"]

Word = Literal["cannot be asked", "holds", "does not hold", "open"]


@dataclass(frozen=True)
class Check:
    """Something that has to be so before a claim can be asked. said: what was found, in a sentence.

    caps: it is about room above, which hides a gain and no loss: a claim whose interval lies below 0 is answered all
    the same.
    """

    passed: bool
    said: str
    caps: bool = False


@dataclass(frozen=True)
class Outcome:
    """word: see above. why: in a sentence. smallest: the smallest difference that could have been found (power .8)."""

    word: Word
    why: str
    smallest: float

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


def floor(base: float, chance: float, room: float = 0.05) -> Check:
    """Whether a base does more than chance: what it cannot do at all no method can be seen to improve."""
    return Check(base >= chance + room, f"the base scores {base:.3f}, chance is {chance:.3f}")


def ceiling(base: float, most: float = 1.0, room: float = 0.05) -> Check:
    """Whether a base leaves room above it."""
    return Check(base <= most - room, f"the base scores {base:.3f} of {most:.3f}", caps=True)


def manipulated(change: Estimate, least: float = 0.0) -> Check:
    """Whether what the method is said to move did move (the share of attention on the mask, say)."""
    said = f"what the method moves moved by {change.interval}, at least {least:.3f} is asked for"
    return Check(change.low > least, said)


def verdict(
    difference: Estimate,
    margin: float,
    checks: Sequence[Check] = (),
    p: float | None = None,
    p_margin: float | None = None,
) -> Outcome:
    """The verdict on a claim of a positive difference.

    Args:
        margin: the smallest difference that would matter, above 0.
        checks: what has to be so; the first that failed is the reason. Room above (`Check.caps`) stands in the way of
            everything but a loss.
        p, p_margin: of the difference against 0 and against the margin, corrected for all comparisons of the table;
            None, both, where it is the only one.

    Raises ValueError for a margin that is not above 0, and for one p without the other: a table would be stricter with
    one of its answers than with the other.
    """
    if not margin > 0:
        raise ValueError(f"the margin is the smallest difference that would matter, above 0; got {margin}")
    if (p is None) != (p_margin is None):
        raise ValueError("p is of the difference and p_margin of the margin: give both, or neither")
    smallest = smallest_difference(difference)
    lost = difference.high < 0
    for check in checks:
        if not check.passed and not (check.caps and lost):
            return Outcome("cannot be asked", check.said, smallest)
    if math.isnan(difference.low):
        return Outcome("open", "the interval is not known", smallest)
    if difference.low > 0 and (p is None or p <= 0.05):
        return Outcome("holds", f"{difference.interval} lies above 0", smallest)
    small = difference.high < margin
    if small and (p_margin is None or p_margin <= 0.05):
        return Outcome("does not hold", f"{difference.interval} lies below the margin of {margin:g}", smallest)
    if small:
        said = f"{difference.interval} lies below the margin of {margin:g}, but p is {p_margin:.3f} after correction"
        return Outcome("open", said, smallest)
    if difference.low > 0:
        return Outcome("open", f"{difference.interval}, but p is {p:.3f} after correction", smallest)
    return Outcome("open", f"{difference.interval} holds both 0 and the margin of {margin:g}", smallest)
