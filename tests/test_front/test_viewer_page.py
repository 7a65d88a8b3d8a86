"""The viewer outside of ComfyUI: a page that opens from a disk, and a notebook's widget."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect
from support_capture import make_capture, make_frames, make_tracks
from support_viewer import sized_capture

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


def test_a_page_keeps_to_its_size(tmp_path: Path) -> None:
    big = sized_capture(20, 20, 4, (5, 20, 30))
    path = matrix_lib.attention_page(big, make_frames(17, 240, 320), tmp_path / "page.html", most_mb=1.0)
    assert path.stat().st_size < 1.1e6


def test_a_notebooks_widget_is_the_same_viewer(browser: Browser) -> None:
    widget = matrix_lib.attention_viewer(make_capture(), make_frames(), make_tracks())
    sent: list[tuple[Any, Any]] = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))  # what a kernel would put on the wire

    def python(message: str) -> list[Any]:
        widget._handle_custom_msg(json.loads(message), [])
        content, (body,) = sent.pop()
        return [content, base64.b64encode(body).decode()]

    saved: list[dict[str, Any]] = []
    context = browser.new_context(viewport={"width": 900, "height": 700})
    tab = context.new_page()
    tab.expose_function("python", python)
    tab.expose_function("saved", lambda traits: saved.append(json.loads(traits)))
    traits = {"labels": widget.labels, "choice": widget.choice, "height": widget.height}
    tab.set_content("<body><div id=cell></div></body>")
    tab.evaluate(f"() => {{ {NOTEBOOK.replace('TRAITS', json.dumps(traits))} }}")
    module = str(widget._esm)
    assert script() in module
    tab.evaluate(
        """async (text) => {
          const url = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }))
          window.end = (await import(url)).default.render({ model: window.model, el: document.getElementById('cell') })
        }""",
        module,
    )
    expect(tab.locator(".viewer[data-drawn]")).to_be_visible()
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
    context.close()
