"""Binds the words of a prompt to rows of its conditioning: instances and verbs to the text keys that attention sees.

Pure text work. The tokens, each with its row and its characters, come from the hosts, which alone know tokenizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import get_args

from ..json_text import parse_object
from ..near import did_you_mean
from .phrases import TIMES, PhraseSpec, Role, Time, Words, is_time, like_a_time, parse_phrases, time_text
from .prompt import Span, VisibleText, find_words, nearest_words, parse_prompt

__all__ = ["Caption", "Phrase", "PromptBinding", "Token", "bind", "check_tokens", "locate"]

_TAG = re.compile(r"<id\d+>\s*")
CUT = -1  # the row of a token that the token limit keeps out of the conditioning


@dataclass(frozen=True)
class Token:
    """One token of a prompt. `row` is its row of the conditioning, which is its text key index, or -1 where the token
    limit cut it off; [start, end) are its characters in the prompt as typed; `text` is the tokenizer's own piece."""

    row: int
    id: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Phrase:
    """A phrase of the prompt: an instance (role subject, object, instance), a verb, or a word to watch.

    `spans` are its [start, end) runs in the prompt as typed, `start` and `end` their hull, `rows` its conditioning
    rows, ascending. A verb names its `subject` and `object` instances. `time` is when its words hold, None where
    nothing is said of that.
    """

    name: str
    text: str
    role: Role
    start: int
    end: int
    rows: tuple[int, ...] = ()
    subject: str | None = None
    object: str | None = None
    spans: tuple[Span, ...] = ()
    line: int | None = None
    time: Time | None = None


@dataclass(frozen=True)
class Caption:
    """Rows [start, end) of a conditioning, padding included, are the caption of the instance `name`: nobody else sees
    them (`InstanceCaptions`)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class PromptBinding:
    """A prompt, its tokens, and what its phrases mean. `length` counts the conditioning's rows, padding included;
    `model` is the tokenizer family; `notes` say what a person should know (an ambiguous phrase, a cut tail); `captions`
    say which rows are the caption of one instance (`captions.with_captions`), the others are seen by all."""

    prompt: str
    length: int
    tokens: tuple[Token, ...]
    phrases: tuple[Phrase, ...]
    model: str = ""
    notes: tuple[str, ...] = ()
    captions: tuple[Caption, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all phrases, in the order given."""
        return tuple(phrase.name for phrase in self.phrases)

    @property
    def instances(self) -> tuple[Phrase, ...]:
        return tuple(phrase for phrase in self.phrases if phrase.role in ("subject", "object", "instance"))

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of what needs a mask track to act on video tokens: instances, and whoever has a caption."""
        own = (caption.name for caption in self.captions)
        return tuple(dict.fromkeys((*(phrase.name for phrase in self.instances), *own)))

    @property
    def verbs(self) -> tuple[Phrase, ...]:
        return tuple(phrase for phrase in self.phrases if phrase.role == "verb")

    @property
    def timed(self) -> tuple[Phrase, ...]:
        """Those whose words hold at a time."""
        return tuple(phrase for phrase in self.phrases if phrase.time is not None)

    def check_rows(self, rows: int, site: str, cropped: bool) -> None:
        """Raises ValueError where an attention, called `site`, sees fewer rows of a conditioning than this is of;
        cropped: those behind the last word may be missing."""
        needed = self.length
        if cropped:
            bound = (row for phrase in self.phrases for row in phrase.rows)
            needed = 1 + max((*(token.row for token in self.tokens), *bound), default=-1)
        if needed > rows:
            raise ValueError(
                f"the binding was made for a conditioning of {needed} rows, but {site} sees {rows}: bind the prompt "
                "with the CLIP that encoded it"
            )

    def phrase(self, name: str) -> Phrase:
        """The phrase called `name`; ValueError listing the names where there is none."""
        for phrase in self.phrases:
            if phrase.name == name:
                return phrase
        hint = did_you_mean(name, self.names)
        raise ValueError(f"no phrase is called {name!r}; this binding has {', '.join(map(repr, self.names))}{hint}")

    def pieces(self, name: str) -> tuple[str, ...]:
        """The tokenizer's pieces that the phrase called `name` covers."""
        rows = set(self.phrase(name).rows)
        return tuple(token.text for token in self.tokens if token.row in rows)

    def check_tracks(self, names: Iterable[str]) -> None:
        """Raises ValueError where an instance that the prompt binds has no mask track of its name."""
        tracks = tuple(names)
        missing = [phrase.name for phrase in self.instances if phrase.name not in tracks]
        if missing:
            raise ValueError(
                f"the prompt binds {', '.join(map(repr, missing))}, but the tracks are named "
                f"{', '.join(map(repr, tracks)) or '(none)'}: instances join tracks by name, so rename one or the other"
                f"{did_you_mean(missing[0], tracks)}"
            )

    def to_json(self) -> str:
        data = asdict(self)
        for phrase in data["phrases"]:
            if phrase["time"] is None:
                del phrase["time"]  # readers from before there were times take what says nothing of them
        if not self.captions:
            del data["captions"]  # and so do readers from before there were captions
        return json.dumps({"version": 1, **data}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> PromptBinding:
        """Reads what `to_json` wrote; ValueError on anything else."""
        try:
            data = parse_object(text, "this", 1 << 24)
            if data.pop("version") != 1:
                raise ValueError("unknown version")
            data["tokens"] = tuple(Token(**token) for token in data["tokens"])
            data["phrases"] = tuple(_phrase_from(phrase) for phrase in data["phrases"])
            data["notes"] = tuple(data["notes"])
            data["captions"] = tuple(Caption(**caption) for caption in data.get("captions", ()))
            _check_types(data)
            _check_captions(data["captions"], data["length"])
            return cls(**data)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"this is no prompt binding of version 1, as to_json writes it: {str(error)[:200]}"
            ) from None


