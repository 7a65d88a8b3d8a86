"""Geometry: pixels, latents and tokens, and the crop that images and masks share."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matrix_lib.core.grid import Framing, Grid


def test_causal_spans_are_the_papers():
    grid = Grid.from_pixels(49, 480, 720)
    assert grid.shape == (13, 30, 45)
    assert grid.size == 17550
    assert grid.pixel_span(0) == (0, 1)
    assert grid.pixel_span(1) == (1, 5)
    assert grid.pixel_span(12) == (45, 49)
    assert grid.pixel_frames == 49
    assert grid.token_pixels == (16, 16)


def test_temporal_patches_are_filled_in_front():
    grid = Grid.from_pixels(81, 96, 96, patch=(2, 2, 2))
    assert (grid.frames, grid.prefix_frames, grid.latent_frames, grid.pixel_frames) == (11, 1, 21, 81)
    assert grid.pixel_span(0) == (0, 1), "the leading latent stands for frame 0 as well"
    assert grid.pixel_span(1) == (1, 9)
    assert grid.pixel_span(10) == (73, 81)


@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 8))
def test_spans_cover_every_frame_once_and_in_order(latents, patch, stride):
    prefix_frames = -latents % patch
    grid = Grid.from_latent((latents, 4, 4), (patch, 2, 2), stride, 8, prefix_frames)
    at = 0
    for start, stop in grid.pixel_spans():
        assert start == at
        assert stop > start
        at = stop
    assert at == grid.pixel_frames == (latents - 1) * stride + 1


@pytest.mark.parametrize("source", [(272, 640), (1080, 1920), (480, 720), (500, 333), (1001, 777)])
@pytest.mark.parametrize("target", [(480, 832), (112, 256), (480, 720), (64, 64)])
def test_centre_crop_is_the_hosts_own(comfy, source, target):
    """Against the host's `common_upscale`: the same crop, so the same picture."""
    import comfy.utils

    image = torch.rand(1, 3, *source)
    host = comfy.utils.common_upscale(image, target[1], target[0], "nearest-exact", "center")
    assert torch.equal(Framing(source, target).apply(image, "nearest"), host)


def test_stretch_keeps_everything():
    framing = Framing((10, 30), (20, 20), "stretch")
    assert framing.box() == (0, 0, 10, 30)
    assert framing.apply(torch.ones(2, 10, 30)).shape == (2, 20, 20)


def test_frames_end_where_the_latent_does():
    assert Grid.from_latent((3, 8, 12)) == Grid(3, 4, 6)
    odd = Grid.from_latent((3, 8, 11))
    assert (odd.shape, odd.frame_pixels, odd.pixels) == ((3, 4, 6), (64, 88), (64, 88))
    assert Grid.from_pixels(9, 60, 90).frame_pixels == (60, 90)
    assert Grid(3, 4, 6).frame_pixels == (64, 96)
    assert Grid(3, 4, 6, pixels=(64, 96)) == Grid(3, 4, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(0, 4, 4), "at least one token"),
        (lambda: Grid(3, 4, 4, prefix_frames=1), "prefix_frames counts"),
        (lambda: Grid(3, 4, 4).pixel_span(3), r"0\.\.2"),
        (lambda: Grid(3, 4, 4, pixels=(64, 48)), r"\(64, 48\) pixels .* do not make 4x4 tokens"),
        (lambda: Grid(3, 4, 4, pixels=(65, 64)), r"do not make 4x4"),
        (lambda: Framing((0, 3), (4, 4)), "at least 1x1"),
        (lambda: Framing((1, 2), (2, 1)), "leaves no pixel"),
        (lambda: Framing((4, 4), (4, 4), "fit"), "'center', 'stretch' or 'pad'"),
        (lambda: Framing((4, 4), (8, 8)).apply(torch.zeros(5, 5)), r"\(5, 5\).*\(4, 4\)"),
    ],
)
def test_bad_geometry_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
