"""A judge that is a function: texts and pictures in, a text out. For models that somebody else has loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .judge import JudgeError, Picture, Reply, Request

__all__ = ["Say", "SpokenJudge"]

Say = Callable[[str, Sequence[Path]], str]
"""(the whole text, the pictures in the order in which the text counts them) -> what the model says.

Raises ValueError where it cannot."""


class SpokenJudge:
    """Asks `say`, one request at a time. Its pictures come together, so the text says which frame each of them is.

    name: tells models apart; answers of one are not taken for another's.
    """

    workers = 1

    def __init__(self, name: str, say: Say) -> None:
        self.name, self._say = name, say

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """See `Judge`."""
        try:
            said = self._say(text_of(request, complaint), [picture.path for picture in request.pictures])
        except ValueError as error:
            raise JudgeError(f"{self.name} fails on {request.where}: {error}"[:600]) from None
        if not said.strip():
            raise JudgeError("the answer is empty")
        return Reply(said, self.name)


def text_of(request: Request, complaint: str = "") -> str:
    """Task, question and complaint as one text."""
    parts = [request.system, _counted(request.pictures), request.text]
    if complaint:
        parts.append(f"Your last answer could not be read: {complaint[:1000]}\nAnswer again, with the JSON alone.")
    return "\n\n".join(part for part in parts if part)


def _counted(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    numbers = ", ".join(str(picture.index) for picture in pictures)
    return f"There are {len(pictures)} pictures. In this order, they are the frames {numbers}."