def _phrase_from(data: dict) -> Phrase:
    spans = tuple((int(start), int(end)) for start, end in data["spans"])
    time = data.get("time")
    return Phrase(
        **{**data, "spans": spans, "rows": tuple(map(int, data["rows"])), "time": None if time is None else tuple(time)}
    )


def _check_types(data: dict) -> None:
    """A file may say anything; whoever reads a binding later relies on texts being texts and rows being rows."""
    texts = [data["prompt"], data["model"], *data["notes"], *(token.text for token in data["tokens"])]
    numbers = [data["length"]]
    for token in data["tokens"]:
        numbers += [token.row, token.id, token.start, token.end]
    for phrase in data["phrases"]:
        texts += [phrase.name, phrase.text, phrase.role, phrase.subject or "", phrase.object or ""]
        numbers += [phrase.start, phrase.end, *phrase.rows]
        if phrase.role not in get_args(Role):
            raise ValueError(f"a phrase has the role {phrase.role!r}")
        if phrase.time is not None and not is_time(phrase.time):
            raise ValueError(f"phrase {phrase.name!r} has the time {phrase.time!r}")
        if any(not 0 <= row < data["length"] for row in phrase.rows):
            raise ValueError(
                f"phrase {phrase.name!r} has rows outside of the {data['length']} rows of the conditioning"
            )
    if not all(isinstance(text, str) for text in texts) or any(type(n) is not int for n in numbers):
        raise ValueError("it holds values of the wrong type")
    names = [phrase.name for phrase in data["phrases"]]
    if len(set(names)) < len(names):
        raise ValueError("two phrases have one name")


def _check_captions(captions: Sequence[Caption], length: int) -> None:
    at = 0
    for caption in captions:
        if not isinstance(caption.name, str) or type(caption.start) is not int or type(caption.end) is not int:
            raise ValueError("it holds values of the wrong type")
        if not at <= caption.start < caption.end <= length:
            raise ValueError(f"the caption of {caption.name!r} has rows that are another's, or outside of the {length}")
        at = caption.end


def _places(text: str, words: str) -> list[Span]:
    """Every place of `words` in visible text. `a man` is found in `a <id1> man`, too, with the tag inside."""
    if _TAG.search(words) or not _TAG.search(text):
        return find_words(text, words)
    tagged = {i for tag in _TAG.finditer(text) for i in range(*tag.span())}
    kept = [i for i in range(len(text)) if i not in tagged]
    found = find_words("".join(text[i] for i in kept), words)
    return [(kept[start], kept[end - 1] + 1) for start, end in found]


