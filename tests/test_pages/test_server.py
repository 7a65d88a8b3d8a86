"""The pages' server as somebody else's program would meet it: addresses, hosts, bodies, paths, parts of films."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support_counts import seeds

from matrix_lib.pages.deck import Card, Choice, Deck, Media, Question
from matrix_lib.pages.marks import Marks
from matrix_lib.pages.server import MOST_BYTES, PageServer

FILM = random.Random(0).randbytes(300_000)
ROOT = Path(__file__).resolve().parent.parent.parent
SECRET = b"nobody is to read this"


class Reply:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Site:
    """A server with one deck, and requests to it that no browser would send."""

    def __init__(self, folder: Path) -> None:
        (folder / "secret.txt").write_bytes(SECRET)
        film = folder / "films" / "film.mp4"
        film.parent.mkdir()
        film.write_bytes(FILM)
        self.made: list[int] = []
        clips = (Media("film", film), Media("made", self._make), Media("broken", self._fail))
        question = Question("q", "Well?", (Choice("yes", "yes", ("y",)), Choice("no", "no", ("n",))))
        self.film, self.marks = film, Marks(folder / "marks" / "anna.jsonl", "anna")
        self.deck = Deck("Test", [Card("a/b <c>", "A card", (question,), clips=clips)], self.marks)
        self.server = PageServer([self.deck, Deck("Other", [], Marks(folder / "ben.jsonl", "ben"))])
        parts = urlsplit(self.server.addresses[0])
        self.port, self.token = parts.port, parts.path.strip("/")

    def _make(self) -> Path:
        time.sleep(0.05)
        self.made.append(1)
        return self.film

    def _fail(self) -> Path:
        raise ValueError("the video cannot be read: <b>it is broken</b>")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """A request as it stands; headers with _ for -. None of http.client's own but Host, unless it is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            if body is not None and "Content_Length" not in headers:
                headers["Content_Length"] = str(len(body))
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, rest: str, **headers: str) -> Reply:
        return self.ask("GET", f"/{self.token}/{rest}", **headers)

    def post(self, body: bytes, **headers: str) -> Reply:
        headers.setdefault("Content_Type", "application/json")
        return self.ask("POST", f"/{self.token}/mark", body, **headers)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.server:
        yield made


def test_a_page_and_its_parts_are_served_with_a_policy(site: Site) -> None:
    page = site.get("")
    assert page.status == 200
    assert b"<script" in page.body
    assert site.get("state").body == json.dumps(site.deck.state()).encode()
    assert json.loads(site.get("card/a%2Fb%20%3Cc%3E").body)["title"] == "A card"
    for rest in ("", "state", "deck.js", "base.js", "base.css", "media/0-c0", "nothing"):
        policy = site.get(rest).headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy
        assert site.get(rest).headers["Referrer-Policy"] == "no-referrer"
        assert site.get(rest).headers["X-Content-Type-Options"] == "nosniff"
        assert site.get(rest).headers["Cache-Control"] == "no-store"
    head = site.ask("HEAD", f"/{site.token}/media/0-c0")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(FILM)), b"")


def test_only_this_machine_is_listened_to(site: Site) -> None:
    assert site.server.addresses[0].startswith("http://127.0.0.1:")
    other = socket.socket()
    other.bind(("127.0.0.2", site.port))  # nobody else has taken the port on another address
    other.close()


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{80}", "127.0.0.1.evil.example", "", "[bad", "0.0.0.0"]
)
def test_another_host_is_refused(site: Site, host: str) -> None:
    reply = site.get("state", Host=host)
    assert reply.status == 421
    assert b"anna" not in reply.body


def test_this_machine_by_any_name_and_port_is_served(site: Site) -> None:
    for host in ("localhost", "127.0.0.1:9999", "localhost:1", "[::1]:80"):  # a tunnel has another port
        assert site.get("state", Host=host).status == 200
    assert site.get("state", Sec_Fetch_Site="same-origin").status == 200
    for other in ("cross-site", "same-site"):
        assert site.get("state", Sec_Fetch_Site=other).status == 403
        assert site.post(b"{}", Sec_Fetch_Site=other).status == 403


