"""What all our pictures share: colours, colour maps, type. Pillow and numpy only, so it works wherever the host does.

Colours are sRGB. The colour maps are computed, not tabulated: a path through OKLCH (Bjoern Ottosson's OKLab, 2020) with
rising lightness, resampled so that equal steps of the value are equal steps of colour difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "COLORMAPS",
    "INK",
    "Colour",
    "colormap",
    "colourbar",
    "colours_of",
    "fit_text",
    "font",
    "heading",
    "heat",
    "page",
    "percents",
    "readable",
    "text_size",
    "write",
]

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Surfaces and text of every picture. One dark theme: heat reads as light, and ComfyUI's canvas is dark too.
INK: dict[str, Colour] = {
    "page": (17, 19, 24),
    "panel": (28, 31, 38),
    "line": (62, 67, 79),
    "faint": (136, 143, 157),
    "soft": (188, 194, 206),
    "text": (240, 242, 247),
    "accent": (255, 184, 92),
}
_FINE = 4  # type is drawn this many times too large first
# For names without a track of their own: verbs and plain words.
_WORDS: tuple[Colour, ...] = ((236, 238, 243), (125, 211, 252), (190, 242, 100), (249, 168, 212), (196, 181, 253))
# name: (first and last lightness, first and last hue in degrees, greatest chroma)
COLORMAPS: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "ember": ((0.10, 0.97), (285.0, 462.0), 0.21),
    "lagoon": ((0.15, 0.96), (300.0, 110.0), 0.17),
}
# Fonts with wider coverage than Pillow's own, where a machine has one; for names such as Chinese words of a prompt.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)


def _linear_rgb(lightness: NDArray, chroma: NDArray, hue: NDArray) -> NDArray[np.float64]:
    """OKLCH (hue in radians, any common shape) to linear-light sRGB (..., 3), which may leave [0, 1]."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return np.stack([long, middle, short], -1) @ to_rgb.T


