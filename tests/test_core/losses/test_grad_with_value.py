"""Gradients that are computed together with a loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from matrix_lib.core.grid import Grid
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.losses.mask_loss import at_once, entity_losses

GRID = Grid(3, 2, 3, spatial_stride=4)


def parts() -> tuple[MaskDecoder, Tensor, Tensor]:
    torch.manual_seed(0)
    decoder = MaskDecoder(DecoderConfig(2, 1, width=8, least=4, spatial_stride=4))
    maps, masks = torch.randn(3, 2, *GRID.shape), torch.rand(3, GRID.pixel_frames, 16, 24) > 0.7
    return decoder, maps, masks


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_the_same_as_autograd_whatever_multiplies_it(half: bool) -> None:
    found = []
    for trained in (True, False):
        decoder, maps, masks = parts()
        maps.requires_grad_()
        strength = torch.tensor([1.0, 0.0, 2.0])
        weights = tuple(decoder.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if trained:
                pieces = [
                    entity_losses(maps[i : i + 1], masks[i : i + 1], decode=lambda m: decoder(m, GRID, "grounding"),
                                  strength=strength[i : i + 1], trained=weights)
                    for i in range(3)
                ]  # fmt: skip
                loss = torch.stack(pieces).sum()
            else:
                from matrix_lib.core.losses.mask_loss import mask_loss

                loss = (mask_loss(decoder(maps, GRID, "grounding"), masks).total * strength).sum()
        (0.01 * loss + maps.square().sum()).backward()
        found.append([loss.detach(), maps.grad, *(p.grad for p in weights)])
    for got, want in zip(*found, strict=True):
        assert (got is None) == (want is None), "the other head gets no gradient"
        if want is not None:
            torch.testing.assert_close(got, want, rtol=2e-2 if half else 1e-4, atol=1e-3 if half else 1e-6)


def test_nothing_in_pixels_is_held() -> None:
    decoder, maps, masks = parts()
    kept: list[int] = []
    weights = tuple(decoder.parameters())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = at_once(lambda m: decoder(m, GRID, "grounding").square().mean(), maps.requires_grad_(), weights)
    largest = max(p.numel() for p in weights)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        entity_losses(maps, masks, decode=lambda m: decoder(m, GRID, "grounding"), trained=weights)
    assert max(kept) >= masks[0].numel(), "inside, while it is computed, pixels are there"
    assert loss.grad_fn is not None
    assert max(t.numel() for t in loss.grad_fn.saved_tensors if t is not None) <= max(largest, maps.numel())  # type: ignore[attr-defined]


def test_without_gradients_it_is_the_loss_alone() -> None:
    linear, x = nn.Linear(3, 1), torch.randn(2, 3)
    with torch.no_grad():
        value = at_once(lambda given: linear(given).square().sum(), x.requires_grad_(), tuple(linear.parameters()))
    assert not value.requires_grad
    frozen = at_once(lambda given: given.sum(), torch.ones(2), ())
    assert not frozen.requires_grad
    linear.requires_grad_(False)
    at_once(lambda given: linear(given).sum(), x, tuple(linear.parameters())).backward()
    torch.testing.assert_close(x.grad, linear.weight.expand(2, -1))
