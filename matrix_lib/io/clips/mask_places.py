"""Where the masks of a clip's instances are, in each layout of folders.

Whatever the layout, the masks of one instance are pictures in a folder of their own, one picture, a video (.mp4, ...),
an array (.npy, .npz) or COCO's run lengths (.json). Files of everybody also do:

    a file of tracks (.safetensors), whose names are those of the phrases, or id1, id2, ...
    .npz or .json with an array or a list for each name
    palette pictures (as DAVIS has them) or an .npy of numbers: number K is <idK>, or what labels.txt says (man: 1)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..files import expanded
from ..tracks import load_tracks
from .choice import PICTURES, found_at, listed, seen, within
from .mask_files import ARRAYS, MASK_FILES, Key, has_part
from .order import in_order
from .text import read_text

__all__ = ["Masks", "masks_of_names", "masks_of_one", "masks_of_tags", "masks_of_tracks", "numbered_pictures"]

_TAG = re.compile(r"<?id(\d+)>?$", re.IGNORECASE)
_WHOLE = (*ARRAYS, ".json", ".safetensors")


@dataclass(frozen=True)
class Masks:
    """Files of each instance's masks, which part of them is whose, or a file of tracks; masks of others by name."""

    paths: Mapping[str, tuple[Path, ...]]
    keys: Mapping[str, Key] = field(default_factory=dict)
    tracks: Path | None = None
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def numbered_pictures(folder: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Pictures of a folder in the order of their frames; () where it has none. ValueError as of `in_order`."""
    if not folder.is_dir():
        return ()
    return tuple(within(p, roots) for p in in_order([p for p in seen(folder) if p.suffix.lower() in PICTURES]).paths)


def _files_of(entry: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Files of one instance's masks: those of a folder, or the file itself."""
    if not entry.is_dir():
        return (within(entry, roots),) if entry.suffix.lower() in MASK_FILES else ()
    within(entry, roots)
    if found := numbered_pictures(entry, roots):
        return found
    rest = [p for p in seen(entry) if p.suffix.lower() in MASK_FILES]
    if len(rest) > 1:
        raise ValueError(f"in {entry.name!r} are several files of masks ({', '.join(p.name for p in rest)}): keep one")
    return tuple(within(p, roots) for p in rest)


def _by_name(entries: Sequence[Path], roots: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for entry in entries:
        name = entry.name if entry.is_dir() else entry.stem
        files = _files_of(entry, roots)
        if files and name in found:
            raise ValueError(
                f"there are two of {name!r} among its masks ({found[name][0].name}, {entry.name}): keep one"
            )
        if files:
            found[name] = files
    return found


def masks_of_tags(root: Path, slots: Mapping[str, int], roots: Sequence[Path]) -> Masks:
    """In the layout of MATRIX-11K: `root` is mask_annotation/NAME; instance `name` is <idK> with K of `slots`."""
    entries = seen(root) if root.is_dir() else []
    by_tag: dict[int, tuple[Path, ...]] = {}
    tags: dict[int, str] = {}
    for entry in entries:
        match = _TAG.match(entry.name if entry.is_dir() else entry.stem)
        files = _files_of(entry, roots) if match and int(match[1]) in slots.values() else ()
        files = files or ((entry,) if match and _has_files(entry) else ())
        if match and files and int(match[1]) in by_tag:
            raise ValueError(f"there are masks of <id{match[1]}> twice ({tags[int(match[1])]}, {entry.name}): keep one")
        if match and files:
            by_tag[int(match[1])], tags[int(match[1])] = files, entry.name
    if by_tag:
        others = tuple(f"<id{k}>" for k in sorted(by_tag) if k not in slots.values())
        return Masks({name: by_tag[k] for name, k in slots.items() if k in by_tag}, others=others)
    aliases = {name: (name, f"id{k}", f"<id{k}>", str(k)) for name, k in slots.items()}
    if (whole := _whole_file(root, entries, roots)) is not None:
        return _of_everybody(whole, aliases, slots)
    if pictures := [p for p in entries if p.suffix.lower() in PICTURES]:
        ordered = tuple(within(p, roots) for p in in_order(pictures).paths)
        return Masks(dict.fromkeys(slots, ordered), dict(slots))
    return Masks({})


def _has_files(entry: Path) -> bool:
    return any(p.suffix.lower() in MASK_FILES for p in (seen(entry) if entry.is_dir() else [entry]))


def _whole_file(root: Path, entries: Sequence[Path], roots: Sequence[Path]) -> Path | None:
    """The one file with the masks of everybody: in the folder, or beside it under its name."""
    found = [p for p in entries if p.suffix.lower() in _WHOLE]
    found += [p for s in _WHOLE if (p := found_at(root.with_name(root.name + s))) is not None]
    if len(found) > 1:
        raise ValueError(f"there are several files of everybody's masks ({', '.join(p.name for p in found)}): keep one")
    return within(found[0], roots) if found else None


def _of_everybody(path: Path, aliases: Mapping[str, Sequence[str]], labels: Mapping[str, int]) -> Masks:
    if path.suffix.lower() == ".safetensors":
        return masks_of_tracks(path, aliases)
    paths = dict.fromkeys(aliases, (path,))
    parts = has_part(path) if path.suffix.lower() != ".npy" else ()
    keys = {name: next(part for part in parts if part in own) for name, own in aliases.items() if set(own) & set(parts)}
    if keys:
        known = {name for own in aliases.values() for name in own}
        others = tuple(part for part in parts if part not in known)
        return Masks(dict.fromkeys(keys, (path,)), dict(keys), others=others)
    if path.suffix.lower() in ARRAYS and len(parts) < 2 and labels:
        return Masks(paths, dict(labels))
    if len(aliases) == 1 and len(parts) < 2:
        return Masks(paths)
    said = f" ({', '.join(parts[:8])})" if parts else ""
    raise ValueError(f"{path.name} does not say which of its masks are whose{said}: name them {listed(aliases)}")


def masks_of_tracks(path: Path, aliases: Mapping[str, Sequence[str]], more: Masks | None = None) -> Masks:
    """Of a file of tracks: each instance has the track that is called by one of its `aliases`."""
    names = load_tracks(path).names
    keys = {name: next(n for n in names if n in own) for name, own in aliases.items() if set(own) & set(names)}
    others = tuple(name for name in names if name not in keys.values())
    return replace(more or Masks({}), paths=dict.fromkeys(keys, ()), keys=dict(keys), tracks=path, others=others)


def masks_of_names(place: Path, instances: Sequence[str], roots: Sequence[Path]) -> Masks:
    """In a folder of one clip: masks/NAME.png, masks/NAME/, or files of everybody (masks.npz, masks/000.png ...)."""
    folder = place / "masks"
    entries = seen(folder) if folder.is_dir() else []
    beside = [p for s in (*ARRAYS, ".json") if (p := found_at(place / f"masks{s}")) is not None]
    entries = [p for p in entries if p.is_dir() or p.suffix.lower() in MASK_FILES]
    if len(beside) + bool(entries) > 1:
        raise ValueError(f"there are several kinds of masks ({', '.join(p.name for p in (*beside, folder))}): keep one")
    if beside:
        return _of_everybody(within(beside[0], roots), {name: (name,) for name in instances}, _labels(place, instances))
    if _are_of_everybody(entries, instances):
        labels = _labels(folder, instances)
        if not labels:
            raise ValueError(
                f"masks/ holds {entries[0].name} and others, where one file or folder a name is wanted "
                f"({listed(instances)}). If they are palette pictures of everybody, say whose number is which in "
                f"masks/labels.txt, a line each: {instances[0]}: 1"
            )
        ordered = tuple(within(p, roots) for p in in_order(entries).paths)
        return Masks(dict.fromkeys(labels, ordered), dict(labels))
    found = _by_name(entries, roots)
    return Masks(found, others=tuple(name for name in found if name not in instances))


def _are_of_everybody(entries: Sequence[Path], instances: Sequence[str]) -> bool:
    if not entries or not instances or any(p.is_dir() or p.suffix.lower() not in PICTURES for p in entries):
        return False
    return all(re.search(r"\d", p.stem) and p.stem not in instances for p in entries)


def _labels(folder: Path, instances: Sequence[str]) -> dict[str, int]:
    """NAME: NUMBER lines of labels.txt; {} where there is none."""
    path = folder / "labels.txt"
    if not path.is_file():
        return {}
    found = {}
    for line in filter(None, map(str.strip, read_text(path).split("\n"))):
        name, _, number = (part.strip() for part in line.rpartition(":"))
        if name not in instances or not number.isdecimal() or not int(number):
            raise ValueError(f"labels.txt has lines NAME: NUMBER with names {listed(instances)}; got {line[:60]!r}")
        found[name] = int(number)
    if len(set(found.values())) < len(found):
        raise ValueError("labels.txt gives one number to two instances")
    return found


def masks_of_one(folder: Path, name: str, said: str, target: str, roots: Sequence[Path]) -> Masks:
    """Of a data set with one mask a clip: where the row says (`said`), else masks/NAME with any suffix, or a folder."""
    if said:
        place = expanded(said.replace("\\", "/"))
        places = [folder / place, folder / "masks" / place]
    else:
        places = [folder / "masks" / name]
    for path in places:
        if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
            within(path, roots, f"its mask {said!r}")
    entries = [found for path in places if (found := found_at(path)) is not None]
    if not said:
        suffixes = (*MASK_FILES, ".safetensors")
        entries += [p for s in suffixes if (p := found_at(places[0].with_name(name + s))) is not None]
    if not entries:
        if said:
            raise ValueError(f"its mask {said!r} is not in the folder")
        return Masks({})
    if len(entries) > 1 and not said:
        raise ValueError(f"it has several masks ({', '.join(p.name for p in entries)}): keep one")
    entry = within(entries[0], roots, f"its mask {said!r}" if said else "")
    if entry.suffix.lower() == ".safetensors":
        names = load_tracks(entry).names
        return masks_of_tracks(entry, {target: (target, *(names if len(names) == 1 else ()))})
    files = _files_of(entry, roots)
    if not files and said:
        raise ValueError(f"its mask {said!r} is no file of masks ({', '.join(MASK_FILES)})")
    return Masks({target: files} if files else {})
