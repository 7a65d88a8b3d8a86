"""Crop, stretch and pad as one choice: tokens, boxes, pictures and masks of a clip are brought to the model alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.grid import FITS, Framing, Grid
from matrix_lib.core.guidance.intrinsic import latent_boxes
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.heatmaps import seen_box
from matrix_lib.io.tracks import load_tracks, save_tracks

SIZES = st.tuples(st.integers(12, 150), st.integers(12, 150))


@given(SIZES, st.tuples(st.integers(2, 8), st.integers(2, 8)), st.sampled_from(FITS), st.integers(0, 2**31))
@settings(max_examples=count(60, 1800))
def test_tokens_are_those_of_the_framed_masks(source, tokens, fit, seed):
    """The runs, laid over the grid, are the dense masks after the framing, laid over it."""
    target = (tokens[0] * 16, tokens[1] * 16)
    framing = Framing(source, target, fit)
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(1, *source, generator=draw) < 0.5
    mask[0, source[0] // 2, source[1] // 2] = True
    tracks = MaskTracks.from_masks({"a": mask}).fitted(fit)
    grid = Grid(1, *tokens)
    area = tracks.to_grid(grid, "area").maps[0, 0]
    assert torch.allclose(area, _covered(mask[0].double(), framing, tokens).float(), atol=1e-4)
    nearest = tracks.to_grid(grid, "nearest-exact").maps[0, 0]
    top, left, high, wide = framing.window()
    y0, x0, h, w = framing.box()
    for i in range(tokens[0]):
        for j in range(tokens[1]):
            y, x = 16 * i + 8 - top, 16 * j + 8 - left
            seen = 0 <= y < high and 0 <= x < wide
            want = seen and bool(mask[0, y0 + y * h // high, x0 + x * w // wide])
            assert bool(nearest[i, j]) == want, (i, j)


def _covered(mask: torch.Tensor, framing: Framing, tokens: tuple[int, int]) -> torch.Tensor:
    """The share of each token that the mask covers, by integrals of the frame as the model sees it."""

    def axis(begin: int, length: int, lead: int, shown: int, whole: int, count: int) -> torch.Tensor:
        at = torch.arange(whole)
        weights = torch.zeros(count, whole, dtype=torch.float64)
        for token in range(count):
            low = begin + (token * 16 - lead) * length / shown
            high = begin + ((token + 1) * 16 - lead) * length / shown
            low_in, high_in = max(low, begin), min(high, begin + length)
            weights[token] = ((at + 1).clamp(max=high_in) - at.clamp(min=low_in)).clamp(0, 1) / (high - low)
        return weights

    (y, x, h, w), (top, left, high, wide) = framing.box(), framing.window()
    rows = axis(y, h, top, high, mask.shape[0], tokens[0])
    return rows @ mask @ axis(x, w, left, wide, mask.shape[1], tokens[1]).T


@pytest.mark.parametrize("source", [(90, 160), (272, 640), (64, 64), (500, 333)])
@pytest.mark.parametrize("target", [(64, 96), (480, 832), (112, 256)])
def test_padding_is_the_hosts_own(comfy, source, target):
    """Against the host's Resize And Pad Image, in every pixel."""
    from comfy_extras.nodes_images import ResizeAndPadImage

    image = torch.rand(1, *source, 3)
    theirs = ResizeAndPadImage.execute(image, target[1], target[0], "black", "nearest-exact").result[0]
    ours = Framing(source, target, "pad").apply(image.movedim(-1, 1), "nearest").movedim(1, -1)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fit", FITS)
def test_everybody_shows_a_box_in_the_same_place(fit):
    """A box of the source, in tokens, in latent elements, in framed masks, and under the grid of a heat map."""
    source, grid = (90, 160), Grid(1, 4, 6)
    tracks = MaskTracks.from_boxes({"a": {0: (60.0, 30.0, 100.0, 60.0)}}, 1, *source).fitted(fit)
    framing = Framing(source, grid.frame_pixels, fit)
    dense = framing.apply(tracks.mask("a"), "nearest")
    ys, xs = dense.any(1).nonzero().flatten(), dense.any(0).nonzero().flatten()
    box = latent_boxes(tracks, Grid(1, 8, 12, patch=(1, 1, 1)))["a"][0].tolist()
    want = [int(v) / 8 for v in (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)]
    assert all(abs(a - b) <= 1 for a, b in zip(box, want))
    left, top, right, bottom = seen_box(grid, *source, fit)
    placed = [(60 - left) / (right - left) * 96, (30 - top) / (bottom - top) * 64]
    assert abs(placed[0] - int(xs[0])) <= 1
    assert abs(placed[1] - int(ys[0])) <= 1


def test_a_fit_travels(tmp_path):
    tracks = MaskTracks.from_boxes({"a": {0: (6.0, 3.0, 10.0, 6.0)}, "b": {0: (1.0, 1.0, 3.0, 3.0)}}, 3, 9, 16)
    padded = tracks.fitted("pad")
    assert padded != tracks
    assert padded.digest != tracks.digest
    for made in (padded.select(["a"]), padded.take([0, 1]), padded.boxed(), padded.rename({"a": "c"})):
        assert made.fit == "pad"
    assert load_tracks(save_tracks(padded, tmp_path / "a.safetensors")) == padded
    assert load_tracks(save_tracks(tracks, tmp_path / "b.safetensors")).fit == "center"
    with pytest.raises(ValueError, match="fitted by one of center, stretch, pad; got 'zoom'"):
        tracks.fitted("zoom")
