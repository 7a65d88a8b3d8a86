"""Folders of clips: a prompt, its entities, masks, and a first frame or a video.

Two layouts. One folder a clip:

    FOLDER/NAME/prompt.txt                             the prompt
    FOLDER/NAME/entities.txt                           phrases, in the text form of `core.phrases`
    FOLDER/NAME/image.png (.jpg, .webp) or video.mp4   the first frame, or the clip
    FOLDER/NAME/masks/ENTITY.png                       mask of the first frame, or of every frame:
    FOLDER/NAME/masks/ENTITY/000.png ...               (or a file tracks.safetensors instead of the folder;
                                                       `mask_places` has all)
    FOLDER/NAME/masks_are.txt                          white or black: where the thing is, for masks that look inverted

or a metadata file with a row a clip, as MATRIX-11K has it; see `metadata`.

Hidden files are nobody's. Links may lead out of the folder where a person names the places (`roots`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.words.phrases import parse_phrases
from ..files import expanded
from .choice import choose_clip, choose_tracks, listed, seen, within
from .mask_places import Masks, masks_of_names, masks_of_tracks
from .mask_values import MasksAre
from .metadata import clip_of
from .rows import Row, other_rows, other_tables, read_rows
from .source import ClipSource, answer, located
from .text import read_text

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


def read_clips(folder: Path, roots: str = "", masks_are: MasksAre = "ask") -> ClipFolder:
    """Finds the clips of a folder in either layout and checks that every one is whole.

    Raises ValueError for a folder that is missing or holds no clip, and one that lists all bad clips and why.
    """
    found = scan_clips(folder, roots, masks_are)
    if found.problems:
        raise bad_clips(found.problems, len(found.problems) + len(found.clips))
    return found


def scan_clips(folder: Path, roots: str = "", masks_are: MasksAre = "ask") -> ClipFolder:
    """Finds the clips of a folder in either layout; bad ones are in `problems` by name, with all that is known about
    them.

    Args:
        folder: may begin with `~` and hold `$VARIABLES`.
        roots: other folders, divided by commas, that links and paths may lead to.
        masks_are: where the thing is in masks, for clips that do not say it themselves; see `mask_values`.

    Checked here: prompt and phrases agree, every instance has a mask, the picture is there, every name is there once.
    No picture and no video is decoded. Raises ValueError for a folder that is missing or holds no clip.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    answer(masks_are, "ask")
    places = (folder, *(expanded(root.strip()) for root in roots.split(",") if root.strip()))
    rows = read_rows(folder)
    makers = _places(folder, places, masks_are) if rows is None else _rows(folder, rows, places, masks_are)
    if not makers:
        raise ValueError(
            f"no clips in {str(folder)!r}: expected a folder for each clip with prompt.txt, entities.txt, masks and "
            "image or video, or a metadata file (jsonl, json, csv, tsv) with videos/ and mask_annotation/"
            f"{other_tables(folder)}{_one_folder(folder)}"
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
    if rows is not None and (other := other_rows(folder, rows)):
        notes.append(other)
    return ClipFolder(tuple(clips), tuple(dict.fromkeys(notes)), problems)


Makers = dict[str, Callable[[], ClipSource]]


def _places(folder: Path, roots: Sequence[Path], masks_are: MasksAre) -> Makers:
    found = (p for p in seen(folder) if p.is_dir() and (p / "prompt.txt").is_file())
    return {place.name: lambda place=place: _from_place(place, roots, masks_are) for place in found}  # type: ignore[misc]


def _one_folder(folder: Path) -> str:
    """What one folder in `folder` holds, as a part of a sentence; "" where there is none."""
    for place in sorted(path for path in seen(folder) if path.is_dir()):
        names = sorted(path.name for path in seen(place))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        return f"; {place.name!r} has no prompt.txt; it holds {', '.join(map(repr, names[:6])) or 'nothing'}{more}"
    return ""


def _rows(folder: Path, rows: Sequence[Row], roots: Sequence[Path], masks_are: MasksAre) -> Makers:
    """One maker a row. Rows of one name are all bad: they would share their masks and their place in a cache."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)

    def make(same: Sequence[Row]) -> ClipSource:
        if len(same) > 1:
            lines = ", ".join(str(row.number) for row in same)
            alike = all(row.values == same[0].values for row in same)
            what = "they say the same, so remove all but one" if alike else "give each clip a video of its own name"
            raise ValueError(f"{len(same)} rows have this name (rows {lines}, from 1 behind any header): {what}")
        return clip_of(folder, same[0], roots, masks_are)

    return {name: lambda same=same: make(same) for name, same in by_name.items()}  # type: ignore[misc]


def _from_place(place: Path, roots: Sequence[Path], masks_are: MasksAre) -> ClipSource:
    prompt = read_text(place / "prompt.txt")
    if not (place / "entities.txt").is_file():
        raise ValueError(
            "entities.txt is missing: beside prompt.txt it says which words of the prompt name which folder of masks, "
            "one a line, as `man: the man`; a verb is `pushes = verb(man -> cart)`"
        )
    phrases = parse_phrases(read_text(place / "entities.txt"))
    said = place / "masks_are.txt"
    masks_are = answer(read_text(said), masks_are) if said.is_file() else masks_are
    picture, note = choose_clip(place)
    within(picture, roots)
    target = "target" if any(spec.name == "target" for spec in phrases) else ""
    clip = ClipSource(place.name, prompt, phrases, picture, tagged=prompt, target=target, masks_are=masks_are)
    tracks = choose_tracks(place)
    if tracks is None:
        found = masks_of_names(place, clip.instances, roots)
    else:
        aside = Masks({}, notes=(tracks.note,) if tracks.note else ())
        found = masks_of_tracks(within(tracks.path, roots), {name: (name,) for name in clip.instances}, aside)
    if clip.instances and found.others:
        raise ValueError(
            f"there is a mask of {listed(found.others)}, but entities.txt names {listed(clip.instances)}: add a line "
            "NAME: its words in the prompt, rename the mask, or remove it"
        )
    notes = (*((f"{place.name}: {note}",) if note else ()), *(f"{place.name}: {text}" for text in found.notes))
    return replace(clip, masks=found.paths, tracks_file=found.tracks, keys=found.keys, notes=notes)


def _agree(clip: ClipSource) -> None:
    """ValueError unless the phrases are in the prompt and every instance has a mask."""
    if not clip.prompt.strip():
        raise ValueError("the prompt is empty")
    located(clip.prompt, clip.phrases)
    named = tuple(clip.masks)
    if not clip.instances:
        raise ValueError(
            f"its entities name no instance, but there are masks of {listed(named) or 'nothing'}: write NAME: words"
        )
    if missing := [name for name in clip.instances if name not in named]:
        tags = ", ".join(f"<id{clip.slots[name]}>" for name in missing if name in clip.slots)
        where = f" (no pictures in {tags})" if tags else ""
        raise ValueError(f"no mask of {listed(missing)}{where}; there are masks of {listed(named) or 'nothing'}")
