"""The viewer as one HTML file: it holds everything, opens from a disk, and asks the network for nothing."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..instrument.capture import Capture
from ..io.files import whole_file
from ..io.video import read_video
from .embedding import embedded
from .exhibit import Exhibit, Film, film_of
from .script import script

if TYPE_CHECKING:
    from ..core.tracks.tracks import MaskTracks

__all__ = ["Video", "attention_page", "exhibit_of", "exhibits_of", "page_html"]

Video: TypeAlias = "Tensor | NDArray[np.uint8] | Sequence[Image.Image] | str | os.PathLike[str] | None"
"""A clip: frames (n, H, W, 3) float in [0, 1] or uint8, pictures, the path of a video file, or none."""

_SIDES = (640, 480, 360, 256, 192)  # longest sides of a film, until it fits
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src \
'unsafe-inline'; img-src data: blob:; media-src blob:">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; background: #111318 }} #viewer {{ height: 100% }}</style>
<div id="viewer"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}
viewer_mount.mountPage(document.getElementById('viewer'), JSON.parse(document.getElementById('data').textContent))
</script>
</html>
"""


def attention_page(
    capture: Capture | Mapping[str, Capture],
    video: Video | Mapping[str, Video],
    path: str | os.PathLike[str],
    tracks: MaskTracks | None = None,
    fps: float = 8.0,
    title: str = "",
    most_mb: float = 24.0,
) -> Path:
    """Writes the attention viewer of a capture as one HTML file, whole or not at all.

    Args:
        capture: what was recorded; several by name are compared, side by side or as their difference.
        video: the clip that came of it: frames (n, H, W, 3) float in [0, 1] or uint8, pictures, the path of a video
            file, or None for heat on black. Several by the names of the captures.
        tracks: mask tracks, for scores beside chance and outlines.
        fps: frames per second, where `video` does not say.
        title: of the page; empty takes the prompt.
        most_mb: about the size of the file. Maps and frames are made to fit: several steps become one mean, frames
            smaller. The page says what it keeps less of.

    Raises ValueError for frames of another form, names that do not agree, and where one map of each word is too much.
    """
    shown = exhibits_of(capture, video, tracks, fps)
    target = Path(path)
    with whole_file(target) as temporary:
        Path(temporary).write_text(page_html(shown, title, int(most_mb * 1e6)), encoding="utf-8")
    return target


def exhibits_of(
    capture: Capture | Mapping[str, Capture],
    video: Video | Mapping[str, Video],
    tracks: MaskTracks | None = None,
    fps: float = 8.0,
) -> list[Exhibit]:
    """One exhibit for each capture. Raises ValueError where captures and videos have other names."""
    if not isinstance(capture, Mapping):
        if isinstance(video, Mapping):
            raise ValueError("one capture has one video; got several by name")
        return [exhibit_of(capture, video, tracks, fps)]
    if not capture:
        raise ValueError("there is nothing to show: give at least one capture")
    videos = video if isinstance(video, Mapping) else dict.fromkeys(capture, video)
    if set(videos) != set(capture):
        raise ValueError(f"captures are named {sorted(capture)}, and their videos {sorted(videos)}: name them alike")
    return [exhibit_of(each, videos[name], tracks, fps, name) for name, each in capture.items()]


def exhibit_of(
    capture: Capture, video: Video = None, tracks: MaskTracks | None = None, fps: float = 8.0, label: str = ""
) -> Exhibit:
    """A capture with the clip that came of it, ready for a viewer."""
    if isinstance(video, str | os.PathLike):
        clip = read_video(video)
        video, fps = clip.frames, clip.fps
    return Exhibit(capture, film_of(video, fps), tracks, label)


def page_html(exhibits: Sequence[Exhibit], title: str = "", most_bytes: int = 24_000_000) -> str:
    """The page as text. Raises ValueError where one map of each word is more than `most_bytes`."""
    # Base64 makes three bytes four; the script and the rest take 100 kB.
    room = max(0, most_bytes - 150_000) * 3 // 4 // len(exhibits)
    made = [_embedded(each, room) for each in exhibits]
    title = (
        title or f"Attention: {exhibits[0].capture.streams[0].binding.prompt if exhibits[0].capture.streams else ''}"
    )
    data = json.dumps({"exhibits": made}, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return _PAGE.format(title=html.escape(title), data=data, script=script().replace("</", "<\\/"))


def _embedded(exhibit: Exhibit, room: int) -> dict[str, Any]:
    film = _fitting(exhibit.film, room * 2 // 5)
    shown = Exhibit(exhibit.capture, film, exhibit.tracks, exhibit.label, exhibit.against)
    return embedded(shown, room - film.nbytes)


def _fitting(film: Film, most: int) -> Film:
    """The film in as many pixels as fit; ValueError where it does not fit at all."""
    if film.nbytes <= most:
        return film
    for side in _SIDES:
        if side < max(film.width, film.height):
            smaller = film_of([Image.open(BytesIO(frame)) for frame in film.frames], film.fps, side, 76)
            if smaller.nbytes <= most:
                return smaller
    raise ValueError(f"a clip of {len(film.frames)} frames does not fit into this page: allow it more megabytes")
