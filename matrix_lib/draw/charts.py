"""Charts of a capture: which layers attend, at which steps. Drawn with Pillow alone.

L layers, St step bins, E entities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .style import INK, Colour, colourbar, fit_text, heading, heat, page, readable, text_size, write

__all__ = ["Scores", "layer_bars", "layers_by_steps"]


@dataclass(frozen=True)
class Scores:
    """What a chart shows.

    Args:
        values: (L, St, E), higher is more; for alignment the share of a map's mass on its mask, in [0, 1]. NaN where
            nothing was recorded.
        layers, steps, sigmas: along L and St. names: along E.
        calls: (St,) or (L, St, E); what has 0 calls is drawn empty, and means weigh the rest by it.
        chance: (E,) what a flat map would score, or None.
        unit: what a value is, in a word or two ("share of attention on the mask").
    """

    values: NDArray[np.floating]
    layers: Sequence[int]
    steps: Sequence[int]
    sigmas: Sequence[float]
    calls: Sequence[int] | NDArray[np.floating]
    names: Sequence[str]
    unit: str
    chance: Sequence[float] | None = None

    def __post_init__(self) -> None:
        want = (len(self.layers), len(self.steps), len(self.names))
        calls = np.shape(self.calls) in (want[1:2], want)
        if self.values.shape != want or len(self.sigmas) != len(self.steps) or not calls or 0 in want:
            raise ValueError(
                f"scores are [layer, step, entity] = {list(want)}, none of them 0; got {self.values.shape}"
            )
        if self.chance is not None and len(self.chance) != len(self.names):
            raise ValueError(f"chance has one value for each of {len(self.names)} names; got {len(self.chance)}")

    @property
    def shown(self) -> NDArray[np.floating]:
        """(L, St, E) in [0, 1] for the colours: where chance is known, 0 is chance and 1 all there is; a large mask
        would look good in every layer otherwise."""
        values = np.nan_to_num(self.values)
        if self.chance is None:
            return values
        chance = np.asarray(self.chance)
        return np.clip((values - chance) / np.clip(1 - chance, 1e-6, None), 0, 1)

    def per_layer(self) -> NDArray[np.floating]:
        """(L, E): mean over steps."""
        weights = self.weights
        return (np.nan_to_num(self.values) * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)

    @property
    def weights(self) -> NDArray[np.floating]:
        """(L, St, E): the calls of each value, 0 where it is NaN."""
        calls = np.asarray(self.calls, dtype=np.float64)
        calls = calls[None, :, None] if calls.ndim == 1 else calls
        return np.where(np.isnan(self.values), 0.0, np.broadcast_to(calls, self.values.shape))


@dataclass(frozen=True)
class _Plot:
    """Where one entity's heat map sits (left, top) and how large its cells and bars are, in pixels."""

    left: int
    top: int
    cell: tuple[int, int]
    columns: int
    rows: int
    bars: int

    @property
    def right(self) -> int:
        return self.left + self.columns * self.cell[0]

    @property
    def bottom(self) -> int:
        return self.top + self.rows * self.cell[1]

    def row(self, i: int) -> float:
        """The vertical middle of row i."""
        return self.top + (i + 0.5) * self.cell[1]


_MARGIN, _AXIS, _BARS, _GAP = 32, 64, 104, 36


