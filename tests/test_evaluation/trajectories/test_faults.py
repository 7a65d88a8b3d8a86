"""Planted swaps are seen where look or motion tells, and true tracks are left in peace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from support_counts import count

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.trajectories.faults import anchor_faults, faults_of, seen_faults, touching
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.paint import paint
from matrix_lib.mini.world import WorldConfig, make_clips

CLIPS = count(40, 400)
TOLD = {"swap", "leap", "look", "jump", "overlap"}

pytestmark = pytest.mark.usefixtures("one_thread")


def exchanged(tracks: MaskTracks, one: str, other: str, at: int) -> MaskTracks:
    """Two instances that change places in frame `at`."""
    a, b = tracks.track(one), tracks.track(other)
    frames = range(tracks.frames)
    edges = {
        one: [(a if n < at else b).frame(n) for n in frames],
        other: [(b if n < at else a).frame(n) for n in frames],
    }
    return MaskTracks.from_edges(edges, tracks.frames, tracks.height, tracks.width)


def first(tracks: MaskTracks) -> dict[str, int]:
    return {name: frames[0] for name, frames in tracks.visible.items() if frames}


def test_planted_swaps_are_flagged_and_true_tracks_are_not() -> None:
    clips = make_clips(11, CLIPS, WorldConfig(distractor_share=0.3))
    rng = np.random.default_rng(0)
    false, flagged = 0, []
    for index in range(CLIPS):
        tracks = mask_tracks(clips, index)
        frames = clips.video[index].permute(0, 2, 3, 1).numpy()
        classes = dict.fromkeys(tracks.names, "shape")
        false += any(fault.kind in TOLD for fault in faults_of(tracks, frames, classes, first(tracks)))
        one, other = (tracks.names[n] for n in rng.choice(len(tracks.names), 2, replace=False))
        centres = [(b[:, :2] + b[:, 2:]) / 2 for b in (tracks.boxes(one).numpy(), tracks.boxes(other).numpy())]
        nearest = int(np.linalg.norm(centres[0] - centres[1], axis=1)[2:-1].argmin()) + 2
        at = nearest if index % 2 else int(rng.integers(2, tracks.frames - 1))
        found = faults_of(exchanged(tracks, one, other, at), frames, classes, first(tracks.select([one, other])))
        flagged.append(any(fault.kind in ("swap", "leap", "look") and at in fault.frames for fault in found))
    assert np.mean(flagged) >= 0.95
    assert false <= 0.05 * CLIPS


def crossing(step: float, colours: tuple[int, int]) -> tuple[MaskTracks, np.ndarray]:
    """Two circles that pass through each other at `step` pixels a frame, the first one in front."""
    count, middle = 17, 32.0
    x = (torch.arange(count) - count // 2).double() * step
    places = torch.stack(
        [
            torch.stack([middle + x, torch.full_like(x, middle)], 1),
            torch.stack([middle - x, torch.full_like(x, middle)], 1),
        ]
    )[None]
    one = torch.ones(1, 2)
    video, masks = paint(
        places.float(),
        torch.zeros(1, 2).long(),
        torch.tensor([colours]),
        6.0 * one,
        torch.tensor([[1, 0]]),
        one.bool(),
        torch.zeros(1, count, 2),
        torch.full((1, 10), 0.4),
        (64, 64),
    )
    tracks = MaskTracks.from_masks({"one": masks[0, 0], "other": masks[0, 1]})
    return tracks, video[0].permute(0, 2, 3, 1).numpy()


def test_looks_that_differ_tell_a_swap_at_full_overlap_and_equal_ones_cannot() -> None:
    for step in (1.0, 3.0):
        tracks, frames = crossing(step, (0, 5))
        found = faults_of(exchanged(tracks, "one", "other", 9), frames, {}, {"one": 0, "other": 0})
        assert any(fault.kind in ("swap", "look") for fault in found)
    tracks, frames = crossing(0.5, (0, 0))
    found = faults_of(exchanged(tracks, "one", "other", 9), frames, {}, {"one": 0, "other": 0})
    assert not any(fault.kind in ("swap", "look") for fault in found), "nobody can tell these apart"


def boxes(*rows: tuple[float, float, float, float] | None) -> list[np.ndarray]:
    masks = []
    for box in rows:
        mask = np.zeros((32, 32), dtype=bool)
        if box:
            x0, y0, x1, y1 = map(int, box)
            mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return masks


def made(**masks: list[np.ndarray]) -> MaskTracks:
    return MaskTracks.from_masks({name: torch.from_numpy(np.stack(rows)) for name, rows in masks.items()})


def kinds(tracks: MaskTracks, classes: dict[str, str] | None = None) -> dict[str, tuple[int, ...]]:
    frames = np.full((tracks.frames, 32, 32, 3), 90, dtype=np.uint8)
    return {fault.kind: fault.frames for fault in faults_of(tracks, frames, classes or {}, first(tracks))}


def test_each_kind_of_fault_is_named_with_its_frames() -> None:
    still = (10, 10, 18, 18)
    assert kinds(made(a=boxes(*[still] * 6))) == {}
    assert kinds(made(a=boxes(still, still, (10, 10, 12, 12), still)))["jump"] == (2, 3)
    assert kinds(made(a=boxes(still, None, still, still)))["gone"] == (1,)
    assert kinds(made(a=boxes(still, still, (24, 24, 32, 32), (24, 24, 32, 32))))["leap"] == (2,)
    assert kinds(made(a=boxes((0, 0, 8, 32), (0, 0, 8, 32))))["border"] == (0, 1)
    both = made(a=boxes(still, still), b=boxes((10, 10, 18, 17), (20, 20, 28, 28)))
    assert kinds(both, {"a": "dog", "b": "dog"})["overlap"] == (0,)
    assert "overlap" not in kinds(both, {"a": "dog", "b": "cat"})


def test_anchors_and_the_detector_are_compared_with_the_mask() -> None:
    tracks = made(a=boxes((10, 10, 18, 18), (10, 10, 18, 18)))
    assert anchor_faults(tracks, {"a": (1, (10, 10, 18, 18))}) == []
    (fault,) = anchor_faults(tracks, {"a": (1, (10, 10, 30, 30))})
    assert (fault.kind, fault.frames) == ("anchor", (1,))
    assert seen_faults(tracks, {0: {"dog": [(9, 9, 18, 18)]}}, {"a": "dog"}) == []
    (fault,) = seen_faults(tracks, {0: {"dog": [(9, 9, 18, 18)]}, 1: {"cat": [(9, 9, 18, 18)]}}, {"a": "dog"})
    assert (fault.kind, fault.frames) == ("unseen", (1,))


def test_touching_is_by_distance_in_pixels() -> None:
    one, other = boxes((4, 4, 8, 8), (10, 4, 14, 8))
    for reach, near in itertools.product((1, 2, 3), (True,)):
        assert touching(one, other, reach) == (near and reach >= 3)
