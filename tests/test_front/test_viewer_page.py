"""The viewer outside of ComfyUI: a page that opens from a disk, and a notebook's widget."""

from __future__ import annotations

import base64
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, expect
from support_capture import make_capture, make_frames, make_tracks
from support_viewer import heads_capture, sized_capture

import matrix_lib
from matrix_lib.viewer.script import script

HOSTILE = '</script><img src="x" onerror="window.hit=1">'
NOTEBOOK = """
window.heard = new Set()
window.traits = TRAITS
window.model = {
  get: (name) => window.traits[name],
  set: (name, value) => { window.traits[name] = value },
  save_changes: () => window.saved(JSON.stringify(window.traits)),
  on: (event, heard) => window.heard.add(heard),
  off: (event, heard) => window.heard.delete(heard),
  send: async (message) => {
    const [content, body] = await window.python(JSON.stringify(message))
    const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0))
    for (const heard of [...window.heard]) heard(content, [new DataView(bytes.buffer)])
  }
}
"""


def test_a_page_opens_from_a_disk_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    capture = make_capture(layers=12, steps=6)
    capture.meta["notes"] = [HOSTILE]
    captures = {"with": capture, HOSTILE: make_capture(layers=12, steps=6, calls=1)}
    path = matrix_lib.attention_page(captures, make_frames(), tmp_path / "page.html", make_tracks(), title=HOSTILE)
    context = browser.new_context(viewport={"width": 1100, "height": 700}, offline=True)
    asked: list[str] = []
    errors: list[str] = []
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.goto(path.as_uri())
    expect(tab.locator(".viewer[data-drawn]")).to_be_visible()
    expect(tab.locator(".status")).to_have_text(HOSTILE)
    picture = tab.locator(".stage canvas").first
    before = picture.evaluate("(canvas) => canvas.toDataURL()")
    tab.locator(".chip", has_text="grey van").click()
    tab.locator(".viewer").press("ArrowDown")
    expect(tab.locator(".stage .told").first).to_contain_text("layer 0 · all steps")
    assert picture.evaluate("(canvas) => canvas.toDataURL()") != before
    tab.get_by_label("Compare").select_option("difference 0")
    expect(tab.locator(".legend .name")).to_have_text(["van, difference"])
    tab.get_by_label("Compare").select_option("side 0")
    expect(tab.locator(".stage:visible")).to_have_count(2)
    assert tab.title() == HOSTILE
    assert tab.evaluate("window.hit") is None
    assert asked == [path.as_uri()]
    assert not errors
    context.close()


def test_masks_and_findings_are_read_off_the_maps(browser: Browser, tmp_path: Path) -> None:
    """The names of the masks are exchanged, so that words and masks disagree: a swap, which a click goes to."""
    crossed = make_tracks().rename({"van": "nobody"}).rename({"cyclist": "van"}).rename({"nobody": "cyclist"})
    capture = make_capture(layers=8, steps=4, calls=[2, 0, 2, 2])  # the second step was skipped
    path = matrix_lib.attention_page(capture, make_frames(), tmp_path / "page.html", crossed)
    tab = browser.new_page(viewport={"width": 1100, "height": 700})
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(path.as_uri())
    expect(tab.locator(".viewer[data-drawn]")).to_be_visible()
    picture, findings = tab.locator(".stage canvas").first, tab.locator(".finding")
    expect(findings).to_have_count(0)
    before = picture.evaluate("(canvas) => canvas.toDataURL()")
    tab.get_by_role("button", name="Read", exact=True).click()
    expect(findings).to_have_count(1)
    expect(findings).to_contain_text("swapped: 'cyclist' and 'van' are in each other's place, frames 0-8")
    assert picture.evaluate("(canvas) => canvas.toDataURL()") != before  # masks as dashes
    expect(findings).to_contain_text("steps 0, 10, 15, to the end")
    findings.click()
    expect(tab.locator(".right .head b")).to_have_text("all layers, steps 0, 10, 15")
    tab.locator(".viewer").press("r")
    expect(tab.locator(".card:visible")).to_have_count(0)
    assert not errors
    tab.close()


