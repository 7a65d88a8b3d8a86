"""Track overlays: what has to be on the picture is on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from matrix_lib.core.grid import Framing, Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.style import INK
from matrix_lib.draw.tracks import TrackLook, draw_tracks, track_report


@pytest.fixture
def tracks() -> MaskTracks:
    clip = torch.zeros(2, 9, 64, 96, dtype=torch.bool)
    clip[0, :, 16:48, 32:64] = True
    clip[1, 5:, 17:19, 70:80] = True  # a rope that the grid loses, and that comes late
    return MaskTracks.from_masks({"cat": clip[0], "rope": clip[1]}, roles={"cat": "subject"})


def near(picture, colour, tolerance=6):
    return np.abs(np.asarray(picture).astype(int) - colour).max(-1) <= tolerance


def test_pictures_have_one_even_size_and_show_every_part(tracks):
    grid = Grid.from_pixels(9, 64, 96)
    frames = np.full((9, 64, 96, 3), 128, np.uint8)
    plain = TrackLook(tokens=False, boxes=False, names=False)
    pictures = list(draw_tracks(tracks, tracks.to_grid(grid), [0, 5], lambda i: frames[i]))
    bare = list(draw_tracks(tracks, tracks.to_grid(grid), [0, 5], lambda i: frames[i], plain))
    sizes = {picture.size for picture in pictures + bare}
    assert len(sizes) == 1
    width, height = sizes.pop()
    assert width == 720
    assert height % 2 == 0
    tiled, empty = (np.asarray(p)[255, 375].astype(int) for p in (pictures[0], bare[0]))
    assert tiled[0] - tiled[1] > 40  # the cat's tokens are red
    assert np.ptp(empty) <= 2  # and nothing else tints its inside
    late = near(pictures[1].crop((0, 0, 720, 480)), INK["accent"])
    assert late.sum() > 100  # the flag of the rope that no token keeps
    assert near(pictures[0].crop((0, 0, 720, 480)), INK["accent"]).sum() == 0


def test_the_crop_of_the_model(tracks):
    framing = Framing((64, 96), (64, 64))
    grid = Grid.from_pixels(9, 64, 64)
    frames = np.full((9, 64, 64, 3), 128, np.uint8)
    on_grid = tracks.to_grid(grid, "area", framing)
    (picture,) = draw_tracks(tracks, on_grid, [0], lambda i: frames[i], framing=framing)
    red = near(picture.crop((0, 0, 720, 720)), (255, 60, 60), 70)
    columns = np.flatnonzero(red.any(0))
    assert abs(columns[0] - 720 * 16 / 64) < 16  # 32 - 16 pixels cut on the left
    assert abs(columns[-1] - 720 * 48 / 64) < 16
    with pytest.raises(ValueError, match="frames are"):
        next(draw_tracks(tracks, on_grid, [0], lambda i: frames[i]))


def test_frames_that_are_not_there_and_looks_that_cannot_be(tracks):
    on_grid = tracks.to_grid(Grid.from_pixels(9, 64, 96))
    with pytest.raises(ValueError, match="frame 9 is not in the clip's 9 frames"):
        next(draw_tracks(tracks, on_grid, [0, 9]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        TrackLook(strength=2)
    with pytest.raises(ValueError, match="64 to 4096"):
        TrackLook(width=3)


def test_many_instances_and_long_names_still_fit():
    boxes = {
        f"the {'very ' * i}long name of person {i}": {0: (4 * i, 2 * i, 4 * i + 20, 2 * i + 20)} for i in range(12)
    }
    tracks = MaskTracks.from_boxes(boxes, 1, 64, 96)
    (picture,) = draw_tracks(tracks, tracks.to_grid(Grid.from_pixels(1, 64, 96)), [0], look=TrackLook(width=320))
    assert picture.width == 320


def test_report_puts_warnings_first(tracks):
    lines = track_report(tracks, tracks.to_grid(Grid.from_pixels(9, 64, 96))).splitlines()
    assert lines[0].startswith("2 instances, 9 frames of 96x64 at 8 fps")
    assert [line[0] for line in lines[1:]] == ["!"] * 3 + ["-"] * 2
    assert "missing on the token grid in 1 of 3" in lines[2]
    assert lines[4] == (
        "- cat (subject): in 9 of 9 frames, at most 16.7 % of the frame; in 3 of 3 token frames, 4 query tokens"
    )
