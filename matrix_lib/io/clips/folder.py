"""Folders of clips: a prompt, its entities, masks, and a first frame or a video.

Two layouts. One folder a clip:

    FOLDER/NAME/prompt.txt                             the prompt
    FOLDER/NAME/entities.txt                           phrases, in the text form of `core.phrases`
    FOLDER/NAME/image.png (.jpg, .webp) or video.mp4   the first frame, or the clip
    FOLDER/NAME/masks/ENTITY.png                       mask of the first frame, or of every frame:
    FOLDER/NAME/masks/ENTITY/000.png ...               (or a file tracks.safetensors instead of the folder)

or a metadata file with a row a clip, as MATRIX-11K has it; see `clip_metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.words.binding import locate
from ...core.words.phrases import parse_phrases
from ..tracks import load_tracks
from .metadata import Row, clip_of, read_rows, read_text
from .source import PICTURES, VIDEOS, ClipSource, listed, pictures_in

__all__ = ["ClipFolder", "ClipSource", "bad_clips", "read_clips", "scan_clips"]


@dataclass(frozen=True)
class ClipFolder:
    """Clips in the order of their names, sentences for people about what was left aside, and the bad ones: why."""

    clips: tuple[ClipSource, ...]
    notes: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def bad_clips(problems: Mapping[str, str], count: int, verb: str = "analysed") -> ValueError:
    """The error that lists every bad clip by name."""
    told = "\n".join(f"  {name}: {why}" for name, why in problems.items())
    return ValueError(f"{len(problems)} of {count} clips cannot be {verb}; mend or remove them:\n{told}")


def read_clips(folder: Path) -> ClipFolder:
    """Finds the clips of a folder in either layout and checks that every one is whole.

    Raises ValueError for a folder that is missing or holds no clip, and one that lists all bad clips and why.
    """
    found = scan_clips(folder)
    if found.problems:
        raise bad_clips(found.problems, len(found.problems) + len(found.clips))
    return found


def scan_clips(folder: Path) -> ClipFolder:
    """Finds the clips of a folder in either layout; bad ones are in `problems` by name, with all that is known about
    them.

    Checked here: prompt and phrases agree, every instance has a mask, the picture is there, every name is there once.
    No picture and no video is decoded. Raises ValueError for a folder that is missing or holds no clip.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    rows = read_rows(folder)
    makers = _places(folder) if rows is None else _rows(folder, rows)
    if not makers:
        raise ValueError(
            f"no clips in {str(folder)!r}: expected folders with prompt.txt, entities.txt, masks and image or video, "
            "or metadata.jsonl with videos/ and mask_annotation/"
        )
    clips: list[ClipSource] = []
    problems: dict[str, str] = {}
    for name in sorted(makers):
        try:
            clip = makers[name]()
            _agree(clip)
            clips.append(clip)
        except (ValueError, OSError) as error:
            problems[name] = str(error)
    notes = [note for clip in clips for note in clip.notes]
    if any(clip.bystanders for clip in clips):
        notes.append("masks that no phrase names (bystanders) are left aside")
    return ClipFolder(tuple(clips), tuple(dict.fromkeys(notes)), problems)


def _places(folder: Path) -> dict[str, Callable[[], ClipSource]]:
    found = (p for p in folder.iterdir() if p.is_dir() and (p / "prompt.txt").is_file())
    return {place.name: lambda place=place: _from_place(place) for place in found}  # type: ignore[misc]


def _rows(folder: Path, rows: Sequence[Row]) -> dict[str, Callable[[], ClipSource]]:
    """One maker a row. Rows of one name are all bad: they would share their masks and their place in a cache."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)

    def make(same: Sequence[Row]) -> ClipSource:
        if len(same) > 1:
            lines = ", ".join(str(row.number) for row in same)
            raise ValueError(f"{len(same)} rows have this name (rows {lines}): give each clip a video of its own name")
        return clip_of(folder, same[0])

    return {name: lambda same=same: make(same) for name, same in by_name.items()}  # type: ignore[misc]


def _from_place(place: Path) -> ClipSource:
    prompt = read_text(place / "prompt.txt")
    if not (place / "entities.txt").is_file():
        raise ValueError("entities.txt is missing: say which words name which instance, one a line")
    phrases = parse_phrases(read_text(place / "entities.txt"))
    files = sorted(place.iterdir())
    pictures = [p for p in files if p.suffix.lower() in VIDEOS] or [p for p in files if p.suffix.lower() in PICTURES]
    if not pictures:
        raise ValueError(f"there is neither an image ({', '.join(PICTURES)}) nor a video ({', '.join(VIDEOS)})")
    tracks = next(iter(sorted(place.glob("*.safetensors"))), None)
    masks: dict[str, tuple[Path, ...]] = {}
    if tracks is None:
        masks = _masks_in(place / "masks")
        named: Sequence[str] = tuple(masks)
    else:
        named = load_tracks(tracks).names
        masks = dict.fromkeys(named, ())
    target = "target" if any(spec.name == "target" for spec in phrases) else ""
    clip = ClipSource(place.name, prompt, phrases, pictures[0], masks, tracks, prompt, target=target)
    if clip.instances and (extra := [name for name in named if name not in clip.instances]):
        raise ValueError(
            f"there is a mask of {listed(extra)}, but entities.txt names {listed(clip.instances)}: add a line "
            "NAME: its words in the prompt, rename the mask, or remove it"
        )
    return clip


def _masks_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    if not folder.is_dir():
        return {}
    found: dict[str, tuple[Path, ...]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            found[entry.name] = pictures_in(entry)
        elif entry.suffix.lower() in PICTURES:
            found[entry.stem] = (entry,)
    return {name: paths for name, paths in found.items() if paths}


def _agree(clip: ClipSource) -> None:
    """ValueError unless the phrases are in the prompt and every instance has a mask."""
    if not clip.prompt.strip():
        raise ValueError("the prompt is empty")
    locate(clip.prompt, clip.phrases)
    named = tuple(clip.masks)
    if not clip.instances:
        raise ValueError(
            f"its entities name no instance, but there are masks of {listed(named) or 'nothing'}: write NAME: words"
        )
    if missing := [name for name in clip.instances if name not in named]:
        tags = ", ".join(f"<id{clip.slots[name]}>" for name in missing if name in clip.slots)
        where = f" (no pictures in {tags})" if tags else ""
        raise ValueError(f"no mask of {listed(missing)}{where}; there are masks of {listed(named) or 'nothing'}")