@lru_cache(maxsize=8)
def colormap(name: str = "ember") -> NDArray[np.uint8]:
    """(256, 3) uint8 sRGB from low to high: "ember" (violet, red, gold) or "lagoon" (blue, green, sun)."""
    if name not in COLORMAPS:
        raise ValueError(f"colour maps are {', '.join(COLORMAPS)}; got {name!r}")
    (l0, l1), (h0, h1), top = COLORMAPS[name]
    t = np.linspace(0.0, 1.0, 1024)
    lightness, hue = l0 + (l1 - l0) * t, np.radians(h0 + (h1 - h0) * t)
    wanted = top * np.sin(np.pi * np.clip(0.06 + 0.88 * t, 0, 1)) ** 0.75
    # Keep hue and lightness, and give up as much chroma as a screen demands, without a corner where it begins to.
    tries = wanted[:, None] * np.linspace(1.0, 0.0, 257)
    rgb = _linear_rgb(lightness[:, None], tries, hue[:, None])
    shown = np.take_along_axis(tries, ((rgb >= 0.0) & (rgb <= 1.0)).all(-1).argmax(1)[:, None], 1)[:, 0]
    window = np.hanning(161) / np.hanning(161).sum()
    chroma = 0.94 * np.convolve(np.pad(shown, 80, mode="edge"), window, mode="valid")
    rgb = np.clip(_linear_rgb(lightness, chroma, hue), 0.0, 1.0)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    walked = np.concatenate([[0.0], np.linalg.norm(np.diff(lab, axis=0), axis=1).cumsum()])
    at = np.linspace(0.0, walked[-1], 256)
    even = np.stack([np.interp(at, walked, rgb[:, c]) for c in range(3)], 1)
    srgb = np.where(even <= 0.0031308, 12.92 * even, 1.055 * np.clip(even, 1e-9, 1) ** (1 / 2.4) - 0.055)
    table = np.round(np.clip(srgb, 0, 1) * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def heat(values: NDArray, name: str = "ember") -> NDArray[np.uint8]:
    """Values in [0, 1], any shape, to colours (..., 3) uint8. NaN reads as 0."""
    index = np.nan_to_num(np.clip(values, 0.0, 1.0)) * 255.0
    return colormap(name)[np.round(index).astype(np.uint8)]


def colours_of(names: Sequence[str], tracks: Sequence[str] = (), palette: Sequence[Colour] = ()) -> dict[str, Colour]:
    """One colour for each name: a track's own where there is one, so that a person keeps the colour of their mask."""
    own = dict(zip(tracks, palette, strict=False))
    rest = [name for name in names if name not in own]
    return {name: own[name] if name in own else _WORDS[rest.index(name) % len(_WORDS)] for name in names}


def readable(colour: Colour) -> Colour:
    """A colour of the same hue, light and calm enough for our dark pages: pure blue is too dark, pure green loud."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    white = max(0.16, (120 - light) / max(255 - light, 1))
    red, green, blue = (round(part + (255 - part) * white) for part in colour)
    return red, green, blue


@lru_cache(maxsize=256)
def _missing_glyph(size: int) -> bytes:
    return bytes(ImageFont.load_default(size).getmask("\ue123"))


@lru_cache(maxsize=1024)
def _covers(char: str, size: int = 16) -> bool:
    return char.isspace() or bytes(ImageFont.load_default(size).getmask(char)) != _missing_glyph(size)


@lru_cache(maxsize=32)
def _wide_font(size: int) -> Font | None:
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def font(size: int, text: str = "") -> Font:
    """Pillow's own TrueType font; for a text it has no letters for, a system font where one is found."""
    size = max(int(size), 8)
    if all(_covers(char) for char in text):
        return ImageFont.load_default(size)
    return _wide_font(size) or ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """(width, height) in pixels of one line; the height is the same for every text of a size."""
    fine = font(size * _FINE, text)
    return math.ceil(fine.getlength(text) / _FINE), round(size * 1.5)


@lru_cache(maxsize=512)
def _text_mask(text: str, size: int) -> Image.Image:
    """One line of text as a soft mask, drawn large and made small: Pillow's own small type sets letters on whole pixels
    and runs words together. The middle of the capitals is the middle of the mask."""
    width, height = text_size(text, size)
    mask = Image.new("L", ((width + 2) * _FINE, height * _FINE))
    base = (height / 2 + size * 0.36) * _FINE
    ImageDraw.Draw(mask).text((_FINE, base), text, fill=255, font=font(size * _FINE, text), anchor="ls")
    small = mask.resize((width + 2, height), Image.Resampling.BOX)
    return small.point([round(255 * (v / 255) ** 0.85) for v in range(256)])  # light type on dark looks thin otherwise


def fit_text(text: str, size: int, width: float) -> str:
    """The text, shortened with an ellipsis where it is wider than `width` pixels."""
    if text_size(text, size)[0] <= width:
        return text
    while text and text_size(text + "…", size)[0] > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def write(
    ink: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "lm"
) -> None:
    """One line of text. `at` is the middle of its left edge ("lm"), of its right edge ("rm") or of the line ("mm")."""
    if not text:
        return
    mask = _text_mask(text, size)
    shift = {"l": 1, "m": mask.width / 2, "r": mask.width - 1}[anchor[0]]
    ink.bitmap((round(at[0] - shift), round(at[1] - mask.height / 2)), mask, fill=colour)


def heading(ink: ImageDraw.ImageDraw, left: int, top: int, title: str, subtitle: str, width: float) -> None:
    """A title, and a quieter line below it."""
    write(ink, (left, top + 10), fit_text(title, 24, width), 24, INK["text"])
    write(ink, (left, top + (40 if title else 8)), fit_text(subtitle, 16, width), 16, INK["faint"])


def page(width: int, height: int, colour: str = "page") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture and the pen for it."""
    picture = Image.new("RGB", (int(width), int(height)), INK[colour])
    return picture, ImageDraw.Draw(picture)


def percents(low: float, high: float) -> tuple[str, str]:
    """Two probabilities as percents with the same digits, two of them for the greater: ("0.10 %", "0.92 %")."""
    top = max(abs(low), abs(high)) * 100
    digits = 0 if top == 0 else min(7, max(0, 1 - math.floor(math.log10(top))))
    first, second = (f"{value * 100:.{digits}f} %" for value in (low, high))
    return ("0 %" if float(first[:-2]) == 0 else first), second


def colourbar(
    picture: Image.Image, box: tuple[int, int, int, int], name: str = "ember", vertical: bool = False
) -> None:
    """Draws a colour map into box (left, top, right, bottom), low values left or at the bottom."""
    left, top, right, bottom = box
    ramp = np.linspace(0.0, 1.0, (bottom - top) if vertical else (right - left))
    strip = heat(ramp[::-1, None] if vertical else ramp[None], name)
    picture.paste(Image.fromarray(np.broadcast_to(strip, (bottom - top, right - left, 3)).copy()), (left, top))
