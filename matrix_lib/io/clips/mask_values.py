"""What the values of mask pictures mean: one series of pictures, one reading, decided when all of them were seen.

H rows, W columns of pixels. Both readings that a picture may have are packed on the way, so no picture is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.tracks import runs
from ...core.tracks.doubts import look_inverted

__all__ = ["MASKS_ARE", "MasksAre", "Pixels", "Readings", "as_asked", "coloured", "pixels_of"]

MasksAre = Literal["ask", "white", "black"]
"""Where the thing is: "white" (what is set), "black" (the rest), or "ask": white, but a person is asked about masks
that look inverted."""
MASKS_ARE: tuple[MasksAre, ...] = ("ask", "white", "black")
_FEW = 8
_EVERYBODY = (
    ": in mask_annotation/NAME/ itself, where number K is <idK>, or in a clip's masks/, where masks/labels.txt says "
    "which number is who (docs/training-data.md, Masks)"
)
_LIMITS = (0, 0.5, 127, 32767)
Edges = NDArray[Any]


@dataclass(frozen=True)
class Pixels:
    """One picture: `values` (H, W) bool, whole numbers or floats; `alpha` (H, W) uint8 where it has one; whether the
    values are `labels` (numbers of a palette); and whether it shows `colours` of several things."""

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    labels: bool = False
    colours: bool = False


def pixels_of(picture: Image.Image) -> Pixels:
    """What a picture holds, whatever its mode."""
    if picture.mode == "P" and not _grey_palette(picture):
        return Pixels(np.array(picture), labels=True)
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        return Pixels(np.array(picture))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        seen = np.array(picture.convert("RGBA"))
        return Pixels(seen[..., :3].max(-1), seen[..., 3], colours=_several(seen[..., :3][seen[..., 3] > 127]))
    if picture.mode == "P":
        return Pixels(np.array(picture.convert("L")))
    return coloured(np.array(picture.convert("RGB")))


def coloured(seen: NDArray[np.uint8]) -> Pixels:
    """Of (H, W, 3) uint8 colours."""
    return Pixels(seen.max(-1), colours=_several(seen.reshape(-1, 3)))


def _grey_palette(picture: Image.Image) -> bool:
    colours = np.array(picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    used = np.unique(np.array(picture))
    shown = colours[used[used < len(colours)]]
    return len(shown) == len(used) and bool((shown == shown[:, :1]).all())


def _several(colours: NDArray[np.uint8]) -> bool:
    """Whether bright pixels (N, 3) have several colours: then they are several things, or a photograph."""
    bright = colours[colours.max(-1, initial=0) > 127]
    if not len(bright):
        return False
    corner = ((bright > 127) * np.array([1, 2, 4], dtype=np.uint8)).sum(-1)
    return int((np.bincount(corner, minlength=8) > 0.02 * len(bright)).sum()) > 1


@dataclass
class Readings:
    """Takes pictures of one series, then says what is the mask in each.

    Args:
        what: what people call the series.
        key: the number that the thing has in pictures of labels, None where the pictures are of it alone.
    """

    what: str
    key: int | None = None
    _edges: dict[str, list[Edges]] = field(default_factory=dict)
    _levels: _Levels = field(default_factory=lambda: _Levels())
    _alpha: bool = False
    _seen: dict[str, str] = field(default_factory=dict)
    _labels: bool = False
    _both: bool = False

    def add(self, seen: Pixels, name: str = "") -> None:
        """Takes one picture; `name` is what people call it. Raises ValueError for one that cannot be a mask."""
        values, alpha = seen.values, seen.alpha
        if values.dtype.kind not in "buif" or values.ndim != 2:
            raise ValueError(f"{self.what} hold {values.dtype} in {values.ndim} dimensions, which is no mask")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{self.what} hold values that are no numbers")
        clear = alpha is not None and int(alpha.min()) < 255
        if self.key is not None:
            if seen.colours or clear or values.dtype.kind == "f":
                raise ValueError(f"{self.what} are colours; who is who is known by a palette's numbers alone")
            self._keep("label", values == self.key)
            return
        if seen.colours and not clear:
            raise ValueError(
                f"{self.what} have several colours: a mask shows one thing, white on black. For pictures of several "
                "things use palette PNGs (docs/training-data.md), or one folder for each"
            )
        self._labels |= seen.labels
        self._alpha |= clear
        self._seen.setdefault("none" if alpha is None else "shape" if clear else "opaque", name)
        if alpha is not None:
            self._both |= clear and _black_and_white(values[alpha > 127])
        self._keep("alpha", np.ones(values.shape, bool) if alpha is None else alpha > 127)
        self._levels.add(values)
        for limit in _LIMITS:
            if limit in _useful(values.dtype):
                self._keep(f">{limit}", values > limit)
            else:  # a picture of fewer bits among others: its own middle
                own = ">127" if limit > 127 and values.dtype.kind in "ui" else ">0"
                self._edges.setdefault(f">{limit}", []).append(self._edges[own][-1])

    def _keep(self, name: str, mask: NDArray[np.bool_]) -> None:
        self._edges.setdefault(name, []).append(runs.pack(np.ascontiguousarray(mask)))

    def decide(self) -> list[Edges]:
        """`runs.pack` of the mask in each picture. ValueError where it cannot be known what is the mask."""
        if self.key is not None:
            return self._edges["label"]
        if not self._alpha:
            return self._edges[f">{self._levels.limit(self.what, self._labels)}"]
        if "none" in self._seen:
            raise ValueError(
                f"some of {self.what} have a shape in their alpha channel ({self._seen['shape']}) and others have no "
                f"such channel ({self._seen['none']}): save all of them with it, or all in black and white"
            )
        if self._both:
            raise ValueError(
                f"{self.what} have a shape in their alpha channel and another one in black and white: save them "
                "without alpha, or in one colour"
            )
        return self._edges["alpha"]


def _useful(dtype: np.dtype[Any]) -> tuple[float, ...]:
    if dtype.kind == "b":
        return (0,)
    if dtype.kind == "f":
        return (0, 0.5, 127)
    return (0, 127) if dtype.itemsize == 1 else (0, 127, 32767)


@dataclass
class _Levels:
    """The values of a series: the least, the most, and how often each comes while they are few."""

    least: float = math.inf
    most: float = -math.inf
    floats: bool = False
    few: dict[float, int] | None = field(default_factory=dict)

    def add(self, values: NDArray[Any]) -> None:
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        self.floats |= values.dtype.kind == "f"
        if self.few is None:
            return
        if values.dtype.kind in "bu" and values.dtype.itemsize == 1:
            counts = np.bincount(values.ravel())
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            found, counts = np.unique(values, return_counts=True)
        if len(found) > _FEW:
            self.few = None
            return
        for value, count in zip(found.tolist(), counts.tolist()):
            self.few[value] = self.few.get(value, 0) + count
        self.few = None if len(self.few) > _FEW else self.few

    def limit(self, what: str, labels: bool) -> float:
        """Values above this are the thing."""
        if self.least < 0:
            raise ValueError(
                f"{what} hold values from {self.least:g} to {self.most:g}; masks are 0 and above: cut them first"
            )
        if self.few is not None and (len(self.few) == 1 or (len(self.few) == 2 and self.least == 0)):
            return 0  # nothing and something, whatever number that has
        if labels:
            raise ValueError(
                f"{what} are palette pictures of several things ({self._said()}), and here a mask shows one. Save that "
                f"one alone, white on black; or put them where pictures of everybody lie{_EVERYBODY}"
            )
        top = 1 if self.floats and self.most <= 1 else 255 if self.most <= 255 else 65535
        if self.few is not None and (self._between(top) > 0.05 or self.most < top / 2):
            raise ValueError(
                f"{what} hold the values {self._said()}: a mask of one thing has two. Where they number several "
                f"things, put them where pictures of everybody lie{_EVERYBODY}"
            )
        if not top / 2 <= self.most <= top:
            raise ValueError(f"{what} cannot be told: of {top} their brightest value is {self.most:g}")
        return {1: 0.5, 255: 127, 65535: 32767}[top]

    def _between(self, top: int) -> float:
        """Share of what is not 0 that is neither dark nor bright."""
        few = self.few or {}
        return sum(n for v, n in few.items() if 0.08 * top < v < 0.92 * top) / (
            sum(n for v, n in few.items() if v) or 1
        )

    def _said(self) -> str:
        return ", ".join(f"{value:g}" for value in sorted(self.few)) if self.few is not None else f"0 to {self.most:g}"


def _black_and_white(visible: NDArray[Any]) -> bool:
    if not visible.size:
        return False
    black, white = float((visible <= 8).mean()), float((visible >= 247).mean())
    return min(black, white) > 0.02 and black + white > 0.98


def as_asked(edges: list[Edges], height: int, width: int, masks_are: MasksAre, what: str) -> list[Edges]:
    """The masks as a person says that they are. With "ask" a ValueError, which says how to answer, for masks that look
    inverted; see `look_inverted`."""
    if masks_are == "black":
        return [runs.pack(~runs.unpack(found, height, width)) for found in edges]
    if masks_are == "ask" and (covered := look_inverted(edges, height, width)):
        raise ValueError(
            f"{what} cover {covered}, as inverted masks do. Say masks_are=black where the thing is black in them, or "
            "masks_are=white where they are right (a setting, a column of the metadata, or a file masks_are.txt in the "
            "clip's folder)"
        )
    return edges
