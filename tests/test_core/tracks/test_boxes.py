"""Boxes of detectors: who is who over time, and whether numbers are pixels or shares of the frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from support_counts import count

from matrix_lib.core.tracks import box_matching
from matrix_lib.core.tracks.box_matching import match_boxes
from matrix_lib.core.tracks.boxes import in_pixels
from matrix_lib.core.tracks.tracks import MaskTracks


@settings(max_examples=count(20, 2000))
@given(st.data())
def test_the_assignment_is_the_best_there_is(data):
    rows = data.draw(st.integers(1, 6))
    columns = data.draw(st.integers(rows, 7))
    numbers = st.integers(-3, 3) if data.draw(st.booleans()) else st.floats(-1, 1)
    score = np.array(data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns)), dtype=float)
    score = score.reshape(rows, columns)
    found = box_matching._assign(score)
    best = score[linear_sum_assignment(-score)].sum()
    assert len(set(found)) == rows
    assert sum(score[row, column] for row, column in enumerate(found)) == pytest.approx(best)


def test_two_boxes_that_a_detector_lists_in_changing_order():
    left, right = (0, 0, 20, 40), (60, 0, 90, 40)
    found = match_boxes([[left, right], [right, left], [], [left], [right, left], [left, right]])
    assert found.boxes == [[left, left, None, left, left, left], [right, right, None, None, right, right]]
    assert any("frame 1, 4 " in note and "another order" in note for note in found.notes)
    assert match_boxes([[left, right]] * 4).notes == ()


@st.composite
def scenes(draw):
    """Boxes of 1 to 5 instances that walk on rows of their own, in lists of any order, some of them not seen."""
    count, frames = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    people = []
    for k in range(count):
        x, speed = draw(st.floats(0, 300)), draw(st.floats(-8, 8))
        width, height = draw(st.floats(20, 60)), draw(st.floats(30, 60))
        jitter = draw(st.lists(st.floats(-2, 2), min_size=frames, max_size=frames))
        people.append(
            [(x + speed * f + j, 80 * k, x + speed * f + j + width, 80 * k + height) for f, j in enumerate(jitter)]
        )
    orders, gone = [], set()
    for f in range(frames):
        seen = [k for k in range(count) if f == 0 or draw(st.integers(0, 9)) > 0]
        gone |= {(k, f) for k in range(count) if k not in seen}
        orders.append(draw(st.permutations(seen)) if f else seen)
    return people, orders, gone


@settings(max_examples=count(20, 2000))
@given(scenes())
def test_whoever_walks_a_row_keeps_its_name(scene):
    people, orders, gone = scene
    frames = [[people[k][f] for k in order] for f, order in enumerate(orders)]
    found = match_boxes(frames)
    for k, person in enumerate(people):
        wanted = [None if (k, f) in gone else box for f, box in enumerate(person)]
        assert [None if box is None else pytest.approx(box) for box in found.boxes[k]] == wanted


def test_people_who_pass_each_other_are_followed_or_told():
    ways = [[(4 * f, 0, 4 * f + 20, 40) for f in range(25)], [(96 - 4 * f, 2, 116 - 4 * f, 42) for f in range(25)]]
    frames = [[ways[0][f], ways[1][f]] if f % 3 else [ways[1][f], ways[0][f]] for f in range(25)]
    found = match_boxes(frames)
    for boxes in found.boxes:
        assert boxes in (ways[0], ways[1])
    on_top = match_boxes([[ways[0][0], ways[0][0]], [ways[0][1], ways[0][1]]])
    assert any("may have changed places" in note for note in on_top.notes)
    far = match_boxes([[(0, 0, 10, 10)], [(500, 500, 510, 510)]])
    assert any("nowhere near" in note for note in far.notes)


@settings(max_examples=count(20, 2000))
@given(
    st.lists(st.tuples(*[st.floats(0.01, 0.99)] * 4), min_size=1, max_size=5),
    st.integers(16, 999),
    st.integers(16, 999),
)
def test_shares_of_the_frame_are_pixels_or_refused(corners, height, width):
    boxes = {
        str(n): {0: (min(a, c) * 0.9, min(b, d) * 0.9, max(a, c) + 0.005, max(b, d) + 0.005)}
        for n, (a, b, c, d) in enumerate(corners)
    }
    found, said = in_pixels(boxes, height, width)
    assert "shares of the" in said
    for name, keys in boxes.items():
        x0, y0, x1, y1 = keys[0]
        assert found[name][0] == pytest.approx((x0 * width, y0 * height, x1 * width, y1 * height))
    with pytest.raises(ValueError, match="Shares of the frame, 0 to 1, are not read"):
        MaskTracks.from_boxes(boxes, 1, height, width)
    pixels = {name: {0: (keys[0][0], keys[0][1], 12.0, 13.0)} for name, keys in boxes.items()}
    assert in_pixels(pixels, height, width) == (pixels, "")
    with pytest.raises(ValueError, match="lies in the first pixel"):
        MaskTracks.from_boxes({"a": {0: (0, 0, 1, 1)}}, 1, height, width)
