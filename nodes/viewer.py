"""The attention viewer in the host's page: what nodes show there, by id, and the routes that answer about it.

`GET /matrix/viewer/ID/WHAT?...` answers what `matrix_lib/viewer/answers.py` lists. Who has an id may read; nothing that
is asked names a file.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch

from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.evaluation.trajectories.against import told_against
from ..matrix_lib.hosts.comfy.warn import warn
from ..matrix_lib.instrument.capture import Capture
from ..matrix_lib.instrument.recorder import Recorder
from ..matrix_lib.viewer.answers import Answer, Answers
from ..matrix_lib.viewer.exhibit import Exhibit, film_of
from ..matrix_lib.viewer.store import Store

__all__ = ["add_routes", "end_live", "live_feed", "shown_in_viewer"]

KEY = "matrix_viewer"
ROUTE = "/matrix/viewer/{id}/{what}"
LIVE = "matrix.viewer"  # the message that says what a running node has so far
_EVERY = 1.0  # seconds between two of them
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
_LIVE: set[str] = set()  # ids of runs that go on, or broke off
# Two at a time: a thousand that ask at once wait for each other, and sampling goes on beside them.
_POOL = ThreadPoolExecutor(2, "matrix-viewer")


def shown_in_viewer(
    capture: Capture, frames: torch.Tensor | None = None, tracks: MaskTracks | None = None, fps: float = 8.0
) -> dict[str, Any]:
    """What a node sends to the page so that the viewer opens there: the id of what it shows. A capture that is too
    large to be kept for it is told as a warning, and the node works as without a viewer."""
    try:
        name = ANSWERS.store.put(Exhibit(capture, film_of(frames, fps), tracks, against=told_against))
    except ValueError as error:
        warn(f"no viewer: {error}; or set {_LIMIT} to more megabytes before ComfyUI starts")
        return {KEY: ()}
    return {KEY: ({"id": name},)}


class LiveFeed:
    """Shows a run in the page's viewer while it is sampled: one id for the run, whose exhibit grows with every step.

    Args:
        node: the id of the node that runs.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._name = ""
        self._version = 0
        self._last = -_EVERY

    def __call__(self, recorder: Recorder) -> None:
        """Tells the page what there is; nothing where the last time was just now."""
        if time.monotonic() - self._last < _EVERY:
            return
        self._last = time.monotonic()
        capture = recorder.so_far()
        if capture is not None:
            self._show(capture, len(recorder.sigmas))

    def _show(self, capture: Capture, steps: int) -> None:
        done = capture.steps[-1].index + 1
        notes = [f"sampling goes on: {done} of {steps} steps so far", *capture.meta["notes"]]
        exhibit = Exhibit(replace(capture, meta={**capture.meta, "notes": notes}))
        if not self._name:
            try:
                self._name = ANSWERS.store.put(exhibit)
                _LIVE.add(self._name)
            except ValueError:  # told when the run has ended
                return
        elif not ANSWERS.store.replace(self._name, exhibit):
            return
        self._version += 1
        told = {"node": self.node, "id": self._name, "version": self._version}
        server = _server()
        server.send_sync(LIVE, told, server.client_id)


def end_live() -> None:
    """A run has ended well, and its whole capture is shown instead. One that broke off stays as far as it came, until
    another ends."""
    while _LIVE:
        ANSWERS.store.drop(_LIVE.pop())


def live_feed() -> LiveFeed | None:
    """For the node that is running; None where no page listens, or the viewer is off."""
    running = getattr(sys.modules.get("comfy_execution.utils"), "get_executing_context", lambda: None)()
    server = _server()
    listens = running is not None and getattr(server, "client_id", None) is not None
    return LiveFeed(str(running.node_id)) if listens and ANSWERS.store.most_bytes else None


def _server() -> Any:
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def add_routes() -> None:
    """Adds the routes to the host's server, where there is one: nodes also run without."""
    instance = _server()
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
