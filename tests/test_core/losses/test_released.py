"""The losses as MATRIX's authors released them for Wan, against their formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support_attention import make_binding, make_tracks
from torch import Tensor
from torch.nn import functional

from matrix_lib.core.grid import Grid
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.config import AlignmentConfig, MaskWeights, timestep_weight
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.losses.mask_loss import alignment_loss
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.instrument.supervision import AlignmentMaps

GRID = Grid.from_latent((3, 4, 6))
HEADS, DIM, TEXT, SHIFT = 3, 8, 20, 5.0
RELEASED = AlignmentConfig(
    mask=MaskWeights(bce=1.0, dice=0.0, l2=0.0, entities="mean", pos_weight="shared"),
    v2t=LayerDraw((0, 1)), v2v=LayerDraw((0, 1)), timestep="levels", shift=SHIFT, joined_heads=True,
    average_layers=True,
)  # fmt: skip


def calls_of(kind: Any, layer: int, rows: int) -> AttentionCall:
    g = torch.Generator().manual_seed(layer + 10 * (kind == "self"))
    q, k = (torch.randn(rows, HEADS, n, DIM, generator=g) for n in (GRID.size, TEXT if kind == "cross" else GRID.size))
    video, text = ((0, GRID.size), None) if kind == "self" else (None, (0, TEXT))
    return AttentionCall(
        AttentionSite(layer, kind, f"{kind}{layer}"), q.requires_grad_(), k.requires_grad_(), k.detach(), DIM**-0.5,
        GRID, (), None, (0, GRID.size), video, text,
    )  # fmt: skip


def whole(call: AttentionCall, row: int) -> Tensor:
    """Dot products of all heads as one vector, over the root of its length: (queries, keys) float64."""
    q, k = (x[row].double().transpose(0, 1).flatten(1) for x in (call.q, call.k))
    return q @ k.T / (HEADS * DIM) ** 0.5


def weight_of(sigma: Tensor) -> Tensor:
    """The trainer's table of 1,000 levels, and the entry that is nearest."""
    plain = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    levels = SHIFT * plain / (1 + (SHIFT - 1) * plain) * 1000
    bell = torch.exp(-2 * ((levels - 500) / 1000) ** 2)
    bell = bell - bell.min()
    table = bell * (1000 / bell.sum())
    return table[(levels[None] - 1000 * sigma[:, None]).abs().argmin(1)]


def released(maps: list[Tensor], masks: Tensor, decode: Any) -> Tensor:
    """BCE alone, of all IDs at once: one weight of the pixels inside, one mean. maps: of each layer (E, F, h, w)."""
    x, y = decode(torch.stack(maps).mean(0)), masks.double()
    weight = ((y == 0).sum() / (y == 1).sum().clamp(min=1)).clamp(max=10.0)
    return functional.binary_cross_entropy_with_logits(x, y, pos_weight=weight)


def test_values_and_gradients_are_those_of_the_formulas() -> None:
    """Two clips: one of two instances and a verb, one whose second instance has no words; with levels of noise."""
    tracks = make_tracks(tracks_module, 9, 32, 48)
    fewer = make_binding(binding_module, TEXT, {"cyclist": (3, 4, 5), "van": (), "passes": (9,)})
    given = [Targets.of(make_binding(binding_module, TEXT), tracks, GRID), Targets.of(fewer, tracks, GRID)]
    torch.manual_seed(0)
    decoder = MaskDecoder(DecoderConfig(1, 1, width=8, least=4))
    exact = MaskDecoder(decoder.config).double()
    exact.load_state_dict(decoder.state_dict())
    sigma = torch.tensor([2.5 / 3, 1 / 1.8])  # two of the 1,000 levels
    maps = AlignmentMaps(RELEASED, given)
    calls = {(kind, layer): calls_of(kind, layer, 2) for kind in ("cross", "self") for layer in (0, 1)}
    for call in calls.values():
        maps.observe(call)
    got = maps.alignment(decoder, sigma)

    wanted = torch.zeros((), dtype=torch.float64)
    for row, target in enumerate(given):
        every = [("cross", target.words, 0.01, "grounding"), ("self", target.queries, 0.005, "propagation")]
        for kind, pool, factor, head in every:
            read = []
            for layer in (0, 1):
                values = whole(calls[kind, layer], row)
                mixed = torch.zeros(values.shape[kind == "cross"], len(pool), dtype=torch.float64)
                mixed[pool.indices] = pool.weights.double()
                made = values @ mixed if kind == "cross" else values.T @ mixed
                read.append(made.T.unflatten(-1, GRID.shape))
            masks = target.pixel_masks(pool.names)
            part = released(read, masks, lambda m, head=head: exact(m[:, None], GRID, head, tuple(masks.shape[-2:])))
            wanted = wanted + weight_of(sigma.double())[row] * factor * part / 2
    torch.testing.assert_close(got.total.double(), wanted, rtol=1e-5, atol=0.0)
    leaves = [leaf for call in calls.values() for leaf in (call.q, call.k)]
    mine = torch.autograd.grad(got.total, leaves)
    theirs = torch.autograd.grad(wanted, leaves)
    for one, other in zip(mine, theirs, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 1e-4


def test_one_sample_by_itself() -> None:
    """`alignment_loss` has the same options; frames that are not known do not count in the shared weight."""
    g = torch.Generator().manual_seed(3)
    maps = {0: torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64)}
    masks = torch.rand(2, 3, 4, 5, generator=g) > torch.tensor([0.9, 0.6]).view(2, 1, 1, 1)
    known = torch.tensor([True, False, True])
    got = alignment_loss(maps, masks, RELEASED.mask, known=known)
    wanted = released([maps[0][:, known]], masks[:, known], lambda m: m)
    torch.testing.assert_close(got, wanted)
    plain = alignment_loss(maps, masks, MaskWeights(1.0, 0.0, 0.0), known=known)
    assert float(plain) > 1.5 * float(got), "a sum, and each with its own weight"


def test_the_weight_of_a_time() -> None:
    sigma = torch.tensor([0.2, 0.5, 0.83, 0.999])
    torch.testing.assert_close(timestep_weight(sigma, "levels", SHIFT).double(), weight_of(sigma), rtol=2e-2, atol=2e-3)
    u = torch.linspace(0, 1, 20001)[1:]
    drawn = SHIFT * u / (1 + (SHIFT - 1) * u)
    assert float(timestep_weight(drawn, "levels", SHIFT).mean()) == pytest.approx(1.0, abs=2e-3)
    with pytest.raises(ValueError, match="joined_heads is about logits"):
        AlignmentConfig(scores="probabilities", joined_heads=True)
