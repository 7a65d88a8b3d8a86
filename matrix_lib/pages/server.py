"""A small server for pages on this machine: the loopback address alone, and a random token in each address.

What it serves is a `Site`; `deck.Deck` is the one that asks one thing after the other. Who is to judge, and what:

    with PageServer([Deck("Review", cards, Marks(path, "anna"))]) as server:
        print(server.addresses[0])
        server.wait()                           # until Ctrl-C, or `server.stop()`

A request is answered only where its Host is this machine by name or number, so that a page of another origin cannot
reach it through a name of its own (DNS rebinding), and only below a token that nobody can guess. A browser names things
by ids that are looked up; none of its words is ever used as a path. Bodies are JSON of at most `MOST_BYTES`.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

__all__ = ["LOOK", "MOST_BYTES", "PageServer", "Site"]

LOOK = Path(__file__).parent / "look"
MOST_BYTES = 64 << 10
_ASSETS = ("base.css", "base.js", "deck.css", "deck.js", "prompts.js")
_HERE = ("127.0.0.1", "localhost", "::1")
_SECONDS = 30  # that a silent connection is kept
_PART = 256 << 10
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".webm": "video/webm",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the token stands in the address
    "X-Content-Type-Options": "nosniff",
}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@cache
def _scripts() -> Mapping[str, Path]:
    """The track editor's modules by their names in addresses: beside this file in an installed library, in `web/js` of
    a checkout and the pack."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "js", here.parents[2] / "web" / "js"):
        if (folder / "editor" / "panel.js").is_file():
            paths = [*folder.glob("*.js"), *(folder / "editor").glob("*.js")]
            return {path.relative_to(folder).as_posix(): path for path in paths}
    return {}


class Site(Protocol):
    """What one address shows, and where its answers go. Called from several threads."""

    def state(self) -> Mapping[str, Any]:
        """Everything that the page needs before its first card, as JSON."""

    def card(self, name: str) -> Mapping[str, Any]:
        """One thing to be looked at, as JSON. Raises KeyError for an id that is none."""

    def media(self, name: str) -> Path:
        """The file of a picture or a film. Raises KeyError for an id that is none, ValueError where it cannot be
        made."""

    def mark(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keeps an answer before it returns. Raises ValueError, with a sentence, for one that cannot be kept."""


class PageServer:
    """Serves sites, each at an address of its own, while its block is open.

    Args:
        sites: what is served. port: on the loopback address; 0 takes a free one.

    Raises OSError where the port is taken.
    """

    def __init__(self, sites: Sequence[Site], port: int = 0) -> None:
        self._sites = {secrets.token_urlsafe(24): site for site in sites}
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.sites = self._sites
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._stopped = threading.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the sites, in order."""
        port = self._server.server_address[1]
        return tuple(f"http://127.0.0.1:{port}/{token}/" for token in self._sites)

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Until `stop` is called or Ctrl-C is pressed, which is the way to end it and no error."""
        try:
            while not self._stopped.wait(0.5):  # an endless wait hears no Ctrl-C on Windows
                pass
        except KeyboardInterrupt:
            print(file=sys.stderr)

    def stop(self) -> None:
        """Ends `wait`, from any thread."""
        self._stopped.set()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, allow_reuse_address = True, False, False
    sites: Mapping[str, Site]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):  # a tab that was closed while a film ran is no news
            print(f"the page's server: {error!r}", file=sys.stderr)


class _RefusedError(Exception):
    """A request that is not served: its status and a sentence."""

    def __init__(self, status: HTTPStatus, text: str = "") -> None:
        super().__init__(text or status.phrase)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version, timeout = "HTTP/1.1", "pages", "", _SECONDS
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Silent: every line would hold the token."""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_HEAD(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _answered(self, work: Any) -> None:
        try:
            site, rest = self._site()
            work(site, rest)
        except _RefusedError as refused:
            self.close_connection = True  # a body that nobody read is not to be taken for the next request
            self._json({"error": str(refused)}, refused.status)

    def _site(self) -> tuple[Site, str]:
        """Whose address this is, and what stands behind its token."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            host = None
        if host not in _HERE:
            raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 and localhost alone")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another page may not ask this server")
        _, token, *rest = [*self.path.split("?")[0].split("/", 2), ""]
        for known, site in self.server.sites.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return site, rest[0]
        raise _RefusedError(HTTPStatus.NOT_FOUND)

    def _get(self, site: Site, rest: str) -> None:
        what, _, name = rest.partition("/")
        try:
            if rest == "":
                self._file(LOOK / "deck.html")
            elif rest in _ASSETS:
                self._file(LOOK / rest)
            elif what == "js":
                self._file(_scripts()[name])
            elif rest == "state":
                self._json(site.state())
            elif what == "card":
                self._json(site.card(unquote(name)))
            elif what == "media":
                self._file(site.media(unquote(name)))
            else:
                raise _RefusedError(HTTPStatus.NOT_FOUND)
        except KeyError:
            raise _RefusedError(HTTPStatus.NOT_FOUND) from None
        except (ValueError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            raise _RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None

    def _post(self, site: Site, rest: str) -> None:
        if rest != "mark":
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        if self.headers.get_content_type() != "application/json":  # what a form of another page cannot send
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an answer is JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an answer has at most {MOST_BYTES} bytes")
        body = self.rfile.read(int(length))
        try:
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError("an answer is an object")
            kept = site.mark(given)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"this answer was not kept: {error}") from None
        except OSError as error:
            raise _RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, f"this answer was not kept: {error}") from None
        self._json(kept)

    def _json(self, content: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(content).encode()
        self._head(status, "application/json", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, path: Path) -> None:
        """A file, or the part of it that a film asks for when somebody seeks."""
        with open(path, "rb") as file:
            size = path.stat().st_size
            span = _span(self.headers.get("Range", ""), size)
            if span is None:
                self._head(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, _kind(path), 0, {"Content-Range": f"bytes */{size}"}
                )
                return
            first, end = span
            part = {"Accept-Ranges": "bytes"}
            whole = (first, end) == (0, size)
            if not whole:
                part["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
            self._head(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, _kind(path), end - first, part)
            file.seek(first)
            left = 0 if self.command == "HEAD" else end - first
            while left > 0 and (data := file.read(min(_PART, left))):
                self.wfile.write(data)
                left -= len(data)

    def _head(self, status: HTTPStatus, kind: str, length: int, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **_HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """The bytes [first, end) that a Range header asks for; all of them for none, or one of another form. None where
    there are no such bytes."""
    found = _RANGE.match(asked.replace(" ", ""))
    if not found or found.groups() == ("", ""):
        return 0, size
    first, last = (int(text[:18]) if text else None for text in found.groups())
    if first is None:
        return (max(0, size - (last or 0)), size) if last and size else None
    if first >= size or (last is not None and last < first):
        return None
    return first, size if last is None else min(size, last + 1)


def _kind(path: Path) -> str:
    return _KINDS.get(path.suffix.lower(), "application/octet-stream")
