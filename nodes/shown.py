"""What a node sends to the page beside its results: its report, the files that it wrote, and warnings while it ran.

The page shows `text`, `files` and `matrix_warnings` under the node (`web/js`); all three stand in the host's history.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..matrix_lib.hosts.comfy.warn import gathered

__all__ = ["saved_file", "warning"]

WARNINGS = "matrix_warnings"


def saved_file(path: Path) -> dict[str, Any]:
    """A file below the output folder as the host's history lists it: a page can fetch it from `/view`."""
    place = path.resolve().relative_to(Path(folder_paths.get_output_directory()).resolve())
    folder = place.parent.as_posix()
    entry = {"filename": place.name, "subfolder": "" if folder == "." else folder, "type": "output"}
    return {"files": (entry,)}


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
