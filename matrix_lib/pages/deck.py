"""A page that asks one thing after the other: frames and films on one side, questions on the other, all by keyboard.

A `Card` is one thing to be looked at, with its questions. Each answer is kept as it is given; after a closed tab or a
killed server the page goes on at the first card that is not done. Another page is a list of other cards, say a review:

    verdict = Question("verdict", "Are these masks right?", (
        Choice("accept", "accept", ("a",), tone="good"),
        Choice("fix", "fix", ("f",)),
        Choice("drop", "drop", ("d",), tone="bad")))
    reason = Question("reason", "Why?", kind="text", optional=True)
    cards = [Card(name, name, (verdict, reason), clips=(Media("clip", path),)) for name, path in clips]
    Deck("Review", cards, Marks(folder / "review" / "anna.jsonl", "anna"))

`Marks.of(card.id)` then holds what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

from .marks import Mark

__all__ = ["Card", "Choice", "Deck", "Kept", "Media", "Question"]

# Keys of the page itself: see look/deck.js.
_TAKEN = ("b", "Backspace", "s", " ", "?", "Escape", "c", "w", "Enter")
_LONGEST = 2000


@dataclass(frozen=True)
class Choice:
    """An answer that can be chosen.

    Args:
        value: what is kept. label: what is read. keys: that choose it, as browsers name them ("y", "ArrowLeft").
        on_frame: it holds for the frame that is shown, whose number is kept with it.
        tone: "good", "bad" or "": its colour.
    """

    value: str
    label: str
    keys: tuple[str, ...]
    on_frame: bool = False
    tone: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Question:
    """One question of a card.

    Args:
        id: of the question in its card. kind: "one" choice; "frames": any of the frames after the first, or none (and
            one of the choices in their place); "text": words.
        group: a heading above it. optional: a card is done without it.
    """

    id: str
    text: str
    choices: tuple[Choice, ...] = ()
    kind: Literal["one", "frames", "text"] = "one"
    group: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Media:
    """A picture or a film. source: its file, or what makes it when it is first asked for and may raise ValueError.
    index: number of a frame."""

    label: str
    source: Path | Callable[[], Path]
    index: int = 0


@dataclass(frozen=True)
class Card:
    """One thing to be looked at. frames: pictures, shown one at a time; clips: films, all at once side by side where
    there are no frames, else in the frame's place. `id` is what answers are kept under."""

    id: str
    title: str
    questions: tuple[Question, ...]
    text: str = ""
    frames: tuple[Media, ...] = ()
    clips: tuple[Media, ...] = ()


class Kept(Protocol):
    """Where answers go, and come from: `marks.Marks`, or something like it."""

    by: str

    def of(self, item: str) -> Mapping[str, Mark]:
        """{question: answer} of an item."""

    def put(self, item: str, question: str, mark: Mark) -> None:
        """Keeps an answer before it returns."""


class Deck:
    """Cards for one person. It is a `server.Site`.

    Args:
        title: of the page. cards: in the order in which they are asked. marks: where answers go, and come from.
        task: what the person is to do, in plain words; a line each.

    Raises ValueError for ids that are there twice and for choices of one key.
    """

    def __init__(self, title: str, cards: Sequence[Card], marks: Kept, task: Sequence[str] = ()) -> None:
        self.title, self.cards, self.marks, self.task = title, tuple(cards), marks, tuple(task)
        self._by_id = {card.id: card for card in self.cards}
        self._places = {card.id: place for place, card in enumerate(self.cards)}
        self._lock, self._making = Lock(), dict[str, Lock]()
        if len(self._by_id) != len(self.cards):
            raise ValueError("cards have ids of their own")
        for card in self.cards:
            for question in card.questions:
                keys = [key for choice in question.choices for key in choice.keys]
                if len(set(keys)) != len(keys) or set(keys) & set(_TAKEN):
                    raise ValueError(
                        f"the keys of {question.id!r} are one choice's each, and not the page's; got {keys}"
                    )

    @cached_property
    def _media(self) -> dict[str, Media]:
        return {
            f"{place}-{kind}{n}": media
            for place, card in enumerate(self.cards)
            for kind, some in (("f", card.frames), ("c", card.clips))
            for n, media in enumerate(some)
        }

    def done(self, card: Card) -> bool:
        """Whether every question of it that has to be is answered."""
        marks = self.marks.of(card.id)
        return all(question.id in marks or question.optional for question in card.questions)

    def state(self) -> Mapping[str, Any]:
        """See `server.Site`."""
        return {
            "title": self.title,
            "by": self.marks.by,
            "task": list(self.task),
            "cards": [{"id": card.id, "title": card.title, "done": self.done(card)} for card in self.cards],
        }

    def card(self, name: str) -> Mapping[str, Any]:
        """See `server.Site`."""
        card = self._by_id[name]
        place = self._places[name]
        marks = self.marks.of(card.id)
        return {
            "id": card.id,
            "title": card.title,
            "text": card.text,
            "frames": [{"media": f"{place}-f{n}", "index": m.index} for n, m in enumerate(card.frames)],
            "clips": [{"media": f"{place}-c{n}", "label": m.label} for n, m in enumerate(card.clips)],
            "questions": [_plain(question) for question in card.questions],
            "marks": {key: {"value": mark.value, "frame": mark.frame} for key, mark in marks.items()},
        }

    def media(self, name: str) -> Path:
        """See `server.Site`. What has to be made is made once, whoever asks."""
        media = self._media[name]
        if isinstance(media.source, Path):
            return media.source
        with self._lock:
            lock = self._making.setdefault(name, Lock())
        with lock:
            return media.source()

    def mark(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `server.Site`."""
        card = self._by_id.get(given.get("item", "")) if isinstance(given.get("item"), str) else None
        if card is None:
            raise ValueError("there is no such card; load the page anew")
        question = next((each for each in card.questions if each.id == given.get("question")), None)
        if question is None:
            raise ValueError("the card has no such question; load the page anew")
        self.marks.put(card.id, question.id, _checked(card, question, given.get("value"), given.get("frame")))
        return {"done": self.done(card)}


def _checked(card: Card, question: Question, value: Any, frame: Any) -> Mark:
    """An answer as it is kept. Raises ValueError for one that the question does not take."""
    shown = [media.index for media in card.frames]
    if question.kind == "text":
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise ValueError(f"a text has at most {_LONGEST} characters")
        return Mark(value)
    if question.kind == "frames" and isinstance(value, list):
        if any(type(each) is not int or each not in shown[1:] for each in value):
            raise ValueError("frames are some of those that are shown after the first")
        return Mark(sorted(set(value)))
    choice = next((each for each in question.choices if each.value == value), None)
    if choice is None:
        raise ValueError(f"the answer is one of {', '.join(each.value for each in question.choices)}")
    if not choice.on_frame:
        return Mark(choice.value)
    if type(frame) is not int or frame not in shown:
        raise ValueError("this answer needs the frame that is shown")
    return Mark(choice.value, frame)


def _plain(question: Question) -> dict[str, Any]:
    choices = [
        {"value": c.value, "label": c.label, "keys": list(c.keys), "onFrame": c.on_frame, "tone": c.tone}
        for c in question.choices
    ]
    kept = {"id": question.id, "text": question.text, "kind": question.kind, "group": question.group}
    return kept | {"optional": question.optional, "choices": choices}
