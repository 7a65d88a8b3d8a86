"""Words that trained weights expect beside an instance: MATRIX's `<idK>` tags, TAViD's word `target`.

Both stand between the determiner and the rest of the phrase, as in the authors' own prompts ("a <id1> person passes a
ball to another <id2> person", "the target mug"). Where an adjective comes before the noun nothing is published; the
word goes before the adjective.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .binding import Phrase, locate
from .phrases import PhraseSpec
from .prompt import Span, parse_prompt

__all__ = ["MAX_TAGS", "write_tags", "write_target"]

MAX_TAGS = 5  # MATRIX was trained with <id1>..<id5>
_DETERMINER = re.compile(
    r"(?:a|an|the|another|one|this|that|these|those|some|his|her|its|their|my|our|your|each|every)\s+", re.IGNORECASE
)
_TAG_NAME = re.compile(r"<?id(\d+)>?$", re.IGNORECASE)
Found = tuple[tuple[Phrase, ...], tuple[str, ...]]


def _insertion(prompt: str, phrase: Phrase, weights: bool) -> int:
    """Where a word goes into a phrase: behind its determiner. Characters of the prompt as typed."""
    visible = parse_prompt(prompt, weights)
    first = next(i for i, span in enumerate(visible.spans) if span[0] >= phrase.start)
    determiner = _DETERMINER.match(visible.text, first)
    if determiner is None or visible.spans[determiner.end() - 1][1] >= phrase.end:
        return visible.spans[first][0]
    return visible.spans[determiner.end()][0]


def _moved(spans: Sequence[Span], at: int, size: int, own: bool) -> tuple[Span, ...]:
    out = []
    for start, end in spans:
        inside = start < at < end or (own and start == at)
        out.append((start + size * (at <= start and not inside), end + size * (at < end)))
    return tuple(out)


def _insert(prompt: str, phrases: Sequence[Phrase], index: int, word: str, weights: bool) -> tuple[str, list[Phrase]]:
    """Writes `word` into the phrase at `index`, and moves all phrases along."""
    at = _insertion(prompt, phrases[index], weights)
    # A word that weights enclose on its own, "a (man:1.2)", takes the tag inside: the phrase stays in one piece.
    moved = []
    for n, phrase in enumerate(phrases):
        spans = _moved(phrase.spans, at, len(word), own=n == index)
        if n == index and not any(start <= at < end for start, end in spans):
            spans = tuple(sorted([*spans, (at, at + len(word))]))
        moved.append(replace(phrase, spans=spans, start=spans[0][0], end=spans[-1][1]))
    return prompt[:at] + word + prompt[at:], moved


def _has(prompt: str, phrase: Phrase, word: str) -> bool:
    """Whether the word is in the phrase already, or right before it."""
    return word in prompt[phrase.start : phrase.end] or prompt[: phrase.start].rstrip().endswith(word)


def _numbers(instances: Sequence[Phrase], given: Mapping[str, int]) -> dict[str, int]:
    """K of each instance: as given, from a name such as id3 or <id3>, else its place in the order given."""
    named = {phrase.name: int(match[1]) for phrase in instances if (match := _TAG_NAME.match(phrase.name))}
    named |= {phrase.name: given[phrase.name] for phrase in instances if phrase.name in given}
    free = (k for k in range(1, len(instances) + MAX_TAGS + 1) if k not in named.values())
    numbers = {phrase.name: named[phrase.name] if phrase.name in named else next(free) for phrase in instances}
    wrong = {name: k for name, k in numbers.items() if not 1 <= k <= MAX_TAGS}
    if wrong or len(set(numbers.values())) < len(numbers):
        raise ValueError(
            f"tags are <id1> to <id{MAX_TAGS}>, one an instance; these instances would get "
            + ", ".join(f"{name!r} <id{k}>" for name, k in numbers.items())
            + ": bind fewer instances, or take one out"
        )
    return numbers


def _instances(phrases: Iterable[Phrase]) -> list[Phrase]:
    return [phrase for phrase in phrases if phrase.role in ("subject", "object", "instance")]


def write_tags(
    prompt: str,
    phrases: str | Iterable[PhraseSpec],
    weights: bool = False,
    numbers: Mapping[str, int] | None = None,
) -> tuple[str, Found]:
    """The prompt with `<idK>` in the first mention of each instance, and its phrases, tags included: `(prompt,
    (phrases, notes))`, for `bind`. K is the instance's in `numbers`, comes from a name such as `id3`, or is its place
    in the order given.

    Raises ValueError as `locate` does, and on more than five instances.
    """
    found, notes = locate(prompt, phrases, weights)
    every = list(found)
    for name, k in _numbers(_instances(every), numbers or {}).items():
        index = next(i for i, phrase in enumerate(every) if phrase.name == name)
        if not _has(prompt, every[index], f"<id{k}>"):
            prompt, every = _insert(prompt, every, index, f"<id{k}> ", weights)
    return prompt, (tuple(every), notes)


def write_target(
    prompt: str, phrases: str | Iterable[PhraseSpec], weights: bool = False, name: str | None = None
) -> tuple[str, Found]:
    """The prompt with `target` before one instance's noun, and its phrases, as `write_tags`.

    `name` is the instance; None takes the one called target, else the only one with the role object.
    """
    found, notes = locate(prompt, phrases, weights)
    every = list(found)
    choice = [p.name for p in _instances(every) if p.name == (name or "target")]
    if not choice and name is None:
        choice = [phrase.name for phrase in every if phrase.role == "object"]
    if len(choice) != 1:
        raise ValueError(
            f"the target word goes with exactly one instance, but {len(choice)} qualify"
            f"{' (' + ', '.join(choice) + ')' if choice else ''}: call one instance target, or give one [object]"
        )
    index = next(i for i, phrase in enumerate(every) if phrase.name == choice[0])
    if not _has(prompt, every[index], "target"):
        prompt, every = _insert(prompt, every, index, "target ", weights)
    return prompt, (tuple(every), notes)
