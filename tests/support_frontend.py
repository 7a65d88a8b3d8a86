"""A frontend of ComfyUI in front of a running server: its files from a folder, everything else from the server.

A browser keeps what it gets from an address, and what it has compiled of it. Where a test answers each request in the
browser's place (Playwright's routes), it keeps nothing, and every page that is opened waits for all files again.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["in_front_of"]

TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json"}
TYPES |= {".svg": "image/svg+xml", ".woff2": "font/woff2", ".png": "image/png", ".webp": "image/webp"}


class _Relay(socketserver.StreamRequestHandler):
    """One connection of the browser. Files are answered as long as it asks for files; anything else is passed on to the
    server with the rest of the connection, web sockets too."""

    server: _Front

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while head := self._head():
                path = self.server.file(*head[0].decode("ascii").split(" ")[:2])
                if path is None:
                    self._pass_on(head)
                    return
                self._send(path)

    def _head(self) -> list[bytes]:
        """The lines of the next request, without the empty one."""
        lines = []
        while (line := self.rfile.readline()) not in (b"", b"\r\n"):
            lines.append(line)
        return lines

    def _send(self, path: Path) -> None:
        kind = TYPES.get(path.suffix, "application/octet-stream")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {path.stat().st_size}\r\n"
        self.wfile.write(f"{head}Cache-Control: max-age=86400\r\n\r\n".encode())
        with path.open("rb") as file:
            shutil.copyfileobj(file, self.wfile)

    def _pass_on(self, head: list[bytes]) -> None:
        # Another request on this connection may be for a file: only a web socket is to stay open.
        if not any(line.lower().startswith(b"upgrade:") for line in head):
            head = [line for line in head if not line.lower().startswith(b"connection:")] + [b"Connection: close\r\n"]
        with socket.create_connection(self.server.behind) as behind:
            behind.sendall(b"".join(head) + b"\r\n")
            back = threading.Thread(target=_pump, args=(behind.recv, self.connection), daemon=True)
            back.start()
            _pump(self.rfile.read1, behind)
            back.join()


def _pump(read: Any, to: socket.socket) -> None:
    """Passes on what comes until it ends, then ends there, too."""
    with contextlib.suppress(OSError):
        while some := read(1 << 16):
            to.sendall(some)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)


class _Front(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, folder: Path, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.folder, self.behind = folder, behind

    def file(self, method: str, address: str) -> Path | None:
        """What stands at an address of the frontend; None for what only the server knows."""
        place = urllib.parse.unquote(urllib.parse.urlsplit(address).path).lstrip("/") or "index.html"
        path = self.folder / place
        return path if method == "GET" and path.is_file() else None


@contextlib.contextmanager
def in_front_of(url: str, folder: Path) -> Iterator[str]:
    """The address at which the server of `url` has the frontend in `folder`."""
    whole = urllib.parse.urlsplit(url)
    with _Front(folder, (whole.hostname or "", whole.port or 80)) as front:
        threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{front.server_address[1]}"
        finally:
            front.shutdown()
