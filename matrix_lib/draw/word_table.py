"""What words look at, as a table of shares. Drawn with Pillow alone.

E entities, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .style import INK, fit_text, heading, heat, page, write

__all__ = ["word_table"]

_MARGIN, _NAMES, _ROW, _HEAD, _WIDEST = 32, 170, 52, 150, 150


def word_table(
    values: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    subtitle: str = "",
    colormap: str = "ember",
    width: int = 1200,
) -> Image.Image:
    """A row for each word that looks, a column for each that it looks at; NaN, where nothing was seen, is left empty.

    Args:
        values: (E, C) shares in [0, 1]. The colour is of the root of a share: most are far below the largest.

    Raises ValueError where sizes do not agree.
    """
    if values.shape != (len(rows), len(columns)) or 0 in values.shape:
        raise ValueError(
            f"values are [row, column] for {len(rows)} rows and {len(columns)} columns; got {values.shape}"
        )
    cell = min(_WIDEST, (width - 2 * _MARGIN - _NAMES) // len(columns))
    sheet, ink = page(width, _HEAD + _ROW * len(rows) + _MARGIN)
    heading(ink, _MARGIN, 24, title, subtitle, width - 2 * _MARGIN)
    left = _MARGIN + _NAMES
    for place, name in enumerate(columns):
        write(ink, (left + cell * (place + 0.5), _HEAD - 18), fit_text(name, 15, cell - 8), 15, INK["soft"], "mm")
    top = max(float(np.nanmax(values, initial=0.0)), 1e-6)
    for row, name in enumerate(rows):
        middle = _HEAD + _ROW * (row + 0.5)
        write(ink, (_MARGIN, middle), fit_text(name, 19, _NAMES - 16), 19, INK["text"])
        for place, value in enumerate(values[row]):
            box = (left + cell * place + 2, middle - _ROW / 2 + 2, left + cell * (place + 1) - 2, middle + _ROW / 2 - 2)
            if not np.isfinite(value):
                ink.rectangle(box, fill=INK["panel"])
                continue
            level = float(np.sqrt(max(float(value), 0.0) / top))
            ink.rectangle(box, fill=tuple(int(part) for part in heat(np.array(level), colormap)))
            told = INK["page"] if level > 0.6 else INK["text"]
            write(ink, ((box[0] + box[2]) / 2, middle), f"{100 * value:.1f} %", 16, told, "mm")
    return sheet
