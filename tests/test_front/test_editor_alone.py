"""The track editor on a page of its own: what hands and keys make of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from matrix_lib.core.tracks.text import parse_masks, parse_prompts
from scripts.editor_page import editor_page

CLIP = {"width": 200, "height": 100, "frames": 11, "fps": 10, "hold": True}
NAMES = [{"name": name, "role": "instance", "time": None} for name in ("cat", "dog")]


class Sheet:
    """The page's editor, told in pixels of the clip."""

    def __init__(self, page: Any) -> None:
        self.page = page

    @property
    def text(self) -> str:
        self.page.wait_for_timeout(60)
        return self.page.evaluate("host.text")

    @property
    def told(self) -> str:
        self.page.wait_for_timeout(60)
        return self.page.locator(".told").inner_text()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the clip is on the screen."""
        place = """([x, y]) => {
          const { left, top } = panel.stage.element.getBoundingClientRect()
          const { scale, left: dx, top: dy } = panel.stage.view
          return [left + dx + x * scale, top + dy + y * scale]
        }"""
        return tuple(self.page.evaluate(place, [x, y]))  # type: ignore[return-value]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*start))
        mouse.down()
        mouse.move(*self.at(*end), steps=4)
        mouse.up()

    def click(self, x: float, y: float, alt: bool = False) -> None:
        if alt:
            self.page.keyboard.down("Alt")
        self.page.mouse.click(*self.at(x, y))
        if alt:
            self.page.keyboard.up("Alt")

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def cursor(self, x: float, y: float) -> str:
        self.page.mouse.move(*self.at(x, y))
        return self.page.evaluate("panel.stage.element.style.cursor")

    def paste(self, text: str) -> None:
        event = """(text) => {
          const clipboardData = new DataTransfer()
          clipboardData.setData('text/plain', text)
          const event = new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true })
          document.activeElement.dispatchEvent(event)
        }"""
        self.page.evaluate(event, text)

    def copied(self) -> str:
        event = """() => {
          const clipboardData = new DataTransfer()
          const event = new ClipboardEvent('copy', { clipboardData, bubbles: true, cancelable: true })
          document.activeElement.dispatchEvent(event)
          return clipboardData.getData('text/plain')
        }"""
        return self.page.evaluate(event)


@pytest.fixture
def sheet(browser: Any) -> Any:
    opened: list[Any] = []

    def make(text: str, **more: Any) -> Sheet:
        opened.append(editor_page(text, CLIP, browser=browser, **more))
        return Sheet(opened[-1].__enter__())

    yield make
    for context in opened:
        context.__exit__(None, None, None)


def test_boxes_by_hand(sheet: Callable[..., Sheet]) -> None:
    own = sheet("", names=NAMES)
    assert own.told.startswith("Drag a box")
    own.drag((10, 10), (50, 40))
    assert own.text == "cat: 0: 10 10 50 40"
    assert [own.cursor(x, y) for x, y in ((10, 10), (50, 10), (50, 25), (30, 25), (150, 80))] == [
        *("nwse-resize", "nesw-resize", "ew-resize", "move", "crosshair")
    ]
    own.key("End", "Shift+ArrowRight", "ArrowDown")
    assert own.text == "cat: 0: 10 10 50 40; 10: 20 11 60 41"
    own.key("Home")
    own.drag((50, 40), (70, 60))
    assert own.text == "cat: 0: 10 10 70 60; 10: 20 11 60 41"
    own.key("End")
    own.click(150, 80)
    own.drag((120, 50), (160, 90))
    assert own.text.endswith("\ndog: 10: 120 50 160 90")
    own.click(190, 10)
    own.drag((170, 60), (190, 90))
    assert "Every name that the phrases bind has a box" in own.told
    own.key("Tab", "Shift+Delete")
    assert own.text == "dog: 10: 120 50 160 90"


def test_keys_leave_and_come_back(sheet: Callable[..., Sheet]) -> None:
    own = sheet("a: 0: 10 10 50 40; 10: 110 10 150 40")
    own.click(30, 25)
    own.key(".", ".", ".", ".", "k", "]", "[", "o")
    assert own.text == "a: 0: 10 10 50 40; 4: off; 10: 110 10 150 40"
    own.key("o")
    assert own.text == "a: 0: 10 10 50 40; 10: 110 10 150 40"
    own.key("Delete")
    assert "has no key at frame 4" in own.told
    own.drag((100, 25), (100, 75))  # a point of the path, that of frame 7
    assert own.text == "a: 0: 10 10 50 40; 7: 80 60 120 90; 10: 110 10 150 40"
    own.key("Control+z", "Control+z", "Control+Shift+z", "End", "Delete")
    assert own.text == "a: 0: 10 10 50 40"


@pytest.mark.parametrize("kind", ["PROMPTS", "MASKS"])
def test_a_mask_is_painted(sheet: Callable[..., Sheet], kind: str) -> None:
    """What the brush leaves is what the library reads, to the pixel."""
    own = sheet("", kind=kind, names=NAMES)
    if kind == "PROMPTS":
        own.click(60, 50)
        own.key("Control+z", "b")
    own.drag((30, 30), (80, 30))
    read = {
        "PROMPTS": lambda t: parse_prompts(t, 200, 100)[0]["cat"][0].mask,
        "MASKS": lambda t: parse_masks(t)[0]["cat"][0],
    }
    mask = read[kind](own.text)
    y, x = np.mgrid[:100, :200] + 0.5
    far = np.hypot(x - np.clip(x, 30, 80), y - 30)
    assert mask.shape == (100, 200)
    assert mask[far < 3.4].all()
    assert not mask[far > 4.6].any()
    own.key("+", "+", "+", "+")
    before = own.text
    own.page.keyboard.down("Alt")
    own.drag((55, 20), (55, 40))
    own.page.keyboard.up("Alt")
    assert not read[kind](own.text)[28:32, 50:60].any()
    own.key("Control+z")
    assert own.text == before
    if kind == "PROMPTS":  # a click with a point in the hand does not cost the paint
        own.key("b")
        own.click(32, 30)
        assert own.text == before
        assert "is painted in this frame" in own.told
        own.drag((120, 50), (160, 90))
        assert own.text == f"{before}\ndog: 0: [120,50,160,90]"
    copied = own.copied()
    own.key("Delete", "Delete")
    own.paste(copied)
    assert copied.strip() in own.text


def test_points_by_hand(sheet: Callable[..., Sheet]) -> None:
    own = sheet("", kind="PROMPTS", names=NAMES)
    own.click(30, 20)
    own.click(100, 20, alt=True)
    own.drag((10, 50), (60, 90))
    assert own.text == "cat: 0: 30,20 -100,20 [10,50,60,90]"
    own.click(30, 20)
    own.drag((100, 20), (120, 30))
    assert own.text == "cat: 0: -30,20 -120,30 [10,50,60,90]"
    own.click(120, 30, alt=True)
    own.key("End", "o")
    assert own.text == "cat: 0: -30,20 [10,50,60,90]; 10: off"


def test_what_lies_on_the_clipboard(sheet: Callable[..., Sheet]) -> None:
    own = sheet("# mine\na: 0: 10 10 50 40", names=[])
    own.click(30, 25)
    own.page.wait_for_function("document.activeElement.className === 'keys'")
    assert own.copied() == "a: 0: 10 10 50 40\n"
    own.paste("b (object): 3: 1 2 30 40\na: 5: 20 20 60 50")
    assert own.text == "# mine\na: 0: 10 10 50 40; 5: 20 20 60 50\nb (object): 3: 1 2 30 40"
    own.paste('[{"type": "obj", "bbox": [500, 500, 900, 900], "desc": "c"}]')
    assert own.text.endswith("\nc: 0: 100 50 180 90")
    own.paste("just words")
    assert "nothing to paste" in own.told


def test_it_plays_and_has_a_large_view(sheet: Callable[..., Sheet]) -> None:
    own = sheet("a: 0: 10 10 50 40; 10: 110 10 150 40")
    own.click(30, 25)
    own.page.evaluate("panel.editor.seek(0)")
    before = own.page.evaluate("panel.stage.element.toDataURL()")
    own.key(" ")
    own.page.wait_for_function("panel.editor.frame > 3")
    assert own.page.evaluate("panel.stage.element.toDataURL()") != before
    own.key(" ")
    assert own.page.evaluate("panel.editor.playing") is False
    own.page.locator("button.large").click()
    assert own.page.locator(".matrix-editor-large canvas").first.bounding_box()["width"] > 500
    own.key("Escape")
    assert own.page.locator(".matrix-editor-large").count() == 0
    assert own.page.locator("#place .matrix-editor").count() == 1


def test_nothing_is_said_before_it_is_time(sheet: Callable[..., Sheet]) -> None:
    own = sheet("cat: 1 2 30 40\ndog: 5 6 70 80", names=NAMES)
    assert own.told == ""
    own.drag((120, 50), (160, 90))
    assert "Every name that the phrases bind has a box" in own.told
