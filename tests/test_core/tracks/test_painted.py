"""Painted masks: as text and back, in other sizes, and put into tracks."""

from __future__ import annotations

import numpy as np
import pytest

from matrix_lib.core.tracks.painted import fitted_mask, mask_code, parse_mask
from matrix_lib.core.tracks.painting import with_painted
from matrix_lib.core.tracks.text import parse_masks, parse_prompts
from matrix_lib.core.tracks.tracks import MaskTracks


def disc(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2


def test_every_mask_is_its_text() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.03, 0.5, 0.97])
        if mask.any():
            assert (parse_mask(mask_code(mask)) == mask).all()
    assert len(mask_code(disc(480, 720, 120))) < 600
    with pytest.raises(ValueError, match="empty mask"):
        mask_code(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="at most 67108864 pixels; got 16384x16384"):
        parse_mask("mask 16384x16384 AM")


def test_another_size_of_the_same_shape() -> None:
    large, small = disc(480, 720, 120), disc(240, 360, 60)
    assert (fitted_mask(large, 240, 360) != small).mean() < 0.003
    assert fitted_mask(large, 480, 720) is large
    with pytest.raises(ValueError, match="painted on 720x480 pixels .* frames are 480x480"):
        parse_prompts(f"a: {mask_code(large)}", 480, 480)
    dot = np.zeros((480, 720), bool)
    dot[0, 0] = True
    with pytest.raises(ValueError, match="nothing is left"):
        fitted_mask(dot, 48, 72)


def test_paint_in_tracks() -> None:
    box = MaskTracks.from_boxes({"Cat": {0: (0, 0, 10, 10)}}, 5, 48, 72, hold=True, fps=12)
    code = mask_code(disc(48, 72, 12))
    painted, roles = parse_masks(f"cat: 2: {code}; 3: off\ndog (object): 1: {code}")
    made = with_painted(box, painted, roles)
    assert (made.names, made.fps, made.roles["dog"]) == (("Cat", "dog"), 12, "object")
    assert made.visible == {"Cat": (0, 1, 2, 4), "dog": (1,)}
    assert (made.mask("Cat", 2).numpy() == disc(48, 72, 12)).all()
    assert (made.mask("Cat", 1) == box.mask("Cat", 1)).all()
    with pytest.raises(ValueError, match=r"'dog' is painted in frame 1, but there are frames 0 to 0"):
        with_painted(box.take([0]), parse_masks(f"dog: 1: {code}")[0])
    with pytest.raises(ValueError, match="'dog' is painted in no frame"):
        with_painted(box, parse_masks("dog: 1: off")[0])


def test_paint_alone() -> None:
    code = mask_code(disc(48, 72, 12))
    first = with_painted(None, parse_masks(f"cat: {code}")[0], frames=9)
    assert (first.frames, first.height, first.width) == (1, 48, 72)
    clip = with_painted(None, parse_masks(f"cat: 3: {code}")[0], frames=9, size=(24, 36))
    assert (clip.frames, clip.height, clip.visible["cat"]) == (9, 24, (3,))
