"""The rows of a conditioning that carries a binding: what other nodes have done to them since they were encoded."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.words.behind import put_behind
from ...core.words.binding import PromptBinding
from .run import BINDING, ENCODED, TRACKS

__all__ = ["bound_rows", "mark_of", "remember", "row_notes"]


Mark = tuple[tuple[float, float], ...]
_MARKED = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377)  # rows: most prompts are short


def mark_of(rows: Tensor) -> Mark:
    """Numbers by which the rows of a conditioning (1, n, width) are known again, and their order: the sum and the size
    of all and of some of them."""
    rows = rows.detach().float()
    parts = [rows, *(rows[:, at] for at in _MARKED if at < rows.shape[1])]
    found = torch.stack([torch.stack([part.sum(), part.abs().sum()]) for part in parts]).tolist()
    return tuple((total, size) for total, size in found)


def _changed(rows: Tensor, mark: Mark) -> bool:
    """Whether rows are others than those of a mark; rounded ones are not."""
    found, least = mark_of(rows), max(1e-6 * mark[0][1], 1e-9)
    far = [max(abs(total - old), abs(much - size)) > 1e-3 * max(size, least)
           for (total, much), (old, size) in zip(found, mark)]  # fmt: skip
    return len(found) != len(mark) or any(far)


class _Encoded:
    """Prompts that were encoded with a binding in this process, by their rows, bit for bit. Safe for many threads."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._found: OrderedDict[tuple[int, str], PromptBinding] = OrderedDict()

    def add(self, rows: Tensor, binding: PromptBinding) -> None:
        key = rows.shape[1], _digest(rows)
        with self._lock:
            self._found[key] = binding
            self._found.move_to_end(key)
            while len(self._found) > self._most:
                self._found.popitem(last=False)

    def behind(self, rows: Tensor, start: int) -> tuple[PromptBinding, ...]:
        """The bindings of the prompts that fill the rows from `start` on; () where some of them are not known."""
        made: list[PromptBinding] = []
        while start < rows.shape[1]:
            with self._lock:
                lengths = sorted({length for length, _ in self._found}, reverse=True)
            keys = [(n, _digest(rows[:, start : start + n])) for n in lengths if start + n <= rows.shape[1]]
            with self._lock:
                found = next((self._found[key] for key in keys if key in self._found), None)
            if found is None:
                return ()
            made.append(found)
            start += found.length
        return tuple(made)


_ENCODED = _Encoded(256)


def _digest(rows: Tensor) -> str:
    found = rows.detach().cpu().contiguous()
    return hashlib.sha256(str(found.dtype).encode() + found.view(torch.uint8).numpy().tobytes()).hexdigest()


def remember(rows: Tensor, binding: PromptBinding) -> Mark:
    """Keeps whose rows these are, (1, n, width) as they were encoded, and gives their mark: Conditioning (Concat) puts
    them behind another prompt's and drops everything else that it gets."""
    _ENCODED.add(rows, binding)
    return mark_of(rows)


def bound_rows(cond: dict[str, Any], text_rows: int = 0) -> PromptBinding | None:
    """The binding of a conditioning, counting every row of it: rows that came behind, of Conditioning (Concat), are no
    copies of the prompt's. Words of a prompt behind are bound where its rows are as 'MATRIX Bind Prompt' made them.
    The same object each time.

    text_rows: how many rows the network makes of it, where it puts rows of its own behind the prompt's.
    """
    binding, rows = cond.get(BINDING), cond.get("cross_attn")
    count = getattr(rows, "shape", (0, 0))[1]
    if binding is None or max(count, text_rows) <= binding.length:
        return binding
    if count > binding.length and (others := _ENCODED.behind(rows, binding.length)):
        tracks = cond.get(TRACKS)
        binding = _joined(binding, others, None if tracks is None else tuple(tracks.names))
    return _lengthened(binding, max(count, text_rows))


@functools.lru_cache(maxsize=64)
def _joined(first: PromptBinding, others: tuple[PromptBinding, ...], tracked: tuple[str, ...] | None) -> PromptBinding:
    return put_behind(first, others, tracked)


@functools.lru_cache(maxsize=64)
def _lengthened(binding: PromptBinding, rows: int) -> PromptBinding:
    return binding if rows == binding.length else replace(binding, length=rows)


def row_notes(positives: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences for people about words that are not bound: of texts that were put behind a bound prompt or mixed into
    it, and of positives beside it that carry no binding."""
    notes = []
    for cond in positives:
        binding, rows = cond.get(BINDING), cond.get("cross_attn")
        if binding is None or not isinstance(rows, Tensor):
            continue
        if rows.shape[1] > binding.length and not _ENCODED.behind(rows, binding.length):
            notes.append(
                f"{rows.shape[1] - binding.length} rows stand behind the bound prompt (Conditioning Concat): their "
                "words are not known and left as they are; encode that text with 'MATRIX Bind Prompt', too, to steer "
                "and show them"
            )
        mark = cond.get(ENCODED)
        if mark is not None and _changed(rows[:, : binding.length], mark):
            notes.append(
                "the bound prompt was mixed or scaled behind 'MATRIX Bind Prompt' (Conditioning Average, Multiply): "
                "words are those of the bound text alone, and another text's are not known"
            )
    bare = sum(cond.get(BINDING) is None for cond in positives)
    if 0 < bare < len(positives):
        count = f"{bare} of {len(positives)} positive prompts carry no binding"
        notes.append(f"{count}: they are neither shown nor steered")
    return notes
