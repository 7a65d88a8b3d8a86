"""Stage 7: what a person said of a clip. 7_review.jsonl is written by a person, by a page, or by another program:

    {"name", "verdict": "accept" | "fix" | "drop", "by", "when", "reason", "fixes": {"2": {"frame", "box" | "points"}}}

Lines are read in their order; each reviewer's last one counts. A fix is followed from there, and wants a look again;
for several frames it is a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from .stage import Result

__all__ = ["Unreviewed", "agreement", "check_review", "decided", "fixes_of", "keys_of", "verdicts"]

Unreviewed = Literal["none", "clean", "all"]
_VERDICTS = ("accept", "fix", "drop")


def check_review(line: Mapping[str, Any]) -> None:
    """Raises ValueError for a line that is no verdict, or whose fixes say no place."""
    if line.get("verdict") not in _VERDICTS:
        raise ValueError(f"a verdict is {', '.join(_VERDICTS)}; got {str(line.get('verdict'))[:40]!r}")
    fixes = line.get("fixes") or {}
    if line["verdict"] == "fix" and not fixes:
        raise ValueError('a fix says what: "fixes": {"2": {"frame": 12, "box": [x0, y0, x1, y1]}}')
    try:
        for number, fix in fixes.items():
            if int(number) < 1 or not keys_of(fix):
                raise ValueError("no place")
            for key in keys_of(fix):
                _check_key(key)
    except (AttributeError, KeyError, TypeError, ValueError):
        form = '{"2": {"frame": 12, "box": [x0, y0, x1, y1]}} or {"2": {"frame": 12, "points": [[x, y, 1]]}}'
        raise ValueError(f"fixes are {form}; got {str(fixes)[:120]}") from None


def _check_key(key: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError for what says no place in a frame."""
    box, points = key.get("box"), key.get("points")
    x0, y0, x1, y1 = map(float, box) if box else (0.0, 0.0, 1.0, 1.0)
    there = bool(box) or any(bool(inside) for _, _, inside in points or [])
    if int(key["frame"]) < 0 or not (x1 > x0 and y1 > y0 and there):
        raise ValueError("no place")
    for x, y, _ in points or []:
        float(x), float(y)


def keys_of(fix: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a fix of one instance says, frame by frame: {"frame", "box" or "points"}, or a list of these."""
    return [fix] if isinstance(fix, Mapping) else list(fix)


def fixes_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All fixes of a clip by id; of two for one id the later."""
    found: dict[str, Any] = {}
    for line in lines:
        if line["verdict"] == "fix":
            for number, fix in line["fixes"].items():
                plain = [
                    {name: key[name] for name in ("frame", "box", "points") if key.get(name) is not None}
                    for key in keys_of(fix)
                ]
                found[str(int(number))] = plain[0] if len(plain) == 1 else plain
    return dict(sorted(found.items()))


def verdicts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """{reviewer: the line that counts}: each one's last. A fix takes away what was accepted before it: the tracks that
    were looked at are no more."""
    last: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        if line["verdict"] == "fix":
            last = {who: said for who, said in last.items() if said["verdict"] == "drop"}
        else:
            last[str(line.get("by") or "somebody")] = line
    return last


def decided(lines: Sequence[Mapping[str, Any]], faults: Sequence[Any], unreviewed: Unreviewed) -> Result:
    """What becomes of a clip: kept, dropped by a person, or open until somebody looks.

    unreviewed: which clips go out without a look: none, those without faults, all. Where reviewers disagree a clip is
    open.
    """
    found = verdicts(lines)
    last = {who: str(line["verdict"]) for who, line in found.items()}
    whys = {who: str(line.get("reason") or "") for who, line in found.items()}
    said = set(last.values())
    if len(said) > 1:
        told = ", ".join(f"{who}: {verdict}" for who, verdict in sorted(last.items()))
        return {"status": "open", "reason": f"its reviewers disagree ({told})", "reviewed": True}
    if said == {"drop"}:
        why = next(iter(filter(None, whys.values())), "")
        return {"status": "dropped", "reason": f"dropped by a person{f': {why}' if why else ''}", "reviewed": True}
    if said == {"accept"}:
        return {"status": "kept", "reason": "", "reviewed": True, "by": sorted(last)}
    if unreviewed == "all" or (unreviewed == "clean" and not faults):
        return {"status": "kept", "reason": "", "reviewed": False}
    after = "after the fix " if any(line["verdict"] == "fix" for line in lines) else ""
    return {"status": "open", "reason": f"nobody has looked at it {after}yet", "reviewed": False}


def agreement(verdicts: Iterable[Mapping[str, str]]) -> tuple[float, int] | None:
    """(Cohen's kappa, clips) of the two reviewers who share most clips; None where no clip has two.

    verdicts: per clip {reviewer: verdict}."""
    shared: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for said in verdicts:
        names = sorted(said)
        for n, one in enumerate(names):
            for other in names[n + 1 :]:
                shared.setdefault((one, other), []).append((said[one], said[other]))
    if not shared:
        return None
    pairs = max(shared.values(), key=len)
    same = sum(one == other for one, other in pairs) / len(pairs)
    left, right = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    chance = sum(left[word] * right[word] for word in left) / len(pairs) ** 2
    return (1.0 if chance == 1 else (same - chance) / (1 - chance)), len(pairs)
