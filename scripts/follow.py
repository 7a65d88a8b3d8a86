"""Runs a graph on a ComfyUI server and shows how it gets on, from the server's own websocket."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from typing import Any, TextIO

import websocket

from .comfyui import Server, error_text

__all__ = ["Display", "follow"]


class Display:
    """One line a node: its place in the graph, its title, its step, its seconds. On a terminal the line is redrawn."""

    def __init__(self, titles: dict[str, str], sink: TextIO | None = None) -> None:
        self.titles = titles
        self.sink = sink or sys.stdout
        self.live = self.sink.isatty()
        self.done: list[str] = []
        self.node = ""
        self.steps = ""
        self.since = time.monotonic()

    def start(self, node: str) -> None:
        if node == self.node:
            return
        self.finish()
        self.node, self.steps, self.since = node, "", time.monotonic()
        self._draw()

    def step(self, value: float, maximum: float) -> None:
        steps = f"{value:.0f}/{maximum:.0f}"
        if steps != self.steps and maximum > 1:
            self.steps = steps
            self._draw()

    def finish(self) -> None:
        """Ends the line of the node at work."""
        if not self.node:
            return
        self.done.append(self.node)
        if self.live:
            self._draw()
            self.sink.write("\n")
        else:
            self.sink.write(self._line() + "\n")
        self.sink.flush()
        self.node = ""

    def _line(self) -> str:
        place = f"[{len(self.done) + (self.node not in self.done):2d}/{len(self.titles)}]"
        title = self.titles.get(self.node, self.node)
        return f"  {place} {title:<44} {self.steps:>9}  {time.monotonic() - self.since:6.1f} s"

    def _draw(self) -> None:
        if self.live:
            self.sink.write(f"\r\x1b[2K{self._line()}")
            self.sink.flush()


def follow(server: Server, graph: dict[str, Any], limit: float = 900, sink: TextIO | None = None) -> dict[str, Any]:
    """Posts `graph`, shows its progress, and returns the outputs by node, as `Server.run` does.

    Raises RuntimeError with the node's own error, TimeoutError after `limit` seconds. Ctrl-C interrupts the graph.
    """
    titles = {number: node.get("_meta", {}).get("title", node["class_type"]) for number, node in graph.items()}
    display, client = Display(titles, sink), uuid.uuid4().hex
    socket = websocket.create_connection(f"ws{server.url.removeprefix('http')}/ws?clientId={client}", timeout=2)
    try:
        prompt = server.post(graph, client)
        _watch(socket, prompt, display, server, time.monotonic() + limit)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the server may be gone already
            server.interrupt()
        raise
    finally:
        display.finish()
        socket.close()
    entry = server.wait(prompt, 60)
    if entry["status"].get("status_str") == "error":
        raise RuntimeError(error_text(entry))
    return entry["outputs"]


def _watch(socket: websocket.WebSocket, prompt: str, display: Display, server: Server, end: float) -> None:
    """Reads messages until the graph has ended, one way or the other."""
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI exited with {server.process.returncode}; its log: {server.log}")
        try:
            text = socket.recv()
        except websocket.WebSocketTimeoutException:
            display._draw()
            continue
        if not isinstance(text, str):
            continue  # a preview picture
        message = json.loads(text)
        kind, data = message["type"], message["data"]
        if data.get("prompt_id") not in (None, prompt):
            continue
        if kind == "executing" and data.get("node"):
            display.start(data["node"])
        elif kind == "progress" and data.get("max"):
            display.step(data.get("value") or 0, data["max"])
        elif kind in ("execution_success", "execution_error", "execution_interrupted"):
            return
    raise TimeoutError(f"the graph did not end in time; log: {server.log}")
