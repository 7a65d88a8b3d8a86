"""Captures in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..instrument.capture import Capture
from .page import Video, exhibits_of

if TYPE_CHECKING:
    from ..core.tracks.tracks import MaskTracks
    from .widget import ViewerWidget

__all__ = ["attention_viewer"]


def attention_viewer(
    capture: Capture | Mapping[str, Capture],
    video: Video | Mapping[str, Video] = None,
    tracks: MaskTracks | None = None,
    fps: float = 8.0,
) -> ViewerWidget:
    """The attention viewer of a capture as a notebook's widget: the last line of a cell shows it. What was chosen in it
    is in `.choice`.

    Takes what `attention_page` takes; the maps stay in Python, and only those that are looked at travel.

    Raises ImportError, with the install line, where anywidget is missing.
    """
    try:
        from .widget import ViewerWidget
    except ImportError as error:
        raise ImportError(
            f"the viewer in a notebook needs the package {error.name!r}: pip install 'matrix-video[notebook]'. Without "
            "it, attention_page writes the same viewer as a page"
        ) from error
    return ViewerWidget(exhibits_of(capture, video, tracks, fps))
