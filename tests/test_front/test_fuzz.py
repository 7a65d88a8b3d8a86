"""Random events on the editor: what its text says to the library is what its picture shows, after every single one."""

from __future__ import annotations

from typing import Any

import pytest
from support_counts import count, seeds

from matrix_lib.core.tracks.boxes import in_pixels
from matrix_lib.core.tracks.painted import mask_code
from matrix_lib.core.tracks.text import Prompt, parse_boxes, parse_masks, parse_prompts
from scripts.comfyui import ROOT
from scripts.editor_page import editor_page

CLIP = {"width": 200, "height": 120, "frames": 17, "fps": 8, "hold": True}
START = "# two things\ncat (subject): 0: 10 10 60 60; 12: 90 20 140 70\ndog: 5: 40% 40% 60% 60%; 9: off\n"
STEPS = 100  # events on one page


PAINTED = "mask 200x120 s9FyB2EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0zN"
STARTS = {
    "BOXES": START,
    "PROMPTS": "# two things\ncat (subject): 0: 10,10 -60,60; 12: [90,20,140,70]\ndog: 5: 40%,40%; 9: off\n",
    "MASKS": f"# two things\ncat (subject): 0: {PAINTED}\ndog: 9: off\n",
}


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "pages"), [("BOXES", (2, 100)), ("PROMPTS", (1, 30)), ("MASKS", (1, 30))])
def test_text_and_picture_agree(browser: Any, kind: str, pages: tuple[int, int]) -> None:
    fuzz = (ROOT / "tests" / "front" / "tools" / "fuzz.js").read_text(encoding="utf-8").split("*/\n;", 1)[1]
    texts: set[str] = set()
    edits = 0
    for seed in seeds(*pages):
        errors: list[str] = []
        with editor_page(STARTS[kind], CLIP, kind=kind, browser=browser) as page:
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.mouse.move(300, 300)
            steps = page.evaluate(f"([seed, count]) => ({fuzz})(seed, count)", [seed, STEPS])
        assert not errors, (seed, errors[:3])
        for number, step in enumerate(steps):
            edits += step["text"] not in texts
            texts.add(step["text"])
            said = _said(kind, step["text"])
            where = (seed, number, step)
            assert step["text"] == step["kept"], where
            assert not step["draft"], where
            assert not step["touched"], where
            assert step["error"] == (said is None), where
            if said is not None:
                assert _near(step["tracks"], said), (where, said)
    assert edits > count(20 * pages[0], 20 * pages[1])


def _said(kind: str, text: str) -> Any:
    """What the library reads, in pixels; None where it refuses, an empty list where nothing is said."""
    if (
        not [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        or text == "{\n\n}"
    ):
        return []
    size = CLIP["width"], CLIP["height"]
    try:
        if kind == "BOXES":
            keys, roles = parse_boxes(text, *size)
            found: Any = in_pixels(keys, size[1], size[0])[0]
        elif kind == "PROMPTS":
            found, roles = parse_prompts(text, *size)
        else:
            found, roles = parse_masks(text)
    except ValueError:
        return None
    return [
        [name, roles.get(name), [[frame, _value(kind, own[frame])] for frame in sorted(own)]]
        for name, own in found.items()
    ]


def _value(kind: str, value: Any) -> Any:
    if kind == "BOXES" or value is None:
        return value
    prompt = value if kind == "PROMPTS" else Prompt(mask=value)
    code = None if prompt.mask is None else mask_code(prompt.mask).split()[-1]
    return {"box": prompt.box, "points": prompt.points, "mask": code}


def _near(shown: list[Any], said: list[Any]) -> bool:
    if [(name, role) for name, role, _ in shown] != [(name, role) for name, role, _ in said]:
        return False
    for (_, _, one), (_, _, other) in zip(shown, said, strict=True):
        if [frame for frame, _ in one] != [frame for frame, _ in other]:
            return False
        if not all(_same(value, known) for (_, value), (_, known) in zip(one, other, strict=True)):
            return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Numbers to nine places; everything else as it is."""
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    number = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) <= 1e-9 if number else one == other
