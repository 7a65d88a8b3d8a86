"""A bound prompt to look at: its tokens in order over their conditioning rows, phrases in their instances' colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw
from torch import Tensor, from_numpy

from ..backbones import reader
from ..core.ranges import ranges
from ..core.tracks.palette import distinct_colours
from ..core.tracks.tracks import MaskTracks
from ..core.words.binding import Phrase, PromptBinding, Token
from ..core.words.phrases import time_text
from .style import INK, Colour, colours_of, fit_text, page, readable, text_size, write

__all__ = ["draw_tokens", "table_image", "tokens_markdown"]

_WIDTH, _MARGIN, _TYPE, _SMALL, _CHIP = 1024, 24, 18, 13, 54


def _shown(token: Token) -> str:
    """A token's piece as a person reads it: a visible sign for the space that it begins with."""
    return token.text.replace("\u2581", "\u00b7").replace("\u0120", "\u00b7").replace("\u010a", "\u21b5") or "\u00b7"


def _meaning(phrase: Phrase) -> str:
    time = "" if phrase.time is None else f" {time_text(phrase.time)}"
    if phrase.role == "verb":
        return f"verb: {phrase.subject}" + (f" \u2192 {phrase.object}" if phrase.object else "") + time
    return phrase.role + time


def _title(binding: PromptBinding) -> str:
    spec = reader(binding.model)
    model = f"{spec.text_encoder_titles[0]} ({spec.title})" if spec else binding.model or "prompt"
    return f"{model}: {len(binding.tokens)} tokens of the prompt in {binding.length} rows"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("`", "\\`")


