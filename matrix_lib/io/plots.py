"""Pictures of a comparison as SVG files that stand alone: means with their intervals, and curves over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .drawing import INK, Colour
from .svg import LEFT, RIGHT, WIDTH, _Axis, _svg, draw_dot, draw_line, draw_text, hexed

__all__ = ["Mark", "curves", "intervals_by_group", "stand_alone"]

# Told apart by people who see colours differently, too; the first is for what others are compared with.
SERIES: tuple[Colour, ...] = (
    (150, 150, 160), (86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0),
)  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """One interval of a picture."""

    name: str
    mean: float
    low: float
    high: float


def stand_alone(plots: Mapping[str, str], width: int = WIDTH) -> str:
    """Plots (SVG texts of this module) under each other with their titles, as one SVG file."""
    top, parts = 12, []
    for title, plot in plots.items():
        parts.append(draw_text(LEFT, top + 18, title, "start", INK["text"], 16))
        height = int(plot.split('viewBox="0 0 ', 1)[1].split('"')[0].split()[1])
        parts.append(f'<svg x="0" y="{top + 28}" width="{width}" height="{height}" {plot.removeprefix("<svg ")}')
        top += height + 44
    page = f'<rect width="{width}" height="{top}" fill="{hexed(INK["page"])}"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" font-family="sans-serif">'
    return f"{head}{page}{''.join(parts)}</svg>\n"


def intervals_by_group(groups: Mapping[str, Sequence[Mark]], reference: float | None = None, tall: int = 220) -> str:
    """Dots with intervals, a group of them beside the next; one name has one colour in all groups."""
    marks = [mark for group in groups.values() for mark in group]
    if not marks:
        return _svg([], 20)
    names = list(dict.fromkeys(mark.name for mark in marks))
    ends = [end for mark in marks for end in (mark.low, mark.high)] + ([] if reference is None else [reference])
    axis = _Axis(min(ends), max(ends) + 1e-9, 12, tall)
    wide = (WIDTH - LEFT - RIGHT) / len(groups)
    parts = axis.lines()
    if reference is not None:
        parts.append(draw_line(LEFT, axis.y(reference), WIDTH - RIGHT, axis.y(reference), INK["text"], 1, "5 4"))
    for g, (title, group) in enumerate(groups.items()):
        left, step = LEFT + g * wide, wide / (len(group) + 1)
        parts.append(draw_text(left + wide / 2, axis.top + tall + 22, title, "middle", INK["text"], 13))
        for i, mark in enumerate(group):
            x, shade = left + (i + 1) * step, SERIES[names.index(mark.name) % len(SERIES)]
            label = f"{mark.name}: {mark.mean:.3f} [{mark.low:.3f}, {mark.high:.3f}]"
            parts.append(draw_line(x, axis.y(mark.low), x, axis.y(mark.high), shade, 3))
            parts.append(draw_dot(x, axis.y(mark.mean), shade, 5, label))
            parts.append(draw_text(x, axis.y(mark.high) - 6, mark.name, "middle", shade, 11))
    return _svg(parts, axis.top + tall + 36)


def curves(series: Mapping[str, Sequence[Sequence[tuple[float, float]]]], tall: int = 220) -> str:
    """Lines over steps: per name the runs, each a list of (step, value). Names have one colour each."""
    points = [point for runs in series.values() for run in runs for point in run]
    if not points:
        return _svg([], 20)
    axis = _Axis(min(y for _, y in points), max(y for _, y in points) + 1e-9, 12, tall)
    last = max(max(x for x, _ in points), 1.0)
    parts = axis.lines()

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    for i, (name, runs) in enumerate(series.items()):
        shade = SERIES[i % len(SERIES)]
        for run in runs:
            line = " ".join(f"{x_of(x):.1f},{axis.y(y):.1f}" for x, y in run)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{hexed(shade)}" stroke-width="1.6"/>')
        parts.append(draw_text(LEFT + 12 + i * 130, axis.top + tall + 36, name, "start", shade, 13))
    for share in (0.0, 0.5, 1.0):
        anchor = ("start", "middle", "end")[round(share * 2)]
        parts.append(
            draw_text(x_of(last * share), axis.top + tall + 18, f"{last * share:.0f}", anchor, INK["faint"], 12)
        )
    return _svg(parts, axis.top + tall + 48)
