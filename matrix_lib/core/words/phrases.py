"""What a person says about a prompt: which words name which instance, which words are a verb, which are just words.

The text form has one statement a line; blank lines and lines that begin with `#` say nothing:

    cyclist: a man on a bicycle [subject]         an instance and the words that name it; the role may be left out
    van: the white van | the van#2                several phrases for one instance
    rides up behind = verb(cyclist -> van)        a verb, who does it, to whom
    pick: picks ... up = verb(cyclist -> van)     ... stands for any words between; a name of its own in front
    falls = verb(cyclist)                         a verb without an object
    snow                                          a word to watch

`#2` takes the second occurrence, `#all` every one. A phrase in double quotes may contain the signs above.

    waves = verb(cyclist) @0-1.5s                 when: seconds of the clip, at the end of any statement
    rides off = verb(cyclist) @2s-                from then on; @-2s: until then

Times act under `TimedWords`. `web/js/editor/phrases.js` reads the same text in the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = [
    "TIMES",
    "PhraseSpec",
    "Role",
    "Time",
    "Words",
    "check_name",
    "is_time",
    "like_a_time",
    "parse_phrases",
    "time_text",
    "verb",
]

Time = tuple[float, float | None]
"""When words hold, in seconds of the clip: from, and until; None: to its end."""
Role = Literal["subject", "object", "instance", "verb", "word"]
# Far beyond what attends to anything: a text pasted by mistake is told at once and not after minutes.
_LONGEST, _LONGEST_LINE, _MOST = 100_000, 2_000, 256
_INSTANCE_ROLES = ("subject", "object", "instance")
_NAME = re.compile(r"[^\s:=|\[\]()#\",](?:[^:=|\[\]()#\",]{0,62}[^\s:=|\[\]()#\",])?$")
_VERB = re.compile(r"verb\s*\((.*)\)\s*$", re.IGNORECASE)
_ROLE = re.compile(r"\[\s*(\w*)\s*\]\s*$")
_NTH = re.compile(r"#\s*([0-9]{1,6}|all)\s*$", re.IGNORECASE)
_SECONDS = r"([0-9]{1,6}(?:\.[0-9]{1,6})?)"
TIMES = "@0-1.5s, @2s- (to the end) or @-2s (from the start)"
_TIME = re.compile(rf"(?:^|\s)@\s*(?:{_SECONDS}\s*s?\s*-\s*{_SECONDS}\s*s|{_SECONDS}\s*s\s*-|-\s*{_SECONDS}\s*s)\s*$")
_MEANT = re.compile(
    r"(?:^|\s)@\s*[-\u2013]?\s*\d[\d.,:]*\s*(?:m?s|sec)?(?:\s*(?:-|\u2013|\u2014|\.\.|to\b)[^@]*)?$", re.IGNORECASE
)


@dataclass(frozen=True)
class Words:
    """Words to find in a prompt: `pieces` in this order with anything between; `occurrence` counts from 1, 0 is every
    one, None takes the first (and says so where there are more)."""

    pieces: tuple[str, ...]
    occurrence: int | None = None

    def __str__(self) -> str:
        mark = "" if self.occurrence is None else f"#{self.occurrence or 'all'}"
        return " ... ".join(self.pieces) + mark

    @classmethod
    def parse(cls, text: str) -> Words:
        """Reads `the cup`, `the cup#2`, `the cup#all`, `picks ... up`, `"a sign: stop"`."""
        text, occurrence = text.strip(), None
        if text[-1:] != '"' and (mark := _NTH.search(text)):
            occurrence = 0 if mark[1].lower() == "all" else int(mark[1])
            if mark[1] == "0":
                raise ValueError(f"occurrences count from 1: write #1 for the first, #all for every one; got {text!r}")
            text = text[: mark.start()].strip()
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        pieces = [text[1:-1]] if quoted else re.split(r"\.\.\.|\u2026", text)
        if not all(piece.strip() for piece in pieces):
            raise ValueError(f"words are missing in {text!r}: write the words as they stand in the prompt")
        return cls(tuple(" ".join(piece.split()) for piece in pieces), occurrence)


@dataclass(frozen=True)
class PhraseSpec:
    """One statement: `name` is the instance, the verb or the word; verbs name their `subject` and `object` instances.
    `line` is the line of the text form that it came from, or None; `time` is when its words hold, None where nothing is
    said of that."""

    name: str
    words: tuple[Words, ...]
    role: Role = "instance"
    subject: str | None = None
    object: str | None = None
    line: int | None = None
    time: Time | None = None

    @classmethod
    def instance(cls, name: str, *phrases: str, role: Role = "instance") -> PhraseSpec:
        """`PhraseSpec.instance("van", "the white van", "the van#2", role="object")`."""
        return cls(name, tuple(Words.parse(phrase) for phrase in phrases), role)

    def where(self) -> str:
        return f"phrase {self.name!r}" if self.line is None else f"line {self.line} of the phrases ({self.name!r})"


def verb(phrase: str, subject: str, object: str | None = None, name: str | None = None) -> PhraseSpec:
    """`verb("picks ... up", "robot", "cup")`: the words of a verb and the instances that it joins."""
    words = Words.parse(phrase)
    return PhraseSpec(name or " ... ".join(words.pieces), (words,), "verb", subject, object)


def is_time(value: tuple[object, ...]) -> bool:
    """Whether it says from when until when, as `Time` does."""
    if len(value) != 2:
        return False
    start, end = value[0], math.inf if value[1] is None else value[1]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in (start, end)):
        return False
    return bool(0 <= start < end)  # type: ignore[operator]


def like_a_time(text: str) -> bool:
    """Whether a text ends in what was meant as a time: `@1-2`, `@0,5s-`, `@1S to 2S`, and not `@ 5 pm`."""
    return bool(_MEANT.search(text.rstrip()[-40:]))


def time_text(time: Time) -> str:
    """As a person writes it: `@0-1.5s`, `@2s-`."""
    start, end = time
    return f"@{start:.10g}s-" if end is None else f"@{start:.10g}-{end:.10g}s"


def _split(text: str, sign: str) -> list[str]:
    """Splits at `sign` outside double quotes."""
    parts, quoted, start, i = [], False, 0, 0
    while i < len(text):
        if text[i] == '"':
            quoted = not quoted
        elif not quoted and text.startswith(sign, i):
            parts.append(text[start:i])
            start = i = i + len(sign)
            continue
        i += 1
    return [*parts, text[start:]]


def _parse_verb(head: str, call: str) -> PhraseSpec:
    match = _VERB.match(call.strip())
    if not match and (sign := re.search(r"\)\s*(@.*)", call)):
        raise ValueError(f"one time a line, in seconds, is written {TIMES}; got {sign[1].strip()!r}")
    if not match:
        raise ValueError(f"after '=' stands verb(SUBJECT -> OBJECT) or verb(SUBJECT); got {call.strip()!r}")
    ends = [end.strip() for end in match[1].replace("\u2192", "->").split("->")]
    if len(ends) > 2 or not all(ends):
        raise ValueError(f"a verb joins one subject and at most one object, verb(SUBJECT -> OBJECT); got {match[0]!r}")
    name, colon, words = _name_and_rest(head)
    return verb(words if colon else head, ends[0], ends[1] if len(ends) == 2 else None, name)


def check_name(name: str) -> None:
    """Raises ValueError for what is no name of an instance."""
    if not _NAME.match(name):
        raise ValueError(
            f'{name!r} is no name (up to 64 characters, none of : = | [ ] ( ) # , "); '
            "write NAME: words, and put words with a colon in double quotes"
        )


def _name_and_rest(text: str) -> tuple[str | None, bool, str]:
    parts = _split(text, ":")
    if len(parts) == 1:
        return None, False, text
    name = parts[0].strip()
    check_name(name)
    return name, True, ":".join(parts[1:])


def _parse_line(text: str) -> PhraseSpec:
    mark = _TIME.search(text)
    if mark is None:
        return _parse_statement(text)
    start, end = float(mark[1] or mark[3] or 0), mark[2] or mark[4]
    time = start, None if end is None else float(end)
    if time[1] is not None and time[1] <= start:
        raise ValueError(f"a time is @START-ENDs in seconds, the end behind the start; got {mark[0].strip()}")
    return replace(_parse_statement(text[: mark.start()].strip()), time=time)


def _parse_statement(text: str) -> PhraseSpec:
    head, *calls = _split(text, "=")
    if len(calls) > 1:
        raise ValueError("one '=' a line: WORDS = verb(SUBJECT -> OBJECT)")
    if calls:
        return _parse_verb(head, calls[0])
    role: str = ""
    if mark := _ROLE.search(text):
        role, text = mark[1].lower(), text[: mark.start()]
        if role not in (*_INSTANCE_ROLES, "word"):
            hint = "; a verb is written WORDS = verb(SUBJECT -> OBJECT)" if role == "verb" else ""
            raise ValueError(f"a role is [subject], [object], [instance] or [word]; got [{role}]{hint}")
    name, named, rest = _name_and_rest(text)
    words = tuple(Words.parse(part) for part in _split(rest, "|"))
    if not named:
        if role and role != "word":
            raise ValueError(f"an instance needs a name: write NAME: {rest.strip()} [{role}]")
        return PhraseSpec(str(words[0]), words, "word")
    return PhraseSpec(name or "", words, role or "instance")  # type: ignore[arg-type]


def _check(specs: list[PhraseSpec]) -> None:
    seen: dict[str, PhraseSpec] = {}
    for spec in specs:
        if first := seen.get(spec.name):
            raise ValueError(
                f"{spec.where()}: the name {spec.name!r} is taken by {first.where()}. Put all phrases of one instance "
                f"on one line, {spec.name}: {first.words[0]} | {spec.words[0]}, or choose another name"
            )
        seen[spec.name] = spec
    instances = [spec.name for spec in specs if spec.role in _INSTANCE_ROLES]
    for spec in specs:
        if spec.time is not None and not is_time(spec.time):
            raise ValueError(
                f"{spec.where()}: a time is (from, until) in seconds, until above from or None; got {spec.time}"
            )
        for end in (spec.subject, spec.object):
            if spec.role == "verb" and end is not None and end not in instances:
                known = ", ".join(map(repr, instances)) or "none yet"
                raise ValueError(
                    f"{spec.where()}: the verb names the instance {end!r}, but the instances are: {known}. "
                    f"Add a line {end}: its words in the prompt"
                )


def _with_roles(specs: list[PhraseSpec]) -> tuple[PhraseSpec, ...]:
    """Instances without a role of their own take it from the verbs, where all verbs agree."""
    subjects = {spec.subject for spec in specs if spec.role == "verb"}
    objects = {spec.object for spec in specs if spec.role == "verb"}
    out = []
    for spec in specs:
        if spec.role == "instance" and (spec.name in subjects) != (spec.name in objects):
            spec = replace(spec, role="subject" if spec.name in subjects else "object")
        out.append(spec)
    return tuple(out)


def parse_phrases(phrases: str | Iterable[PhraseSpec]) -> tuple[PhraseSpec, ...]:
    """Statements from the text form (see the top of this file), or checks those made in Python.

    Raises ValueError, with the line, on a line that says nothing, two statements of one name, and a verb that names an
    unknown instance; and where there is no statement at all.
    """
    specs: list[PhraseSpec] = []
    if isinstance(phrases, str):
        if len(phrases) > _LONGEST:
            raise ValueError(f"the phrases have {len(phrases)} characters, and {_LONGEST} are the most")
        for number, line in enumerate(phrases.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            shown = line.strip() if len(line) <= 80 else f"{line.strip()[:80]}..."
            if len(line) > _LONGEST_LINE:
                raise ValueError(
                    f"line {number} of the phrases, {shown!r}, has {len(line)} characters, and {_LONGEST_LINE} are the "
                    "most: write a few words of the prompt for each instance"
                )
            try:
                specs.append(replace(_parse_line(line.strip()), line=number))
            except ValueError as error:
                raise ValueError(f"line {number} of the phrases, {shown!r}: {error}") from None
            if len(specs) > _MOST:
                raise ValueError(f"there are more than {_MOST} phrases; leave some out")
    else:
        specs = list(phrases)
    if not specs:
        raise ValueError(
            "no phrases given: say which words of the prompt name which instance, one a line, for example\n"
            "cyclist: a man on a bicycle\nvan: the white van\nrides up behind = verb(cyclist -> van)"
        )
    _check(specs)
    return _with_roles(specs)
