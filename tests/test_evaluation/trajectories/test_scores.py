"""Track scores: values by hand, what is not known, what is refused, and the exact judge of the mini world."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support_counts import SEED, count
from support_failing_clips import failing_clips, whole_truth

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.mini.judges import judge, touching
from matrix_lib.evaluation.trajectories.measures import MEASURES, measures_table
from matrix_lib.evaluation.trajectories.points import Points, end_point_error
from matrix_lib.evaluation.trajectories.score import TrackScores, score_tracks

SIZE = (5, 32, 64)


def square(at: list[tuple[int, int] | None], side: int = 8) -> torch.Tensor:
    """(F, 32, 64) of a square whose upper left corner is at (x, y)."""
    out = torch.zeros(len(at), *SIZE[1:], dtype=torch.bool)
    for k, place in enumerate(at):
        if place is not None:
            out[k, place[1] : place[1] + side, place[0] : place[0] + side] = True
    return out


def tracks(roles: dict[str, str] | None = None, fps: float = 8.0, **masks: torch.Tensor) -> MaskTracks:
    return MaskTracks.from_masks(masks, roles=roles, fps=fps, allow_empty=True)


def painted(colours: dict[str, tuple[int, int, int]], **masks: torch.Tensor) -> torch.Tensor:
    """(F, 32, 64, 3) uint8 on grey."""
    out = torch.full((*SIZE, 3), 60, dtype=torch.uint8)
    for name, mask in masks.items():
        out[mask] = torch.tensor(colours[name], dtype=torch.uint8)
    return out


RED, BLUE = (230, 30, 30), (30, 60, 230)
A = square([(4 + 6 * k, 4) for k in range(5)])
B = square([(40 - 6 * k, 20) for k in range(5)])


# --- the exact judge of the mini world


@pytest.mark.soak
@pytest.mark.timeout(3600)  # 512 clips in `make soak`
def test_ranks_as_the_exact_judge_ranks() -> None:
    asked = 900 + SEED, count(30, 512)
    clips = failing_clips(*asked)
    scores = [score_tracks(clip.given, clip.seen, clip.frames()) for clip in clips]
    verdict = judge(torch.stack([clip.video for clip in clips]), whole_truth(*asked))

    def ours(name: str) -> np.ndarray:
        return np.array([each.values[name] for each in scores])

    def exact(name: str) -> np.ndarray:
        found = getattr(verdict, name).double()
        return (found.nanmean(1) if found.ndim > 1 else found).numpy()

    for mine, its in (
        ("spi", "spi"),
        ("trajectory_iou", "iou"),
        ("contact_sustained", "sustained_contact"),
    ):
        one, other = ours(mine), exact(its)
        known = ~np.isnan(one) & ~np.isnan(other)
        assert known.sum() > len(clips) / 2
        rank = spearmanr(one[known], other[known]).statistic
        print(f"{mine}: Spearman {rank:.4f} over {known.sum()} of {len(clips)} clips")
        assert rank >= 0.9, mine
    touched = verdict.contact.any(1).numpy()
    assert (ours("contact") == touched).mean() >= 0.97
    # The judge's own share counts contact of shapes, this one contact of given masks: the judge's eyes, on these.
    due = torch.cat([touching(c.truth.masks[:, 0], c.truth.masks[:, 1], 1) for c in clips])
    share = ((verdict.contact & due).sum(1) / due.sum(1)).numpy()
    known = ~np.isnan(share)
    rank = spearmanr(ours("contact_share")[known], share[known]).statistic
    agrees = (ours("contact") == touched).mean()
    print(f"contact_share: Spearman {rank:.4f} over {known.sum()}; contact agrees in {agrees:.4f}")
    assert rank >= 0.9
    kinds = np.array([clip.kind for clip in clips])
    # The judge calls a thing lost that others hide for the most part; tracks say where there is no pixel of it.
    assert (np.abs(ours("spi") - exact("spi")) < 1e-6).mean() >= 0.95
    assert (ours("emergence")[kinds == "doubled"] > 0).all()
    assert (ours("doubled")[kinds == "doubled"] > 0).all()
    assert (ours("doubled")[kinds != "doubled"] == 0).all()
    assert (ours("disappearance")[kinds == "vanishing"] > 0).all()
    assert ours("trajectory_iou")[kinds == "good"].min() == 1
    assert ours("hota")[kinds == "good"].min() == pytest.approx(1)


# --- by hand


def test_a_perfect_clip_is_perfect() -> None:
    whole = tracks({"a": "subject", "b": "object"}, a=A, b=B)
    scores = score_tracks(whole, whole, painted({"a": RED, "b": BLUE}, a=A, b=B))
    for name, value in scores.values.items():
        if name not in ("epe", "contact", "contact_share", "contact_sustained"):
            best = MEASURES[name].high if MEASURES[name].better == "higher" else MEASURES[name].low
            assert value == pytest.approx(best, abs=1e-6), name
    assert scores.notes == ()
    assert math.isnan(scores.values["epe"])
    assert [event.kind for event in scores.events] == []


def test_paths_and_boxes_by_hand() -> None:
    aside = square([(4 + 6 * k, 8) for k in range(3)] + [None, None])
    scores = score_tracks(tracks(a=A), tracks(a=aside), pairs=[])
    third = 4 * 8 / (64 + 64 - 32)
    assert scores.values["trajectory_iou"] == pytest.approx(third * 3 / 5)
    assert scores.values["box_iou"] == pytest.approx(third * 3 / 5)
    assert scores.values["box_iou_pooled"] == pytest.approx(3 * 32 / (3 * 96 + 2 * 64))
    assert scores.values["coverage"] == 1
    assert scores.values["centre_distance"] == pytest.approx(4 / math.hypot(32, 64))
    assert scores.values["ap50"] == 0
    assert scores.values["disappearance"] == pytest.approx(2 / 4)
    assert scores.values["spi"] == pytest.approx(0.5)
    assert scores.values["spi_released"] == pytest.approx(1 - 2.5 * 0.5)
    assert scores.values["drift"] != scores.values["drift"]
    assert any("no frames are given" in note for note in scores.notes)
    assert any("SPI holds disappearance" in note for note in scores.notes)


def test_contact_by_hand() -> None:
    still = square([(40, 4)] * 5)
    nearer = square([(4, 4), (30, 4), (31, 4), (32, 4), (4, 4)])
    given = tracks({"hand": "subject", "cup": "object"}, hand=square([(32, 4)] * 5), cup=still, fps=4)
    scores = score_tracks(given, tracks(hand=nearer, cup=still, fps=4))
    # One free pixel between two masks is still contact at this size, two are not.
    assert scores.values["contact"] == 1
    assert scores.values["contact_sustained"] == pytest.approx(2 / 4)
    assert scores.values["contact_share"] == pytest.approx(2 / 5)
    assert [e.frames for e in scores.events if e.kind == "contact"] == [(2, 3)]


def test_contact_by_another_detector() -> None:
    asked = []

    def fingertip(index: int, frame: Any, actor: np.ndarray, target: np.ndarray) -> np.ndarray:
        asked.append((index, frame.shape))
        where = np.zeros_like(actor)
        where[24, 40 - 6 * index] = index == 2
        return where

    both = tracks({"a": "subject", "b": "object"}, a=A, b=B)
    frames = painted({"a": RED, "b": BLUE}, a=A, b=B)
    scores = score_tracks(both, both, frames, contact=fingertip)
    assert asked == [(k, (32, 64, 3)) for k in range(5)]
    assert [e.frames for e in scores.events if e.kind == "contact"] == [(2,)]
    with pytest.raises(ValueError, match=r"a contact detector gives a mask \(32, 64\)"):
        score_tracks(both, both, frames, contact=lambda *a: np.ones(3))


def test_tracks_that_changed_places() -> None:
    a, b = A.clone(), B.clone()
    a[2:], b[2:] = B[2:], A[2:]
    given = tracks(a=A, b=B)
    scores = score_tracks(given, tracks(a=a, b=b), painted({"a": RED, "b": BLUE}, a=A, b=B))
    assert scores.values["swapped_looks"] == pytest.approx(3 / 4)
    assert scores.values["swapped_paths"] == pytest.approx(3 / 4)
    assert scores.values["drift"] == pytest.approx(3 / 4)
    # The same with somebody who looks just like the other: looks say nothing, paths do.
    scores = score_tracks(given, tracks(a=a, b=b), painted({"a": RED, "b": RED}, a=A, b=B))
    assert scores.values["swapped_looks"] == 0
    assert scores.values["swapped_paths"] == pytest.approx(3 / 4)
    assert any("look alike" in note for note in scores.notes)


def test_look_alikes_that_cross_and_keep_to_themselves() -> None:
    one = square([(4 + 12 * k, 10) for k in range(5)])
    other = square([(52 - 12 * k, 14) for k in range(5)])
    given = tracks(a=one, b=other)
    kept = score_tracks(given, given, painted({"a": RED, "b": RED}, b=other, a=one))
    assert kept.values["swapped_paths"] == 0
    turned_a, turned_b = one.clone(), other.clone()
    turned_a[3:], turned_b[3:] = other[3:], one[3:]
    swapped = score_tracks(given, tracks(a=turned_a, b=turned_b))
    assert [e.frames for e in swapped.events if e.kind == "swapped paths"] == [(3, 4)]


def test_features_in_place_of_colours() -> None:
    both = tracks(a=A, b=B)
    frames = painted({"a": RED, "b": RED}, a=A, b=B)
    looks = {"a": np.tile([1.0, -1.0], (5, 1)), "b": np.tile([-1.0, 1.0], (5, 1))}
    looks["a"][3:], looks["b"][3:] = [-1.0, 1.0], [1.0, -1.0]
    scores = score_tracks(both, both, frames, features=looks)
    assert scores.values["swapped_looks"] == pytest.approx(2 / 4)
    assert scores.values["drift"] == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match=r"features of 'b' are \(5 frames"):
        score_tracks(both, both, frames, features={"a": looks["a"]})


def test_doubles_with_and_without_a_track() -> None:
    frames = painted({"a": RED, "b": BLUE}, a=A, b=B)
    frames[3:, 20:28, 2:10] = torch.tensor(RED, dtype=torch.uint8)
    both = tracks(a=A, b=B)
    scores = score_tracks(both, both, frames)
    assert [(e.who, e.frames) for e in scores.events if e.kind == "doubled"] == [(("a",), (3, 4))]
    assert scores.values["emergence"] == scores.values["doubled"] == pytest.approx(2 / 4)
    double = square([None, None, None, (2, 20), (2, 20)])
    tracked = score_tracks(both, tracks(a=A, b=B, late=double), frames)
    assert tracked.values["doubled"] == tracked.values["emergence"] == pytest.approx(2 / 4)
    assert {e.kind for e in tracked.events} >= {"new", "doubled"}
    blind = score_tracks(both, tracks(a=A, b=B, late=double))
    assert blind.values["emergence"] == pytest.approx(2 / 4)
    assert math.isnan(blind.values["doubled"])


def test_a_track_that_lost_what_is_still_there_is_noted() -> None:
    lost = A.clone()
    lost[3:] = False
    scores = score_tracks(tracks(a=A, b=B), tracks(a=lost, b=B), painted({"a": RED, "b": BLUE}, a=A, b=B))
    assert scores.values["doubled"] == 0
    assert scores.values["disappearance"] == pytest.approx(2 / 4)
    assert any("may be in the picture where its track is empty (frames 3-4)" in note for note in scores.notes)


def test_doubles_that_cannot_be_seen_are_noted() -> None:
    grey = score_tracks(tracks(a=A), tracks(a=A), painted({"a": (60, 60, 60)}, a=A), pairs=[])
    assert any("a double of it cannot be seen" in note for note in grey.notes)


def test_the_first_frame_alone_scores_what_needs_no_path() -> None:
    scores = score_tracks(tracks(a=A[:1], b=B[:1]), tracks(a=A, b=B), painted({"a": RED, "b": BLUE}, a=A, b=B))
    assert scores.values["spi"] == 1
    assert scores.values["drift"] == pytest.approx(0)
    assert scores.values["contact"] == 0
    assert all(math.isnan(scores.values[n]) for n in ("trajectory_iou", "hota", "j", "swapped_paths", "contact_share"))
    assert any("first frame alone" in note for note in scores.notes)


def test_given_tracks_of_another_size() -> None:
    large = tracks(a=A.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert score_tracks(large, tracks(a=A), pairs=[]).values["trajectory_iou"] == 1


def test_end_point_error_by_hand() -> None:
    at = np.zeros((3, 2, 2))
    found = at.copy()
    found[1, 0], found[2, 0], found[2, 1] = (3, 4), (0, 1), (9, 9)
    seen = np.ones((3, 2), bool)
    seen[2, 1] = False
    mean, each = end_point_error(Points(at, seen), Points(found, np.zeros((3, 2), bool)))
    assert mean == pytest.approx((5 + 1 + 0) / 3)
    assert each.tolist() == pytest.approx([3, 0])
    scores = score_tracks(tracks(a=A), tracks(a=A), pairs=[], points=(Points(at, seen), Points(found, seen)))
    assert scores.values["epe"] == pytest.approx(2)
    with pytest.raises(ValueError, match="track the same points"):
        end_point_error(Points(at, seen), Points(found[:2], seen[:2]))
    with pytest.raises(ValueError, match="visibility is bool"):
        Points(at, seen.astype(int))
    with pytest.raises(ValueError, match="finite"):
        Points(np.full((3, 2, 2), np.nan), seen)


# --- what is refused, kept, shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seen": tracks(b=B)}, "the video's tracks have no 'a'"),
        ({"seen": tracks(a=A[:4])}, "5 frames and the video's 4"),
        ({"seen": tracks(a=A[:, :16])}, "of another shape"),
        ({"frames": torch.zeros(4, 32, 64, 3, dtype=torch.uint8)}, "4 frames and its tracks 5"),
        ({"frames": torch.zeros(6, 32, 64, 3, dtype=torch.uint8)}, "more frames than its tracks"),
        ({"frames": torch.zeros(5, 32, 60, 3, dtype=torch.uint8)}, r"frames are \(32, 64, 3\)"),
        ({"frames": torch.full((5, 32, 64, 3), 9.0)}, r"float in \[0, 1\]"),
        ({"pairs": [("a", "nobody")]}, "no instance is called 'nobody'"),
        ({"stride": 0}, "stride"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    inputs = {"given": tracks(a=A), "seen": tracks(a=A), "frames": None} | change
    with pytest.raises(ValueError, match=words):
        score_tracks(**inputs)


def test_through_json_and_back() -> None:
    scores = score_tracks(tracks(a=A, b=B), tracks(a=B, b=A))
    back = TrackScores.from_json(scores.as_json())
    assert back.values == pytest.approx(scores.values, nan_ok=True, abs=1e-8)
    assert back.events == scores.events
    assert back.notes == scores.notes
    assert "swapped paths: a and b" in back.table()
    assert "not known" in back.table()
    with pytest.raises(ValueError, match="another version"):
        TrackScores.from_json(scores.as_json() | {"values": {"spi": 1}})
    assert all(name in measures_table() for name in MEASURES)


def test_memory_does_not_grow_with_the_clip() -> None:
    def peak(frames: int) -> int:
        where = torch.zeros(1, 96, 128, dtype=torch.bool)
        where[:, 20:60, 30:80] = True
        short = MaskTracks.from_masks({"a": where})
        whole = replace(short.take([0] * frames))
        pictures = (np.full((96, 128, 3), 90, np.uint8) for _ in range(frames))
        tracemalloc.start()
        score_tracks(whole, whole, pictures, pairs=[])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(8)
    assert peak(160) - peak(16) < 144 * 2048  # overlaps and boxes of each frame; its pixels are 36 KiB


def test_the_page_says_what_is_measured() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "track-scores.md"
    assert measures_table() in page.read_text(encoding="utf-8")
