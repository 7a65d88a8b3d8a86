"""The text of a prompt as a reader sees it, with the place of every character in the prompt as typed.

Visible text is what is left of a prompt without ComfyUI's weights and escapes: `a (red:1.3) \\(toy\\) car` reads
`a red (toy) car`. Words are looked up there, spans are given in the prompt as typed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Segment", "Span", "VisibleText", "find_words", "nearest_words", "parse_prompt"]

Span = tuple[int, int]
# Scripts written without spaces between words: there a word may begin and end anywhere.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO", "TIBETAN")


@dataclass(frozen=True)
class Segment:
    """A run of visible text of one weight. `spans[i]` is where character i stands in the prompt as typed."""

    text: str
    weight: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class VisibleText:
    """The whole visible text and, for each of its characters, the (start, end) in the prompt as typed."""

    text: str
    spans: tuple[Span, ...]
    segments: tuple[Segment, ...]


_Char = tuple[str, Span, bool]  # character, place, whether it was escaped (and so is no syntax)
_ESCAPES = {"\\(": "(", "\\)": ")", "\0\1": ")", "\0\2": "("}  # the last two are what the host makes of the first


def _characters(prompt: str, weights: bool) -> list[_Char]:
    out: list[_Char] = []
    i = 0
    while i < len(prompt):
        if weights and (meant := _ESCAPES.get(prompt[i : i + 2])):
            out.append((meant, (i, i + 2), True))
            i += 2
        else:
            out.append((prompt[i], (i, i + 1), False))
            i += 1
    return out


def _groups(chars: list[_Char]) -> Iterable[list[_Char]]:
    """Cuts at the outermost parentheses; a group keeps its own. Unbalanced ones stay where they are, as in the host."""
    group: list[_Char] = []
    level = 0
    for char in chars:
        opening, closing = char[0] == "(" and not char[2], char[0] == ")" and not char[2]
        if opening:
            if level == 0 and group:
                yield group
                group = []
            level += 1
        group.append(char)
        if closing:
            level -= 1
            if level == 0:
                yield group
                group = []
    if group:
        yield group


def _weigh(chars: list[_Char], weight: float) -> Iterable[tuple[list[_Char], float]]:
    for group in _groups(chars):
        first, last = group[0], group[-1]
        wrapped = len(group) > 1 and first[0] == "(" and not first[2] and last[0] == ")" and not last[2]
        if not wrapped:
            yield group, weight
            continue
        inner, inside = group[1:-1], weight * 1.1
        colon = next((i for i in range(len(inner) - 1, 0, -1) if inner[i][0] == ":"), 0)
        # The host hands escaped parentheses to float() as control characters, so they never make a number.
        number = "".join("\0" if escaped else c for c, _, escaped in inner[colon + 1 :])
        if colon:
            try:
                inside = float(number)
                inner = inner[:colon]
            except ValueError:
                pass
        yield from _weigh(inner, inside)


def parse_prompt(prompt: str, weights: bool) -> VisibleText:
    """Reads a prompt. `weights`: whether `(word:1.3)`, `(word)` and `\\(` mean what they mean in ComfyUI."""
    chars = _characters(prompt, weights)
    parts = _weigh(chars, 1.0) if weights else [(chars, 1.0)]
    segments = tuple(
        Segment("".join(c for c, _, _ in part), weight, tuple(place for _, place, _ in part)) for part, weight in parts
    )
    spans = tuple(span for segment in segments for span in segment.spans)
    return VisibleText("".join(segment.text for segment in segments), spans, segments)


def _end_of(text: str, index: int) -> int:
    """One past the character at `index` and the combining marks or Hangul letters that belong to it."""
    index += 1
    while index < len(text) and (unicodedata.combining(text[index]) or "\u1160" <= text[index] <= "\u11ff"):
        index += 1
    return index


def _fold(text: str) -> tuple[str, list[int]]:
    """Text for comparing (compatibility form, accents composed, no case, single spaces) and, for each of its
    characters, the index of the source character that it came from; one more index marks the end."""
    out: list[str] = []
    where: list[int] = []
    i = 0
    while i < len(text):
        j = _end_of(text, i)
        if text[i].isspace():
            if not out or out[-1] != " ":
                out.append(" ")
                where.append(i)
        else:
            cluster = unicodedata.normalize("NFKC", text[i:j]).casefold()
            cluster = unicodedata.normalize("NFKC", cluster).replace("\u2019", "'").replace("\u2018", "'")
            out.extend(cluster)
            where.extend([i] * len(cluster))
        i = j
    return "".join(out), [*where, len(text)]


def _joins(left: str, right: str) -> bool:
    """Whether the characters `left` and `right` side by side belong to one word."""
    for char in (left, right):
        if not (char.isalnum() or char == "_") or unicodedata.name(char, "").startswith(_UNSPACED):
            return False
    return True


def find_words(text: str, words: str) -> list[Span]:
    """Every place of `words` in `text` as whole words, in order. Case, kind of space, composed or decomposed accents
    and compatibility forms make no difference; the spans count characters of `text`."""
    hay, where = _fold(text)
    needle = _fold(words)[0].strip()
    if not needle:
        return []
    found: list[Span] = []
    at = hay.find(needle)
    while at >= 0:
        end = at + len(needle)
        inside = (at > 0 and _joins(hay[at - 1], hay[at])) or (end < len(hay) and _joins(hay[end - 1], hay[end]))
        if not inside:
            found.append((where[at], _end_of(text, where[end - 1])))
        at = hay.find(needle, at + 1)
    return found


def nearest_words(text: str, words: str) -> str | None:
    """The run of words in `text` that is most like `words`, or None where nothing is at all like it.

    Articles do not count: "the man" is not what somebody meant who wrote "the elephant"."""
    tokens = text.split()
    size = max(len(words.split()), 1)
    wanted = _without_article(_fold(words)[0].strip())
    best, score = None, 0.5
    for count in (size, max(size - 1, 1), size + 1):
        for start in range(len(tokens) - count + 1):
            run = " ".join(tokens[start : start + count]).strip(".,;:!?\"'")
            likeness = SequenceMatcher(None, wanted, _without_article(_fold(run)[0].strip())).ratio()
            if likeness > score:
                best, score = run, likeness
    return best


def _without_article(words: str) -> str:
    first, _, rest = words.partition(" ")
    return rest if rest and first in ("the", "a", "an") else words
