"""Two prompts one behind the other, as Conditioning (Concat) puts their rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from .binding import Caption, Phrase, PromptBinding
from .phrases import time_text

__all__ = ["put_behind"]

_INSTANCES = ("subject", "object", "instance")
_BETWEEN = "\n"


def put_behind(
    first: PromptBinding, others: Sequence[PromptBinding], tracked: Collection[str] | None = None
) -> PromptBinding:
    """One binding of prompts whose rows stand one behind the other: rows and characters count on.

    An instance, word or verb that several prompts bind under one name is one phrase with the rows of all; a verb only
    where it is said of the same instances. A name that means something else further behind is counted: "cup (2)".
    What holds at different times in them is one phrase without a time, and a word for each time: "cup @0-1.5s".
    Captions of instances stay theirs.

    Args:
        tracked: names of the mask tracks there are; None: there are none. An instance that a prompt behind the first
            brings without a track is a word to watch, and so is a verb about it: nothing says where it is.
    """
    prompt, length, tokens, captions = first.prompt, first.length, list(first.tokens), list(first.captions)
    phrases = {phrase.name: phrase for phrase in first.phrases}
    for number, other in enumerate(others, 2):
        at = len(prompt) + len(_BETWEEN)
        tokens += [
            replace(token, row=_moved(token.row, length), start=token.start + at, end=token.end + at)
            for token in other.tokens
        ]
        for phrase in other.phrases:
            _add(phrases, _shifted(_seen(phrase, tracked), length, at), number)
        captions += [Caption(each.name, each.start + length, each.end + length) for each in other.captions]
        prompt, length = prompt + _BETWEEN + other.prompt, length + other.length
    notes = tuple(dict.fromkeys(note for each in (first, *others) for note in each.notes))
    return replace(
        first,
        prompt=prompt,
        length=length,
        tokens=tuple(tokens),
        phrases=tuple(phrases.values()),
        notes=notes,
        captions=tuple(captions),
    )


def _moved(row: int, by: int) -> int:
    return row + by if row >= 0 else row  # a token that was cut off has no row


def _shifted(phrase: Phrase, rows: int, characters: int) -> Phrase:
    return replace(
        phrase,
        start=phrase.start + characters,
        end=phrase.end + characters,
        rows=tuple(_moved(row, rows) for row in phrase.rows),
        spans=tuple((start + characters, end + characters) for start, end in phrase.spans),
    )


def _seen(phrase: Phrase, tracked: Collection[str] | None) -> Phrase:
    """The phrase, as a word where an instance that it is, or is about, has no track."""
    about = {"verb": (phrase.subject, phrase.object), "word": ()}.get(phrase.role, (phrase.name,))
    if tracked is None or all(name is None or name in tracked for name in about):
        return phrase
    return replace(phrase, role="word", subject=None, object=None)


def _same(one: Phrase, other: Phrase) -> bool:
    if one.role in _INSTANCES or other.role in _INSTANCES:
        return one.role in _INSTANCES and other.role in _INSTANCES
    return (one.role, one.subject, one.object) == (other.role, other.subject, other.object)


def _add(phrases: dict[str, Phrase], phrase: Phrase, number: int) -> None:
    """Puts a phrase of the prompt `number` to those before it."""
    here = phrases.get(phrase.name)
    if here is not None and _same(here, phrase) and here.time != phrase.time:
        for each in (here, phrase):
            if each.time is not None:
                name = f"{each.name} {time_text(each.time)}"
                _add(phrases, replace(each, name=name, role="word", subject=None, object=None), number)
        here, phrase = replace(here, time=None), replace(phrase, time=None)
    if here is None:
        phrases[phrase.name] = phrase
    elif _same(here, phrase):
        phrases[phrase.name] = replace(
            here,
            text=here.text if here.text == phrase.text else f"{here.text}, {phrase.text}",
            end=max(here.end, phrase.end),
            rows=tuple(sorted({*here.rows, *phrase.rows})),
            spans=(*here.spans, *phrase.spans),
        )
    else:
        name = f"{phrase.name} ({number})"
        phrases[name] = replace(phrase, name=name)