def _matches(text: str, words: Words) -> list[tuple[Span, ...]]:
    """Every place of `words` in visible text. Pieces follow each other at the smallest distance; a later match never
    begins before the earlier one ended."""
    first, *rest = [_places(text, piece) for piece in words.pieces]
    found: list[tuple[Span, ...]] = []
    for index, start in enumerate(first):
        chain = [start]
        for places in rest:
            after = next((place for place in places if place[0] >= chain[-1][1]), None)
            if after is None:
                break
            chain.append(after)
        # "picks a mug and picks the cup up": the nearer of two beginnings owns the end.
        nearer = rest and index + 1 < len(first) and len(chain) > 1 and first[index + 1][1] <= chain[1][0]
        if len(chain) == len(words.pieces) and not nearer and not (found and found[-1][-1][1] > start[0]):
            found.append(tuple(chain))
    return found


def _choose(text: str, words: Words, spec: PhraseSpec) -> tuple[list[Span], str | None]:
    """The runs of visible text that `words` mean, and a note where they could mean others."""
    found = _matches(text, words)
    if not found:  # perhaps written with the prompt's own weights and escapes
        bare = tuple(parse_prompt(piece, weights=True).text for piece in words.pieces)
        found = _matches(text, replace(words, pieces=bare)) if all(bare) else []
    if not found:
        raise ValueError(_absent(text, words, spec))
    if words.occurrence == 0:
        return [run for match in found for run in match], None
    if words.occurrence is not None and words.occurrence > len(found):
        times = "once" if len(found) == 1 else f"{len(found)} times"
        raise ValueError(f"{spec.where()}: {str(words)!r} is wanted, but the words stand in the prompt only {times}")
    note = None
    if words.occurrence is None and len(found) > 1:
        note = (
            f"{spec.name}: '{words}' stands in the prompt {len(found)} times; the first is taken. "
            f"Write {words}#2 for the second, {words}#all for every one"
        )
    return list(found[(words.occurrence or 1) - 1]), note


def _absent(text: str, words: Words, spec: PhraseSpec) -> str:
    for piece in words.pieces:
        if not _places(text, piece):
            if like_a_time(piece):
                return f"{spec.where()}: {piece!r} is not in the prompt; a time ends its line, as one of {TIMES}"
            near = nearest_words(text, piece)
            hint = f"; did you mean {near!r}?" if near else "; write the words as they stand in the prompt"
            return f"{spec.where()}: {piece!r} is not in the prompt{hint}"
    return f"{spec.where()}: the parts of {str(words)!r} do not follow each other in this order in the prompt"


def _join(runs: Iterable[Span]) -> tuple[Span, ...]:
    out: list[Span] = []
    for start, end in sorted(runs):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)


def _as_typed(visible: VisibleText, run: Span) -> Iterable[Span]:
    """A run of visible characters as runs of the prompt as typed: marks of weights inside it are left out."""
    return _join(visible.spans[index] for index in range(*run))


def locate(
    prompt: str, phrases: str | Iterable[PhraseSpec], weights: bool = False
) -> tuple[tuple[Phrase, ...], tuple[str, ...]]:
    """Finds phrases in a prompt: `(phrases without rows, notes)`.

    `weights` reads ComfyUI's weights and escapes, so `wooden table` is found in `(wooden:1.2) table`. Raises ValueError
    on words that are not in the prompt (with the nearest that are) and on two instances bound to the same words
    although there are more of them.
    """
    visible = parse_prompt(prompt, weights)
    found: list[Phrase] = []
    notes: list[str] = []
    for spec in parse_phrases(phrases):
        chosen = [_choose(visible.text, words, spec) for words in spec.words]
        spans = _join(span for runs, _ in chosen for run in runs for span in _as_typed(visible, run))
        twin = next((p for p in found if p.spans == spans and spec.role != "verb" and p.role != "verb"), None)
        if twin and any(note for _, note in chosen):
            raise ValueError(
                f"{spec.where()} binds the same words as {twin.name!r}, and they stand in the prompt more than once: "
                f"write {spec.words[0]}#1, {spec.words[0]}#2 to tell them apart"
            )
        notes += [note for _, note in chosen if note]
        text = " | ".join(" ... ".join(words.pieces) for words in spec.words)
        of_verb = spec.subject, spec.object
        found.append(
            Phrase(spec.name, text, spec.role, spans[0][0], spans[-1][1], (), *of_verb, spans, spec.line, spec.time)
        )
    if timed := [f"{phrase.name} {time_text(phrase.time)}" for phrase in found if phrase.time is not None]:
        notes.append(f"in time: {', '.join(timed)}. Times act under MATRIX Steer Attention, mode 'timed words'")
    return tuple(found), tuple(notes)


