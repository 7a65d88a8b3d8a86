"""Pictures of what was measured of steering, as SVG files that stand alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from ...draw.style import INK, Colour, fit_text
from ...draw.svg import Axis, document, draw_dot, draw_frame, draw_line, draw_text
from ..statistics import Estimate
from .plan import PLAIN, SETS, UNSAMPLED, conditions
from .results import Measured

__all__ = ["curves", "trade_off"]

_SHADES: tuple[Colour, ...] = (
    (255, 184, 92),
    (125, 211, 252),
    (190, 242, 100),
    (249, 168, 212),
    (196, 181, 253),
    (253, 224, 71),
    (94, 234, 212),
    (252, 129, 129),
    (163, 163, 163),
    (147, 197, 253),
    (240, 171, 252),
    (134, 239, 172),
)
_WIDE = 1020
_MOST = 24  # names beside a trade-off


def trade_off(found: Sequence[Measured], title: str) -> str:
    """Trajectory IoU to the right, SPI up, each with its interval; the best corner is the top right one."""
    shown = _telling([one for one in found if not one.condition.startswith(UNSAMPLED)])
    iou, spi = [one.estimate("iou") for one in shown], [one.estimate("spi") for one in shown]
    across = Axis.around([v for e in iou for v in (e.low, e.high)], 74, 640)
    up = Axis.around([v for e in spi for v in (e.low, e.high)], 430, 56)
    parts = [*draw_frame(across, up, "trajectory IoU", "SPI", 74), draw_text(74, 30, title, "start", INK["text"], 17)]
    for at, (one, x, y) in enumerate(zip(shown, iou, spi)):
        shade = INK["text"] if one.condition == PLAIN else _SHADES[at % len(_SHADES)]
        parts += _cross(across, up, x, y, shade, f"{one.condition}: IoU {x}, SPI {y}", str(at + 1))
        parts.append(draw_dot(676, 62 + 17 * at, shade, 4.5, one.condition, edge=False))
        label = fit_text(f"{at + 1}  {one.condition}", 12, 300)  # the whole name is in its title
        parts.append(draw_text(690, 66 + 17 * at, label, "start", INK["soft"], 12))
    return _file(parts, max(480, 80 + 17 * len(shown)))


def _telling(found: Sequence[Measured]) -> list[Measured]:
    """As many as a picture can name: of more, no guidance, what nothing surpasses in both, then by the product."""
    if len(found) <= _MOST:
        return list(found)
    places = [(one.mean("iou"), one.mean("spi")) for one in found]
    front = [not any(x > iou and y > spi for x, y in places) for iou, spi in places]
    first = [one.condition == PLAIN for one in found]
    order = sorted(range(len(found)), key=lambda i: (not first[i], not front[i], -places[i][0] * places[i][1]))
    return [found[i] for i in sorted(order[:_MOST])]


Points = Sequence[tuple[float, Measured]]


def curves(found: Sequence[Measured]) -> dict[str, tuple[str, str]]:
    """Ablation curves: file name -> (title, SVG). A line needs two points; no guidance is a dashed line."""
    plan = {c.name: c for which in SETS[::-1] for c in conditions(which, 12)}
    plain = next((one for one in found if one.condition == PLAIN), None)
    charts: dict[str, dict[str, list[tuple[float, Measured]]]] = {}
    for one in found:
        for name, at in plan[one.condition].points if one.condition in plan else ():
            chart, _, line = name.partition(", ")
            charts.setdefault(chart, {}).setdefault(line, []).append((at, one))
    out = {}
    for chart, lines in charts.items():
        whole = {line: sorted(points, key=lambda p: p[0]) for line, points in lines.items() if len(points) > 1}
        if sum(one.condition != PLAIN for points in whole.values() for _, one in points) > 1:
            file = "curve-" + "".join(c if c.isalnum() else "-" for c in chart.lower()) + ".svg"
            out[file] = (chart, _chart(chart, whole, plain))
    return out


def _chart(name: str, lines: Mapping[str, Points], plain: Measured | None) -> str:
    parts = [draw_text(58, 28, name, "start", INK["text"], 17)]
    wide = 300
    for place, (measure, label) in enumerate((("iou", "trajectory IoU"), ("spi", "SPI"), ("fidelity", "IF"))):
        left = 58 + place * (wide + 20)
        every = {line: [one.estimate(measure) for _, one in points] for line, points in lines.items()}
        base = plain.estimate(measure) if plain is not None else None
        values = [v for row in every.values() for e in (*row, *([base] if base else [])) for v in (e.low, e.high)]
        up = Axis.around(values, 262, 62)
        marks = [at for points in lines.values() for at, _ in points]
        across = Axis.around(marks, left + 6, left + wide - 44)
        parts += draw_frame(across, up, "", label, left, marks)
        if base is not None:
            parts.append(draw_line(left, up.at(base.mean), left + wide - 38, up.at(base.mean), INK["soft"], 1, "5 4"))
        for shade, (line, points) in zip(_SHADES, lines.items()):
            parts += _drawn(across, up, points, every[line], shade)
    for at, (shade, line) in enumerate(zip(_SHADES, lines if len(lines) > 1 else ())):
        parts.append(draw_dot(260 + 190 * at, 23, shade, 4.5, line, edge=False))
        parts.append(draw_text(272 + 190 * at, 27, line or "as it comes", "start", INK["soft"], 12))
    return _file(parts, 306)


def _drawn(across: Axis, up: Axis, points: Points, every: Sequence[Estimate], shade: Colour) -> list[str]:
    """One line with its points and their intervals."""
    places = [(across.at(x), e) for (x, _), e in zip(points, every)]
    parts = [draw_line(x, up.at(e.mean), x2, up.at(e2.mean), shade, 1.6) for (x, e), (x2, e2) in pairwise(places)]
    for (x, e), (_, one) in zip(places, points):
        parts.append(draw_line(x, up.at(e.low), x, up.at(e.high), shade, 2))
        parts.append(draw_dot(x, up.at(e.mean), shade, 4, f"{one.condition}: {e}", edge=False))
    return parts


def _cross(across: Axis, up: Axis, x: Estimate, y: Estimate, shade: Colour, title: str, mark: str) -> list[str]:
    px, py = across.at(x.mean), up.at(y.mean)
    return [
        draw_line(across.at(x.low), py, across.at(x.high), py, shade, 1.3),
        draw_line(px, up.at(y.low), px, up.at(y.high), shade, 1.3),
        draw_dot(px, py, shade, 4.5, title, edge=False),
        draw_text(px + 7, py - 6, mark, "start", shade, 11),
    ]


def _file(parts: Sequence[str], height: int) -> str:
    family = "font-family=\"Inter, 'Segoe UI', Helvetica, Arial, sans-serif\""
    return document(parts, _WIDE, height, f'width="{_WIDE}" height="{height}" {family}')
