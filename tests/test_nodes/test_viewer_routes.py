"""The viewer's routes on the real server, with everything that strangers may ask of them."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support_capture import FRAMES, PREVIEW, make_capture

from matrix_lib.io.captures import save_capture
from matrix_lib.viewer.slices import Wanted, slice_of


@pytest.fixture(scope="module")
def shown(server: Any) -> tuple[Any, str]:
    """The server, and the id of a capture that Preview Attention shows there."""
    save_capture(make_capture(), server.base / "output" / "viewer.safetensors")
    graph = {
        "1": {"class_type": "MatrixLoadCapture", "inputs": {"file": "viewer.safetensors [output]"}},
        "2": {"class_type": "MatrixAttentionPreview", "inputs": {"capture": ["1", 0], **PREVIEW, "width": 64}},
    }
    outputs = server.run(graph)["2"]
    assert outputs["animated"] == [True]
    (told,) = outputs["matrix_viewer"]
    assert re.fullmatch("[0-9a-f]{32}", told["id"])
    return server, told["id"]


def ask(server: Any, path: str, method: str = "GET") -> tuple[int, bytes, Any]:
    """Status, body and headers; the path goes out as it is written."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers
    finally:
        connection.close()


def test_a_map_is_what_the_capture_holds(shown: tuple[Any, str]) -> None:
    server, name = shown
    for prefix in ("", "/api"):
        status, body, headers = ask(server, f"{prefix}/matrix/viewer/{name}/map?entities=1&layers=2&steps=5")
        assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert body == slice_of(make_capture(), Wanted(layers="2", steps="5"), 1)
    status, body, _ = ask(server, f"/matrix/viewer/{name}/manifest")
    assert status == 200
    assert json.loads(body)["streams"][0]["grid"] == [3, 4, 6]


def test_the_page_comes_as_a_file(shown: tuple[Any, str]) -> None:
    server, name = shown
    status, body, headers = ask(server, f"/matrix/viewer/{name}/page")
    assert status == 200
    assert headers["Content-Disposition"].startswith("attachment")
    assert b"viewer_mount.mountPage" in body


STRANGE = [
    ("{id}/map", 400),
    ("{id}/map?entities=0&layers=" + "9" * 3000, 400),
    ("{id}/map?entities=" + "9" * 40, 400),
    ("{id}/map?entities=0&steps=-1", 400),
    ("{id}/map?entities=0&stream=18446744073709551616", 400),
    ("{id}/frame?number=0", 400),
    ("{id}/frame?number=../../output/viewer.safetensors", 400),
    ("{id}/output", 404),
    ("{id}", 404),
    ("{id}/..%2f..%2fetc%2fpasswd", 404),
    ("..%2f..%2fetc%2fpasswd/map", 404),
    ("%00/map", 404),
    ("{upper}/map?entities=0", 404),
    ("{short}/map?entities=0", 404),
    ("{id}{id}/map?entities=0", 404),
    ("0123456789abcdef0123456789abcdef/map?entities=0", 404),
    ("viewer.safetensors/map?entities=0", 404),
]


@pytest.mark.parametrize(("path", "wanted"), STRANGE)
def test_what_strangers_ask_is_answered_plainly(shown: tuple[Any, str], path: str, wanted: int) -> None:
    server, name = shown
    status, body, headers = ask(server, "/matrix/viewer/" + path.format(id=name, upper="A" * 32, short=name[:-1]))
    assert status == wanted
    assert len(body) < 1000
    assert b"root:" not in body
    if headers["Content-Type"].startswith("application/json"):
        assert json.loads(body)["error"]
        assert headers["Cache-Control"] == "no-store"


def test_nothing_can_be_written(shown: tuple[Any, str]) -> None:
    server, name = shown
    assert {ask(server, f"/matrix/viewer/{name}/manifest", method)[0] for method in ("PUT", "POST", "DELETE")} == {405}


def memory(pid: int) -> int:
    """Bytes of main memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_at_once(shown: tuple[Any, str]) -> None:
    server, name = shown
    before, found = memory(server.process.pid), []

    def one(number: int) -> None:
        layer, step, entity = number % 4, 5 * (number % 3), number % 5
        path = f"/matrix/viewer/{name}/map?layers={layer}&steps={step}&entities={entity}"
        try:
            with urllib.request.urlopen(server.url + path, timeout=120) as reply:
                found.append((reply.status, len(reply.read())))
        except urllib.error.HTTPError as error:
            found.append((error.code, 0))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1000
    assert set(found) == {(200, 4 + 3 + 3 * 4 * 6), (400, 0)}
    assert sum(status == 400 for status, _ in found) == 400  # two of five entities do not exist
    assert memory(server.process.pid) - before < 200e6


def test_the_nodes_send_ids_and_keep_their_outputs(pack: Any) -> None:
    """What was there before is there still; without a viewer a node runs on, and says why."""
    from support_capture import make_frames, make_tracks

    given = {
        **PREVIEW,
        "width": 64,
        "capture": make_capture(pack.lib),
        "frames": make_frames(),
        "tracks": make_tracks(pack.lib),
    }
    out = pack.run("MatrixAttentionPreview", **given)
    assert {"images", "animated", "matrix_chart", "matrix_viewer"} <= set(out.ui)
    assert len(out.result[0]) == FRAMES
    viewer = pack.module.nodes.viewer
    full = viewer.shown_in_viewer(given["capture"])
    assert full["matrix_viewer"][0]["id"] != out.ui["matrix_viewer"][0]["id"]


def test_a_capture_that_is_too_large_is_told(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = pack.module.nodes.viewer
    monkeypatch.setenv("MATRIX_VIEWER_MB", "0")
    answers = viewer.Answers(viewer.Store(viewer.most_bytes()))
    monkeypatch.setattr(viewer, "ANSWERS", answers)
    out = pack.run("MatrixAttentionPreview", **{**PREVIEW, "width": 64, "capture": make_capture(pack.lib)})
    assert out.ui["matrix_viewer"] == ()
    assert "the viewer may keep 0 MB" in out.ui["matrix_warnings"][0]
    assert out.result[0].shape[0] == 3
