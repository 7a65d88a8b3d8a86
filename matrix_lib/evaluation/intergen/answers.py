"""What a judge answered, read strictly: an answer that cannot be read is missing, never a score.

An answer is JSON, bare or in a fence, with nothing else of weight beside it. Each reader raises `AnswerError` with a
sentence that can be sent back to the judge.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "AnswerError", "Emergence", "read_emergence", "read_json", "read_verification"]

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_IMPLAUSIBLE = ("no (visually implausible)", "no visually implausible", "implausible", "visually implausible")
_LONGEST = 1 << 20


class AnswerError(ValueError):
    """An answer that says nothing certain. The text says what is wrong with it, and what was asked for."""


@dataclass(frozen=True)
class Answer:
    """To one question. yes: whether it was seen; implausible: no, since the bodies are not possible; frame: on which it
    was decided."""

    yes: bool
    frame: int | None
    implausible: bool = False


@dataclass(frozen=True)
class Emergence:
    """Frames in which something is there that was not, with the judge's reason."""

    frames: tuple[int, ...]
    reason: str = ""


def read_verification(raw: str, shown: Sequence[int], questions: Sequence[int] = range(1, 11)) -> dict[int, Answer]:
    """{question: answer} of one interaction.

    Args:
        shown: numbers of the frames that the judge was shown.

    Raises AnswerError unless every question is answered exactly once with yes, no or "no (visually implausible)", and
    every yes on a frame that was shown.
    """
    found: dict[int, Answer] = {}
    for item in _array(read_json(raw)):
        q, answer = _one(item, shown)
        if q not in questions:
            raise AnswerError(f"question_id is one of {list(questions)}; got {q}")
        if q in found:
            raise AnswerError(f"question {q} is answered twice")
        found[q] = answer
    if missing := [q for q in questions if q not in found]:
        raise AnswerError(f"questions {missing} are not answered")
    return found


def read_emergence(raw: str, shown: Sequence[int]) -> Emergence:
    """Frames with something new. Raises AnswerError for frames that were not shown, for "yes" without a frame and for
    "no" with one."""
    content = read_json(raw)
    if not isinstance(content, dict) or "emergence" not in content:
        raise AnswerError('the answer is an object {"emergence": "yes" or "no", "emergence_frames": [...], ...}')
    said, frames = _plain(content["emergence"]), content.get("emergence_frames", [])
    if said not in ("yes", "no"):
        raise AnswerError(f'emergence is "yes" or "no"; got {str(content["emergence"])[:40]!r}')
    if not isinstance(frames, list) or any(not _whole(frame) for frame in frames):
        raise AnswerError(f"emergence_frames is a list of frame numbers; got {str(frames)[:60]}")
    if shown and shown[0] in frames:
        raise AnswerError(f"frame {shown[0]} is the first: what is there is not new. Name later frames alone")
    if unknown := sorted(set(frames) - set(shown)):
        raise AnswerError(f"frames {unknown[:5]} were not shown; there are {list(shown)[:40]}")
    if (said == "yes") != bool(frames):
        raise AnswerError(f"emergence is {said!r}, but emergence_frames has {len(frames)} entries")
    return Emergence(tuple(sorted(set(frames))), str(content.get("emergence_reason", ""))[:2000])


def _one(item: Any, shown: Sequence[int]) -> tuple[int, Answer]:
    if not isinstance(item, dict):
        raise AnswerError(f"each answer is an object; got {str(item)[:60]}")
    q, said, frame = item.get("question_id"), item.get("answer"), item.get("frame_index")
    if isinstance(q, str) and q.strip().isdecimal() and len(q) < 5:
        q = int(q)
    if not isinstance(q, int) or isinstance(q, bool):
        raise AnswerError(f"question_id is a whole number; got {str(q)[:40]!r}")
    word = _plain(said)
    implausible = word in _IMPLAUSIBLE
    if word not in ("yes", "no") and not implausible:
        words = '"yes", "no" or "no (visually implausible)"'
        raise AnswerError(f"the answer to question {q} is {words}; got {str(said)[:40]!r}")
    if frame is not None and (not _whole(frame) or frame not in shown):
        raise AnswerError(f"frame_index of question {q} is null or one of {list(shown)[:40]}; got {str(frame)[:40]}")
    if word == "yes" and frame is None:
        raise AnswerError(f"question {q} is answered yes, but on no frame")
    return q, Answer(word == "yes", frame, implausible)


def read_json(raw: str) -> Any:
    """The JSON of an answer: the whole text, or its one fenced part."""
    if not isinstance(raw, str) or len(raw) > _LONGEST:
        raise AnswerError("the answer is a text of at most a million characters")
    fenced = _FENCE.findall(raw)
    if len(fenced) > 1:
        raise AnswerError(f"the answer holds {len(fenced)} fenced parts: send one")
    try:
        return json.loads(fenced[0] if fenced else raw.strip(), object_pairs_hook=_once)
    except AnswerError:
        raise
    except (ValueError, RecursionError):
        raise AnswerError(f"the answer is no JSON: {raw.strip()[:60]!r}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are different: of two answers under one key nobody knows which is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AnswerError(f"an object has one key twice: {[key for key, _ in pairs][:12]}")
    return found


def _array(content: Any) -> list[Any]:
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise AnswerError("the answer is an array of objects, or an object with one such array")
    return content


def _plain(said: Any) -> str:
    """Lower case, without quotes, dots and blanks around."""
    return said.strip(string.whitespace + ".,;:!'\"").lower() if isinstance(said, str) else ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