def _rows(phrase: Phrase, tokens: Sequence[Token], limit: int) -> tuple[int, ...]:
    touched = [
        token for token in tokens if any(max(token.start, start) < min(token.end, end) for start, end in phrase.spans)
    ]
    label = f"phrase {phrase.name!r}" + ("" if phrase.line is None else f" (line {phrase.line})")
    said = phrase.text if len(phrase.text) <= 80 else f"{phrase.text[:80]}..."
    if any(token.row == CUT for token in touched):
        raise ValueError(
            f"{label}, {said!r}, is cut off by the token limit: the prompt has {len(tokens)} tokens and the "
            f"model reads {limit}. Shorten the prompt or move these words towards its beginning"
        )
    if not touched:
        raise ValueError(
            f"{label}, {said!r}: the tokenizer makes no token of these characters, so nothing can attend to them"
        )
    return tuple(sorted({token.row for token in touched}))


def _located(prompt: str, phrases: str | Iterable, weights: bool) -> tuple[tuple[Phrase, ...], tuple[str, ...]]:
    if isinstance(phrases, str):
        return locate(prompt, phrases, weights)
    given = tuple(phrases)
    if given and all(isinstance(phrase, Phrase) for phrase in given):
        return given, ()
    return locate(prompt, given, weights)


def bind(
    prompt: str,
    tokens: Iterable[Token],
    phrases: str | Iterable[PhraseSpec] | Iterable[Phrase],
    length: int,
    model: str = "",
    weights: bool = False,
    notes: Iterable[str] = (),
) -> PromptBinding:
    """Binds phrases to conditioning rows.

    Args:
        tokens: those of the prompt in order, from a host; row -1 marks tokens that the token limit cut off.
        phrases: the text form of `core.phrases`, PhraseSpecs, or Phrases that `locate` or a prompt form found.
        length: rows of the conditioning, padding included.
        weights: whether the prompt is written with ComfyUI's weights and escapes.

    A token belongs to a phrase when it covers at least one of its characters. Raises ValueError as `locate` does, and
    on phrases that the token limit cut off.
    """
    every = tuple(tokens)
    if any(token.row >= length or token.row < CUT for token in every):
        raise ValueError(f"tokens have rows outside of the {length} rows of the conditioning")
    if any(a.row >= b.row for a, b in pairwise(token for token in every if token.row != CUT)):
        raise ValueError("token rows have to ascend with the prompt")
    found, remarks = _located(prompt, phrases, weights)
    bound = tuple(replace(phrase, rows=_rows(phrase, every, length)) for phrase in found)
    live = tuple(token for token in every if token.row != CUT)
    return PromptBinding(prompt, length, live, bound, model, (*notes, *remarks))


def check_tokens(binding: PromptBinding, tokens: Iterable[Token], length: int) -> None:
    """Raises ValueError unless `tokens` of another text encoder are the binding's own: only then may it be reused."""
    live = [token for token in tokens if token.row != CUT]
    if length != binding.length:
        raise ValueError(
            f"this binding is for a conditioning of {binding.length} rows, the text encoder makes {length}: bind anew"
        )
    for ours, theirs in zip(binding.tokens, live):
        if (ours.row, ours.id, ours.start, ours.end) != (theirs.row, theirs.id, theirs.start, theirs.end):
            raise ValueError(
                f"this binding has token {ours.text!r} (id {ours.id}) in row {ours.row}, the text encoder has "
                f"{theirs.text!r} (id {theirs.id}) in row {theirs.row}: bind anew with this text encoder"
            )
    if len(live) != len(binding.tokens):
        raise ValueError(
            f"this binding has {len(binding.tokens)} tokens, the text encoder makes {len(live)}: bind anew with it"
        )
