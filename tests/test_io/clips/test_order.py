"""Frames in files: the order and the numbers that their names say, and what is refused."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.io.clips.order import in_order, place


def paths(*names):
    return [Path("masks/man") / name for name in names]


def shuffled(names):
    names = sorted(names)
    random.Random(0).shuffle(names)
    return paths(*names)


def test_numbers_are_numbers():
    found = in_order(shuffled(f"frame_{n}.png" for n in range(17)))
    assert found.numbers == tuple(range(17))
    assert [path.name for path in found.paths] == [f"frame_{n}.png" for n in range(17)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.png", "01.png", "2.png"], "several files for frame 1 .*01.png, 1.png"),
        (["001.png", "001.jpg"], "several files for frame 1"),
        (["a.png", "b.png"], "no common number"),
        (["000.png", "001.png", "cover.png"], r"no common number.*cover.png"),
        (["frame_0.png", "frame_1.png", "mask_0.png"], r"frame_0.png and 1 more, mask_0.png"),
        (["a0_b5.png", "a1_b3.png", "a2_b4.png"], "several numbers that change"),
        (["t0.5.png", "t1.0.png", "t1.5.png"], "several numbers|several files"),
        (["frame_1.png", "frame_1 (1).png"], "no common number"),
    ],
)
def test_names_that_say_no_order(names, said):
    with pytest.raises(ValueError, match=said):
        in_order(paths(*names))


TEXT = st.text(st.sampled_from("abcXYZé_- .()<>世"), max_size=8).filter(lambda text: not text.startswith("."))


@settings(max_examples=count(30, 3000))
@given(st.data())
def test_any_names_with_one_number_that_counts(data):
    """What stands around the number, other numbers that stay, leading zeros or none, gaps: all are read as counted."""
    before, after = data.draw(TEXT), data.draw(TEXT)
    before += data.draw(st.sampled_from(["", "", "take 3 ", "2024-05-01_", "v2."]))
    after = data.draw(st.sampled_from(["", "", "_720p", " (7)"])) + after
    width = data.draw(st.integers(0, 6))
    numbers = sorted(data.draw(st.sets(st.integers(0, 2000), min_size=2, max_size=12)))
    after = after if not after[:1].isdecimal() else "_" + after
    names = [f"{before}{n:0{width}d}{after}{data.draw(st.sampled_from(['.png', '.PNG', '.webp']))}" for n in numbers]
    found = in_order(data.draw(st.permutations(paths(*names))))
    assert list(found.numbers) == numbers
    assert [path.name for path in found.paths] == names


@settings(max_examples=count(60, 5000))
@given(st.sets(st.integers(0, 12), min_size=1), st.integers(1, 12))
def test_numbers_become_frames_or_are_refused(numbers, frames):
    """What is accepted is one mask a frame, in order; everything else names a frame of the clip or a number."""
    numbers = sorted(numbers)
    found = place(numbers, frames, "the masks of 'man'")
    if not found.wrong:
        assert [n - found.first for n in numbers] == list(range(frames))
        assert bool(found.note) == bool(found.first)
    else:
        assert "holes" in found.wrong or "for frame" in found.wrong
        # no other reading of the numbers would be whole, but for one that begins where nobody counts from
        assert not (len(numbers) == frames and numbers[-1] - numbers[0] == frames - 1)


def test_masks_that_begin_at_1():
    what = "the masks of 'man'"
    assert place(range(1, 10), 9, what).first == 1
    assert "numbered from 1: that is the first frame" in place(range(1, 10), 9, what).note
    assert place(range(1001, 1010), 9, what).first == 1001
    assert "counted" not in place(range(9), 9, what).note
    holes = place([1, 2, 3, 5, 6, 7, 8, 9], 9, what)
    assert (holes.first, "numbered from 1, have holes: frame 4 of 9 is missing" in holes.wrong) == (1, True)
    assert "or they are numbered from 1, and 9 is missing" in place(range(1, 9), 9, what).wrong
    assert "frame 9, and the video has 9 frames" in place(range(10), 9, what).wrong
    assert "frame 1, 3, 5, 7 of 9" in place(range(0, 9, 2), 9, what).wrong
