"""The attention viewer in the real page: a run with mini, words, layers, and what is written back; on the classic
canvas, then in Nodes 2.0."""

from __future__ import annotations

import json

from playwright.sync_api import Locator, Request, expect
from support_pages import OWN, Page, seen_in

from scripts.comfyui import ROOT

TEMPLATE = json.loads((ROOT / "workflows" / "01_watch_attention.json").read_text(encoding="utf-8"))
STEPS = 2
LAYERS, FRAMES, TOKENS = 12, 5, 5 * 16 * 16
LOAD = """async ([graph, values]) => {
  const app = window.comfyAPI.app.app
  await app.loadGraphData(graph)
  for (const node of app.graph.nodes)
    for (const [name, value] of Object.entries(values[node.type] ?? {}))
      node.widgets.find((widget) => widget.name === name).value = value
  const preview = app.graph.nodes.find((node) => node.type === 'MatrixAttentionPreview')
  preview.setSize([640, preview.size[1]])
  app.canvas.emitBeforeChange()
  app.canvas.emitAfterChange()
}"""
PREVIEW = "app.graph.nodes.find((node) => node.type === 'MatrixAttentionPreview')"
SHOWN = f"() => {{ const app = window.comfyAPI.app.app; return {PREVIEW}.properties.matrix_viewer }}"
WIDGETS = f"Object.fromEntries({PREVIEW}.widgets.map((widget) => [widget.name, widget.value]))"


# Beside the bars of the page, with the viewer itself in sight.
LOOK = """() => {
  const { canvas, graph } = window.comfyAPI.app.app
  const node = graph.nodes.find((node) => node.type === 'MatrixAttentionPreview')
  const widget = node.widgets.find((widget) => widget.name === 'matrix_viewer')
  canvas.ds.scale = 1
  canvas.ds.offset = [160 - node.pos[0], 110 - node.pos[1] - (widget?.y ?? 0)]
  canvas.setDirty(true, true)
}"""


class Viewer:
    """The viewer of Preview Attention, and what it asked of the server."""

    def __init__(self, page: Page) -> None:
        self.page, self.tab = page, page.tab
        self.asked: list[Request] = []
        self.tab.on("request", self._heard)

    def _heard(self, request: Request) -> None:
        if "/matrix/viewer/" in request.url or request.url.endswith("/prompt"):
            self.asked.append(request)

    @property
    def element(self) -> Locator:
        name = self.page.app(f"{PREVIEW}.properties.matrix_viewer")
        assert len(name) == 32
        return self.tab.locator(".matrix-viewer").last

    def ready(self, text: str = "") -> None:
        """Waits until its picture says `text`."""
        drawn = self.element.locator(".viewer[data-drawn]")
        expect(drawn).to_be_visible()
        if text:
            expect(self.element.locator(".stage .told").first).to_contain_text(text)
        expect(self.element.locator(".right > .told")).not_to_contain_text("measuring")

    def picture(self) -> str:
        return self.element.locator(".stage canvas").first.evaluate("(canvas) => canvas.toDataURL()")

    def maps(self) -> list[Request]:
        return [request for request in self.asked if "/map?" in request.url]

    def click_cell(self, row: int, column: int) -> None:
        """A cell of the chart, by places among layers and steps."""
        canvas = self.element.locator(".chart canvas")
        x, y = canvas.evaluate(
            """(canvas, [row, column, rows, columns]) => {
              const box = canvas.parentElement
              const [width, height] = [box.clientWidth, box.clientHeight]
              const cell = [Math.min((width - 78) / columns, 40), Math.min((height - 20) / rows, 26)]
              return [26 + (column + 0.5) * cell[0], 2 + (row + 0.5) * cell[1]]
            }""",
            [row, column, LAYERS, STEPS],
        )
        canvas.click(position={"x": x, "y": y})


@seen_in(OWN)
def test_words_and_layers_without_a_queue(page: Page) -> None:
    viewer = Viewer(page)
    page.open(nodes2=False)
    # Noise of its own: a run that the host has cached is not sampled, and nothing grows.
    seed = 7 + len(page.server.get("/history"))
    values = {"BasicScheduler": {"steps": STEPS}, "RandomNoise": {"noise_seed": seed}}
    values["MatrixSampleAttention"] = {"heads": "0, 2"}
    page.tab.evaluate(LOAD, [TEMPLATE, values])
    _pins_in_the_editor(page)
    page.run()
    _grows_while_it_is_sampled(page)
    page.tab.wait_for_function(SHOWN, timeout=480_000)  # mini samples on a CPU that others may use, too
    _look(page)
    viewer.ready("all layers · all steps")

    before = viewer.picture()
    viewer.asked.clear()
    chip = viewer.element.locator(".chip", has_text="pushes")
    chip.hover()
    expect(viewer.element.locator(".legend .name")).to_have_text(["pushes"])
    hovered = viewer.picture()
    assert hovered != before
    chip.click()
    assert not viewer.maps(), "its map is there already"

    viewer.click_cell(9, 1)
    viewer.ready("layer 9 · step 1")
    (request,) = viewer.maps()
    assert "layers=9&steps=1&entities=2" in request.url
    assert len(request.response().body()) == 4 + FRAMES + TOKENS
    assert viewer.picture() not in (before, hovered)
    assert not [each for each in viewer.asked if each.url.endswith("/prompt")]
    _writes_back(page)
    with page.tab.expect_response(lambda reply: "/scores?" in reply.url and "sinks=out" in reply.url) as answer:
        viewer.element.get_by_role("button", name="No sinks").click()
    assert answer.value.ok
    _says_what_a_place_looks_at(viewer)
    _shows_where_a_pinned_point_looks(viewer)
    page.until_kept('"pushes","9","1"')  # the fields of the node, and not the prompt

    page.open(nodes2=True)  # the capture is still there, and what was chosen, too
    _look(page)
    viewer.ready("layer 9 · step 1")
    expect(viewer.element.locator(".legend .name")).to_have_text(["pushes"])
    _keys(viewer)
    _says_that_a_capture_is_gone(page, viewer)
    assert not page.errors


