"""Success labels of judged videos, in the form that the layer analysis reads (`python -m training.analyse --labels`).

    clip,seed,success        clip: the sample; seed: of the video, empty where a sample has one video

A video that something is missing of has no label. Labels by hand win where both exist.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...io.files import whole_file
from ..layers.labels import Labels
from .scores import VideoScores

__all__ = ["FILE", "Success", "write_labels"]

FILE = "labels.csv"
_EPS = 1e-9  # 5/6 of six questions is 5/6, however it was added up


@dataclass(frozen=True)
class Success:
    """What a video needs at least to be a success: `kisa_raw`, `sgi_raw` and the clamped `spi`, each in [0, 1]."""

    kisa: float = 5 / 6
    sgi: float = 1.0
    spi: float = 0.9

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.kisa, self.sgi, self.spi)):
            raise ValueError(
                f"what a success needs is from 0 to 1; got KISA {self.kisa}, SGI {self.sgi}, SPI {self.spi}"
            )

    def of(self, video: VideoScores) -> bool:
        """Of a complete video."""
        limits = {"kisa_raw": self.kisa, "sgi_raw": self.sgi, "spi": self.spi}
        return all(video.values[name] >= least - _EPS for name, least in limits.items())


def write_labels(
    path: Path, videos: Sequence[VideoScores], rule: Success = Success(), by_hand: Labels | None = None
) -> list[str]:
    """Writes the labels of one model's videos, and returns who has none, with the reason.

    by_hand: labels that win. Seeds are whole numbers there: videos whose seeds have other names have no label.
    """
    rows, left = [], []
    for video in videos:
        where = f"{video.id}/{video.seed}" if video.seed else video.id
        number = video.seed.isascii() and video.seed.isdecimal()
        known = by_hand.of(video.id, int(video.seed) if number else -1) if by_hand is not None else None
        if video.seed and not number:
            left.append(f"{where} has no label: seeds are whole numbers there")
        elif known is None and not video.complete:
            left.append(f"{where} has no label: {video.missing[0]}")
        else:
            good = rule.of(video) if known is None else known
            rows.append([video.id, str(int(video.seed)) if video.seed else "", "yes" if good else "no"])
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip", "seed", "success"])
        writer.writerows(rows)
    return left
