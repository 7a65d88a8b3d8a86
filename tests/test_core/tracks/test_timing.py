"""Tracks in time: lengths and rates that differ from the clip's are told, and can be brought to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.grid import Grid
from matrix_lib.core.tracks.retime import retime
from matrix_lib.core.tracks.timing import time_notes
from matrix_lib.core.tracks.tracks import MaskTracks


def moving(frames: int, fps: float) -> MaskTracks:
    """A pixel that moves on by one column a frame, so that a frame says which one it was."""
    mask = torch.zeros(frames, 1, frames)
    mask[torch.arange(frames), 0, torch.arange(frames)] = 1
    return MaskTracks.from_masks({"a": mask}, fps=fps).fitted("stretch")


def places(tracks: MaskTracks) -> list[int]:
    return [int(tracks.mask("a", i).flatten().nonzero()[0, 0]) for i in range(tracks.frames)]


def grid_of(frames: int, fps: float | None) -> Grid:
    return Grid.from_latent(((frames - 1) // 4 + 1, 2, 2), fps=fps)


def test_121_frames_at_24_for_81_at_16():
    """The object is at its end when the clip ends, and is not cut off at two thirds of its way."""
    tracks, grid = moving(121, 24), grid_of(81, 16)
    (note,) = time_notes(tracks, grid)
    assert "121 frames; the first 81 are used" in note
    assert "24 frames per second and this model at 16" in note
    assert "ends after 3.3 of their 5.0 s" in note
    assert note in tracks.to_grid(grid).notes
    brought = retime(tracks, "resample", 81, 16)
    assert (brought.frames, brought.fps, places(brought)[-1]) == (81, 16, 120)
    assert time_notes(brought, grid) == []


def test_counts_that_differ_are_told_and_refused():
    grid = grid_of(81, 16)
    with pytest.raises(ValueError, match=r"77 frames, but the video has 81.*Retime"):
        moving(77, 16).to_grid(grid)
    for frames, short in ((78, 3), (80, 1)):
        (note,) = time_notes(moving(frames, 16), grid)
        assert note in moving(frames, 16).to_grid(grid).notes
        assert f"end {short} frames before the video: they have {frames} of its 81" in note
    assert time_notes(moving(81, 16), grid) == []
    assert "Retime" not in time_notes(moving(85, 16), grid)[0], "the rates are alike"
    assert "Retime" not in time_notes(moving(85, 8), grid_of(81, None))[0], "nobody knows the model's"
    assert not time_notes(moving(1, 8), grid)


@given(st.integers(2, 40), st.sampled_from((8, 12, 16, 23.976, 24, 30)), st.sampled_from((8, 16, 24, 30, 60)))
@settings(max_examples=count(60, 1800))
def test_resampled_frames_are_the_nearest_in_time(frames, old, new):
    made = places(retime(moving(frames, old), "resample", fps=new))
    assert len(made) == int((frames - 1) / old * new + 1e-6) + 1
    for i, at in enumerate(made):
        assert abs(at / old - i / new) <= 0.5 / old + 1e-6
    assert made == sorted(made)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 29), st.sampled_from((0, 8, 24)))
@settings(max_examples=count(60, 2400))
def test_lengths_are_as_asked(frames, wanted, start, fps):
    tracks = moving(frames, 12)
    if start >= frames:
        with pytest.raises(ValueError, match="cannot start with"):
            retime(tracks, "resample", wanted, fps, start)
        return
    made = places(retime(tracks, "resample", wanted, fps, start))
    assert len(made) == wanted
    assert made[0] == start
    if not fps and wanted > 1:
        assert made[-1] == frames - 1, "the whole clip in so many frames"
    left = frames - start
    for how, fails, want in (
        ("cut", wanted > left, list(range(start, start + wanted))),
        ("hold", wanted < left, [*range(start, frames), *[frames - 1] * (wanted - left)]),
    ):
        if fails:
            with pytest.raises(ValueError, match=f"there are {left} frames from frame {start} on"):
                retime(tracks, how, wanted, fps, start)
        else:
            taken = retime(tracks, how, wanted, fps, start)
            assert places(taken) == want
            assert taken.fps == (fps or 12)


def test_what_cannot_be_retimed():
    for wrong, words in (
        ({"how": "loop"}, "resample, cut, hold; got 'loop'"),
        ({"how": "cut", "frames": -1}, "above 0"),
        ({"how": "cut", "fps": float("nan")}, "above 0"),
        ({"how": "cut", "fps": 4000}, "at most 1000"),
    ):
        with pytest.raises(ValueError, match=words):
            retime(moving(3, 8), **wrong)