def _grows_while_it_is_sampled(page: Page) -> None:
    """The viewer behind the node that samples shows the steps that there are, then the whole."""
    shown = page.tab.locator(".matrix-viewer")
    expect(shown.locator(".status")).to_contain_text("sampling goes on: 1 of 2 steps so far", timeout=480_000)
    expect(shown.locator(".viewer[data-drawn]")).to_have_count(1)
    expect(shown.locator(".viewer .status")).not_to_contain_text("sampling", timeout=480_000)
    expect(shown.locator(".viewer[data-drawn]")).to_have_count(1)


def _look(page: Page) -> None:
    page.tab.evaluate(LOOK)
    page.tab.wait_for_timeout(300)


def _writes_back(page: Page) -> None:
    """The node's fields, and with them the prompt that would be queued."""
    widgets = page.app(WIDGETS)
    assert {name: widgets[name] for name in ("names", "layers", "steps")} == {
        "names": "pushes",
        "layers": "9",
        "steps": "1",
    }
    prompt = page.app("app.graphToPrompt().then((made) => made.output)")
    (node,) = [each for each in prompt.values() if each["class_type"] == "MatrixAttentionPreview"]
    assert node["inputs"]["layers"] == "9"
    assert "matrix_viewer" not in node["inputs"]


def _says_what_a_place_looks_at(viewer: Viewer) -> None:
    stage = viewer.element.locator(".stage canvas").first
    stage.click(position={"x": 60, "y": 60})
    ranks = viewer.element.locator(".card .rank span:not(.value)")
    expect(ranks).to_have_count(3)
    assert sorted(ranks.all_text_contents()) == ["green circle", "pink circle", "pushes"]
    values = [float(text.split()[0]) for text in viewer.element.locator(".card .value").all_text_contents()]
    assert values == sorted(values, reverse=True)
    viewer.element.locator(".card .close").click()
    expect(viewer.element.locator(".card:not(.findings)")).to_be_hidden()


def _points(page: Page) -> str:
    sampler = "app.graph.nodes.find((node) => node.type === 'MatrixSampleAttention')"
    return page.app(f"{sampler}.widgets.find((widget) => widget.name === 'points').value")


def _pins_in_the_editor(page: Page) -> None:
    """A click on the picture of Box Tracks pins a point in the node that samples, another one takes it away."""
    page.look_at("MatrixBoxTracks")
    pin = page.tab.get_by_role("button", name="Pin points")
    pin.click()
    stage = page.tab.get_by_label("Boxes on the picture")
    for told, wanted in (("Pinned 50%,50%@0 in", "50%,50%@0"), ("Took 50%,50%@0 out", ""), ("Pinned", "50%,50%@0")):
        stage.click()  # in the middle
        expect(page.tab.locator(".matrix-editor .told")).to_contain_text(told)
        assert _points(page) == wanted
    pin.click()


def _shows_where_a_pinned_point_looks(viewer: Viewer) -> None:
    """Its own map, of one head; and a click pins another place for the next run. Nothing is queued."""
    element, page = viewer.element, viewer.page
    stage = element.locator(".stage canvas").first
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] / 2 + 2, "y": box["height"] / 2 + 2})
    element.get_by_role("button", name="Where point 50% 50% @0 looks").click()
    expect(element.locator(".legend .name")).to_have_text(["point 50% 50% @0"])
    mean = viewer.picture()
    viewer.asked.clear()
    element.get_by_label("Head", exact=True).select_option("2")
    viewer.ready("layer 9 · step 1 · sigma")
    expect(element.locator(".stage .told").first).to_contain_text("head 2")
    assert "head=2" in viewer.maps()[0].url
    assert viewer.picture() != mean
    assert page.app(WIDGETS)["head"] == 2
    stage.click(position={"x": 8, "y": 8})
    element.get_by_role("button", name="Pin: where does it look?").click()
    expect(element.locator(".status")).to_contain_text("the next run records where it looks")
    assert _points(page) == "50%,50%@0; 4,4@0"
    element.locator(".card .close").click()
    element.get_by_label("Head", exact=True).select_option("")
    element.locator(".viewer").press("k")
    element.locator(".chip", has_text="pushes").click()
    viewer.ready("layer 9 · step 1")


def _keys(viewer: Viewer) -> None:
    panel = viewer.element.locator(".viewer")
    panel.focus()
    panel.press("ArrowDown")
    viewer.ready("layer 10 · step 1")
    panel.press("1")
    expect(viewer.element.locator(".legend .name")).to_have_text(["green circle"])
    panel.press("k")
    viewer.ready("layer 10 · step 1")
    assert viewer.page.app(WIDGETS)["kind"] == "instances over time (video to video)"
    panel.press("ArrowRight")
    expect(viewer.element.locator(".time")).to_have_text("frame 2 of 17 · tokens 2 of 5")
    panel.press("a")
    viewer.ready("all layers · all steps")


def _says_that_a_capture_is_gone(page: Page, viewer: Viewer) -> None:
    unknown = "0123456789abcdef" * 2
    page.app(f"(app.canvas.emitBeforeChange(), {PREVIEW}.properties.matrix_viewer = '{unknown}')")
    page.app("app.canvas.emitAfterChange()")
    page.until_kept(unknown)
    page.open(nodes2=True)
    _look(page)
    expect(viewer.element.locator(".gone")).to_contain_text("no capture has this id")
