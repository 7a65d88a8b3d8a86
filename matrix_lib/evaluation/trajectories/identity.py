"""Who looks like whom along the tracks: drift of looks, doubles, tracks that have changed places.

Everything is kept as small histograms and numbers; no frame is. E instances, H, W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .looks import Doubles, colours, distance

__all__ = ["Looks", "PathSwaps"]

Array = NDArray[Any]
Pair = tuple[str, str]
_APART = 0.25  # looks that differ by less cannot tell two instances apart
_LIKE = 0.4  # a new track is a double of whom it resembles most, where it is no farther than this from them
_MARGIN = 0.5  # of the distance between two: so much better the other way round counts as swapped
_LEAST = 0.1  # of its first area: less of an instance says nothing about its looks


class Looks:
    """Follows the looks of named instances, frame by frame.

    features: per name (F, D), to use instead of colours.
    """

    def __init__(self, names: tuple[str, ...], features: Mapping[str, Array] | None = None) -> None:
        self.names = names
        self.features = features
        self.notes: list[str] = []
        self.doubled: list[tuple[str, int]] = []
        self.untracked: list[tuple[str, int]] = []
        self.swapped: list[tuple[Pair, int]] = []
        self._first: dict[str, Array] = {}
        self._size: dict[str, int] = {}
        self._drift: dict[str, list[float]] = {name: [] for name in names}
        self._colours: dict[str, Array] = {}  # of frame 0, whatever features are given
        self._there: set[str] = set()
        self._doubles: Doubles | None = None
        self._alike: list[Pair] = []

    def add(self, index: int, frame: Array, masks: Array, others: Mapping[str, Array]) -> None:
        """frame (H, W, 3) uint8; masks (E, H, W) of `names`; others: masks (H, W) of tracks that nobody asked for."""
        tracked = np.logical_or.reduce([*masks, *others.values()])
        if self._doubles is None:
            self._doubles = Doubles(self.names, frame, masks)
            self._colours = {name: colours(frame, mask) for name, mask in zip(self.names, masks) if mask.any()}
            self.notes += [
                f"{name!r} has the colours of the rest of the first frame: a double of it cannot be seen in the pixels"
                for name in self._doubles.hard
            ]
        elif index:
            for name in self._doubles.find(frame, tracked):
                there = bool(masks[self.names.index(name)].any())
                (self.doubled if there else self.untracked).append((name, index))
        self._compare(index, self._now(index, frame, masks))
        self._also(index, frame, masks, others)

    def drift(self) -> dict[str, tuple[float, float]]:
        """Per name (mean, last) distance from the first look; nan where it is seen in no later frame."""
        nan = float("nan")
        return {n: (float(np.mean(d)), d[-1]) if d else (nan, nan) for n, d in self._drift.items()}

    @property
    def alike(self) -> list[Pair]:
        """Instances that looks cannot tell apart."""
        return self._alike

    def _now(self, index: int, frame: Array, masks: Array) -> dict[str, Array]:
        """Looks of everybody of whom enough is seen."""
        found = {}
        for name, mask in zip(self.names, masks):
            size = int(mask.sum())
            if not size or size < _LEAST * self._size.get(name, 0):
                continue
            look = colours(frame, mask) if self.features is None else np.asarray(self.features[name][index], float)
            if np.isnan(look).any():
                continue
            found[name] = look
            if name not in self._first:
                self._first[name], self._size[name] = look, size
                self._alike += [
                    (other, name) for other in self._first if other != name and self._apart(other, name) < _APART
                ]
            else:
                self._drift[name].append(distance(look, self._first[name]))
        return found

    def _compare(self, index: int, now: Mapping[str, Array]) -> None:
        if not index:
            return
        for one, other in itertools.combinations(now, 2):
            apart = self._apart(one, other)
            if apart < _APART:
                continue
            own = distance(now[one], self._first[one]) + distance(now[other], self._first[other])
            crossed = distance(now[one], self._first[other]) + distance(now[other], self._first[one])
            if own - crossed > _MARGIN * apart:
                self.swapped.append(((one, other), index))

    def _also(self, index: int, frame: Array, masks: Array, others: Mapping[str, Array]) -> None:
        """Tracks that came later and look like somebody who is still there are doubles of that one."""
        for name, mask in others.items():
            if not index:
                self._there |= {name} if mask.any() else set()
            elif mask.any() and name not in self._there:
                look = colours(frame, mask)
                model = min(self._colours, key=lambda who: distance(look, self._colours[who]), default=None)
                if model is None or distance(look, self._colours[model]) >= _LIKE:
                    continue
                if masks[self.names.index(model)].any():
                    self.doubled.append((model, index))

    def _apart(self, one: str, other: str) -> float:
        return distance(self._first[one], self._first[other])


class PathSwaps:
    """Finds instances that are on each other's given path, from the centres of given and seen boxes."""

    def __init__(self) -> None:
        self.swapped: list[tuple[Pair, int]] = []

    def add(self, index: int, given: Mapping[str, Array], seen: Mapping[str, Array]) -> None:
        """given, seen: per name the centre (2,), nan where it is absent."""
        there = [n for n in given if n in seen and not np.isnan(given[n]).any() and not np.isnan(seen[n]).any()]
        for one, other in itertools.combinations(there, 2):
            apart = _far(given[one], given[other])
            own = _far(seen[one], given[one]) + _far(seen[other], given[other])
            crossed = _far(seen[one], given[other]) + _far(seen[other], given[one])
            if index and own - crossed > _MARGIN * 2 * apart > 0:
                self.swapped.append(((one, other), index))


def _far(first: Array, second: Array) -> float:
    return float(np.linalg.norm(first - second))