def tokens_markdown(binding: PromptBinding) -> str:
    """The binding as two Markdown tables: what each phrase covers, and every token with its row."""
    lines = [f"**{_title(binding)}**", ""]
    lines += ["| name | role | words | rows | tokens |", "| --- | --- | --- | --- | --- |"]
    shown = {token.row: _shown(token) for token in binding.tokens}
    for phrase in binding.phrases:
        pieces = " ".join(shown[row] for row in phrase.rows)
        cells = (phrase.name, _meaning(phrase), phrase.text, ranges(phrase.rows), pieces)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    if binding.captions:
        own = ((f"{each.start}-{each.end - 1}", each.name) for each in binding.captions)
        lines += ["", *(f"- rows {rows}: the caption of {_cell(name)} alone" for rows, name in own)]
    if binding.notes:
        lines += ["", *(f"- {note}" for note in binding.notes)]
    lines += ["", "| row | token | id | characters | phrases |", "| --- | --- | --- | --- | --- |"]
    for token in binding.tokens:
        names = ", ".join(phrase.name for phrase in binding.phrases if token.row in phrase.rows)
        cells = (str(token.row), _shown(token), str(token.id), f"{token.start}-{token.end}", names)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _colours(
    binding: PromptBinding, tracks: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> dict[str, Colour]:
    """Instances in the colour of their track, or one that no track has; verbs and words in colours of their own."""
    loose = [phrase.name for phrase in binding.instances if phrase.name not in tracks]
    own = dict(zip(loose, distinct_colours(len(loose), tuple(palette))))
    rest = [name for name in binding.names if name not in own]
    chosen = {**colours_of(rest, tracks, palette), **own}
    return {name: readable(colour) for name, colour in chosen.items()}


@dataclass(frozen=True)
class _Chip:
    token: Token
    x: int
    y: int
    width: int
    colours: tuple[Colour, ...]


def _layout(binding: PromptBinding, colours: dict[str, Colour], top: int) -> list[_Chip]:
    """Tokens in reading order, wrapped to the page."""
    chips: list[_Chip] = []
    x, y = _MARGIN, top
    for token in binding.tokens:
        owners = tuple(colours[phrase.name] for phrase in binding.phrases if token.row in phrase.rows)
        text = fit_text(_shown(token), _TYPE, _WIDTH - 2 * _MARGIN - 20)
        width = max(text_size(text, _TYPE)[0], text_size(str(token.row), _SMALL)[0]) + 14
        if x + width > _WIDTH - _MARGIN and x > _MARGIN:
            x, y = _MARGIN, y + _CHIP + 8
        chips.append(_Chip(token, x, y, width, owners))
        x += width + 4
    return chips


def _shade(colour: Colour, part: float) -> Colour:
    red, green, blue = (round(part * c + (1 - part) * p) for c, p in zip(colour, INK["panel"]))
    return red, green, blue


def _draw_chip(ink: ImageDraw.ImageDraw, chip: _Chip) -> None:
    """A token over its row number; one bar in the colour of each phrase that has it."""
    box = (chip.x, chip.y, chip.x + chip.width, chip.y + _CHIP)
    fill = _shade(chip.colours[0], 0.28) if chip.colours else INK["panel"]
    ink.rounded_rectangle(box, 5, fill=fill)
    middle = chip.x + chip.width / 2
    text = fit_text(_shown(chip.token), _TYPE, _WIDTH - 2 * _MARGIN - 20)
    write(ink, (middle, chip.y + 16), text, _TYPE, INK["text"] if chip.colours else INK["soft"], "mm")
    write(ink, (middle, chip.y + 36), str(chip.token.row), _SMALL, INK["soft"] if chip.colours else INK["faint"], "mm")
    part = (chip.width - 6) / max(len(chip.colours), 1)
    for index, colour in enumerate(chip.colours):
        left = chip.x + 3 + index * part
        ink.rectangle((round(left), chip.y + _CHIP - 5, round(left + part) - 1, chip.y + _CHIP - 2), fill=colour)


def _draw_phrases(ink: ImageDraw.ImageDraw, binding: PromptBinding, colours: dict[str, Colour], top: int) -> None:
    columns = (_MARGIN + 26, 250, 470, 770)
    for column, head in zip(columns, ("name", "role", "words", "rows")):
        write(ink, (column, top), head, _SMALL, INK["faint"])
    for index, phrase in enumerate(binding.phrases):
        y = top + 26 * (index + 1)
        ink.rounded_rectangle((_MARGIN, y - 8, _MARGIN + 16, y + 8), 4, fill=colours[phrase.name])
        cells = (phrase.name, _meaning(phrase), phrase.text, ranges(phrase.rows))
        for column, after, cell in zip(columns, (*columns[1:], _WIDTH - _MARGIN), cells):
            write(ink, (column, y), fit_text(cell, 16, after - column - 14), 16, INK["text"])


def draw_tokens(
    binding: PromptBinding, tracks: Sequence[str] = (), palette: Sequence[tuple[int, int, int]] = ()
) -> NDArray[np.uint8]:
    """A picture (height, 1024, 3) uint8 of a bound prompt: the phrases, then every token over its conditioning row.

    `tracks` and `palette` are names and colours of mask tracks; an instance keeps the colour of its mask.
    """
    colours = _colours(binding, tracks, palette)
    phrases_at = 84
    notes_at = phrases_at + 26 * (len(binding.phrases) + 1) + 8
    tokens_at = notes_at + 24 * len(binding.notes) + 20
    chips = _layout(binding, colours, tokens_at)
    height = (chips[-1].y if chips else tokens_at) + _CHIP + _MARGIN
    picture, ink = page(_WIDTH, height)
    write(ink, (_MARGIN, 34), _title(binding), 22, INK["text"])
    _draw_phrases(ink, binding, colours, phrases_at)
    for index, note in enumerate(binding.notes):
        text = fit_text(note, 15, _WIDTH - 2 * _MARGIN)
        write(ink, (_MARGIN, notes_at + 24 * index), text, 15, INK["accent"])
    for chip in chips:
        _draw_chip(ink, chip)
    return np.asarray(picture)


def table_image(binding: PromptBinding, tracks: MaskTracks | None = None) -> Tensor:
    """`draw_tokens` as an IMAGE: (1, height, 1024, 3) float32 in [0, 1], in the colours of the tracks."""
    picture = draw_tokens(binding, tracks.names, tracks.palette) if tracks else draw_tokens(binding)
    return from_numpy(picture.astype(np.float32) / 255.0)[None]
