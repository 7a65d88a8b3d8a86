"""Captions of instances: each is encoded on its own, and its rows stand behind those of the prompt that all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..names import find_name
from ..near import did_you_mean
from .behind import put_behind
from .binding import Caption, Phrase, PromptBinding
from .phrases import check_name, like_a_time

__all__ = ["caption_phrase", "check_captioned", "parse_captions", "with_captions"]

_LONGEST, _MOST = 20_000, 32


def parse_captions(text: str) -> tuple[tuple[str, str], ...]:
    """(instance, caption) of what a person wrote, one "NAME: caption" a line; a line that begins with # says nothing.

    Raises ValueError for a line without a name or a caption, a name that comes twice, and where there is none.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"the captions have {len(text)} characters, and {_LONGEST} are the most")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, said = (part.strip() for part in line.partition(":"))
        where = f"line {number} of the captions, {line.strip()[:80]!r}"
        if not colon or not name or not said:
            raise ValueError(f"{where}: a caption is written NAME: what this instance is and does")
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not _has_words(said):
            raise ValueError(f"{where}: this caption has no words: say what this instance is and does")
        if like_a_time(said):
            raise ValueError(
                f"{where}: captions have no times, and this one would be read as words: leave it out, or time words "
                "of the shared prompt"
            )
        if name in found:
            raise ValueError(f"{where}: {name!r} has a caption already: put all that is said of it on one line")
        found[name] = said
        if len(found) > _MOST:
            raise ValueError(f"there are more than {_MOST} captions; leave some out")
    if not found:
        raise ValueError("no captions given: write one a line, for example\nleft: a man waves\nright: a man sits down")
    return tuple(found.items())


def _has_words(caption: str) -> bool:
    return any(char.isalnum() for char in caption)


def caption_phrase(name: str, caption: str) -> Phrase:
    """All words of a caption as one word to watch, whose rows are still to be found."""
    if not _has_words(caption):
        raise ValueError(f"the caption of {name!r} has no words: say what it is and does, or leave the caption out")
    span = (0, len(caption))
    return Phrase(f"caption of {name}", caption, "word", *span, (), spans=(span,))


def with_captions(shared: PromptBinding, captions: Sequence[tuple[str, PromptBinding]]) -> PromptBinding:
    """The binding of a shared prompt with the rows of captions, (instance, binding), behind it in this order.

    Every row of a caption is its instance's, padding included. Its name is spelled as the shared prompt binds it.

    Raises ValueError for captions of another text encoder, and for an instance that has one already.
    """
    owned, at = list(shared.captions), shared.length
    for name, binding in captions:
        if binding.model != shared.model:
            raise ValueError(
                f"the caption of {name!r} was encoded with {binding.model or 'an unknown text encoder'}, the shared "
                f"prompt with {shared.model or 'an unknown one'}: use one text encoder for both"
            )
        name = find_name(name, [phrase.name for phrase in shared.instances]) or name
        if find_name(name, [caption.name for caption in owned]):
            raise ValueError(f"{name!r} has a caption already: put all that is said of it into one")
        owned.append(Caption(name, at, at + binding.length))
        at += binding.length
    joined = put_behind(shared, [binding for _, binding in captions])
    return replace(joined, captions=tuple(owned))


def check_captioned(binding: PromptBinding, names: Sequence[str]) -> None:
    """Raises ValueError where an instance that has a caption has no mask track of its name."""
    missing = [caption.name for caption in binding.captions if caption.name not in names]
    if missing:
        raise ValueError(
            f"there are captions for {', '.join(map(repr, missing))}, but the tracks are named "
            f"{', '.join(map(repr, names)) or '(none)'}: a caption is seen where its instance is, so give it a track, "
            f"or rename one or the other{did_you_mean(missing[0], names)}"
        )