def test_a_wrong_token_finds_nothing(site: Site) -> None:
    other = urlsplit(site.server.addresses[1]).path.strip("/")
    assert len(site.token) >= 32
    assert other != site.token
    for path in (
        "/", "/state", f"/{site.token[:-1]}/state", f"/{site.token}x/state", f"/x/{site.token}/state", "/%00/state",
        f"/{site.token.swapcase()}/", f"/{site.token[:16]}%{ord(site.token[16]):x}{site.token[17:]}/",
    ):  # fmt: skip
        reply = site.ask("GET", path)
        assert reply.status == 404, path
        assert b"anna" not in reply.body
    assert json.loads(site.ask("GET", f"/{other}/state").body)["by"] == "ben"
    assert site.ask("GET", f"/{other}/media/0-c0").status == 404, "another person's films"


@pytest.mark.parametrize("way", ["media", "card", ".", "base.css", "look"])
def test_no_path_of_a_browser_is_a_files(site: Site, way: str) -> None:
    for trick in (
        "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "....//secret.txt", "../../../../etc/passwd",
        "/etc/passwd", "%2fetc%2fpasswd", "..\\secret.txt", "secret.txt", "0-c0/../../secret.txt", "0-c0%00.txt",
        "film.mp4", str(site.film),
    ):  # fmt: skip
        reply = site.get(f"{way}/{trick}")
        assert reply.status == 404, trick
        assert SECRET not in reply.body
        assert b"root:" not in reply.body


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-", 0, 300_000),
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=299999-", 299_999, 300_000),
        ("bytes=299000-999999999999", 299_000, 300_000),
        ("bytes=-100", 299_900, 300_000),
        ("bytes=-999999999", 0, 300_000),
        ("bytes=0-1, 5-6", 0, 300_000),
        ("lines=1-2", 0, 300_000),
        ("bytes=-", 0, 300_000),
        ("", 0, 300_000),
    ],
)
def test_parts_of_a_film(site: Site, asked: str, first: int, end: int) -> None:
    reply = site.get("media/0-c0", Range=asked)
    assert reply.body == FILM[first:end]
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["Content-Type"] == "video/mp4"
    if (first, end) == (0, len(FILM)):
        assert reply.status == 200
    else:
        assert reply.status == 206
        assert reply.headers["Content-Range"] == f"bytes {first}-{end - 1}/{len(FILM)}"


@pytest.mark.parametrize("asked", ["bytes=300000-", "bytes=9-1", "bytes=-0", "bytes=99999999999999999999-"])
def test_parts_that_are_not_there(site: Site, asked: str) -> None:
    reply = site.get("media/0-c0", Range=asked)
    assert (reply.status, reply.body) == (416, b"")
    assert reply.headers["Content-Range"] == "bytes */300000"


