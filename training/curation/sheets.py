"""Contact sheets of a curation: clips with their masks in colour, and what looks wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.draw.clip_sheets import ClipRow, Still, clip_sheets
from matrix_lib.evaluation.trajectories.faults import KINDS
from matrix_lib.io.files import whole_file

from .frames import picked
from .stages.tracks import load_of
from .views import all_faults

if TYPE_CHECKING:
    from .run import Curation

__all__ = ["fault_text", "save_review_sheets"]

_STILLS, _EACH = 4, 20
_SAID: dict[str, str] = {str(kind): said for kind, said in KINDS.items()} | {
    "doubt": "a model says that it is something else",
    "unread": "what a model said of it cannot be read",
}


def save_review_sheets(curation: Curation, which: str, most: int = 2000) -> list[Path]:
    """Draws sheets into WORK/sheets as WebP, clips with most faults first, and returns their paths.

    which: "open" for clips that a person should look at, "all" for every clip with tracks. most: clips.
    """
    folder = curation.place.work / "sheets"
    found = []
    for name in curation.names:
        item, ended = curation.load(name)
        if "checks" in item and (which == "all" or (ended.stage == "review" and ended.status == "open")):
            found.append((-len(all_faults(item)), name))
    names = [name for _, name in sorted(found)[:most]]
    paths = []
    for start in range(0, len(names), _EACH):
        rows = list(_rows(curation, names[start : start + _EACH]))
        title = f"{curation.place.work.name}: clips {start + 1} to {start + len(rows)} of {len(names)}"
        (sheet,) = clip_sheets(rows, title, "faults first; frames with their masks", _EACH)
        path = folder / f"{start // _EACH + 1:03d}.webp"
        with whole_file(path) as temporary:
            sheet.save(temporary, format="WEBP", quality=85)
        paths.append(path)
    return paths


def _rows(curation: Curation, names: list[str]) -> Iterator[ClipRow]:
    for name in names:
        item, _ = curation.load(name)
        facts = item["clips"]
        try:
            tracks = load_of(item, curation.place)
            numbers = sorted({round(n * (facts["frames"] - 1) / (_STILLS - 1)) for n in range(_STILLS)})
            stills = [
                Still(at, frame, {track: tracks.mask(track, at).numpy() for track in tracks.names})
                for at, frame in picked(item, curation.place, numbers)
            ]
        except (ValueError, OSError) as error:
            yield ClipRow(name, "", wrong=str(error))
            continue
        colours = {f"id{each['id']}": FIXED[each["id"] - 1] for each in item["triplets"]["instances"]}
        about = f"{facts['frames']} frames of {facts['width']}x{facts['height']} at {facts['fps']:.4g} fps"
        wrong = "; ".join(fault_text(fault) for fault in all_faults(item))
        yield ClipRow(name, about, stills, colours, item["triplets"]["prompt"], wrong)


def fault_text(fault: dict[str, Any]) -> str:
    """A fault for people: "id1, id2: two have changed places (frames 12 to 40)"."""
    frames = fault["frames"]
    told = f"frame {frames[0]}" if len(frames) == 1 else f"{len(frames)} frames, {frames[0]} to {frames[-1]}"
    return f"{', '.join(f'id{n}' for n in fault['ids'])}: {_SAID[fault['kind']]} ({told})"
