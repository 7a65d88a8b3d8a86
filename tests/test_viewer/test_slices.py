"""Slices: the mean that travels is the capture's own, within the error of eight bits."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from support_capture import make_capture, make_tracks
from support_viewer import exhibit, heads_capture, sized_capture

from matrix_lib.draw.capture import Choice, scores_of
from matrix_lib.viewer.scores import ABSENT, LEVELS, scores_json
from matrix_lib.viewer.slices import Wanted, slice_of, unpacked


@pytest.mark.parametrize(("layers", "steps"), [("all", "all"), ("1-2", "last"), ("3", "0, 10"), ("first", "5")])
def test_a_slice_is_the_mean_of_the_capture(layers: str, steps: str) -> None:
    capture = make_capture(calls=[2, 1, 3])
    numbers = {"all": None, "1-2": [1, 2], "3": 3, "first": 0, "last": 10, "0, 10": [0, 10], "5": 5}
    whole = capture.maps("v2t", numbers[layers], numbers[steps], "van")
    found = unpacked(slice_of(capture, Wanted(layers=layers, steps=steps), 1), (3, 4, 6))
    assert float((found - whole).abs().max()) <= 0.004 * float(whole.max())


def test_a_5b_map_takes_18_kilobytes() -> None:
    capture = sized_capture(2, 1, 1, (13, 30, 45))
    assert len(slice_of(capture, Wanted(), 0)) == 4 + 13 + 13 * 30 * 45 == 17567


def test_frames_that_were_not_recorded_are_marked() -> None:
    capture = heads_capture()
    found = unpacked(slice_of(capture, Wanted(kind="v2v", layers="3", steps="2"), 1), (2, 3, 4))
    assert not found[0].isnan().any()
    assert found[1].isnan().all()
    nothing = unpacked(slice_of(capture, Wanted(kind="v2v", steps="1"), 0), (2, 3, 4))
    assert nothing.isnan().all()


def test_heads_apart_and_their_mean() -> None:
    capture = heads_capture()
    values = capture.stream().get("v2v").values.float()
    for head in (None, 0, 2):
        found = unpacked(slice_of(capture, Wanted(kind="v2v", layers="7", steps="0", head=head), 0), (2, 3, 4))
        wanted = values[1, 0, 0].mean(0) if head is None else values[1, 0, 0, head]
        assert torch.allclose(found, wanted, atol=0.004 * float(wanted.max()))


def test_stored_as_uint8_gives_the_same_slice() -> None:
    capture = heads_capture()
    small = capture.stored("uint8")
    for head in (None, 1):
        wanted = Wanted(kind="v2v", steps="0", head=head)
        one, other = (unpacked(slice_of(each, wanted, 0), (2, 3, 4)) for each in (capture, small))
        assert float((one - other).abs().max()) < 0.01


@pytest.mark.parametrize(
    ("wanted", "entity", "says"),
    [
        (Wanted(stream=1), 0, "stream 1 does not exist"),
        (Wanted(kind="t2v"), 0, "holds no t2v maps: it has v2t, v2v"),
        (Wanted(), 3, "there is no v2t map 3: they are numbered 0 to 2"),
        (Wanted(layers="9"), 0, "layer 9 was not captured: this capture has layers 0-3"),
        (Wanted(steps="5-4"), 0, "step 5-4 was not captured"),
        (Wanted(head=0), 0, "the mean over heads alone was"),
    ],
)
def test_what_there_is_not_is_told(wanted: Wanted, entity: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slice_of(make_capture(), wanted, entity)


def codes(text: str, shape: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2").reshape(shape)


def test_scores_of_one_word_are_those_of_all() -> None:
    shown = exhibit(calls=[2, 0, 1])
    whole = scores_of(shown.capture, Choice(), shown.tracks)
    for entity, name in enumerate(whole.names):
        found = scores_json(shown, 0, "v2t", entity)
        values = codes(found["values"], (4, 3))
        assert (values[:, 1] == ABSENT).all(), name
        assert np.abs(values[:, [0, 2]] / LEVELS - whole.values[:, [0, 2], entity]).max() < 2e-5
        assert found["aligned"]
        assert found["chance"] == pytest.approx(whole.chance[entity], abs=1e-6)
        assert (codes(found["weights"], (4, 3))[0] == [32, 0, 16]).all()


def test_without_a_mask_the_score_is_concentration() -> None:
    shown = exhibit()
    shown.tracks = make_tracks().select(["van"])
    assert scores_json(shown, 0, "v2t", 1)["aligned"]
    alone = scores_json(shown, 0, "v2t", 0)
    assert not alone["aligned"]
    assert alone["chance"] is None
    wanted = shown.capture.concentration().share[..., 0].numpy()
    assert np.abs(codes(alone["values"], (4, 3)) / LEVELS - wanted).max() < 2e-5
