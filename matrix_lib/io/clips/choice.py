"""Which of the files in a folder is what: the clip, its tracks; which are nobody's; and which lie elsewhere."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "PICTURES",
    "VIDEOS",
    "Chosen",
    "choose_clip",
    "choose_tracks",
    "found_at",
    "listed",
    "seen",
    "within",
]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")


class Chosen(NamedTuple):
    """A file, and a sentence about what was left aside for it, or ""."""

    path: Path
    note: str = ""


def listed(names: Iterable[str]) -> str:
    """'a', 'b', 'c'"""
    return ", ".join(map(repr, names))


def seen(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files (`._clip.mp4`, `.DS_Store`) and folders that systems make."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__", "@")) and p.name != "Thumbs.db")


def choose_clip(folder: Path) -> Chosen:
    """The clip of a folder: its video; where it has none, the picture of its first frame.

    Of several videos the one called `video` or as the folder is, of several pictures `image` or as the folder is.
    Raises ValueError where that leaves none, or several.
    """
    files = seen(folder)
    videos = [p for p in files if p.suffix.lower() in VIDEOS]
    pictures = [p for p in files if p.suffix.lower() in PICTURES]
    if not videos and not pictures:
        told = f"; it holds {listed(p.name for p in files[:8])}" if files else ""
        raise ValueError(f"there is neither an image ({', '.join(PICTURES)}) nor a video ({', '.join(VIDEOS)}){told}")
    kind, found = ("video", videos) if videos else ("image", pictures)
    chosen = _one_of(folder, kind, found)
    aside = [p.name for p in (*videos, *pictures) if p != chosen]
    return Chosen(chosen, f"{chosen.name} is the clip; left aside: {', '.join(aside)}" if aside else "")


def _one_of(folder: Path, kind: str, found: Sequence[Path]) -> Path:
    for name in (kind, folder.name):
        named = [p for p in found if p.stem.casefold() == name.casefold()]
        if len(named) == 1:
            return named[0]
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    frames = (
        ""
        if kind == "video"
        else (". Frames of a clip are wanted as a video: ffmpeg -framerate FPS -i PICTURES video.mp4")
    )
    raise ValueError(
        f"there are {len(found)} {kind}s, and which is the clip? {names}: call the right one "
        f"{kind}{found[0].suffix.lower()}{frames}"
    )


def choose_tracks(folder: Path) -> Chosen | None:
    """The file of tracks in a folder, None where it has none. Of several the one called `tracks`."""
    found = [p for p in seen(folder) if p.suffix.lower() == ".safetensors"]
    if not found:
        return None
    named = [p for p in found if p.stem.casefold() in ("tracks", folder.name.casefold())] if len(found) > 1 else found
    if len(named) != 1:
        raise ValueError(
            f"there are {len(found)} files of tracks ({', '.join(p.name for p in found)}): keep one, "
            "or call it tracks.safetensors"
        )
    rest = [p.name for p in found if p != named[0]]
    if (folder / "masks").exists():
        rest.append("masks")
    return Chosen(named[0], f"{named[0].name} has the masks; left aside: {', '.join(rest)}" if rest else "")


def within(path: Path, roots: Sequence[Path], what: str = "") -> Path:
    """The same path, where it lies in one of these folders with all links followed. `roots[0]` is the clips' own.

    Raises ValueError for one elsewhere, and for a link that leads nowhere.
    """
    real = path.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        shown = what or path.name
        if path.is_symlink() or any(parent.is_symlink() for parent in path.parents):
            raise ValueError(
                f"{shown} is a link to {real}, which lies outside of the folder: allow that place by name, "
                f"roots={shlex.quote(str(real.parent))}"
            )
        raise ValueError(
            f"{shown} lies outside of the folder: allow that place by name, roots={shlex.quote(str(real.parent))}"
        )
    if path.is_symlink() and not real.exists():
        raise ValueError(f"{what or path.name} is a link to {real}, where nothing is")
    return path


def found_at(path: Path) -> Path | None:
    """A path that is there, also where its name's accents are written in the other of Unicode's two ways."""
    if path.exists() or path.is_symlink():
        return path
    if path.parent.is_dir() and not path.name.isascii():
        wanted = unicodedata.normalize("NFC", path.name)
        return next((p for p in path.parent.iterdir() if unicodedata.normalize("NFC", p.name) == wanted), None)
    return None
