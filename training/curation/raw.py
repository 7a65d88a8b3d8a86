"""The folder of raw clips: videos and what is said about them, with everything that cannot be used by name and reason.

RAW/NAME.mp4 ...                                    videos of any size, also in folders
RAW/captions.jsonl {"video", "caption"}, or captions.csv, .tsv, .json; "source" and "licence" where they are known
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix_lib.io.clips.choice import VIDEOS, found_at, within
from matrix_lib.io.clips.text import read_table, read_text
from matrix_lib.io.strict_json import parse_json

from .stage import Item

__all__ = ["Raw", "file_name", "read_raw"]

_TABLES = ("captions.jsonl", "captions.json", "captions.csv", "captions.tsv")
_VIDEO, _CAPTION = ("video", "file_name", "file", "path"), ("caption", "prompt", "text")
_REFUSED = set('<>:"/\\|?*')  # in names of files, by Windows
_LONGEST_NAME, _LONGEST_CAPTION = 120, 2000
_FOREIGN = 0.5  # of the letters of a caption


@dataclass(frozen=True)
class Raw:
    """Clips that can be worked on, in the order of their names; bad ones and why; what a person should know."""

    items: tuple[Item, ...]
    bad: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_raw(folder: Path, roots: tuple[Path, ...] = (), any_script: bool = False) -> Raw:
    """Reads captions and finds their videos; no video is opened.

    Args:
        roots: other folders that links may lead to.
        any_script: captions in other than Latin letters are taken, too.

    Raises ValueError where there is no folder, no table of captions, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise ValueError(
            f"{folder} has no captions.jsonl (or .json, .csv, .tsv): one row a clip, with `video` and `caption`"
        )
    items: dict[str, Item] = {}
    bad: dict[str, str] = {}
    files: dict[Path, str] = {}
    notes: list[str] = []
    for number, row in _rows(table):
        said = row if isinstance(row, str) else str(row.get("video") or "")
        label = said.strip() or f"row {number} of {table.name}"
        label = label.encode("unicode_escape").decode() if not label.isprintable() else label
        if isinstance(row, str) or label in bad:
            bad[f"row {number} of {table.name}"] = row if isinstance(row, str) else f"{label} comes twice"
            continue
        try:
            item = _item(folder, row, roots, any_script)
            path = (folder / item["raw"]["video"]).resolve()
            if path in files:
                raise ValueError(f"{table.name} has another row about its video ({files[path]}): keep one")
            if item["name"] in items:
                raise ValueError(f"another clip is called {item['name']!r}, too, once it may stand in a name of a file")
        except (ValueError, OSError) as error:
            bad[label] = str(error)
            continue
        files[path], items[item["name"]] = label, item
        if item["name"] != Path(said).stem:
            notes.append(f"{label} is called {item['name']}: other systems refuse that name")
    if not items and not bad:
        raise ValueError(f"{table} has no rows")
    if silent := _silent(folder, files):
        notes.append(f"{len(silent)} videos have no caption and are left aside: {', '.join(silent[:5])}")
    return Raw(tuple(items[name] for name in sorted(items)), bad, tuple(notes))


def file_name(text: str) -> str:
    """`text` as the name of a file on every system: refused characters and blanks become one `_`."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join("_" if c in _REFUSED or not c.isprintable() or c.isspace() else c for c in text)
    while "__" in kept:
        kept = kept.replace("__", "_")
    return kept.strip("._-@ ")[:_LONGEST_NAME] or "clip"


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number, the row by our names of columns, or what is wrong with it)."""
    text = read_text(table)
    if table.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        for number, line in lines:
            try:
                yield number, _named(parse_json(line))
            except ValueError as error:
                yield number, f"it is no row: {error}"
        return
    if table.suffix == ".json":
        found = parse_json(text)
        if not isinstance(found, list):
            raise ValueError(f"{table} is a list of objects, one a clip")
        for number, row in enumerate(found, 1):
            try:
                yield number, _named(row)
            except ValueError as error:
                yield number, f"it is no row: {error}"
        return
    try:
        columns, cells = read_table(
            text, lambda names: bool(set(names) & set(_VIDEO)) and bool(set(names) & set(_CAPTION))
        )
    except csv.Error as error:
        raise ValueError(f"{table} cannot be read: {error}") from None
    for number, row in enumerate(cells, 2):
        fits = len(row) <= len(columns)
        yield (
            number,
            _named(dict(zip(columns, row))) if fits else f"it has {len(row)} cells, and the header {len(columns)}",
        )


def _named(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError("one object a clip is wanted")
    named = dict(row)
    for ours, others in (("video", _VIDEO), ("caption", _CAPTION)):
        found = [name for name in others if row.get(name)]
        named[ours] = row[found[0]] if found else ""
    return named


def _item(folder: Path, row: dict[str, Any], roots: tuple[Path, ...], any_script: bool) -> Item:
    said, caption = row["video"], row["caption"]
    if not isinstance(said, str) or not said.strip():
        raise ValueError("its row names no video")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("its row has no caption")
    caption = " ".join(caption.split())
    if len(caption) > _LONGEST_CAPTION:
        raise ValueError(f"its caption has {len(caption)} characters, and {_LONGEST_CAPTION} are the most")
    if "\0" in said or any("\ud800" <= c <= "\udfff" for c in said + caption):
        raise ValueError("its video or caption holds characters that are none (a zero byte, half of a pair)")
    if (script := _script(caption)) and not any_script:
        raise ValueError(
            f"its caption is in another script ({script}), and the models read English: translate it, or say "
            "--any-script"
        )
    path = _video(folder, said, roots)
    facts: dict[str, Any] = {"video": path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)}
    stat = path.stat()
    facts |= {"size": stat.st_size, "changed": stat.st_mtime_ns}
    facts |= {"caption": caption, **{k: str(row[k]) for k in ("source", "licence") if row.get(k)}}
    if row.get("license"):
        facts.setdefault("licence", str(row["license"]))
    return {"name": file_name(Path(said).stem), "raw": facts}


def _video(folder: Path, said: str, roots: tuple[Path, ...]) -> Path:
    places = (folder.resolve(), *(root.resolve() for root in roots))
    path = found_at(folder / said)
    if path is None:
        raise ValueError(f"there is no video {said!r} in {folder}")
    within(path, places, f"its video {said!r}")
    if path.suffix.lower() not in VIDEOS:
        raise ValueError(f"its video {said!r} is none of {', '.join(VIDEOS)}")
    if not path.is_file():
        raise ValueError(f"its video {said!r} is no file")
    if not path.stat().st_size:
        raise ValueError("its video is empty: 0 bytes")
    return path


def _script(caption: str) -> str:
    """The script of most letters of a caption, "" for Latin."""
    letters = [unicodedata.name(c, "UNKNOWN").split(" ")[0] for c in caption if c.isalpha()]
    if not letters:
        return "no letters"
    foreign = [name for name in letters if name != "LATIN"]
    return max(set(foreign), key=foreign.count).title() if len(foreign) > _FOREIGN * len(letters) else ""


def _silent(folder: Path, known: Mapping[Path, str]) -> list[str]:
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and not p.name.startswith("."))
    return [p.relative_to(folder).as_posix() for p in videos if p.resolve() not in known]
