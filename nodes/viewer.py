"""The attention viewer in the host's page: what nodes show there, by id, and the routes that answer about it.

`GET /matrix/viewer/ID/WHAT?...` answers what `matrix_lib/viewer/answers.py` lists. Who has an id may read; nothing that
is asked names a file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comfy.model_management
import torch

from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.hosts.comfy.warn import warn
from ..matrix_lib.instrument.capture import Capture
from ..matrix_lib.viewer.answers import Answer, Answers
from ..matrix_lib.viewer.exhibit import Exhibit, film_of
from ..matrix_lib.viewer.store import Store

__all__ = ["add_routes", "shown_in_viewer"]

KEY = "matrix_viewer"
ROUTE = "/matrix/viewer/{id}/{what}"
_LIMIT = "MATRIX_VIEWER_MB"
_MOST = 4 << 30
_ALLOWED = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
_REFUSED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def most_bytes() -> int:
    """A quarter of the machine's memory, 4 GiB at most; or as many MB as MATRIX_VIEWER_MB says."""
    asked = os.environ.get(_LIMIT, "")
    if asked.isascii() and asked.isdigit():
        return int(asked) * 10**6
    return min(_MOST, int(comfy.model_management.get_total_memory(torch.device("cpu"))) // 4)


ANSWERS = Answers(Store(most_bytes()))
# Two at a time: a thousand that ask at once wait for each other, and sampling goes on beside them.
_POOL = ThreadPoolExecutor(2, "matrix-viewer")


def shown_in_viewer(
    capture: Capture, frames: torch.Tensor | None = None, tracks: MaskTracks | None = None, fps: float = 8.0
) -> dict[str, Any]:
    """What a node sends to the page so that the viewer opens there: the id of what it shows. A capture that is too
    large to be kept for it is told as a warning, and the node works as without a viewer."""
    try:
        name = ANSWERS.store.put(Exhibit(capture, film_of(frames, fps), tracks))
    except ValueError as error:
        warn(f"no viewer: {error}; or set {_LIMIT} to more megabytes before ComfyUI starts")
        return {KEY: ()}
    return {KEY: ({"id": name},)}


def add_routes() -> None:
    """Adds the routes to the host's server, where there is one: nodes also run without."""
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if instance is not None:
        instance.routes.get(ROUTE)(_asked)


async def _asked(request: Any) -> Any:
    from aiohttp import web

    name, what = request.match_info["id"], request.match_info["what"]
    query = dict(request.query)
    found: Answer = await asyncio.get_running_loop().run_in_executor(_POOL, ANSWERS.to, name, what, query)
    headers = dict(_ALLOWED if found.ok else _REFUSED)
    if found.type.startswith("text/html"):
        headers["Content-Disposition"] = 'attachment; filename="attention.html"'
    return web.Response(body=found.body, status=found.status, headers={**headers, "Content-Type": found.type})