def test_a_page_keeps_to_its_size(tmp_path: Path) -> None:
    big = sized_capture(20, 20, 4, (5, 20, 30))
    path = matrix_lib.attention_page(big, make_frames(17, 240, 320), tmp_path / "page.html", most_mb=1.0)
    assert path.stat().st_size < 1.1e6


class Notebook:
    """A notebook's cell with the viewer in it: a page whose messages go to the widget's own Python."""

    def __init__(self, browser: Browser, widget: Any) -> None:
        self.widget = widget
        self.sent: list[tuple[Any, Any]] = []
        self.saved: list[dict[str, Any]] = []
        widget.send = lambda content, buffers=None: self.sent.append((content, buffers))  # what a kernel would send
        self.context = browser.new_context(viewport={"width": 900, "height": 700}, accept_downloads=True)
        self.tab = self.context.new_page()
        self.tab.expose_function("python", self.python)
        self.tab.expose_function("saved", lambda traits: self.saved.append(json.loads(traits)))
        traits = {"labels": widget.labels, "choice": widget.choice, "height": widget.height}
        # A notebook's page is of this machine or encrypted: browsers give video encoders to no other.
        self.context.route(
            "http://localhost/cell",
            lambda route: route.fulfill(body="<body><div id=cell></div></body>", content_type="text/html"),
        )
        self.tab.goto("http://localhost/cell")
        self.tab.evaluate(f"() => {{ {NOTEBOOK.replace('TRAITS', json.dumps(traits))} }}")
        self.tab.evaluate(
            """async (text) => {
              const url = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }))
              const cell = (await import(url)).default
              window.end = cell.render({ model: window.model, el: document.getElementById('cell') })
            }""",
            str(widget._esm),
        )
        expect(self.tab.locator(".viewer[data-drawn]")).to_be_visible()

    def python(self, message: str) -> list[Any]:
        self.widget._handle_custom_msg(json.loads(message), [])
        content, (body,) = self.sent.pop()
        return [content, base64.b64encode(body).decode()]

    def click(self, button: str) -> Path:
        """The file that a button saves."""
        with self.tab.expect_download() as download:
            self.tab.get_by_role("button", name=button, exact=True).click()
        return download.value.path()

    def pixels(self) -> Any:
        url = self.tab.locator(".stage canvas").first.evaluate("(canvas) => canvas.toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def test_a_notebooks_widget_is_the_same_viewer(browser: Browser) -> None:
    widget = matrix_lib.attention_viewer(make_capture(), make_frames(), make_tracks())
    cell = Notebook(browser, widget)
    tab, saved, python = cell.tab, cell.saved, cell.python
    assert script() in str(widget._esm)
    tab.locator(".chip", has_text="grey van").click()
    tab.locator(".viewer").press("ArrowDown")
    expect(tab.locator(".stage .told").first).to_contain_text("layer 0 · all steps")
    assert {name: saved[-1]["choice"][name] for name in ("names", "layers", "kind")} == {
        "names": "van",
        "layers": "0",
        "kind": "v2t",
    }
    assert python(json.dumps({"id": 1, "exhibit": 5, "what": "map"}))[0]["status"] == 404
    assert python(json.dumps({"id": 1, "exhibit": 0, "what": "map", "query": {"entities": "99"}}))[0]["status"] == 400
    tab.evaluate("window.end()")
    assert tab.locator(".viewer").count() == 0
    cell.context.close()


def test_sinks_are_left_out_of_both_captures_whenever_scores_come(browser: Browser) -> None:
    captures = {"one": make_capture(), "two": make_capture()}
    captures["one"].stream().maps["v2t"].values[..., 0, 0, 3] = 1
    cell = Notebook(browser, matrix_lib.attention_viewer(captures, make_frames(), make_tracks()))
    tab, sinkless = cell.tab, cell.tab.get_by_role("button", name="No sinks")
    tab.evaluate(
        """() => {
          const ask = window.python
          const late = new Promise((done) => { window.release = done })
          window.asked = []
          window.python = async (text) => {
            const { what, exhibit, query } = JSON.parse(text)
            window.asked.push(`${what} ${exhibit} ${query.sinks ?? 'in'}`)
            if (what === 'scores' && !query.sinks) await late
            return ask(text)
          }
        }"""
    )

    def chart() -> str:
        tab.wait_for_timeout(300)
        return tab.locator(".chart canvas").evaluate("(canvas) => canvas.toDataURL()")

    sinkless.click()
    without = chart()
    sinkless.click()
    assert chart() != without
    sinkless.click()
    tab.evaluate("window.release()")
    assert chart() == without
    tab.get_by_role("button", name="Read", exact=True).click()
    tab.get_by_label("Compare").select_option("side 0")
    tab.wait_for_function("window.asked.includes('reading 1 out')")
    sinkless.click()
    tab.wait_for_function("window.asked.includes('reading 1 in')")
    cell.context.close()


def test_heads_and_pinned_points(browser: Browser) -> None:
    """Heads that were recorded apart are chosen one by one; a pinned point has its ring where it was pinned."""
    capture = heads_capture()
    cell = Notebook(browser, matrix_lib.attention_viewer(capture))
    tab = cell.tab
    tab.locator(".chip", has_text="spot").click()
    pictures = []
    for number in ("", "0", "2"):
        tab.get_by_label("Head", exact=True).select_option(number)
        expect(tab.locator(".stage .told").first).to_have_text(re.compile(f"head {number}$" if number else r"[0-9.]+$"))
        tab.wait_for_timeout(150)
        pictures.append(cell.pixels())
        # The scale's end is the largest value but for the most extreme ones: of this head alone.
        held = capture.stream().maps["v2v"].only(1, int(number) if number else None)
        end = float(tab.locator(".legend .end").last.text_content().split()[0].rstrip("%"))
        assert 0 < end <= 100 * float(held.mean([0, 1], [0, 1, 2], 0).nan_to_num().max()) * 1.01
    assert all((one != other).any() for one, other in pairwise(pictures))

    tab.get_by_label("Strength of the heat").fill("0")
    slider = tab.locator("input[type=range]").first
    slider.fill("0")
    tab.wait_for_timeout(150)
    assert not cell.pixels().any(), "in frame 0 nothing is pinned"
    slider.fill(slider.get_attribute("max"))
    tab.wait_for_timeout(150)
    ys, xs = np.nonzero(cell.pixels().sum(-1))
    height, width = cell.pixels().shape[:2]
    assert abs((xs.min() + xs.max()) / 2 - 3.5 / 4 * width) < 3  # the middle of token (2, 3)
    assert abs((ys.min() + ys.max()) / 2 - 2.5 / 3 * height) < 3
    cell.context.close()


def test_picture_video_and_page_are_saved(browser: Browser, tmp_path: Path) -> None:
    frames = make_frames()
    cell = Notebook(browser, matrix_lib.attention_viewer(make_capture(), frames, make_tracks()))
    picture = np.asarray(Image.open(cell.click("PNG")).convert("RGB"))
    wide, tall = picture.shape[1], picture.shape[0]
    assert wide > 600
    assert picture[: tall - 80].std() > 10
    assert picture[tall - 60 :].max() > 200, "the legend's words"
    video = tmp_path / "saved.webm"
    cell.click("Video").rename(video)
    with av.open(str(video)) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == len(frames)
    assert shown[0].shape == picture.shape
    assert np.abs(shown[0].astype(int) - shown[-1]).mean() > 0.5, "it moves"

    page = tmp_path / "saved.html"
    cell.click("Page").rename(page)
    alone = browser.new_context(offline=True)
    tab = alone.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    expect(tab.locator(".viewer[data-drawn]")).to_be_visible()
    assert asked == [page.as_uri()]
    assert "href=" not in page.read_text(encoding="utf-8").split("<script")[0]
    alone.close()
    cell.context.close()
