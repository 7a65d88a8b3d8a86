"""What a node sends to the page beside its results: its report, the files that it wrote, and warnings while it ran.

The page shows `text`, `files` and `matrix_warnings` under the node (`web/js`); all three stand in the host's history.
Its track editor draws on `matrix_frames`, and shows the tokens that `matrix_grid` tells.
"""

from __future__ import annotations

import functools
import hashlib
import io as streams
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..matrix_lib.core.grid import Framing, Grid
from ..matrix_lib.draw.frame_sheet import frame_sheet
from ..matrix_lib.hosts.comfy.video import Frames
from ..matrix_lib.hosts.comfy.warn import gathered

__all__ = ["saved_file", "shown_frames", "shown_grid", "warning"]

WARNINGS = "matrix_warnings"


def saved_file(path: Path) -> dict[str, Any]:
    """A file below the output folder as the host's history lists it: a page can fetch it from `/view`."""
    place = path.resolve().relative_to(Path(folder_paths.get_output_directory()).resolve())
    folder = place.parent.as_posix()
    entry = {"filename": place.name, "subfolder": "" if folder == "." else folder, "type": "output"}
    return {"files": (entry,)}


def shown_frames(clip: Frames) -> dict[str, Any]:
    """A clip as one small picture in the temporary folder, for the page to draw boxes on."""
    sheet = frame_sheet(clip.read(), clip.count, clip.height, clip.width)
    packed = streams.BytesIO()
    sheet.picture.save(packed, "JPEG", quality=82)
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"matrix_frames_{hashlib.blake2s(packed.getvalue(), digest_size=12).hexdigest()}.jpg"
    (folder / name).write_bytes(packed.getvalue())
    told = {"columns": sheet.columns, "count": sheet.count, "every": sheet.every, "frames": sheet.frames}
    file = {"filename": name, "subfolder": "", "type": "temp"}
    return {"matrix_frames": ({"file": file, **told, "size": sheet.size},)}


def shown_grid(grid: Grid, framing: Framing | None = None, fit: str = "center") -> dict[str, Any]:
    """The tokens that a model makes: (width, height) of one and of its frame in pixels, and how pictures come to it."""
    height, width = grid.frame_pixels
    told = {"token": grid.token_pixels[::-1], "frame": (width, height)}
    return {"matrix_grid": ({**told, "fit": fit if framing is None else framing.crop},)}


def warning(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same class, whose outputs to the page carry the warnings that were given while it ran."""
    if "_warning" not in vars(node):
        node._warning = True
        node.execute = classmethod(_with_warnings(node.execute.__func__))  # type: ignore[method-assign, attr-defined]
    return node


def _with_warnings(execute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(execute)
    def wrapper(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        with gathered() as found:
            output = execute(cls, *args, **kwargs)
        if output.ui is None and found:
            output.ui = {WARNINGS: tuple(found)}
        elif output.ui is not None:
            # Always there, if only empty: for the values of a list the host joins by the keys of the first output.
            sent = output.ui if isinstance(output.ui, Mapping) else output.ui.as_dict()
            told = "\n".join(map(str, sent.get("text", ())))
            output.ui = {**sent, WARNINGS: tuple(text for text in found if text not in told)}
        return output

    return wrapper
