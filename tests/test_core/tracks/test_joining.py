"""Tracks of tracks: edits as people type them, instances side by side, clips one after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.tracks.edits import edited
from matrix_lib.core.tracks.joining import CLASHES, follow, side_by_side
from matrix_lib.core.tracks.tracks import MaskTracks


def clip(seed: int, frames: int = 3, names: tuple[str, ...] = ("a", "b"), **more) -> tuple[MaskTracks, dict]:
    draw = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(frames, 7, 9, generator=draw) < 0.4 for name in names}
    return MaskTracks.from_masks(masks, allow_empty=True, **more), masks


@given(st.integers(0, 1000), st.sampled_from(CLASHES), st.sampled_from((("c",), ("b", "c"), ("B ", "a"))))
@settings(max_examples=count(60, 1800))
def test_side_by_side_equals_dense_masks(seed, clash, names):
    names = tuple(name.strip() for name in names)
    (one, first), (two, second) = clip(seed), clip(seed + 1, names=names)
    same = {name: name.lower() for name in names if name.lower() in first}
    if same and clash == "refuse":
        with pytest.raises(ValueError, match="several tracks have an instance"):
            side_by_side([one, two], clash)
        return
    joined = side_by_side([one, two], clash)
    want = dict(first)
    for name, mask in second.items():
        old = same.get(name)
        if old is None:
            want[name] = mask
        else:
            new = {"number": (f"{old} 2", mask), "replace": (old, mask), "unite": (old, first[old] | mask)}[clash]
            want[new[0]] = new[1]
    assert joined.names == tuple(want)
    for name, mask in want.items():
        assert torch.equal(joined.masks(name), mask), name
    assert len(set(joined.palette)) == len(joined.palette)


@given(st.integers(0, 1000), st.integers(0, 2), st.lists(st.integers(3, 5), min_size=2, max_size=3))
@settings(max_examples=count(40, 1200))
def test_clips_follow_each_other(seed, overlap, lengths):
    """Each part has its own instances; who is not in a part is absent there."""
    sets = [("a", "b"), ("B", "c"), ("a",)]
    parts = [clip(seed + i, frames, names) for i, (frames, names) in enumerate(zip(lengths, sets))]
    joined = follow([tracks for tracks, _ in parts], overlap)
    assert joined.frames == sum(lengths) - overlap * (len(lengths) - 1)
    assert joined.names == ("a", "b", "c")
    for name in joined.names:
        pieces = []
        for i, (tracks, masks) in enumerate(parts):
            own = next((mask for other, mask in masks.items() if other.lower() == name), None)
            own = torch.zeros(tracks.frames, 7, 9, dtype=torch.bool) if own is None else own
            pieces.append(own[overlap if i else 0 :])
        assert torch.equal(joined.masks(name), torch.cat(pieces)), name


def test_what_does_not_join():
    one, _ = clip(0)
    for other, words in (
        (clip(1, 4, ("c",))[0], "3 at 8 fps and 4 at 8: MATRIX Retime"),
        (clip(1, names=("c",), fps=24.0)[0], "3 at 8 fps and 3 at 24"),
        (clip(1, names=("c",))[0].fitted("pad"), "'center' and 'pad'"),
        (MaskTracks.from_masks({"c": torch.ones(3, 7, 8)}), "9x7 and 8x7 pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            side_by_side([one, other])
    with pytest.raises(ValueError, match="one rate; here are 8 and 24"):
        follow([one, clip(1, fps=24.0)[0]])
    with pytest.raises(ValueError, match="overlap of 3 frames leaves nothing of a part of 3"):
        follow([one, one], 3)
    with pytest.raises(ValueError, match="no tracks to join"):
        follow([])


def test_edits():
    tracks, masks = clip(0, names=("Cup", "instance 2", "dog"), roles={"dog": "subject"})
    made = edited(tracks, "instance 2 -> person (subject)\ncup (object)")
    assert made.names == ("Cup", "person", "dog")
    assert made.roles == {"Cup": "object", "person": "subject", "dog": "subject"}
    assert torch.equal(made.masks("person"), masks["instance 2"])
    assert made.palette == tracks.palette, "a colour stays with its instance"
    assert edited(tracks, "dog, cup", others_stay=False).names == ("dog", "Cup")
    assert edited(tracks, "  \n", others_stay=False) == tracks
    assert edited(tracks, "dog -> cat").roles["cat"] == "subject", "a role stays unless another is given"
    assert edited(tracks, "Cup -> dog, dog -> Cup").names == ("dog", "instance 2", "Cup"), "names may change places"
    for text, words in (
        ("cow", "no instance is called 'cow'; the tracks have 'Cup', 'instance 2', 'dog'"),
        ("cup, CUP (object)", "'Cup' is edited twice"),
        ("dog -> cup", "'Cup' and 'cup', which is one name"),
        ("dog (subjet)", r"\(subjet\) is no role; write dog \(subject\)"),
        ("dog -> ", "needs a name"),
    ):
        with pytest.raises(ValueError, match=words):
            edited(tracks, text)


def test_a_thousand_frames_join_without_unpacking():
    """No dense mask is made: 1000 frames of 1080p side by side and one after the other stay at their runs' size."""
    import tracemalloc

    one = MaskTracks.from_boxes({"a": {0: (10.0, 10.0, 900.0, 900.0)}}, 1000, 1080, 1920, hold=True)
    two = MaskTracks.from_boxes({"a": {0: (500.0, 10.0, 1500.0, 900.0)}}, 1000, 1080, 1920, hold=True)
    tracemalloc.start()
    joined = side_by_side([one, two], "unite")
    assert follow([one, two]).frames == 2000
    assert tracemalloc.get_traced_memory()[1] < 12 * (one.nbytes + two.nbytes)
    tracemalloc.stop()
    assert int(joined.areas("a")[999]) == 1490 * 890
