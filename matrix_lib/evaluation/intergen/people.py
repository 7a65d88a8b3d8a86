"""People as judges: what they are asked as cards of a page, and what they said as answers like any judge's.

VIDEOS/intergen/people/NAME.jsonl    one file a person (`pages.marks`), each answer as it came

A person who cannot tell leaves the request without an answer: it is missing by name, never a no.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...pages.deck import Card, Choice, Media, Question
from ...pages.marks import Mark, Marks, check_name
from ..judges.judge import JudgeError, Reply, Request
from ..judges.store import Answers, ask
from .films import write_film
from .questions import KISA, SGI, Sheet
from .run import OUT, Options, Video, check, requests_of, tracks_of
from .suite import Suite

__all__ = ["PEOPLE", "TASK", "EveryMarks", "PersonJudge", "answers_of", "cards_of", "marks_in", "mixed", "people_in"]

PEOPLE, UNSURE, NEW = "people", "unsure", "new"
TASK = (
    "Judge by what you can see in the frames, and by nothing else. Do not guess what happens between them.",
    "Boxes show who is meant. A question names the colour.",
    "For a yes, go to the first frame that shows it, then answer: the frame is kept with it.",
    "Are bodies there that cannot be (too many limbs, joints bent the wrong way, fused bodies)? Then it is i, not y.",
    "If you cannot tell, say so with u. Nothing is guessed for you.",
)
_CHOICES = (
    Choice("yes", "yes", ("y",), on_frame=True, tone="good"),
    Choice("no", "no", ("n",), tone="bad"),
    Choice("implausible", "not possible", ("i",), on_frame=True, tone="bad"),
    Choice(UNSURE, "cannot tell", ("u",)),
)
_SAID = {"yes": "yes", "no": "no", "implausible": "no (visually implausible)"}


class PersonJudge:
    """Answers what a person said, and nothing else. See `judges.judge.Judge`."""

    name, workers = "person", 1

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """Raises JudgeError for what the person has not answered, or could not tell."""
        by = self.marks.by
        if complaint:
            raise JudgeError(f"{by}'s answer cannot be read: {complaint}")
        marks = self.marks.of(request.key)
        asked = [NEW] if request.kind == "emergence" else [str(q) for q in (*KISA, *SGI)]
        if missing := [q for q in asked if q not in marks]:
            said = "has not answered yet" if len(missing) == len(asked) else f"has not answered {', '.join(missing)}"
            raise JudgeError(f"{by} {said}")
        if unsure := [q for q in asked if marks[q].value == UNSURE]:
            raise JudgeError(f"{by} cannot tell" + ("" if unsure == [NEW] else f" ({', '.join(unsure)})"))
        return Reply(json.dumps(_emergence(marks[NEW]) if asked == [NEW] else _verify(marks, asked)), by)


def _verify(marks: Mapping[str, Mark], asked: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"question_id": int(q), "answer": _SAID.get(str(marks[q].value), ""), "frame_index": marks[q].frame}
        for q in asked
    ]


def _emergence(mark: Mark) -> dict[str, Any]:
    return {"emergence": "yes" if mark.value else "no", "emergence_frames": mark.value, "emergence_reason": ""}


class EveryMarks:
    """Marks of one person in several folders: an answer goes wherever its question is asked. It is `pages.deck.Kept`.

    Two models may have made the same video: it is looked at once, and counts for both.
    """

    def __init__(self, by: str) -> None:
        self.by = check_name(by)
        self._homes: dict[str, list[Marks]] = {}

    def add(self, item: str, marks: Marks) -> None:
        """Says that an item belongs to the folder of `marks`."""
        self._homes.setdefault(item, []).append(marks)

    def of(self, item: str) -> Mapping[str, Mark]:
        """{question: answer}, from the first folder that has any."""
        return next((found for marks in self._homes[item] if (found := marks.of(item))), {})

    def put(self, item: str, question: str, mark: Mark) -> None:
        """Keeps an answer in each folder."""
        for marks in self._homes[item]:
            marks.put(item, question, mark)


def marks_in(folder: Path, name: str) -> Marks:
    """What a person has said about the videos in a folder."""
    return Marks(folder / OUT / PEOPLE / f"{check_name(name)}.jsonl", name)


def people_in(folder: Path) -> list[str]:
    """Who has judged the videos in a folder."""
    return sorted(path.stem for path in (folder / OUT / PEOPLE).glob("*.jsonl") if not path.name.startswith("."))


def answers_of(marks: Marks, requests: Sequence[Request]) -> Answers:
    """A person's answers to these requests, in memory, as a judge's; what is missing is among the failed."""
    held = Answers(None)
    ask(requests, PersonJudge(marks), held, check, tries=1)
    return held


def cards_of(video: Video, sheet: Sheet, suite: Suite, options: Options) -> list[Card]:
    """What a person is asked about a video: a card for each interaction, and one for what is new.

    Raises ValueError where the video cannot be judged (see `run.requests_of`).
    """
    return [
        _card(request, video, sheet, options)
        for request in requests_of(video, sheet, suite, replace(options, repeats=1))
    ]


def _card(request: Request, video: Video, sheet: Sheet, options: Options) -> Card:
    sample = video.sample
    frames = tuple(Media(f"frame {picture.index}", picture.path, picture.index) for picture in request.pictures)
    clips: tuple[Media, ...] = (Media("film", video.path),)
    if options.boxes:
        clips = (Media("film with boxes", _film(video)), Media("film as it is", video.path))
    prompt = f"Made from the words: {sample.prompt}" if options.show_prompt else ""
    if request.kind == "emergence":
        classes = ", ".join(dict.fromkeys(each.kind or each.name for each in sample.instances))
        text = f"In which frames is a whole one of these ({classes}) that has no box, and was not there in the first?"
        unsure = Choice(UNSURE, "cannot tell", ("u",))
        question = Question(NEW, text, (unsure,), kind="frames")
        return Card(request.key, "Is there anything new?", (question,), prompt, frames, clips)
    asked = sheet.asked[request.interaction]
    each = asked.interaction
    who = sample.called(each.subject) + (f" and {sample.called(each.recipient)}" if each.recipient else "")
    groups = dict.fromkeys(KISA, "What happens?") | dict.fromkeys(SGI, "Who does it, to whom?")
    questions = tuple(Question(str(q), text, _CHOICES, group=groups[q]) for q, text in enumerate(asked.told(sample), 1))
    return Card(request.key, f"{each.phrase or each.name}: {who}", questions, prompt, frames, clips)


def _film(video: Video) -> Callable[[], Path]:
    folder = video.folder / OUT / "films"
    return lambda: write_film(video.path, tracks_of(video), video.sample, folder, video.name)


def mixed(videos: Sequence[Sequence[Card]], seed: str) -> list[Card]:
    """Cards of all videos in an order of `seed`, those of one video together, each once."""
    order = list(videos)
    random.Random(seed).shuffle(order)
    return list({card.id: card for cards in order for card in cards}.values())
