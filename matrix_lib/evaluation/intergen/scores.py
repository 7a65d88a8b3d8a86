"""From answers and presence to scores, with what is missing kept missing.

    KISA_raw = yes(1..6) / 6, SGI_raw = yes(7..10) / 4, means over the interactions of a video
    SPI released = ((1 - 5 e) + (1 - 5 d)) / 2, not below -4; clamped: each half not below 0
    KISA = KISA_raw SPI, SGI = SGI_raw SPI, IF = (KISA + SGI) / 2

e, d: shares of the sampled frames after the first with something new, with somebody gone. Source: MATRIX (arXiv
2510.07310), section 5, and its released code, whose form of SPI goes below 0: one video can then outweigh five perfect
ones. Only the released form may stand beside the paper's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..statistics import Estimate, bootstrap
from .answers import Answer
from .questions import KISA, SGI

__all__ = [
    "MEASURES",
    "Presence",
    "RunScores",
    "VideoScores",
    "majority",
    "per_sample",
    "score_video",
    "spi_of",
    "summarise",
]

Form = Literal["clamped", "released"]
MEASURES = (
    "kisa_raw",
    "sgi_raw",
    "spi",
    "spi_released",
    "kisa",
    "sgi",
    "fidelity",
    "kisa_released",
    "sgi_released",
    "fidelity_released",
)


@dataclass(frozen=True)
class Presence:
    """Of one video. sampled: how many frames it was judged on, and shown: which, where that is known; emergence: None
    where nobody could say; asked: whether a judge was asked about it."""

    sampled: int
    disappearance: tuple[int, ...]
    emergence: tuple[int, ...] | None
    who: tuple[tuple[str, int], ...] = ()
    shown: tuple[int, ...] = ()
    asked: bool = False


@dataclass(frozen=True)
class VideoScores:
    """Of one video. values: `MEASURES`, nan where something they need is missing; missing: what that is.

    answers: by interaction, None where an interaction is missing. agreement: of repeated judgements, nan for one.
    judges: what each of several said, by name, where the values are means over them (see `panel.mean_of`).
    """

    id: str
    seed: str
    values: Mapping[str, float]
    missing: tuple[str, ...]
    answers: tuple[Mapping[int, Answer] | None, ...]
    presence: Presence | None
    implausible: float = math.nan
    agreement: float = math.nan
    judges: Mapping[str, VideoScores] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class RunScores:
    """Of one model: the mean of each measure over samples with its 95 % interval, seeds averaged within a sample.

    of: videos that were asked for; complete: of these, those without anything missing, which alone count; missing: by
    video, what is.
    """

    estimates: Mapping[str, Estimate]
    of: int
    complete: int
    missing: Mapping[str, tuple[str, ...]]
    samples: tuple[str, ...]
    by_type: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


def spi_of(emergence: int, disappearance: int, sampled: int, form: Form = "clamped") -> float:
    """Semantic preservation of frames with something new and of frames with somebody gone, of `sampled` frames."""
    if sampled < 2:
        raise ValueError(f"SPI needs a frame after the first; {sampled} were sampled")
    halves = [1 - 5 * count / (sampled - 1) for count in (emergence, disappearance)]
    return sum(max(0.0, half) if form == "clamped" else half for half in halves) / 2


def majority(repeats: Sequence[Mapping[int, Answer]]) -> tuple[dict[int, Answer], float]:
    """One answer to each question of several judgements, and how often two of them agree (nan for one).

    Raises ValueError for an even number, which may be undecided.
    """
    if len(repeats) % 2 == 0:
        raise ValueError(f"an odd number of judgements decides; there are {len(repeats)}")
    found, pairs, same = {}, 0, 0
    for q in repeats[0]:
        said = [each[q] for each in repeats]
        yes = sum(each.yes for each in said)
        chosen = yes * 2 > len(said)
        found[q] = next(each for each in said if each.yes == chosen)
        pairs += len(said) * (len(said) - 1) // 2
        same += (yes * (yes - 1) + (len(said) - yes) * (len(said) - yes - 1)) // 2
    return found, same / pairs if pairs else math.nan


def score_video(
    name: str,
    seed: str,
    answers: Sequence[Mapping[int, Answer] | None],
    presence: Presence | None,
    agreement: float = math.nan,
    why: Iterable[str] = (),
) -> VideoScores:
    """Scores of one video. A missing interaction, or presence, leaves what needs it nan; why: more that is missing."""
    missing = [f"interaction {i + 1} was not answered" for i, each in enumerate(answers) if each is None]
    missing += ["there are no interactions"] if not answers else []
    missing += ["presence was not judged"] if presence is None else []
    missing += ["emergence was not judged"] if presence is not None and presence.emergence is None else []
    known = [each for each in answers if each is not None]
    whole = len(known) == len(answers) and bool(answers)
    kisa = float(np.mean([np.mean([each[q].yes for q in KISA]) for each in known])) if whole else math.nan
    sgi = float(np.mean([np.mean([each[q].yes for q in SGI]) for each in known])) if whole else math.nan
    values = {"kisa_raw": kisa, "sgi_raw": sgi}
    for ending, form in (("", "clamped"), ("_released", "released")):
        spi = math.nan
        if presence is not None and presence.emergence is not None:
            counts = len(presence.emergence), len(presence.disappearance)
            spi = spi_of(*counts, presence.sampled, form)  # type: ignore[arg-type]
        values |= {
            f"spi{ending}": spi,
            f"kisa{ending}": kisa * spi,
            f"sgi{ending}": sgi * spi,
            f"fidelity{ending}": (kisa + sgi) / 2 * spi,
        }
    every = [answer.implausible for each in known for answer in each.values()]
    share = float(np.mean(every)) if every else math.nan
    return VideoScores(
        name, seed, values, tuple(dict.fromkeys([*missing, *why])), tuple(answers), presence, share, agreement
    )


def summarise(videos: Sequence[VideoScores], types: Mapping[str, str] | None = None) -> RunScores:
    """Means over the complete videos: seeds first, then samples. types: of each sample, for means by type.

    Raises ValueError where there is no video.
    """
    if not videos:
        raise ValueError("there is no video to average")
    complete = [video for video in videos if video.complete]
    samples = tuple(dict.fromkeys(video.id for video in complete))
    return RunScores(
        estimates=_means(complete, samples),
        of=len(videos),
        complete=len(complete),
        missing={_called(video): video.missing for video in videos if video.missing},
        samples=samples,
        by_type={
            kind: _means(complete, [name for name in samples if (types or {}).get(name) == kind])
            for kind in sorted({kind for kind in (types or {}).values() if kind})
        },
    )


def per_sample(videos: Iterable[VideoScores], measure: str) -> dict[str, float]:
    """The mean over seeds of each sample's complete videos."""
    found: dict[str, list[float]] = {}
    for video in videos:
        if video.complete:
            found.setdefault(video.id, []).append(video.values[measure])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _means(videos: Sequence[VideoScores], samples: Iterable[str]) -> dict[str, Estimate]:
    wanted = set(samples)
    some = [video for video in videos if video.id in wanted]
    return {
        measure: bootstrap(
            list(per_sample(some, measure).values()), bounds=(-4, 1) if measure.endswith("_released") else (0, 1)
        )
        for measure in MEASURES
    }


def _called(video: VideoScores) -> str:
    return f"{video.id}/{video.seed}" if video.seed else video.id
