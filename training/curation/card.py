"""What a curation tells of its set: the funnel, the card, and the chart of both."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.draw.funnel import Step, funnel
from matrix_lib.io.clips.writing import METADATA
from matrix_lib.io.files import whole_file

from .review import agreement
from .run import FILES

if TYPE_CHECKING:
    from .run import Curation

__all__ = ["Funnel", "tell", "write_card"]

_TITLES = {
    "raw": "captions and files",
    "clips": "decoded, shots, not still, not doubled",
    "triplets": "a strong interaction in the caption",
    "candidates": "boxes found",
    "anchors": "everybody found",
    "tracks": "everybody followed",
    "checks": "seen when they should be",
    "verify": "a second look by a model",
    "review": "looked at",
    "write": "in the set",
}
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Funnel:
    """How many clips each stage kept, and why not the others."""

    def __init__(self, curation: Curation) -> None:
        stages = ["raw", *(stage for stage in FILES if stage != "verify" or curation.stages.verify is not None)]
        self.left: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
        self.status: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
        self.total = self.kept = 0
        for end in curation.ends():
            self.total += 1
            if end.status == "kept":
                self.kept += 1
                continue
            self.left[end.stage][_kind_of(end.reason) or end.status] += 1
            self.status[end.stage][end.status] += 1

    def steps(self) -> list[Step]:
        """For the chart: what is left after each stage, and what it left out."""
        found, now = [Step("raw clips", self.total, ())], self.total
        for stage, why in self.left.items():
            now -= sum(why.values())
            found.append(Step(f"{stage}: {_TITLES[stage]}", now, tuple(why.most_common())))
        return found

    def lines(self) -> list[str]:
        """As rows of a table in Markdown."""
        rows, now = [], self.total
        for stage, why in self.left.items():
            now -= sum(why.values())
            counts = self.status[stage]
            told = "; ".join(f"{count} {text}" for text, count in why.most_common(8))
            status = ", ".join(
                f"{counts[word]} {word}" for word in ("bad", "dropped", "open", "waiting") if counts[word]
            )
            rows.append(f"| {stage} | {_TITLES[stage]} | {now} | {status} | {_cell(told)} |")
        return rows


def _kind_of(reason: str) -> str:
    """A reason without its numbers and names, so that those of one kind are counted together."""
    return _NUMBER.sub("N", re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason.split(":")[0] if len(reason) > 60 else reason))[
        :80
    ]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def tell(curation: Curation) -> str:
    """The funnel in a few lines, with the clips that nobody could work on."""
    found = Funnel(curation)
    lines = [f"{found.kept} of {found.total} clips are in the set" if found.kept else f"{found.total} clips"]
    for stage, why in found.left.items():
        if why:
            lines.append(f"  {stage}: " + "; ".join(f"{count} {text}" for text, count in why.most_common(5)))
    for name, (stage, reason) in list(curation.failed.items())[:10]:
        lines.append(f"  not now ({stage}): {name}: {reason[:200]}")
    if (more := curation.failures - min(10, len(curation.failed))) > 0:
        lines.append(f"  and {more} more that could not be worked on now")
    waiting = [
        stage
        for stage in ("triplets", "anchors", "verify")
        if (curation.place.work / f"requests-{stage}.jsonl").is_file()
    ]
    for stage in waiting:
        lines.append(f"  questions are in requests-{stage}.jsonl; put answers into answers-{stage}.jsonl and run again")
    return "\n".join(lines)


def write_card(curation: Curation, out: Path) -> None:
    """Writes card.md and funnel.svg beside the set. Nothing in them depends on when or where it was made."""
    found = Funnel(curation)
    if not (out / METADATA).is_file():
        return
    with whole_file(out / "funnel.svg") as temporary:
        temporary.write_text(funnel(found.steps(), "From raw clips to the set"), encoding="utf-8")
    rows = [json.loads(line) for line in (out / METADATA).read_text(encoding="utf-8").splitlines()]
    text = "\n".join(
        [*_head(rows), *_distributions(rows), *_funnel(found), *_settings(curation), *_review(curation, rows)]
    )
    with whole_file(out / "card.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _head(rows: list[dict[str, Any]]) -> list[str]:
    frames = sum(int(row.get("frames") or 0) for row in rows)
    colours = ", ".join(f"`<id{n}>` {'#%02x%02x%02x' % colour}" for n, colour in enumerate(FIXED, 1))  # noqa: UP031
    return [
        "# Dataset card",
        "",
        f"{len(rows)} clips, {frames} frames, in MATRIX-11K's layout: `metadata.jsonl`, `videos/`, `mask_annotation/`.",
        "",
        "Masks are 0 and 255, one picture a frame. `merged/000.png` is the ID map of the first frame on black; its",
        f"colours are {colours}. The authors of MATRIX publish no colours: a LoRA that is trained on these says so.",
        "",
        "![What each stage kept](funnel.svg)",
        "",
    ]


def _distributions(rows: list[dict[str, Any]]) -> list[str]:
    ids = [each["class"] for row in rows for each in (row.get("ids") or {}).values()]
    tables: dict[str, Iterable[Any]] = {
        "Verbs": [each["verb"] for row in rows for each in row.get("interactions") or []],
        "Classes": ids,
        "Instances a clip": [len(row.get("ids") or {}) for row in rows],
        "Contactness": [row["contactness"] for row in rows if row.get("contactness")],
        "Dynamism": [row["dynamism"] for row in rows if row.get("dynamism")],
        "Licences": [row.get("licence") or "not known" for row in rows],
        "Sources": [row.get("source") or "not known" for row in rows],
    }
    lines = ["## What is in it", "", "| | |", "|---|---|"]
    for title, values in tables.items():
        counts = Counter(map(str, values))
        shown = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:20]
        more = f", and {len(counts) - 20} more" if len(counts) > 20 else ""
        lines.append(f"| {title} | {_cell(', '.join(f'{name} {count}' for name, count in shown))}{more} |")
    alike = sum(bool(row.get("ambiguous")) for row in rows)
    return [
        *lines,
        "",
        f"{alike} clips have instances that words cannot tell apart, which is what ID maps are for.",
        "",
    ]


def _funnel(found: Funnel) -> list[str]:
    head = ["## What was left out", "", "| stage | keeps clips with | left | others | why |", "|---|---|---|---|---|"]
    return [*head, f"| raw | | {found.total} | | |", *found.lines()[1:], ""] if not found.left["raw"] else [
        *head, *found.lines(), ""]  # fmt: skip


def _settings(curation: Curation) -> list[str]:
    lines = ["## How it was made", "", "| stage | setting | value |", "|---|---|---|"]
    for each in fields(curation.stages):
        if (stage := getattr(curation.stages, each.name)) is None:
            continue
        for name, value in _plain(stage).items():
            lines.append(f"| {each.name} | {name} | {_cell(str(value))} |")
    return [*lines, ""]


def _plain(settings: Any) -> Mapping[str, Any]:
    """Settings of a stage for people: no paths, which are of one machine."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in ("name", "version", "needs", "out"):
            continue
        if is_dataclass(value) and not hasattr(value, "identity"):
            inner = ", ".join(f"{f.name} {getattr(value, f.name)}" for f in fields(value))
            value = f"{type(value).__name__}{f' ({inner})' if inner else ''}"
        elif hasattr(value, "identity"):
            value = value.identity
        found[each.name] = "none" if value is None else value
    return found


def _review(curation: Curation, rows: list[dict[str, Any]]) -> list[str]:
    looked = sum(bool((row.get("review") or {}).get("reviewed")) for row in rows)
    flagged = Counter(kind for row in rows for kind in row.get("faults") or [])
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(flagged.items())) or "none"
    verdicts = []
    for name in curation.results["review"].given_names:
        verdicts.append(
            {str(line.get("by")): str(line.get("verdict")) for line in curation.results["review"].given(name)}
        )
    lines = [
        "## Who looked",
        "",
        f"{looked} of {len(rows)} clips were looked at by a person; {len(rows) - looked} were not.",
    ]
    lines.append(f"Faults that stay in the set, by kind: {told}.")
    if (found := agreement(verdicts)) is not None:
        lines.append(f"Two reviewers agree with Cohen's kappa {found[0]:.2f} on {found[1]} clips.")
    return [*lines, ""]
