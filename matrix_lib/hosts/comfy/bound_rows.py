"""The rows of a conditioning that carries a binding: what other nodes have done to them since they were encoded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...core.words.binding import PromptBinding
from .run import BINDING, ENCODED

__all__ = ["bound_rows", "mark_of", "row_notes"]


def mark_of(rows: Tensor) -> tuple[float, float]:
    """Two numbers by which the rows of a conditioning (1, n, width) are known again."""
    rows = rows.detach().float()
    return float(rows.sum()), float(rows.abs().sum())


def bound_rows(cond: dict[str, Any]) -> PromptBinding | None:
    """The binding of a conditioning, counting every row of it: rows that came behind, of Conditioning (Concat), are no
    copies of the prompt's. The same object each time."""
    binding = cond.get(BINDING)
    rows = getattr(cond.get("cross_attn"), "shape", (0, 0))[1]
    return binding if binding is None or rows <= binding.length else _lengthened(binding, rows)


@functools.lru_cache(maxsize=64)
def _lengthened(binding: PromptBinding, rows: int) -> PromptBinding:
    return replace(binding, length=rows)


def row_notes(positives: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences for people about words that are not bound: of texts that were put behind a bound prompt or mixed into
    it, and of positives beside it that carry no binding."""
    notes = []
    for cond in positives:
        binding, rows = cond.get(BINDING), cond.get("cross_attn")
        if binding is None or not isinstance(rows, Tensor):
            continue
        if rows.shape[1] > binding.length:
            notes.append(
                f"{rows.shape[1] - binding.length} rows stand behind the bound prompt (Conditioning Concat): their "
                "words are not known and left as they are; bind both texts as one prompt to steer and show all of them"
            )
        mark = cond.get(ENCODED)
        if mark is not None and any(
            abs(a - b) > 1e-3 * max(mark[1], 1e-9) for a, b in zip(mark_of(rows[:, : binding.length]), mark)
        ):
            notes.append(
                "the bound prompt was mixed or scaled behind 'MATRIX Bind Prompt' (Conditioning Average, Multiply): "
                "words are those of the bound text alone, and another text's are not known"
            )
    bare = sum(cond.get(BINDING) is None for cond in positives)
    if 0 < bare < len(positives):
        count = f"{bare} of {len(positives)} positive prompts carry no binding"
        notes.append(f"{count}: they are neither shown nor steered")
    return notes
