"""What the claims come to in plain words, by paper: for people who read nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from .claims import Found

__all__ = ["SHORT", "counted", "summary"]

SHORT = (
    "Each claim is a difference between two ways to train or to sample, measured on several small bases. *Holds*:"
    " it is there, on bases like these. *Does not hold*: whatever there is, it is smaller than what would matter"
    " (.02). *Cannot be asked*: these bases fail at it, or leave no room. *Open*: more bases are needed. A *lead*,"
    " or a *lead against*, is open, too, but its interval lies above 0, or below, before the corrections for many"
    " claims and looks. Figures: the set of clips, the mean over bases with its 95 % interval for bases like"
    " these, and the level that it starts from; the share of clips with right roles where no other score is named."
)
_WORDS = ("holds", "does not hold", "cannot be asked", "lead", "lead against", "open")


def summary(found: Sequence[Found]) -> dict[str, list[tuple[str, list[str]]]]:
    """{paper: (verdict, claims with their figures), in the order of `_WORDS`, and "not run" with a number}."""
    out: dict[str, list[tuple[str, list[str]]]] = {}
    for paper in dict.fromkeys(each.claim.paper for each in found):
        own = [each for each in found if each.claim.paper == paper]
        said: dict[str, dict[str, list[Found]]] = {word: {} for word in _WORDS}
        for each in own:
            if each.outcome is not None:
                said[_word(each)].setdefault(each.claim.said, []).append(each)
        parts = [(word, [_line(claim, some) for claim, some in said[word].items()]) for word in _WORDS if said[word]]
        if not parts:
            continue
        missing = len({each.claim.said for each in own if each.missing})
        out[paper] = [*parts, *([("not run", [f"{missing} claims more"])] if missing else [])]
    return out


def counted(parts: Sequence[tuple[str, list[str]]]) -> str:
    """How many claims have each verdict, those that none has as well."""
    numbers = {word: len(lines) for word, lines in parts}
    return ", ".join(f"{word} {numbers.get(word, 0)}" for word in _WORDS)


def _word(each: Found) -> str:
    """The verdict; "lead" and "lead against" for what only corrections keep open."""
    assert each.outcome is not None
    enough = len(each.by_base) >= each.claim.least
    if each.outcome.word != "open" or not enough or each.claim.kept:
        return each.outcome.word
    return "lead" if each.like.low > 0 else "lead against" if each.like.high < 0 else "open"


def _line(said: str, some: Sequence[Found]) -> str:
    """A claim, and its figures on each set of clips where it has this verdict."""
    figures = []
    for each in some:
        known = each.like if len(each.by_base) > 1 else each.these
        which = "" if len(each.by_base) > 1 else " for this base"
        up = sum(mean > 0 for mean in each.by_base.values())
        bases = f"up on {up} of {len(each.by_base)} bases"
        told = f"{known.mean:+.3f} [{known.low:+.3f}, {known.high:+.3f}]{which}"
        score = "" if each.claim.score == "right_roles" else f", {each.claim.score.replace('_', ' ')}"
        why = f" ({each.outcome.why})" if each.outcome and each.outcome.word == "cannot be asked" else ""
        figures.append(f"{each.claim.part}{score} {told} from {each.level:.3f}, {bases}{why}")
    return f"{said}: {'; '.join(figures)}"
