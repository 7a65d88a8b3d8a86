"""Pictures of clips for the review page: frames with masks and without, and a film. They are made when asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.clip_sheets import tinted
from matrix_lib.io.files import whole_file
from matrix_lib.io.video import write_video

from .frames import Frame, clip_frames, picked
from .stage import Item, Place
from .stages.tracks import load_of

__all__ = ["Pictures"]

_QUALITY, _CRF = 88, 24


class Pictures:
    """Files in a folder that is there while the block is open, of as many clips as were looked at last.

    Args:
        place: of the curation. folder: that gets the files. most: clips whose files are kept.
    """

    def __init__(self, place: Place, folder: Path, most: int = 64) -> None:
        self.place, self.folder, self._most = place, folder, most
        self._locks: dict[str, threading.Lock] = {}

    def __enter__(self) -> Pictures:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a page that was killed
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def still(self, item: Item, tracked: bool, frame: int) -> Callable[[], Path]:
        """What makes a frame, with masks where the clip has tracks."""
        return lambda: self._made(item, f"still-{_mark(item, tracked)}-{frame}.jpg", tracked, self._still, frame)

    def film(self, item: Item, tracked: bool) -> Callable[[], Path]:
        """What makes the clip as a film."""
        return lambda: self._made(item, f"film-{_mark(item, tracked)}.mp4", tracked, self._film, 0)

    def frame(self, item: Item, frame: int) -> Path:
        """A frame as it is. All of them are decoded together, for they stand one behind the other."""
        return self._made(item, f"frame-{frame}.jpg", False, self._frames, frame)

    def forget(self, name: str) -> None:
        """Takes away what shows tracks that are no more."""
        for path in (self.folder / name).glob("*"):
            if not path.name.startswith("frame-"):
                path.unlink(missing_ok=True)

    def _made(
        self, item: Item, name: str, tracked: bool, make: Callable[[Item, MaskTracks | None, Path, int], None], at: int
    ) -> Path:
        path = self.folder / item["name"] / name
        with self._locks.setdefault(item["name"], threading.Lock()):
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._make_room(path.parent)
                make(item, load_of(item, self.place) if tracked else None, path, at)
        return path

    def _make_room(self, new: Path) -> None:
        others = sorted((each for each in self.folder.iterdir() if each != new), key=lambda each: each.stat().st_mtime)
        for old in others[: max(0, len(others) + 1 - self._most)]:
            for path in old.iterdir():
                path.unlink(missing_ok=True)
            old.rmdir()

    def _still(self, item: Item, tracks: MaskTracks | None, path: Path, at: int) -> None:
        ((_, picture),) = picked(item, self.place, [at])
        _save(Image.fromarray(_painted(picture, tracks, at)), path)

    def _film(self, item: Item, tracks: MaskTracks | None, path: Path, at: int) -> None:
        frames = enumerate(clip_frames(item, self.place))
        write_video(path, (_painted(frame, tracks, n) for n, frame in frames), item["clips"]["fps"], _CRF)

    def _frames(self, item: Item, tracks: MaskTracks | None, path: Path, at: int) -> None:
        for n, frame in enumerate(clip_frames(item, self.place)):
            _save(Image.fromarray(frame), path.with_name(f"frame-{n}.jpg"))


def _mark(item: Item, tracked: bool) -> str:
    return str(item["tracks"]["digest"])[:8] if tracked and item["tracks"].get("digest") else "plain"


def _painted(picture: Frame, tracks: MaskTracks | None, at: int) -> NDArray[np.uint8]:
    """A frame with everybody's mask in their colour. (H, W, 3) uint8."""
    if tracks is None:
        return picture
    masks = {name: tracks.mask(name, at).numpy() for name in tracks.names}
    colours = {name: FIXED[int(name.removeprefix("id")) - 1] for name in tracks.names}
    return np.asarray(tinted(picture, masks, colours, (picture.shape[1], picture.shape[0])))


def _save(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        picture.save(temporary, format="JPEG", quality=_QUALITY)