def layers_by_steps(
    scores: Scores, title: str, subtitle: str = "", colours: Mapping[str, Colour] | None = None, colormap: str = "ember"
) -> Image.Image:
    """One panel for each entity: layers down, steps across, and the mean over steps as bars beside it.

    All panels share one colour scale, of `scores.shown`; the bars are the values themselves. The three best layers of
    each are bright and numbered. A dashed line across the bars is chance.
    """
    rows, columns = len(scores.layers), len(scores.steps)
    cell = (int(np.clip(300 // columns, 6, 32)), int(np.clip(640 // rows, 9, 28)))
    panel = (_AXIS + max(cell[0] * columns, 60) + 12 + _BARS, 36 + cell[1] * rows + 62)
    across = max(1, min(len(scores.names), (1920 - 2 * _MARGIN + _GAP) // (panel[0] + _GAP)))
    down = -(-len(scores.names) // across)
    width = max(2 * _MARGIN + across * panel[0] + (across - 1) * _GAP, 620)
    head = 92
    sheet, ink = page(width, head + down * panel[1] + 60)
    heading(ink, _MARGIN, 24, title, subtitle, width - 2 * _MARGIN)
    shown = scores.shown
    top = max(float(shown.max()), 1e-6)
    for e, name in enumerate(scores.names):
        left, upper = _MARGIN + (e % across) * (panel[0] + _GAP), head + (e // across) * panel[1]
        plot = _Plot(left + _AXIS, upper + 36, cell, columns, rows, _BARS)
        colour = readable((colours or {}).get(name, INK["accent"]))
        ink.rounded_rectangle((plot.left, upper + 4, plot.left + 14, upper + 18), 3, fill=colour)
        write(ink, (plot.left + 23, upper + 11), fit_text(name, 19, panel[0] - _AXIS - 23), 19, INK["text"])
        picture = heat(shown[..., e] / top, colormap)
        picture[scores.weights[..., e] == 0] = INK["panel"]
        size = (plot.right - plot.left, plot.bottom - plot.top)
        sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (plot.left, plot.top))
        _axes(ink, scores, plot, _best(scores.per_layer()[:, e]))
        _side_bars(ink, scores, plot, e, colour)
    unit = scores.unit if scores.chance is None else f"{scores.unit}: above chance (0), up to all of it (1)"
    _scale(sheet, ink, (_MARGIN + _AXIS, sheet.height - 44), top, unit, colormap)
    return sheet


def layer_bars(
    scores: Scores, title: str, subtitle: str = "", colours: Mapping[str, Colour] | None = None, width: int = 1200
) -> Image.Image:
    """One row of bars for each entity: the mean over steps of every layer, best layers bright, chance dashed."""
    tall, left, right = 130, 84, _MARGIN
    head = 92
    sheet, ink = page(width, head + len(scores.names) * (tall + 62) + 8)
    heading(ink, _MARGIN, 24, title, subtitle, width - 2 * _MARGIN)
    mean = scores.per_layer()
    step = (width - left - right) / len(scores.layers)
    for e, name in enumerate(scores.names):
        base = head + e * (tall + 62) + 30 + tall
        colour = readable((colours or {}).get(name, INK["accent"]))
        ink.rounded_rectangle((left, base - tall - 24, left + 14, base - tall - 10), 3, fill=colour)
        write(ink, (left + 23, base - tall - 17), fit_text(name, 19, width / 2), 19, INK["text"])
        chance = scores.chance[e] if scores.chance is not None else 0.0
        top, best = max(float(mean[:, e].max()), chance, 1e-6), _best(mean[:, e])
        for i, value in enumerate(mean[:, e]):
            x = left + i * step
            where = (round(x + step * 0.1), base - max(1, round(tall * value / top)), round(x + step * 0.9), base)
            ink.rectangle(where, fill=colour if i in best else _dim(colour))
            if i in best or (i % _every(len(scores.layers), 14) == 0 and not {i - 1, i + 1} & best):
                shade = INK["text"] if i in best else INK["faint"]
                write(ink, (x + step / 2, base + 13), str(scores.layers[i]), 13, shade, "mm")
        write(ink, (left - 8, base - tall), f"{top:.2f}", 13, INK["faint"], "rm")
        write(ink, (left - 8, base), "0", 13, INK["faint"], "rm")
        if scores.chance is not None:
            y = base - round(tall * chance / top)
            _dashes(ink, (left, y), (width - right, y))
            write(ink, (width - right, base - tall - 17), f"- - chance {chance:.2f}", 13, INK["soft"], "rm")
    return sheet


def _best(mean: NDArray[np.floating]) -> set[int]:
    """The three highest layers, none where there are hardly more."""
    return set(np.argsort(-mean, kind="stable")[:3].tolist()) if len(mean) > 4 else set()


def _dim(colour: Colour) -> Colour:
    red, green, blue = (round(part * 0.42 + 24) for part in colour)
    return red, green, blue


def _every(count: int, room: int) -> int:
    """Label every n-th of `count` things where `room` labels fit: n is 1, 2, 5 or a multiple of 10."""
    return next((n for n in (1, 2, 5, 10, 20, 50) if count / n <= room), 100)


def _axes(ink: ImageDraw.ImageDraw, scores: Scores, plot: _Plot, best: set[int]) -> None:
    """Layer numbers on the left, steps and sigmas below."""
    size = int(np.clip(plot.cell[1], 11, 14))
    every = _every(plot.rows, max(1, (plot.bottom - plot.top) // 22))
    write(ink, (plot.left - 8, plot.top - 12), "layer", 13, INK["faint"], "rm")
    for i, layer in enumerate(scores.layers):
        near = {i - 1, i + 1} & best and plot.cell[1] < size + 3
        if i in best or (i % every == 0 and not near):
            shade = INK["text"] if i in best else INK["faint"]
            write(ink, (plot.left - 8, plot.row(i)), str(layer), size, shade, "rm")
    write(ink, (plot.left - 8, plot.bottom + 13), "step", 13, INK["faint"], "rm")
    write(ink, (plot.left - 8, plot.bottom + 31), "sigma", 13, INK["faint"], "rm")
    ticks = sorted({0, plot.columns // 2, plot.columns - 1} if plot.right - plot.left > 110 else {0, plot.columns - 1})
    for i in ticks:
        x = plot.left + (i + 0.5) * plot.cell[0]
        anchor = "mm" if len(ticks) == 1 or 0 < i < plot.columns - 1 else ("lm" if i == 0 else "rm")
        x = {"lm": plot.left, "rm": plot.right, "mm": x}[anchor]
        write(ink, (x, plot.bottom + 13), str(scores.steps[i]), 13, INK["soft"], anchor)
        write(ink, (x, plot.bottom + 31), f"{scores.sigmas[i]:.2g}", 13, INK["faint"], anchor)


def _side_bars(ink: ImageDraw.ImageDraw, scores: Scores, plot: _Plot, e: int, colour: Colour) -> None:
    """The mean over steps of every layer, beside its row."""
    mean = scores.per_layer()[:, e]
    chance = scores.chance[e] if scores.chance is not None else 0.0
    best, left, length = _best(mean), plot.right + 12, plot.bars - 12
    top = max(float(mean.max()), chance, 1e-6)
    for i, value in enumerate(mean):
        y0, y1 = plot.top + i * plot.cell[1] + 1, plot.top + (i + 1) * plot.cell[1] - 2
        where = (left, y0, left + max(1, round(length * value / top)), y1)
        ink.rectangle(where, fill=colour if i in best or not best else _dim(colour))
    write(ink, (left, plot.bottom + 13), f"best mean {mean.max():.2f}", 13, INK["soft"])
    if scores.chance is not None:
        x = left + round(length * chance / top)
        _dashes(ink, (x, plot.top), (x, plot.bottom))
        write(ink, (left, plot.bottom + 31), f"- - chance {chance:.2f}", 13, INK["faint"])


def _dashes(ink: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int]) -> None:
    """A dashed line, level or upright."""
    upright = start[0] == end[0]
    for at in range(start[1], end[1], 7) if upright else range(start[0], end[0], 7):
        stop = min(at + 3, end[1] if upright else end[0])
        ink.line((start[0], at, start[0], stop) if upright else (at, start[1], stop, start[1]), fill=INK["text"])


def _scale(
    sheet: Image.Image, ink: ImageDraw.ImageDraw, at: tuple[int, int], top: float, unit: str, colormap: str
) -> None:
    """The colour scale with its ends and unit."""
    x, y = at
    colourbar(sheet, (x, y, x + 200, y + 12), colormap)
    write(ink, (x - 8, y + 6), "0", 13, INK["faint"], "rm")
    ends = f"{top:.2f}"
    write(ink, (x + 208, y + 6), ends, 13, INK["faint"])
    write(ink, (x + 222 + text_size(ends, 13)[0], y + 6), unit, 13, INK["soft"])
