"""The report of a judgement as one HTML page: tables, and each video with its boxes, questions and answers.

It opens anywhere and asks the network for nothing. Films are inside up to a number of bytes; those behind it lie in a
folder beside the page, and the page names them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...io.video import check_video
from ...pages.single_file import write_single
from ..statistics import Estimate
from .films import write_film
from .questions import Sheet
from .report import HEADS
from .run import OUT, Video, tracks_of
from .scores import VideoScores
from .suite import COLOURS, Sample
from .tables import Table

__all__ = ["Shown", "write_page"]

_JUDGE = "judge"  # who has no name


@dataclass(frozen=True)
class Shown:
    """A video of the report.

    Args:
        model: its name. scores: by those who count. said: by judge, of everybody who answered. video: None where there
            is none. sheet: its questions, None where there are none.
    """

    model: str
    sample: Sample
    scores: VideoScores
    said: Mapping[str, VideoScores]
    video: Video | None
    sheet: Sheet | None


def write_page(
    path: Path,
    title: str,
    about: Mapping[str, str],
    tables: Sequence[Table],
    missing: Mapping[str, Sequence[str]],
    videos: Sequence[Shown],
    most: int = 48 << 20,
) -> list[str]:
    """Writes the page, and returns what it could not show, by name.

    Args:
        about: lines on how videos were judged. missing: what is in no mean, by heading.
        most: bytes of films inside the page; more lie in `NAME_films` beside it.
    """
    beside = path.with_name(f"{path.stem}_films")
    shutil.rmtree(beside, ignore_errors=True)
    inside: dict[str, Path] = {}
    lines, problems, left = [], [], most
    for place, one in enumerate(videos):
        film, facts, why = _film(one)
        found = {"id": "", "href": "", "why": why}
        if film is None:
            problems.append(f"{one.model}/{one.scores.id}: {why}")
        elif (size := math.ceil(film.stat().st_size / 3) * 4) <= left:
            left -= size
            found["id"] = f"film-{place}"
            inside[found["id"]] = film
        else:
            beside.mkdir(parents=True, exist_ok=True)
            name = f"{place:05d}{film.suffix}"
            shutil.copyfile(film, beside / name)
            found["href"] = f"{quote(beside.name)}/{name}"
        lines.append(_video(one, found, facts))
    data = {
        "title": title,
        "about": [list(each) for each in about.items()],
        "tables": [_table(each) for each in tables],
        "missing": [{"title": head, "lines": list(some)} for head, some in missing.items() if some],
        "measures": HEADS,
        "videos": lines,
    }
    write_single(path, title, "report", data, inside)
    return problems


def _film(one: Shown) -> tuple[Path | None, tuple[float, int], str]:
    """(a film with boxes, (frames a second, frames), why there is none)."""
    if one.video is None:
        return None, (0, 0), "there is no video"
    try:
        film = write_film(
            one.video.path, tracks_of(one.video), one.sample, one.video.folder / OUT / "films", one.video.name
        )
        facts = check_video(film)
        return film, (facts.fps, facts.frames), ""
    except (ValueError, OSError) as error:
        return None, (0, 0), str(error)


def _video(one: Shown, film: Mapping[str, str], facts: tuple[float, int]) -> dict[str, Any]:
    scores, sample = one.scores, one.sample
    said = {name or _JUDGE: each for name, each in one.said.items()}
    presence = next((each.presence for each in said.values() if each.presence is not None), None)
    gone: dict[str, list[int]] = {}
    for who, frame in presence.who if presence else ():
        gone.setdefault(who, []).append(frame)
    interactions = _interactions(one, said)
    return {
        "model": one.model,
        "name": f"{scores.id}/{scores.seed}" if scores.seed else scores.id,
        "type": sample.type,
        "prompt": sample.prompt,
        "values": {measure: _number(scores.values.get(measure, math.nan)) for measure in HEADS},
        "missing": list(scores.missing),
        "instances": [{"called": each.appearance or each.name, "colour": sample.colour(each.name)}
                      for each in sample.instances if sample.colour(each.name) in COLOURS],
        "film": film,
        "fps": facts[0],
        "frames": facts[1],
        "shown": list(presence.shown) if presence else [],
        "interactions": interactions,
        "gone": [{"who": who, "frames": frames} for who, frames in gone.items()],
        "fresh": _fresh(said),
        "apart": sum(_apart(each) for each in interactions),
    }  # fmt: skip


def _interactions(one: Shown, said: Mapping[str, VideoScores]) -> list[dict[str, Any]]:
    found = []
    for place, asked in enumerate(one.sheet.asked if one.sheet else ()):
        each = asked.interaction
        who = [one.sample.called(name) for name in (each.subject, each.recipient) if name]
        found.append(
            {
                "title": f"{each.phrase or each.name}: {', '.join(who)}",
                "questions": list(asked.told(one.sample)),
                "said": {judge: _answers(scores, place) for judge, scores in said.items()},
            }
        )
    return found


def _answers(scores: VideoScores, place: int) -> dict[str, Any] | None:
    answers = scores.answers[place] if place < len(scores.answers) else None
    if answers is None:
        return None
    return {
        str(q): {"yes": each.yes, "frame": each.frame, "implausible": each.implausible} for q, each in answers.items()
    }


def _fresh(said: Mapping[str, VideoScores]) -> list[dict[str, Any]]:
    """What each judge says is new; once, without a name, where no judge was asked."""
    there = {name: each.presence for name, each in said.items() if each.presence is not None}
    if any(presence.asked for presence in there.values()):
        return [
            {"judge": name, "frames": None if p.emergence is None else list(p.emergence)} for name, p in there.items()
        ]
    return [
        {"judge": "", "frames": None if p.emergence is None else list(p.emergence)} for p in list(there.values())[:1]
    ]


def _apart(interaction: Mapping[str, Any]) -> int:
    """Questions on which two judges say other things."""
    every = [each for each in interaction["said"].values() if each]
    return sum(len({each[str(q)]["yes"] for each in every if str(q) in each}) > 1 for q in range(1, 11))


def _table(table: Table) -> dict[str, Any]:
    rows = [
        [
            {name: _number(getattr(cell, name)) for name in ("mean", "low", "high")}
            if isinstance(cell, Estimate)
            else cell
            for cell in row
        ]
        for row in table.rows
    ]
    return {"title": table.title, "heads": list(table.heads), "rows": rows, "note": table.note}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 9)
