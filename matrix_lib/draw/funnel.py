"""A funnel as SVG: how many each step kept, and why it left out the others."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from .style import INK
from .svg import SERIES, document, draw_text, hexed

__all__ = ["Step", "funnel"]

_WIDTH, _LEFT, _ROW, _BAR = 1120, 20, 74, 22
_SHOWN = 3  # reasons of a step


class Step(NamedTuple):
    """One step: what it is, how many are left after it, and (reason, count) of those that it left out."""

    title: str
    left: int
    why: Sequence[tuple[str, int]] = ()


def funnel(steps: Sequence[Step], title: str) -> str:
    """A bar a step, as wide as its share of the first, with what was left out beside it. A file that stands alone."""
    most = max((step.left for step in steps), default=0) or 1
    room = _WIDTH - 2 * _LEFT
    parts = [draw_text(_LEFT, 34, title, "start", INK["text"], 18)]
    before = most
    for n, step in enumerate(steps):
        top = 60 + n * _ROW
        now, was = room * step.left / most, room * before / most
        lost = f'<rect x="{_LEFT}" y="{top + 8}" width="{was:.1f}" height="{_BAR}" fill="{hexed(INK["line"])}"/>'
        kept = f'<rect x="{_LEFT}" y="{top + 8}" width="{now:.1f}" height="{_BAR}" fill="{hexed(SERIES[1])}">'
        share = f"{step.left:,} left ({100 * step.left / most:.3g} %)"
        parts += [lost, f"{kept}<title>{html.escape(step.title)}: {step.left}</title></rect>"]
        parts.append(draw_text(_LEFT, top + 2, step.title, "start", INK["text"], 13))
        parts.append(draw_text(_WIDTH - _LEFT, top + 2, share, "end", INK["soft"], 13))
        told = [f"{count:,} {reason}" for reason, count in step.why[:_SHOWN]]
        if rest := sum(count for _, count in step.why[_SHOWN:]):
            told.append(f"{rest:,} for other reasons")
        if told:
            parts.append(draw_text(_LEFT, top + 8 + _BAR + 16, " · ".join(told)[:170], "start", INK["faint"], 12))
        before = step.left
    return document(parts, _WIDTH, 70 + len(steps) * _ROW)
