"""Random events on the editor: what its text says to the library is what its picture shows, after every single one."""

from __future__ import annotations

from typing import Any

import pytest
from support_counts import count, seeds

from matrix_lib.core.tracks.boxes import in_pixels
from matrix_lib.core.tracks.text import parse_boxes
from scripts.comfyui import ROOT
from scripts.editor_page import editor_page

CLIP = {"width": 200, "height": 120, "frames": 17, "fps": 8, "hold": True}
START = "# two things\ncat (subject): 0: 10 10 60 60; 12: 90 20 140 70\ndog: 5: 40% 40% 60% 60%; 9: off\n"
STEPS = 100  # events on one page


@pytest.mark.soak
def test_text_and_picture_agree(browser: Any) -> None:
    fuzz = (ROOT / "tests" / "front" / "tools" / "fuzz.js").read_text(encoding="utf-8").split("*/\n;", 1)[1]
    texts: set[str] = set()
    edits = 0
    for seed in seeds(2, 100):
        errors: list[str] = []
        with editor_page(START, CLIP, browser=browser) as page:
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.mouse.move(300, 300)
            steps = page.evaluate(f"([seed, count]) => ({fuzz})(seed, count)", [seed, STEPS])
        assert not errors, (seed, errors[:3])
        for number, step in enumerate(steps):
            edits += step["text"] not in texts
            texts.add(step["text"])
            said = _said(step["text"])
            where = (seed, number, step)
            assert step["text"] == step["kept"], where
            assert not step["draft"], where
            assert not step["touched"], where
            assert step["error"] == (said is None), where
            if said is not None:
                assert _near(step["tracks"], said), (where, said)
    assert edits > count(40, 2000)


def _said(text: str) -> Any:
    """What the library reads, in pixels; None where it refuses, an empty list where nothing is said."""
    if (
        not [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        or text == "{\n\n}"
    ):
        return []
    try:
        keys, roles = parse_boxes(text, CLIP["width"], CLIP["height"])
    except ValueError:
        return None
    keys, _ = in_pixels(keys, CLIP["height"], CLIP["width"])
    return [[name, roles.get(name), [[frame, own[frame]] for frame in sorted(own)]] for name, own in keys.items()]


def _near(shown: list[Any], said: list[Any]) -> bool:
    if [(name, role) for name, role, _ in shown] != [(name, role) for name, role, _ in said]:
        return False
    for (_, _, one), (_, _, other) in zip(shown, said, strict=True):
        if [frame for frame, _ in one] != [frame for frame, _ in other]:
            return False
        for (_, box), (_, same) in zip(one, other, strict=True):
            if (box is None) != (same is None) or (box and any(abs(a - b) > 1e-9 for a, b in zip(box, same))):
                return False
    return True
