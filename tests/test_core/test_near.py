"""A wrong name is answered with the one that was perhaps meant."""

from __future__ import annotations

import pytest

from matrix_lib.core.near import did_you_mean
from matrix_lib.core.tracks.tracks import MaskTracks


def test_near_names_are_offered_and_far_ones_not() -> None:
    assert did_you_mean("cyclst", ["van", "cyclist"]) == "; did you mean 'cyclist'?"
    assert did_you_mean("VAN", ["van", "cyclist"]) == "; did you mean 'van'?"
    assert did_you_mean("tree", ["van", "cyclist"]) == ""
    assert did_you_mean("van", []) == ""


def test_tracks_say_it() -> None:
    tracks = MaskTracks.from_boxes({"red square": {0: (1, 1, 9, 9)}, "van": {0: (2, 2, 4, 4)}}, 5, 16, 16)
    with pytest.raises(ValueError, match="no instance is called 'red sqare'.*did you mean 'red square'"):
        tracks.track("red sqare")
