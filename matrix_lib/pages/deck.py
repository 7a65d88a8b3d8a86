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

`Marks.of(card.id)` then holds what was said. A site with more cards than memory holds makes each when it is asked for:
`card_json`, `card_done` and `checked_mark` are what a `Deck` is made of (`training.curation.review_page` does that).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

from .marks import Mark

__all__ = [
    "Card",
    "Choice",
    "Deck",
    "Kept",
    "Media",
    "Question",
    "Scene",
    "card_done",
    "card_json",
    "checked_mark",
]

# Keys of the page itself: see look/deck.js.
_TAKEN = ("b", "Backspace", "s", " ", "?", "Escape", "c", "w", "Enter")
_LONGEST, _LONGEST_PROMPTS, _DIGITS = 2000, 50_000, 9


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
            one of the choices in their place); "text": words; "prompts": boxes and points of the card's scene, as text
            (`core.tracks.text.parse_prompts`), in the track editor.
        group: a heading above it. optional: a card is done without it.
        when: (question, value) of an answer without which it is not asked.
    """

    id: str
    text: str
    choices: tuple[Choice, ...] = ()
    kind: Literal["one", "frames", "text", "prompts"] = "one"
    group: str = ""
    optional: bool = False
    when: tuple[str, str] | None = None


@dataclass(frozen=True)
class Media:
    """A picture or a film. source: its file, or what makes it when it is first asked for and may raise ValueError.
    index: number of a frame."""

    label: str
    source: Path | Callable[[], Path]
    index: int = 0


@dataclass(frozen=True)
class Scene:
    """What the track editor shows for a question of kind "prompts".

    Args:
        text: boxes and points to begin with. names: of the instances that may have some.
        width, height: of a frame in pixels. frames, fps: of the clip.
        picture: the file of frame n (0 to frames - 1), made when it is asked for; may raise ValueError.
    """

    text: str
    names: tuple[str, ...]
    width: int
    height: int
    frames: int
    fps: float
    picture: Callable[[int], Path]


@dataclass(frozen=True)
class Card:
    """One thing to be looked at. frames: pictures, shown one at a time; clips: films, all at once side by side where
    there are no frames, else in the frame's place. `id` is what answers are kept under. scene: for "prompts"."""

    id: str
    title: str
    questions: tuple[Question, ...]
    text: str = ""
    frames: tuple[Media, ...] = ()
    clips: tuple[Media, ...] = ()
    scene: Scene | None = None

    def media(self, part: str) -> Path | Callable[[], Path]:
        """Where "f3", a frame, "c0", a film, or "s12", a frame of the scene, comes from. Raises KeyError for none."""
        kind, number = part[:1], part[1:]
        if not number.isdecimal() or len(number) > _DIGITS:
            raise KeyError(part)
        n = int(number)
        if kind == "s" and self.scene is not None and n < self.scene.frames:
            return partial(self.scene.picture, n)
        some = {"f": self.frames, "c": self.clips}.get(kind, ())
        if n >= len(some):
            raise KeyError(part)
        return some[n].source


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

    def done(self, card: Card) -> bool:
        """Whether every question of it that has to be is answered."""
        return card_done(card, self.marks.of(card.id))

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
        return card_json(self._by_id[name], str(self._places[name]), self.marks.of(name))

    def media(self, name: str) -> Path:
        """See `server.Site`. What has to be made is made once, whoever asks."""
        place, _, part = name.partition("-")
        if not place.isdecimal() or len(place) > _DIGITS or int(place) >= len(self.cards):
            raise KeyError(name)
        source = self.cards[int(place)].media(part)
        if isinstance(source, Path):
            return source
        with self._lock:
            lock = self._making.setdefault(name, Lock())
        with lock:
            return source()

    def mark(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `server.Site`."""
        card = self._by_id.get(given.get("item", "")) if isinstance(given.get("item"), str) else None
        if card is None:
            raise ValueError("there is no such card; load the page anew")
        self.marks.put(card.id, *checked_mark(card, given))
        return {"done": self.done(card)}


def card_done(card: Card, marks: Mapping[str, Mark]) -> bool:
    """Whether every question that is asked and has to be answered is."""
    return all(each.id in marks or each.optional for each in card.questions if _asked(each, marks))


def _asked(question: Question, marks: Mapping[str, Mark]) -> bool:
    return question.when is None or (question.when[0] in marks and marks[question.when[0]].value == question.when[1])


def card_json(card: Card, place: str, marks: Mapping[str, Mark]) -> dict[str, Any]:
    """A card for the page. place: stands before the parts of its media (see `Card.media`), PLACE-f0."""
    scene = card.scene
    return {
        "id": card.id,
        "title": card.title,
        "text": card.text,
        "frames": [{"media": f"{place}-f{n}", "index": m.index} for n, m in enumerate(card.frames)],
        "clips": [{"media": f"{place}-c{n}", "label": m.label} for n, m in enumerate(card.clips)],
        "scene": scene
        and {
            "text": scene.text,
            "names": list(scene.names),
            "clip": {"width": scene.width, "height": scene.height, "frames": scene.frames, "fps": scene.fps},
            "media": f"{place}-s",
        },
        "questions": [_plain(question) for question in card.questions],
        "marks": {key: {"value": mark.value, "frame": mark.frame} for key, mark in marks.items()},
    }


def checked_mark(card: Card, given: Mapping[str, Any]) -> tuple[str, Mark]:
    """(question, answer) as it is kept, of what the page sends. Raises ValueError for what the card does not take."""
    question = next((each for each in card.questions if each.id == given.get("question")), None)
    if question is None:
        raise ValueError("the card has no such question; load the page anew")
    return question.id, _checked(card, question, given.get("value"), given.get("frame"))


def _checked(card: Card, question: Question, value: Any, frame: Any) -> Mark:
    shown = [media.index for media in card.frames]
    if question.kind == "prompts":
        if not isinstance(value, str) or len(value) > _LONGEST_PROMPTS:
            raise ValueError(f"boxes and points have at most {_LONGEST_PROMPTS} characters")
        return Mark(value)
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
    when = None if question.when is None else list(question.when)
    return kept | {"optional": question.optional, "when": when, "choices": choices}
