"""Ranking on a capture whose layers find the masks better the later they come."""

import pytest
from support_capture import library, make_capture, make_tracks

from matrix_lib.instrument.readings.ranking import layer_table, rank_layers


def test_layers_come_in_the_order_in_which_they_find_the_masks():
    capture, tracks = make_capture(layers=5), make_tracks()
    layers = rank_layers(capture, tracks, keep=3)
    assert layers.v2t == (4, 3, 2)
    assert layers.v2v == (1, 0)
    assert layers.backbone == capture.backbone
    # layer l puts (l + 1) / 6 of its attention on the mask by the last step, 2/3 of that on average, the rest is flat
    masks = tracks.to_grid(capture.streams[0].grid)
    areas = [float(masks.map(*names).mean()) for names in (("cyclist",), ("van",), ("cyclist", "van"))]
    for layer in range(5):
        on = (layer + 1) / 6 * 2 / 3
        want = sum(on * (1 - area) for area in areas) / 3
        assert layers.scores["v2t"][str(layer)] == pytest.approx(want, abs=2e-3)
    table = layer_table(capture, tracks, layers)
    assert "| **4** |" in table
    assert "| 0 |" in table
    assert "*chance*" in table


def test_tracks_of_other_names_are_told():
    tracks = library("core.tracks.tracks").MaskTracks.from_boxes({"dog": {0: (0, 0, 9, 9)}}, 9, 64, 96)
    with pytest.raises(ValueError, match="dog"):
        rank_layers(make_capture(), tracks)
    with pytest.raises(ValueError, match="at least 1 layer"):
        rank_layers(make_capture(), make_tracks(), keep=0)
