"""Which of two models' videos a person prefers: pairs as cards of a page, and what was said as votes.

Who made which is not told. The order of pairs and the sides differ from person to person, by a seed. A vote belongs to
the very files that were seen: where a video is made anew, its pairs are asked anew.

OUT/NAME.jsonl    one file a person (`pages.marks`)
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...io.files import whole_file
from ...pages.deck import Card, Choice, Media, Question
from ...pages.marks import Marks
from ..agreement import Agreement, agreement
from ..preference import Vote
from .run import Video, find_videos
from .suite import Suite

__all__ = [
    "QUESTIONS",
    "TASK",
    "VOTES",
    "Pair",
    "agreements",
    "cards_of",
    "pairs_of",
    "read_votes",
    "votes_in",
    "write_votes",
]

QUESTIONS = {
    "interaction": "In which one does what the words say happen, and between whom it should?",
    "identity": "In which one does everybody and everything stay what it was at the start?",
    "quality": "Which one looks better?",
}
TASK = (
    "Two videos were made from the same words. Who made which is not told.",
    "Answer each question by itself. Where you see no difference, say so: a tie is an answer.",
)
VOTES = "votes.csv"
ONE, OTHER, TIE = "one", "other", "tie"


@dataclass(frozen=True)
class Pair:
    """Two models' videos of one sample. one, other: names of the models."""

    one: str
    other: str
    first: Video
    second: Video

    @cached_property
    def id(self) -> str:
        """Of the models, the sample and the two files."""
        files = "".join(_digest(video.path) for video in (self.first, self.second))
        about = repr((self.one, self.other, self.first.sample.id, self.first.sample.prompt, files))
        return hashlib.sha256(about.encode()).hexdigest()[:32]


def pairs_of(
    suite: Suite, folders: Mapping[str, Path], most: int | None = None, seed: int = 0
) -> tuple[list[Pair], list[str]]:
    """(every two models' videos of each sample, samples that a model lacks, by name).

    Args:
        folders: by model. most: pairs of a sample, drawn by `seed`; None takes all. Of several seeds of a sample the
            n-th of one model meets the n-th of the other.

    Raises ValueError for fewer than two models.
    """
    if len(folders) < 2:
        raise ValueError(f"two models or more are compared; got {', '.join(folders) or 'none'}")
    found: dict[str, dict[str, list[Video]]] = {}
    missing = []
    for name, folder in folders.items():
        videos, absent = find_videos(suite, folder)
        missing += [f"{name} has no video of {sample}" for sample in absent]
        for video in videos:
            found.setdefault(video.sample.id, {}).setdefault(name, []).append(video)
    pairs = []
    for sample, by_model in found.items():
        some = [
            Pair(one, other, *both)
            for one, other in itertools.combinations(sorted(by_model), 2)
            for both in zip(by_model[one], by_model[other], strict=False)
        ]
        if most is not None and len(some) > most:
            some = random.Random(f"{seed} {sample}").sample(some, most)
        pairs += some
    return pairs, missing


def cards_of(pairs: Iterable[Pair], questions: Mapping[str, str], seed: str) -> list[Card]:
    """What one person is shown, in the order and with the sides of `seed`. questions: their texts by name."""
    cards = []
    for pair in pairs:
        turned = random.Random(f"{seed} {pair.id}").random() < 0.5
        videos = (pair.second, pair.first) if turned else (pair.first, pair.second)
        left, right = (OTHER, ONE) if turned else (ONE, OTHER)
        choices = (
            Choice(left, "left", ("1", "ArrowLeft")),
            Choice(TIE, "no difference", ("0", "t", "ArrowDown")),
            Choice(right, "right", ("2", "ArrowRight")),
        )
        clips = tuple(Media(side, video.path) for side, video in zip(("left", "right"), videos, strict=True))
        asked = tuple(Question(name, text, choices) for name, text in questions.items())
        cards.append(Card(pair.id, pair.first.sample.prompt, asked, clips=clips))
    random.Random(seed).shuffle(cards)
    return cards


def votes_in(folder: Path, pairs: Sequence[Pair], question: str) -> list[Vote]:
    """What everybody with a file in `folder` said about these pairs."""
    votes = []
    for path in sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith(".")):
        marks = Marks(path, path.stem)
        for pair in pairs:
            mark = marks.of(pair.id).get(question)
            if mark is not None and mark.value in (ONE, OTHER, TIE):
                won = {ONE: pair.one, OTHER: pair.other}.get(mark.value, "")
                sample = pair.first.sample.id
                votes.append(Vote(sample, pair.one, pair.other, won, marks.by, pair.id))
    return votes


def agreements(votes: Sequence[Vote]) -> list[Agreement]:
    """Of every two persons on the pairs that both saw, and of all of them on those that all saw."""
    said: dict[str, dict[tuple[Hashable, ...], Hashable]] = {}
    for vote in votes:
        said.setdefault(vote.by, {})[vote.prompt, vote.pair] = vote.won
    found = [agreement({name: said[name] for name in both}) for both in itertools.combinations(said, 2)]
    found += [agreement(said)] if len(said) > 2 else []
    return [each for each in found if each.count]


def write_votes(path: Path, votes: Mapping[str, Sequence[Vote]]) -> None:
    """Votes by question as CSV, with the models' names."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("question", "sample", "one", "other", "preferred", "by"))
        for question, some in votes.items():
            lines.writerows((question, v.prompt, v.one, v.other, v.won or TIE, v.by) for v in some)


def read_votes(path: Path, models: Sequence[str]) -> dict[str, list[Vote]]:
    """Votes by question on pairs of these models, from what `write_votes` wrote; none where there is no file.

    Raises ValueError for a file of another form.
    """
    found: dict[str, list[Vote]] = {}
    if not path.is_file():
        return found
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                one, other, won = row["one"], row["other"], row["preferred"]
                vote = Vote(row["sample"], one, other, "" if won == TIE else won, row["by"])
                if {one, other} <= set(models):
                    found.setdefault(row["question"], []).append(vote)
            except (KeyError, TypeError):
                raise ValueError(
                    f"{path} cannot be read as votes: `python -m training.judge prefer` writes it"
                ) from None
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
