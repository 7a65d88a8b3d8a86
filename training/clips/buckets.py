"""Which frames of a clip are trained on, in which size, and in which order: everything that follows from a seed.

A bucket is the size (frames, height, width) in pixels that a batch has; all of a batch are of one bucket.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = ["Bucket", "Order", "Windows", "aspect_sizes", "choose_size"]


_CLOSE = 2e-3  # seconds: containers round time stamps to milliseconds


class Bucket(NamedTuple):
    """Pixels of a batch: frames, rows, columns."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


def aspect_sizes(height: int, width: int, multiple: int, most: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width), every side a multiple of `multiple`, of all proportions up to `most` to 1, none with more
    pixels than `height` x `width`, and for each number of rows the most columns that fit. The given size is among them.
    """
    area = height * width
    found = {(height, width)}
    for rows in range(multiple, int(math.sqrt(area * most)) + 1, multiple):
        columns = area // rows // multiple * multiple
        if columns and 1 / most <= columns / rows <= most and columns * rows >= 0.8 * area:
            found.add((rows, columns))
    return tuple(sorted(found))


def choose_size(source: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size of the nearest proportions to `source` (height, width); of equals the larger."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return round(abs(math.log(size[1] / size[0] * source[0] / source[1])), 9), -size[0] * size[1]

    return min(sizes, key=distance)


@dataclass(frozen=True)
class Windows:
    """Which frames of a clip are seen.

    Args:
        frames: of a window, 4 n + 1, 6 n + 1, or 17 n + 5.
        fps: frames a second that the model sees; 0 takes every frame of the clip.
        count: windows of a clip, spread evenly from its first to its last frame; one begins with the first frame.
        shortest: a clip that has no room for `frames` is seen with half as many, a quarter, ... but not fewer than
            this; 0 refuses such a clip.
    """

    frames: int
    fps: float = 0.0
    count: int = 1
    shortest: int = 0

    def __post_init__(self) -> None:
        known = self.frames % 4 == 1 or self.frames % 6 == 1 or self.frames % 17 == 5  # the model says which it takes
        if self.frames < 1 or not known:
            raise ValueError(
                "data.frames is 4 n + 1 (1, 5, 9, ... 49, 81), for Mochi 1 6 n + 1 (1, 7, 13, ...), for MiniMax H3 "
                f"17 n + 5 (5, 22, 39, ... 124); got {self.frames}"
            )
        if not 0 <= self.fps <= 1000:
            raise ValueError(f"data.fps is 0 (every frame) or frames a second up to 1000; got {self.fps:g}")
        if self.count < 1 or self.shortest < 0:
            raise ValueError(f"data.windows is 1 or more, data.shortest 0 or more; got {self.count}, {self.shortest}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames that a window may have, the longest first."""
        found = [self.frames]
        while self.shortest and found[-1] > 1:
            half = (found[-1] - 1) // 8 * 4 + 1
            if half < self.shortest or half == found[-1]:
                break
            found.append(half)
        return tuple(found)

    def of(self, total: int, fps: float, times: Sequence[float] = ()) -> tuple[tuple[int, ...], ...]:
        """Frame numbers of each window of a clip of `total` frames at `fps`. Equal windows come once.

        Args:
            times: seconds of each frame, for a clip without one rate: then the frame that is shown at each moment.

        Raises ValueError for a clip that is too short.
        """
        if times and self.fps:
            return self._by_time(times)
        step = fps / self.fps if self.fps else 1.0
        for length in self.lengths:
            offsets = [math.floor(i * step + 1e-6) for i in range(length)]
            room = total - 1 - offsets[-1]
            if room >= 0:
                starts = [round(room * w / max(self.count - 1, 1)) for w in range(self.count)]
                return tuple(tuple(start + offset for offset in offsets) for start in dict.fromkeys(starts))
        need = math.floor((self.lengths[-1] - 1) * step + 1e-6) + 1
        raise self._too_short(f"{total} frames", need)

    def _by_time(self, times: Sequence[float]) -> tuple[tuple[int, ...], ...]:
        end = times[-1] + (times[-1] / max(len(times) - 1, 1)) - 1e-6  # the last frame is shown for a while, too
        for length in self.lengths:
            room = end - (length - 1) / self.fps
            if room >= 0:
                begins = [bisect_right(times, room * w / max(self.count - 1, 1)) - 1 for w in range(self.count)]
                found = (
                    tuple(bisect_right(times, times[begin] + i / self.fps + _CLOSE) - 1 for i in range(length))
                    for begin in dict.fromkeys(begins)
                )
                return tuple(found)
        raise self._too_short(f"{end:.3g} s", f"{(self.lengths[-1] - 1) / self.fps:.3g} s")

    def _too_short(self, has: str, need: object) -> ValueError:
        rate = f" at {self.fps:g} fps" if self.fps else ""
        return ValueError(
            f"it has {has}, and {self.lengths[-1]}{rate} take {need}: set data.frames, data.fps or "
            "data.shortest lower, or leave it out"
        )


class Order:
    """Which clips a step sees: a function of the seed and the step alone, whatever happened before.

    Args:
        buckets: the bucket of each sample.
        batch: samples of one step, over all processes and accumulated parts; all of one bucket.

    Every sample comes at least once in each epoch. A bucket whose samples do not fill its last batch fills it with
    further ones of its own, others in each epoch.
    """

    def __init__(self, buckets: Sequence[Bucket], batch: int, seed: int) -> None:
        if not buckets or batch < 1:
            raise ValueError(f"a run needs at least one clip and a batch of at least 1; got {len(buckets)}, {batch}")
        self.batch, self.seed = batch, seed
        self.groups = {b: [i for i, own in enumerate(buckets) if own == b] for b in sorted(set(buckets))}
        self.steps = sum(-(-len(group) // batch) for group in self.groups.values())
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, step: int) -> list[int]:
        """Samples of a step, `batch` of them."""
        epoch, place = divmod(step, self.steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def part(self, step: int, part: int, parts: int) -> tuple[list[int], range]:
        """Samples of one of `parts` equal parts of a step, and their places in the whole batch."""
        if not 0 <= part < parts or self.batch % parts:
            raise ValueError(f"part {part} of {parts} of a batch of {self.batch}: the batch is a multiple of the parts")
        size = self.batch // parts
        places = range(part * size, (part + 1) * size)
        return self.rows(step)[places.start : places.stop], places

    def _batches(self, epoch: int) -> list[list[int]]:
        made = []
        for number, group in enumerate(self.groups.values()):
            draw = torch.Generator().manual_seed(_seed(self.seed, epoch, number))
            whole = -(-len(group) // self.batch) * self.batch
            order: list[int] = []
            while len(order) < whole:
                order += [group[i] for i in torch.randperm(len(group), generator=draw).tolist()]
            made += [order[at : at + self.batch] for at in range(0, whole, self.batch)]
        shuffle = torch.randperm(len(made), generator=torch.Generator().manual_seed(_seed(self.seed, epoch, -1)))
        return [made[i] for i in shuffle.tolist()]


def _seed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")
