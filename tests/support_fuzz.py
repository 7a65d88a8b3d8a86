"""Malformed inputs: odd values, spoilt JSON and spoilt files from a seed, and the bounds in which they are refused."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "ODD",
    "SECONDS",
    "bounded",
    "check_sentence",
    "dumps",
    "odd",
    "spoil_bytes",
    "spoil_json",
    "spoil_safetensors",
]

SECONDS, MEMORY = 5.0, 256 << 20
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 5, 2**31, -(2**31), 2**53, 2**63, 2**64 + 1, 10**4000, 0.5, -0.0, 1e38, -1e38, 1e300,
    1e-320, float("nan"), float("inf"), float("-inf"), "", " ", "x", "0", "-1", "nan", "inf", "1e999", "9" * 4000,
    "9" * 5000, "all", "\0", "\n", "../../etc/passwd", "/etc/passwd", "é\u0301\u200d", "\ud800", "%s%n{0}",
    "a" * 70_000, "(" * 3000, ", " * 3000, {}, [], {"": None}, {"samples": 5}, {"samples": None}, [[]], [None, None],
    ["1", 0, 0],
    {"__value__": [1, 2]}, {"x": 1, "y": 2}, [{"x": 0, "y": 0, "width": 1e300, "height": 2}],
)  # fmt: skip

RAW = ("has no attribute", "not subscriptable", "unhashable", "positional argument", "index out of", "not iterable")


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fails where the block takes longer than 5 s or wants more than 256 MB beyond a few copies of its input."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, start = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY + 4 * size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < SECONDS, f"took {time.monotonic() - start:.1f} s"


def check_sentence(error: BaseException) -> None:
    """A ValueError in words: no other error came through or hides behind it, and the text can be read."""
    assert type(error) is ValueError, f"{type(error).__name__}: {error}"
    text = str(error)
    assert 20 < len(text) < 2500, text[:3000]
    below: BaseException | None = error
    while below is not None:
        assert not isinstance(below, MemoryError), f"it ran out of memory before it said: {text}"
        below = below.__context__
    assert not [words for words in RAW if words in text], text


def odd(rng: random.Random) -> Any:
    value = rng.choice(ODD)
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flipped, cut, doubled or lengthened."""
    out = bytearray(data)
    way = rng.randrange(5)
    if way < 2 and out:
        for _ in range(rng.choice((1, 2, 8))):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif way == 2:
        del out[rng.randrange(len(out) + 1) :]
    elif way == 3:
        at = rng.randrange(len(out) + 1)
        out[at:at] = rng.randbytes(rng.choice((1, 8, 5000)))
    else:
        out[:8] = rng.choice((0, 1, 2**20, 2**40, 2**62, 2**64 - 1)).to_bytes(8, "little")
    return bytes(out)


def spoil_json(rng: random.Random, value: Any, times: int = 1) -> Any:
    """The same value with other values, missing entries or new ones at places drawn at random."""
    for _ in range(times):
        value = _spoil_once(rng, value)
    return value


def _spoil_once(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _spoil_once(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] if rng.random() < 0.5 else value + value[at:]
        return [*value[:at], _spoil_once(rng, value[at]), *value[at + 1 :]]
    return odd(rng)


def dumps(rng: random.Random, value: Any) -> str:
    """JSON with what JSON cannot say: huge numbers, NaN, deep nesting, a long tail."""
    text = _text(value)
    way = rng.random()
    if way < 0.05:
        return text[: rng.randrange(len(text) + 1)]
    if way < 0.08:
        return "[" * 200_000
    if way < 0.11:
        return text[:-1] + ', "more": "' + "x" * 900_000 + '"}'
    return text.replace('"9999"', "9" * rng.choice((16, 400, 4000, 5000)))


def _text(value: Any) -> str:
    """`json.dumps`, for numbers of any length."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if type(value) is int and value.bit_length() > 2000:
        return "9" * 4000
    return json.dumps(value)


def spoil_safetensors(rng: random.Random, data: bytes, inner: str) -> bytes:
    """A safetensors file, spoilt in its list of tensors, in the JSON of its metadata, or anywhere."""
    if rng.random() < 0.25:
        return spoil_bytes(rng, data)
    length = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = head.get("__metadata__", {})
    if inner in metadata and rng.random() < 0.7:
        spoilt = spoil_json(rng, json.loads(metadata[inner]), rng.choice((1, 1, 3)))
        head["__metadata__"] = {**metadata, inner: dumps(rng, spoilt)}
    else:
        head = spoil_json(rng, head, rng.choice((1, 1, 3)))
    text = _text(head).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + body
