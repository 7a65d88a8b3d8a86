"""Names of instances as people write them: `Cup` and `cup ` are one, whichever way their letters are stored."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["find_name", "name_key", "twice"]


def name_key(name: str) -> str:
    """What two spellings of one name have in common: composed letters (NFC), one blank between words, no case."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def find_name(name: str, names: Sequence[str]) -> str | None:
    """`name` as `names` spell it: exactly so, else the only one that is the same name. None where there is none, or
    where several are."""
    if name in names:
        return name
    alike = [other for other in names if name_key(other) == name_key(name)]
    return alike[0] if len(alike) == 1 else None


def twice(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two of `names` that are one name; None where all differ."""
    seen: dict[str, str] = {}
    for name in names:
        if (key := name_key(name)) in seen:
            return seen[key], name
        seen[key] = name
    return None
