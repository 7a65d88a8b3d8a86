"""What a judgement would send, and what it would cost: told before anything is sent.

Tokens are estimates: four characters of text make one; a picture counts as OpenAI's models count it (85, and 170 for
each tile of 512 pixels once the shorter side is at most 768 and the longer at most 2048) unless a person says what
one costs. Other services count otherwise: look at the first bill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from .endpoint_wire import Endpoint
from .judge import Picture, Request, told

__all__ = ["Estimate", "estimate", "picture_tokens", "plan"]

_ANSWERS = {"verify": 350, "emergence": 80, "questions": 700}  # tokens of an answer in the form that is asked for


@dataclass(frozen=True)
class Estimate:
    """calls; text, pictures, answers: tokens; count, bytes: of the pictures as they are sent."""

    calls: int
    text: int
    pictures: int
    answers: int
    count: int
    bytes: int

    def money(self, price_in: float, price_out: float) -> float:
        """At prices for a million tokens that go in and come out, in their currency."""
        return ((self.text + self.pictures) * price_in + self.answers * price_out) / 1e6

    def lines(self, price_in: float | None = None, price_out: float | None = None, per_minute: float = 0) -> list[str]:
        """For people, a fact a line."""
        said = [
            f"calls:    {self.calls:,}" + (f", in {self.calls / per_minute:.0f} minutes or more" if per_minute else ""),
            f"pictures: {self.count:,}, {self.bytes / 1e6:,.1f} MB",
            f"tokens:   about {self.text:,} of text and {self.pictures:,} of pictures in, {self.answers:,} out",
        ]
        if price_in is None or price_out is None:
            said.append("money:    not known (--price-in and --price-out, for a million tokens)")
        else:
            said.append(f"money:    about {self.money(price_in, price_out):,.2f}, without what is asked twice")
        return said


def estimate(requests: Iterable[Request], per_picture: int | None = None) -> Estimate:
    """Of all these requests. per_picture: tokens of one picture, where a person knows them."""
    calls = text = pictures = answers = count = size = 0
    known: dict[Picture, tuple[int, int]] = {}  # tokens, bytes as base64: repeats show the same pictures
    for request in requests:
        calls += 1
        answers += _ANSWERS.get(request.kind, 350)
        text += math.ceil(len(request.system) / 4)
        for part in told(request):
            if isinstance(part, Picture):
                if part not in known:
                    known[part] = _facts(part)
                tokens, sent = known[part]
                count, size = count + 1, size + sent
                pictures += tokens if per_picture is None else per_picture
            else:
                text += math.ceil(len(part) / 4)
    return Estimate(calls, text, pictures, answers, count, size)


def plan(
    endpoint: Endpoint,
    left: Sequence[Request],
    per_picture: int | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> list[str]:
    """What would be sent, where to, and for how much, a fact a line."""
    counts = {kind: sum(each.kind == kind for each in left) for kind in dict.fromkeys(each.kind for each in left)}
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    away = "" if endpoint.here else ", which is another machine"
    said = [f"to:       {endpoint.url} (model {endpoint.model}){away}"]
    if endpoint.url.startswith("http:") and not endpoint.here:
        said.append("          without encryption: pictures and key can be read on the way")
    said.append(f"sent:     {kinds or 'nothing'}; the task, the questions, and the frames as PNG: see requests.jsonl")
    return said + estimate(left, per_picture).lines(price_in, price_out, endpoint.per_minute)


def picture_tokens(width: int, height: int) -> int:
    """85, and 170 for each tile of 512 pixels."""
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def _facts(picture: Picture) -> tuple[int, int]:
    """(tokens, bytes as base64)."""
    with Image.open(picture.path) as opened:
        return picture_tokens(*opened.size), math.ceil(picture.path.stat().st_size / 3) * 4
