"""One interface for every judge: a request goes in, a text comes out, or the reason why there is none.

What is asked, and whether an answer can be read, is not a judge's business: see `intergen/requests.py` and
`intergen/answers.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

__all__ = ["Judge", "JudgeError", "Picture", "Reply", "Request", "digest_of", "told"]


class JudgeError(Exception):
    """A judge gave no answer: a service that fails, a refusal, a person who stopped. again: whether another try may
    help."""

    def __init__(self, text: str, again: bool = True) -> None:
        super().__init__(text)
        self.again = again


@dataclass(frozen=True)
class Picture:
    """A frame as the judge sees it. index: of the video's frame; path: a PNG; known: its digest, from who wrote it."""

    index: int
    path: Path
    known: str = field(default="", compare=False)

    @cached_property
    def digest(self) -> str:
        """Of the pixels: another version of what writes PNG files changes bytes, and nothing that is seen."""
        if self.known:
            return self.known
        with Image.open(self.path) as picture:
            return digest_of(picture)


def digest_of(picture: Image.Image) -> str:
    """Of the pixels of a picture: see `Picture.digest`."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width} {rgb.height} ".encode() + rgb.tobytes()).hexdigest()


@dataclass(frozen=True)
class Request:
    """Something to be judged.

    Args:
        kind: "verify", "emergence" or "questions". id, seed, interaction: what it is about.
        repeat: counts judgements of the same thing from 0.
        system, text: the task, and the question itself. pictures: in the order in which they are shown.
        schema: JSON schema of the answer.
    """

    kind: str
    id: str
    seed: str
    system: str
    text: str
    pictures: tuple[Picture, ...] = ()
    interaction: int = 0
    repeat: int = 0
    schema: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Of all that a judge sees, and the repeat: the same question is never asked twice."""
        seen = [self.kind, self.system, self.text, self.repeat, [(p.index, p.digest) for p in self.pictures]]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    @property
    def where(self) -> str:
        """For people: which video, which interaction."""
        video = f"{self.id}/{self.seed}" if self.seed else self.id
        return f"{video}, {self.kind}" + (f" {self.interaction + 1}" if self.kind == "verify" else "")


@dataclass(frozen=True)
class Reply:
    """What a judge said. raw: its text; model: which one said it; usage: tokens, where they are known."""

    raw: str
    model: str
    usage: Mapping[str, int] = field(default_factory=dict)


def told(request: Request, complaint: str = "") -> list[str | Picture]:
    """What a judge reads after the task, in order: the question, each frame behind its number, and the complaint."""
    parts: list[str | Picture] = [request.text]
    for picture in request.pictures:
        parts += [f"Frame {picture.index}:", picture]
    if complaint:
        parts.append(f"Your last answer could not be read: {complaint[:1000]}\nAnswer again, with the JSON alone.")
    return parts


class Judge(Protocol):
    """name: for tables and files. workers: how many requests may be asked at once.

    A judge that waits (between tries, for its turn) may have a method `stop()`, called from another thread when the run
    ends early: it ends the waits.
    """

    name: str
    workers: int

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """Answers a request. complaint: what was wrong with the answer before, where one could not be read.

        Raises JudgeError where there is no answer.
        """
