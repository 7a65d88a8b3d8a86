"""Several judges of the same videos: the mean of what they say, and how far they agree.

Each judge is scored as if there were no other, then a video has the mean over its judges: nothing has to be a majority,
and a tie counts half. A video that one of them has not judged is missing: means over other people are other means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..agreement import Agreement, agreement
from .questions import KISA, SGI
from .scores import MEASURES, VideoScores

__all__ = ["GROUPS", "Ratings", "agreements", "mean_of", "ratings_of"]

GROUPS = {
    "KISA": "questions 1 to 6",
    "SGI": "questions 7 to 10",
    "new": "frames with something new",
}
Ratings = dict[str, dict[tuple[Any, ...], bool]]
"""{group: {(video, ...): yes}}."""


def mean_of(judged: Mapping[str, VideoScores]) -> VideoScores:
    """One video's scores over its judges, by name.

    Answers of all of them are in `judges`; `answers` and `presence` are those of the first, which a single judge is.
    `implausible` and `agreement` are means.
    """
    first = next(iter(judged.values()))
    if len(judged) == 1:
        return first
    every = list(judged.values())
    missing = tuple(dict.fromkeys(f"{name}: {why}" for name, each in judged.items() for why in each.missing))
    whole = not missing
    values = {
        name: float(np.mean([each.values.get(name, math.nan) for each in every])) if whole else math.nan
        for name in MEASURES
    }
    implausible = float(np.mean([each.implausible for each in every]))
    return VideoScores(
        first.id, first.seed, values, missing, first.answers, first.presence, implausible, first.agreement, dict(judged)
    )


def ratings_of(video: str, found: VideoScores) -> Ratings:
    """Everything that one judge said about a video, by what it counts for. video: its name among all models'."""
    said: Ratings = {group: {} for group in GROUPS}
    for place, answers in enumerate(found.answers):
        for group, some in (("KISA", KISA), ("SGI", SGI)):
            said[group] |= {(video, place, q): answers[q].yes for q in some if answers and q in answers}
    presence = found.presence
    if presence is not None and presence.emergence is not None and presence.asked:
        said["new"] = {(video, frame): frame in presence.emergence for frame in presence.shown[1:]}
    return said


def agreements(said: Mapping[str, Sequence[Ratings]]) -> dict[str, list[Agreement]]:
    """{group: of every two judges, then of all together}, on what they share. said: {judge: ratings of each video}."""
    if len(said) < 2:
        return {}
    found: dict[str, list[Agreement]] = {}
    names = list(said)
    for group in GROUPS:
        every = {name: {k: v for video in videos for k, v in video[group].items()} for name, videos in said.items()}
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        some = [agreement({name: every[name] for name in pair}) for pair in pairs]
        some += [agreement(every)] if len(names) > 2 else []
        found[group] = [each for each in some if each.count]
    return found