def test_what_has_to_be_made_is_made_by_one_and_says_why_it_cannot(site: Site) -> None:
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(site.get("media/0-c1", Range="bytes=0-9"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.body for reply in replies] == [FILM[:10]] * 4
    broken = site.get("media/0-c2")
    assert broken.status == 422
    assert broken.headers["Content-Type"] == "application/json"
    assert json.loads(broken.body)["error"] == "the video cannot be read: <b>it is broken</b>"


def test_answers_are_kept_and_others_are_refused(site: Site) -> None:
    good = {"item": "a/b <c>", "question": "q", "value": "yes", "frame": None}
    assert json.loads(site.post(json.dumps(good).encode()).body) == {"done": True}
    assert site.marks.of("a/b <c>")["q"].value == "yes"
    kept = site.marks.path.read_bytes()
    for body, status in (
        (b"", 400), (b"{", 400), (b"[]", 400), (b"3", 400), (b"\xff\xfe", 400), (b"[" * 30_000, 400), (b"{}", 400),
        (json.dumps({**good, "value": "maybe"}).encode(), 400), (json.dumps({**good, "value": ["yes"]}).encode(), 400),
        (json.dumps({**good, "value": {"yes": 1}}).encode(), 400), (json.dumps({**good, "item": ["x"]}).encode(), 400),
        (json.dumps({**good, "item": "x"}).encode(), 400), (json.dumps({**good, "question": None}).encode(), 400),
        (b" " * (MOST_BYTES + 1), 413),
    ):  # fmt: skip
        reply = site.post(body)
        assert reply.status == status, body[:60]
        assert len(json.loads(reply.body)["error"]) > 5
    assert site.post(b"{}", Content_Type="text/plain").status == 415, "what a form of another page can send"
    assert site.post(b"{}", Content_Type="application/x-www-form-urlencoded").status == 415
    assert site.post(b"", Content_Length="99999999999999999999").status == 413
    assert site.post(b"", Content_Length="-1").status == 411
    assert site.post(b"2\r\n{}\r\n0\r\n\r\n", Transfer_Encoding="chunked", Content_Length="2").status == 411
    assert site.ask("POST", f"/{site.token}/state", b"{}", Content_Type="application/json").status == 404
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert site.ask(method, f"/{site.token}/state").status == 501
    assert site.marks.path.read_bytes() == kept


def test_an_answer_that_cannot_be_written_is_not_taken_for_kept(site: Site) -> None:
    site.marks.path.parent.rmdir() if site.marks.path.parent.is_dir() else None
    site.marks.path.parent.write_text("a file stands where the folder should")
    good = {"item": "a/b <c>", "question": "q", "value": "yes", "frame": None}
    reply = site.post(json.dumps(good).encode())
    assert reply.status == 507
    assert b"was not kept" in reply.body
    assert not site.marks.of("a/b <c>")


@pytest.mark.soak
def test_any_bytes_leave_it_alive(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """Requests that are cut, spoilt or of noise; the server answers the next one, and says nothing of the token."""
    whole = f"GET /{site.token}/media/0-c0 HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\n\r\n".encode()
    for seed in seeds(40, 4000):
        draws = random.Random(seed)
        spoilt = bytearray(whole)
        for _ in range(draws.randrange(1, 12)):
            spoilt[draws.randrange(len(spoilt))] = draws.randrange(256)
        sent = bytes(spoilt[: draws.randrange(1, len(spoilt))]) if draws.random() < 0.5 else bytes(spoilt)
        with socket.create_connection(("127.0.0.1", site.port), timeout=5) as line:
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            if draws.random() < 0.7:
                assert SECRET not in line.recv(1 << 16)
    assert site.get("state").status == 200
    said = capfd.readouterr()
    assert site.token not in said.out + said.err


def test_a_film_that_nobody_waits_for_is_no_error(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.film.write_bytes(FILM * 40)
    with socket.create_connection(("127.0.0.1", site.port)) as line:
        line.sendall(f"GET /{site.token}/media/0-c0 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        line.recv(100)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone at once
    assert site.get("state").status == 200
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_waiting_ends_where_it_is_told_to_and_the_port_is_free_again(tmp_path: Path) -> None:
    made = Site(tmp_path)
    with made.server:
        threading.Timer(0.1, made.server.stop).start()
        made.server.wait()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", made.port), timeout=5)


def test_ctrl_c_is_the_way_to_end_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from matrix_lib.pages.deck import Deck; from matrix_lib.pages.marks import Marks\n"
        "from threading import Timer; from matrix_lib.pages.server import PageServer\n"
        f"with PageServer([Deck('', [], Marks(Path({str(tmp_path)!r}) / 'm', 'anna'))]) as server:\n"
        "    Timer(0.5, print, ['up'], {'flush': True}).start(); server.wait()\n"  # it waits when it says so
        "print('down')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "down\n", "\n")
