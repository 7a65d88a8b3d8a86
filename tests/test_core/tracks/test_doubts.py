"""What of masks is likely a mistake: inverted ones, objects for frames, and what is no reason to doubt."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.tracks import runs
from matrix_lib.core.tracks.doubts import doubts_of, look_inverted
from matrix_lib.core.tracks.tracks import MaskTracks


def box(x: int, y: int, w: int, h: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def seen(masks: list[np.ndarray]) -> str:
    return look_inverted([runs.pack(mask) for mask in masks], *masks[0].shape)


def test_the_middle_of_its_frames_decides():
    """One frame that fills the picture is a close-up; frames without the thing count for nothing."""
    small, rest, none = box(5, 5, 10, 10), ~box(5, 5, 10, 10), box(0, 0, 0, 0)
    assert seen([small, rest, small]) == ""
    assert "96 % of the frame" in seen([rest, small, rest])
    assert seen([none, rest, none, none]) != ""
    assert seen([none]) == ""
    assert seen([box(0, 0, 60, 30)]) == "", "half of the frame, as a floor has it"


@given(st.integers(0, 40), st.integers(0, 25), st.integers(3, 19), st.integers(3, 14))
@settings(max_examples=count(60, 1800))
def test_objects_and_their_opposites(x, y, w, h):
    """A box of up to a fifth of the frame, anywhere, is an instance; everything but it is not."""
    assert seen([box(x, y, w, h)]) == ""
    said = seen([~box(x, y, w, h)])
    inner = x > 0 and y > 0 and x + w < 60 and y + h < 40
    assert ("nearly all of its edge" in said) == (w * h >= 120) or not inner
    assert said or not inner


def test_what_is_told():
    def notes(frames: list[np.ndarray]) -> list[str]:
        return doubts_of(MaskTracks.from_masks({"a": torch.from_numpy(np.stack(frames))}))

    walk = [box(5 + 3 * i, 10, 12, 20) for i in range(8)]
    assert notes(walk) == []
    assert notes([box(20, 20, 30, 20)]) == [], "one that stands on the frame's edge"
    (inverted,) = notes([~mask for mask in walk])
    assert "'a' covers 90 % of the frame" in inverted
    assert "Switch 'invert' on" in inverted
    assert "covers 100 % of the frame" in notes([np.ones((4, 4), dtype=bool)])[0]
    (objects,) = notes([box(2, 2, 10, 10), box(30, 20, 12, 12), box(45, 3, 9, 9)])
    assert "set 'batch_is' to objects" in objects
    assert notes([box(0, 0, 9, 9), np.zeros((40, 60), dtype=bool), box(30, 20, 9, 9)]) == [], "a break says nothing"
    same = {str(i): torch.from_numpy(mask) for i, mask in enumerate([box(5, 5, 30, 30), box(6, 5, 30, 30)] * 2)}
    (frames,) = doubts_of(MaskTracks.from_masks(same), objects=True)
    assert "set 'batch_is' to frames" in frames
