"""HOTA, J and F against the numbers of the `trackeval` package (1.3.0) on the same masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.trajectories.hota import Hota
from matrix_lib.evaluation.trajectories.masks import box_overlap, edge_score, edges
from matrix_lib.evaluation.trajectories.score import score_tracks

# seed: HOTA, DetA, AssA, LocA (means over thresholds), then J and F of each of three instances
TRACKEVAL = {
    0: (
        (0.36342830692453093, 0.4119297455747812, 0.3231092820306809, 0.7132613588355345),
        (0.1689431664921861, 0.30318428685924714, 0.5089431044779619),
        (0.12573099415204678, 0.2522898002605413, 0.2950191570881226),
    ),
    1: (
        (0.37500124733379264, 0.4488543312684131, 0.32292524510434717, 0.7314142591158275),
        (0.23123406807617336, 0.31269213877909535, 0.5372320489967549),
        (0.20261437908496735, 0.28831801726538564, 0.3962962962962963),
    ),
    2: (
        (0.40770009525135215, 0.5201312759305303, 0.321599085945805, 0.7454432549584473),
        (0.32830672207058853, 0.25836139169472505, 0.5453150781874997),
        (0.1475095785440613, 0.2238095238095238, 0.5040329218106996),
    ),
    3: (
        (0.37860195602171653, 0.4987816169253146, 0.28984849362036735, 0.7260412885345711),
        (0.3201737943545292, 0.26516103134808167, 0.5163657303507961),
        (0.19855926229374266, 0.247979797979798, 0.3166092408300254),
    ),
}


def rectangles(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(given, seen) masks (3, 9, 48, 64): moving rectangles, found a little off, lost at times, two of them swapped."""
    chance = np.random.default_rng(seed)
    frames, height, width = 9, 48, 64
    given, seen = (np.zeros((3, frames, height, width), bool) for _ in range(2))
    for e in range(3):
        y, x = chance.integers(0, 28), chance.integers(0, 40)
        down, right = chance.integers(-2, 3, 2)
        h, w = chance.integers(8, 20, 2)
        for k in range(frames):
            a, b = y + down * k, x + right * k
            given[e, k, max(a, 0) : max(a + h, 0), max(b, 0) : max(b + w, 0)] = True
            i, j = chance.integers(-3, 4, 2)
            if chance.random() < 0.85:
                seen[e, k, max(a + i, 0) : max(a + i + h, 0), max(b + j, 0) : max(b + j + w, 0)] = True
    seen[[0, 1], 5:] = seen[[1, 0], 5:]
    return given, seen


def tracks_of(masks: np.ndarray) -> MaskTracks:
    return MaskTracks.from_masks(
        {f"thing {e}": torch.from_numpy(mask) for e, mask in enumerate(masks)}, allow_empty=True
    )


@pytest.mark.parametrize("seed", TRACKEVAL)
def test_numbers_of_trackeval(seed: int) -> None:
    given, seen = rectangles(seed)
    scores = score_tracks(tracks_of(given), tracks_of(seen))
    tracking, j, f = TRACKEVAL[seed]
    assert [scores.values[n] for n in ("hota", "det_a", "ass_a", "loc_a")] == pytest.approx(tracking, abs=1e-12)
    assert [each["j"] for each in scores.instances.values()] == pytest.approx(j, abs=1e-12)
    assert [each["f"] for each in scores.instances.values()] == pytest.approx(f, abs=1e-12)
    assert scores.values["j_and_f"] == pytest.approx((np.mean(j) + np.mean(f)) / 2)


def test_hota_of_nothing_and_of_a_frame_without_anybody() -> None:
    assert np.isnan(Hota(2, 2).result()["hota"])
    one = Hota(1, 1)
    yes, no = np.array([True]), np.array([False])
    one.add(np.zeros((1, 1)), yes, no)
    assert one.result()["hota"] == 0
    one.add(np.ones((1, 1)), yes, yes)
    assert one.result()["det_a"] == 0.5


def test_edges_and_boxes_by_hand() -> None:
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    assert edges(mask).sum() == 3 + 3 + 2  # the ring towards the upper left, by right, lower and corner neighbours
    assert edge_score(mask, mask) == 1
    assert edge_score(mask, np.zeros_like(mask)) == 0
    assert edge_score(np.zeros_like(mask), np.zeros_like(mask)) == 1
    here, there, none = np.array([0, 0, 4, 2.0]), np.array([2, 0, 6, 2.0]), np.full(4, np.nan)
    assert box_overlap(here, there) == (4.0, 12.0)
    assert box_overlap(here, none) == (0.0, 8.0)
    assert box_overlap(none, none) == (0.0, 0.0)
