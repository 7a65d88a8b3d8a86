"""Clips of the mini world as clips to analyse."""

import numpy as np
import pytest

from matrix_lib.evaluation.mini.clips import mini_clips


def test_clips_with_look_alikes_are_those_that_words_cannot_settle() -> None:
    alike, plain = mini_clips("mini:6:look_alikes", 5, 64, 64), mini_clips("mini:6", 5, 64, 64)
    assert len(alike) == len(plain) == 6
    assert all(bool(clip.truth.ambiguous.all()) for clip in alike)
    assert not any(bool(clip.truth.ambiguous.any()) for clip in plain)


def test_a_clip_does_not_depend_on_how_many_are_asked_for() -> None:
    few, many = mini_clips("mini:2:look_alikes", 5, 64, 64), mini_clips("mini:5:look_alikes", 5, 64, 64)
    for one, other in zip(few, many):
        assert (one.name, one.prompt) == (other.name, other.prompt)
        np.testing.assert_array_equal(one.frames(5), other.frames(5))


@pytest.mark.parametrize("source", ["mini:0", "mini:3:twins", "mini", "mini:-1:all"])
def test_other_texts_say_what_is_accepted(source: str) -> None:
    with pytest.raises(ValueError, match="look_alikes; got"):
        mini_clips(source, 5, 64, 64)
