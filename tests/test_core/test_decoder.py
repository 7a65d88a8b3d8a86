"""The mask decoder: any size and length, causal, and the geometry of the token grid."""

from __future__ import annotations

import pytest
import torch

from matrix_lib.core.decoder import DecoderConfig, MaskDecoder, upsample_time
from matrix_lib.core.grid import Grid

PATCHES = [((1, 2, 2), 4, 8), ((2, 2, 2), 4, 8), ((1, 1, 1), 3, 6), ((1, 2, 2), 8, 16), ((1, 2, 2), 4, 1)]


def make(patch: tuple[int, int, int] = (1, 2, 2), time: int = 4, space: int = 8, **more: int) -> MaskDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(2, 1, width=8, least=4, patch=patch, temporal_stride=time, spatial_stride=space, **more)
    return MaskDecoder(config)


@pytest.mark.parametrize(("patch", "time", "space"), PATCHES)
@pytest.mark.parametrize(("frames", "rows", "columns"), [(1, 2, 3), (13, 1, 2), (4, 3, 2)])
def test_any_size_and_length(patch: tuple, time: int, space: int, frames: int, rows: int, columns: int) -> None:
    for lead in range(patch[0]):
        grid = Grid(frames, rows, columns, patch, time, space, lead)
        decoder = make(patch, time, space)
        out = decoder(torch.randn(2, 2, *grid.shape), grid, "grounding")
        assert out.shape == (2, grid.pixel_frames, rows * patch[1] * space, columns * patch[2] * space)
        assert torch.isfinite(out).all()


def test_published_shape_of_cogvideox() -> None:
    grid = Grid.from_pixels(49, 32, 48)
    assert grid.frames == 13
    assert make()(torch.randn(1, 1, *grid.shape), grid, "propagation").shape == (1, 49, 32, 48)


@pytest.mark.parametrize(("patch", "lead"), [((1, 2, 2), 0), ((2, 2, 2), 0), ((2, 2, 2), 1)])
def test_no_frame_sees_later_tokens(patch: tuple, lead: int) -> None:
    grid = Grid(5, 2, 2, patch, lead=lead)
    decoder = make(patch)
    maps = torch.randn(1, 2, *grid.shape)
    before = decoder(maps, grid, "grounding")
    for token in range(1, grid.frames):
        changed = maps.clone()
        changed[:, :, token:] += 3.0
        after, start = decoder(changed, grid, "grounding"), grid.pixel_span(token)[0]
        assert torch.equal(before[:, :start], after[:, :start])
        assert not torch.allclose(before[:, start:], after[:, start:])


def test_a_token_acts_where_it_is() -> None:
    """What it does is centred on its own pixels, and far ones feel nothing."""
    grid = Grid(1, 12, 12)
    decoder, maps = make(), torch.zeros(1, 2, 1, 12, 12)
    changed = maps.clone()
    changed[..., 3, 8] = 5.0
    felt = (decoder(changed, grid, "grounding") - decoder(maps, grid, "grounding")).abs()[0, 0]
    per_token = felt.unflatten(0, (12, 16)).unflatten(2, (12, 16)).mean((1, 3))
    share = per_token.detach() / per_token.detach().sum()
    place = torch.arange(12.0)
    assert abs(float((share.sum(1) * place).sum()) - 3) < 0.3
    assert abs(float((share.sum(0) * place).sum()) - 8) < 0.3
    far = torch.maximum((place - 3).abs()[:, None], (place - 8).abs()[None]) > 4
    assert per_token[far].max() == 0


def test_frames_of_the_causal_upsampling() -> None:
    x = torch.arange(3.0).reshape(1, 1, 3, 1, 1)
    assert upsample_time(x, 4).flatten().tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert upsample_time(x, 1) is x


def test_it_learns_a_moving_box() -> None:
    """A few steps are enough to turn blurred maps into masks: the heads, the stems and the trunk all train."""
    grid = Grid.from_pixels(5, 32, 32, spatial_stride=4)
    masks = torch.zeros(1, 5, 32, 32)
    masks[:, 0, 8:16, 8:24], masks[:, 1:, 16:24, 8:24] = 1, 1
    tokens = torch.nn.functional.avg_pool2d(masks[:, [0, 4]], 8)
    decoder = make(space=4)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        grounding = decoder(tokens[:, None].expand(-1, 2, -1, -1, -1), grid, "grounding")
        propagation = decoder(tokens[:, None], grid, "propagation")
        loss = sum(torch.nn.functional.binary_cross_entropy_with_logits(x, masks) for x in (grounding, propagation))
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in decoder.parameters())
        optimiser.step()
    for x in (grounding, propagation):
        inside = x > 0
        assert (inside & masks.bool()).sum() / (inside | masks.bool()).sum() > 0.8


def test_a_clip_smaller_than_its_tokens() -> None:
    grid = Grid.from_pixels(9, 60, 90)
    assert (grid.height, grid.width) == (4, 6)
    out = make()(torch.randn(1, 2, *grid.shape), grid, "grounding", (60, 90))
    assert out.shape == (1, 9, 60, 90)


def test_it_is_light_and_probabilities_are_tamed() -> None:
    assert sum(p.numel() for p in MaskDecoder(DecoderConfig()).parameters()) < 300_000
    decoder = make(probabilities=True)
    grid = Grid(2, 2, 2)
    assert torch.isfinite(decoder(torch.full((1, 2, 2, 2, 2), 1e4), grid, "grounding")).all()
    half = make().to(torch.bfloat16)
    assert half(torch.randn(1, 2, 2, 2, 2), grid, "grounding").dtype == torch.bfloat16


def test_what_it_refuses() -> None:
    grid = Grid(2, 2, 2)
    with pytest.raises(ValueError, match="2 layers"):
        make()(torch.randn(1, 3, 2, 2, 2), grid, "grounding")
    with pytest.raises(ValueError, match="tokens"):
        make()(torch.randn(1, 2, 3, 2, 2), grid, "grounding")
    with pytest.raises(ValueError, match="patch and strides"):
        make((2, 2, 2))(torch.randn(1, 2, 2, 2, 2), grid, "grounding")
    alone = MaskDecoder(DecoderConfig(1, 0, width=8))
    with pytest.raises(ValueError, match="heads grounding"):
        alone(torch.randn(1, 1, 2, 2, 2), grid, "propagation")
    for bad in (lambda: DecoderConfig(0, 0), lambda: DecoderConfig(width=0)):
        with pytest.raises(ValueError):
            bad()
