"""The mask decoder: any size and length, causal, and the geometry of the token grid."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from matrix_lib.core.grid import Grid
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder

PATCHES = [((1, 2, 2), 4, 8), ((2, 2, 2), 4, 8), ((1, 1, 1), 3, 6), ((1, 2, 2), 8, 16), ((1, 2, 2), 4, 1)]


def make(patch: tuple[int, int, int] = (1, 2, 2), time: int = 4, space: int = 8, **more: int) -> MaskDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(2, 1, width=8, least=4, patch=patch, temporal_stride=time, spatial_stride=space, **more)
    return MaskDecoder(config)


@pytest.mark.parametrize(("patch", "time", "space"), PATCHES)
@pytest.mark.parametrize(("frames", "rows", "columns"), [(1, 2, 3), (13, 1, 2), (4, 3, 2)])
def test_any_size_and_length(patch: tuple, time: int, space: int, frames: int, rows: int, columns: int) -> None:
    for prefix_frames in range(patch[0]):
        grid = Grid(frames, rows, columns, patch, time, space, prefix_frames)
        decoder = make(patch, time, space)
        out = decoder(torch.randn(2, 2, *grid.shape), grid, "grounding")
        assert out.shape == (2, grid.pixel_frames, rows * patch[1] * space, columns * patch[2] * space)
        assert torch.isfinite(out).all()


def test_published_shape_of_cogvideox() -> None:
    grid = Grid.from_pixels(49, 32, 48)
    assert grid.frames == 13
    assert make()(torch.randn(1, 1, *grid.shape), grid, "propagation").shape == (1, 49, 32, 48)


@pytest.mark.parametrize(
    ("patch", "prefix_frames", "cycle"), [((1, 2, 2), 0, 0), ((2, 2, 2), 0, 0), ((2, 2, 2), 1, 0), ((1, 2, 2), 0, 3)]
)
def test_no_frame_sees_later_tokens(patch: tuple, prefix_frames: int, cycle: int) -> None:
    """In a cycle, too, whose first latent frame is one pixel frame."""
    grid = Grid(5, 2, 2, patch, prefix_frames=prefix_frames, cycle=cycle)
    decoder = make(patch)
    maps = torch.randn(1, 2, *grid.shape)
    before = decoder(maps, grid, "grounding")
    assert before.shape[1] == grid.pixel_frames
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


def causal(x: Tensor, conv: torch.nn.Conv3d) -> Tensor:
    front = x[:, :, :1].expand(-1, -1, 2, -1, -1)
    return functional.conv3d(torch.cat([front, x], 2), conv.weight, conv.bias, padding=(0, 1, 1), groups=conv.groups)


def repeated(x: Tensor, factors: tuple[int, int, int], drop: int) -> Tensor:
    for dim, factor in enumerate(factors, start=2):
        x = x.repeat_interleave(factor, dim)
    return x[:, :, drop:]


def by_repetition(decoder: MaskDecoder, maps: Tensor, grid: Grid, head: str) -> Tensor:
    """What the decoder is, at the sizes where it is meant: everything repeated first and convolved then."""
    x = causal(maps, decoder.stems[head].conv)
    for index, (block, up, smooth) in enumerate(zip(decoder.blocks, decoder.ups, decoder.smooth)):
        normal = functional.silu(x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt() * block.scale)
        x = repeated(
            block.get_submodule("skip")(x) + causal(normal, block.conv.conv),
            up,
            grid.prefix_frames if index == 0 else up[0] - 1,
        )
        x = x + causal(x, smooth.conv)
    x = decoder.heads[head](x)
    time, rows, columns = decoder.last
    out = x.new_empty(len(x), x.shape[2] * time, x.shape[3] * rows, x.shape[4] * columns)
    for place, (t, r, c) in enumerate(product(range(time), range(rows), range(columns))):
        out[:, t::time, r::rows, c::columns] = x[:, place]
    return out[:, time - 1 :][:, : grid.pixel_frames]


@pytest.mark.parametrize(("patch", "time", "space"), PATCHES)
def test_it_is_what_repetition_and_convolution_give(patch: tuple, time: int, space: int) -> None:
    for prefix_frames in range(patch[0]):
        grid = Grid(4, 3, 2, patch, time, space, prefix_frames)
        decoder = make(patch, time, space).double()
        for head, layers in (("grounding", 2), ("propagation", 1)):
            maps = torch.randn(2, layers, *grid.shape, dtype=torch.float64, requires_grad=True)
            got, want = decoder(maps, grid, head), by_repetition(decoder, maps, grid, head)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            used = [maps, *(p for n, p in decoder.named_parameters() if n.split(".")[0] in ("blocks", "smooth"))]
            used += [*decoder.stems[head].parameters(), *decoder.heads[head].parameters()]
            back = torch.randn_like(got)
            for a, b in zip(torch.autograd.grad(got, used, back), torch.autograd.grad(want, used, back)):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_half_precision_bends_loss_and_gradients_little() -> None:
    """As large models train it: convolutions in bfloat16, the loss in float32."""
    from matrix_lib.core.losses.mask_loss import mask_loss

    grid = Grid(4, 6, 6)
    decoder = make()
    maps, masks = torch.randn(2, 2, *grid.shape), torch.rand(2, grid.pixel_frames, 96, 96) > 0.7
    found = []
    for half in (False, True):
        given = maps.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = mask_loss(decoder(given, grid, "grounding"), masks).total.sum()
        used = [given, *(p for n, p in decoder.named_parameters() if "propagation" not in n)]
        found.append((loss, torch.autograd.grad(loss, used)))
    (exact, grads), (near, bent) = found
    assert abs(near - exact) / exact < 2e-3
    assert (bent[0] - grads[0]).norm() / grads[0].norm() < 3e-2
    flat, wanted = (torch.cat([g.flatten() for g in each[1:]]) for each in (bent, grads))
    assert (flat - wanted).norm() / wanted.norm() < 2e-2


def test_only_the_logits_have_the_size_of_the_clip() -> None:
    """What one decoded entity holds for the backward pass, in pixels of its clip: a few numbers each."""
    grid = Grid(5, 6, 6)
    decoder = MaskDecoder(DecoderConfig(2, 1))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = decoder(torch.randn(1, 2, *grid.shape, requires_grad=True), grid, "grounding")
    assert sum(kept.values()) < 7.0 * out.numel()


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
