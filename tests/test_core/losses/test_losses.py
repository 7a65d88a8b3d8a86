"""The losses against an explicit float64 softmax: values and gradients, joint and cross attention, every option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from matrix_lib.core.attention.pooled_maps import Pool
from matrix_lib.core.grid import Grid
from matrix_lib.core.layers import LayerDraw
from matrix_lib.core.losses.batch import PoolBatch
from matrix_lib.core.losses.config import AlignmentConfig, MaskWeights, TargetAwareConfig, timestep_weight
from matrix_lib.core.losses.decoder import DecoderConfig, MaskDecoder
from matrix_lib.core.losses.maps import grounding_maps, propagation_maps
from matrix_lib.core.losses.mask_loss import alignment_loss, mask_loss
from matrix_lib.core.losses.target_aware import target_aware_loss
from matrix_lib.core.sites import AttentionCall, AttentionSite

GRID = Grid(3, 3, 4)
TEXT, HEADS, DIM = 6, 2, 8
SIZE = GRID.size
WORDS = {"sub": (0, 2), "obj": (2, 3), "verb": (5,)}
QUERIES = {"sub": [0, 1, 5], "obj": [7, 8]}
WEIGHTS = MaskWeights(bce=0.7, dice=1.3, l2=2.0)


def grounding_map(call: AttentionCall, row: int, words: Pool, *args: Any, **kwargs: Any) -> Tensor:
    """(E, F, h, w) of one row of the batch."""
    return grounding_maps(call.row(row), PoolBatch.of([words]), *args, **kwargs)[0]


def propagation_map(call: AttentionCall, row: int, queries: Pool, *args: Any, **kwargs: Any) -> Tensor:
    """(E, F, h, w) of one row of the batch."""
    return propagation_maps(call.row(row), PoolBatch.of([queries]), *args, **kwargs)[0]


def make_call(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, mask: Tensor | None = None) -> Any:
    """A call of two batch rows whose q and k want gradients; text in front of the video where they share a sequence."""
    g = torch.Generator().manual_seed(seed)
    queries, keys = {"joint": (TEXT + SIZE,) * 2, "cross": (SIZE, TEXT), "self": (SIZE, SIZE)}[kind]
    q, k = (torch.randn(2, HEADS, n, DIM, generator=g, dtype=torch.float64).to(dtype) * 1.5 for n in (queries, keys))
    first = TEXT if kind == "joint" else 0
    return AttentionCall(
        AttentionSite(3, kind, "block"), q.requires_grad_(), k.requires_grad_(), k.detach(), DIM**-0.5, GRID, (), mask,
        (first, SIZE), None if kind == "cross" else (first, SIZE), None if kind == "self" else (0, TEXT),
    )  # fmt: skip


def explicit_map(call: Any, row: int, loss: str, tokens: dict[str, Any], scores: str) -> Tensor:
    """(E, F, h, w) float64 from the whole attention matrix."""
    values = call.q[row].double() @ call.k[row].double().transpose(-1, -2) * call.scale
    if scores == "probabilities":
        if call.mask is not None:
            values = values.masked_fill(~call.mask[0 if call.mask.shape[0] == 1 else row], -torch.inf)
        values = values.softmax(-1)
    video = slice(call.video_q[0], call.video_q[0] + SIZE)
    maps = []
    for rows in tokens.values():
        at = torch.tensor(rows)
        if loss == "spa":
            one = values[:, call.video_q[0] + at][..., video].mean((0, 1))
        elif loss == "t2v":
            one = values[:, at][..., video].mean((0, 1))
        else:
            one = values[:, video][..., at].mean((0, 2))
        maps.append(one)
    return torch.stack(maps).unflatten(-1, GRID.shape)


def explicit_loss(values: Tensor, masks: Tensor, scores: str, weights: MaskWeights = WEIGHTS) -> Tensor:
    """The composite loss, each entity on its own, from the formulas."""
    total = values.new_zeros(())
    for x, y in zip(values.double(), masks.double()):
        p = x.sigmoid() if scores == "logits" else x
        inside = y.sum()
        pos = min(float((y.numel() - inside) / inside), weights.max_pos_weight) if inside else 1.0
        bce = functional.binary_cross_entropy(p, y, reduction="none") * torch.where(y > 0, pos, 1.0)
        dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        total = total + weights.bce * bce.mean() + weights.dice * (1 - dice) + weights.l2 * ((p - y) ** 2).mean()
    return total


def masks_of(count: int, seed: int = 1, size: tuple[int, ...] = GRID.shape) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed)) > 0.7


def gradients(loss: Tensor, call: Any) -> list[Tensor]:
    return [g.double() for g in torch.autograd.grad(loss, [call.q, call.k], allow_unused=True)]


def assert_close(got: list[Tensor], wanted: list[Tensor], within: float = 1e-4) -> None:
    for g, w in zip(got, wanted, strict=True):
        assert w.abs().max() > 0
        assert (g - w).norm() / w.norm() < within


CASES = [
    ("joint", "sga"), ("cross", "sga"), ("joint", "t2v"), ("joint", "spa"), ("self", "spa"),
]  # fmt: skip


@pytest.mark.parametrize("decoded", [False, True], ids=["tokens", "decoder"])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize(("kind", "loss"), CASES)
def test_gradients_are_those_of_an_explicit_softmax(kind: str, loss: str, scores: Any, decoded: bool) -> None:
    tokens = QUERIES if loss == "spa" else WORDS
    pool = Pool.mean_of(tokens)
    calls = [make_call(kind, seed) for seed in (0, 1)]  # two layers
    if loss == "spa":
        maps = {i: propagation_map(call, 1, pool, scores, budget=200) for i, call in enumerate(calls)}
    else:
        way: Any = "t2v" if loss == "t2v" else "v2t"
        maps = {i: grounding_map(call, 1, pool, scores, way, budget=200) for i, call in enumerate(calls)}
    wanted = [explicit_map(call, 1, loss, tokens, scores) for call in calls]
    for i, want in enumerate(wanted):
        torch.testing.assert_close(maps[i].double(), want, rtol=1e-5, atol=1e-6)
    if not decoded:
        masks = masks_of(len(tokens))
        got = alignment_loss(maps, masks, WEIGHTS, scores)
        reference = torch.stack([explicit_loss(w, masks, scores) for w in wanted]).mean()
    else:
        torch.manual_seed(0)
        decoder = MaskDecoder(DecoderConfig(2, 2, width=8, least=4, temporal_stride=2, spatial_stride=2))
        exact = MaskDecoder(decoder.config).double()
        exact.load_state_dict(decoder.state_dict())
        grid = Grid(*GRID.shape, temporal_stride=2, spatial_stride=2)
        head: Any = "propagation" if loss == "spa" else "grounding"
        masks = masks_of(len(tokens), size=(grid.pixel_frames, 12, 16))
        got = alignment_loss(maps, masks, WEIGHTS, scores, decode=lambda m: decoder(m, grid, head))
        reference = explicit_loss(exact(torch.stack(wanted, 1), grid, head), masks, "logits")
    torch.testing.assert_close(got.double(), reference, rtol=1e-5, atol=1e-6)
    for call in calls:
        assert_close(
            [g.double() for g in torch.autograd.grad(got, [call.q, call.k], retain_graph=True)],
            [g.double() for g in torch.autograd.grad(reference, [call.q, call.k], retain_graph=True)],
        )


@pytest.mark.parametrize("kind", ["joint", "cross"])
@pytest.mark.parametrize("normalise", ["none", "max", "sum"])
@pytest.mark.parametrize("frames", ["first", "all"])
def test_target_aware_gradients(kind: str, normalise: Any, frames: Any) -> None:
    config = TargetAwareConfig(frames=frames, normalise=normalise)
    call, mask = make_call(kind), masks_of(1)[0].float()
    got = target_aware_loss([grounding_map(call, 0, Pool.mean_of({"target": (2, 3)}))[0]], mask, config)
    a = explicit_map(call, 0, "sga", {"target": (2, 3)}, "probabilities")[0]
    last = 1 if frames == "first" else GRID.frames
    a, m = a[:last], mask[:last].double()
    a = {"none": a, "max": a / a.max(), "sum": a / a.sum()}[normalise]
    m = m / m.sum() if normalise == "sum" else m
    reference = ((a - m) ** 2).sum() / m.numel()
    torch.testing.assert_close(got.double(), reference, rtol=1e-4, atol=1e-7)
    assert_close(gradients(got, call), gradients(reference, call))


def test_masked_keys_are_outside_of_the_softmax() -> None:
    keep = torch.rand(2, 1, 1, TEXT + SIZE, generator=torch.Generator().manual_seed(3)) > 0.3
    keep[..., :3] = True
    call = make_call("joint", mask=keep)
    for row in (0, 1):
        got = grounding_map(call, row, Pool.mean_of(WORDS)).square().sum()
        want = explicit_map(call, row, "sga", WORDS, "probabilities").square().sum()
        assert_close(gradients(got, call), gradients(want, call))
        got = propagation_map(call, row, Pool.mean_of(QUERIES)).square().sum()
        want = explicit_map(call, row, "spa", QUERIES, "probabilities").square().sum()
        assert_close(gradients(got, call), gradients(want, call))


def test_a_constant_log_sum_exp_would_be_wrong() -> None:
    """What these losses avoid: the kernel's log-sum-exp taken as a constant."""
    call, pool = make_call("joint"), Pool.mean_of(WORDS)
    masks = masks_of(3)
    right = gradients(alignment_loss({0: grounding_map(call, 0, pool)}, masks, scores="probabilities"), call)
    logits = (call.q[0, :, TEXT:] @ call.k[0].transpose(-1, -2)) * call.scale
    p = (logits[..., pool.indices] - logits.logsumexp(-1, keepdim=True).detach()).exp()
    maps = torch.einsum("hnc,ce->en", p, pool.weights).unflatten(-1, GRID.shape) / HEADS
    wrong = gradients(alignment_loss({0: maps}, masks, scores="probabilities"), call)
    assert (wrong[1] - right[1]).norm() / right[1].norm() > 0.1


def test_positive_pixels_weigh_at_most_ten() -> None:
    rare, none = torch.zeros(1, 1, 10, 10), torch.zeros(1, 1, 10, 10)
    rare[..., 0, 0] = 1
    x = torch.zeros(1, 1, 10, 10)
    log2 = torch.tensor(2.0).log()
    assert torch.allclose(mask_loss(x, rare).bce, log2 * (99 + 10) / 100)
    assert torch.allclose(mask_loss(x, rare, MaskWeights(max_pos_weight=50)).bce, log2 * (99 + 50) / 100)
    assert torch.allclose(mask_loss(x, none).bce, log2)
    assert torch.isfinite(mask_loss(x, none).total).all()


def test_certain_and_vanished_scores_keep_their_gradient() -> None:
    """No clamp anywhere: a score that is wrong and saturated is still pulled back."""
    masks = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    for scores, values in (("logits", [-200.0, 200.0]), ("probabilities", [0.0, 1.0])):
        x = torch.tensor(values).reshape(masks.shape).requires_grad_()
        loss = mask_loss(x, masks, MaskWeights(dice=0, l2=0), scores).total.sum()  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss)
        assert grad.flatten()[0] < -0.1
        assert grad.flatten()[1] > 0.1


def test_unknown_frames_do_not_count() -> None:
    x, y = torch.randn(2, 4, 3, 3), masks_of(2, size=(4, 3, 3))
    known = torch.tensor([True, False, True, False])
    a = mask_loss(x, y, known=known).total
    x[:, 1], x[:, 3] = 50.0, -50.0
    assert torch.equal(a, mask_loss(x, y, known=known).total)
    with pytest.raises(ValueError, match="no frame"):
        mask_loss(x, y, known=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="one size"):
        mask_loss(x, y[:, :2])
    with pytest.raises(ValueError, match="first frame"):
        target_aware_loss([x[0]], y[0], known=~known)
    with pytest.raises(ValueError, match="no layer"):
        alignment_loss({}, y)


def test_calls_that_cannot_be_asked() -> None:
    pool = Pool.mean_of(WORDS)
    with pytest.raises(ValueError, match="no text keys"):
        grounding_map(make_call("self"), 0, pool)
    with pytest.raises(ValueError, match="no video keys"):
        propagation_map(make_call("cross"), 0, pool)
    with pytest.raises(ValueError, match="do not query"):
        grounding_map(make_call("cross"), 0, pool, direction="t2v")
    for scores in ("probabilities", "logits"):
        with pytest.raises(ValueError, match=r"0\.\.5"):
            grounding_map(make_call("joint"), 0, Pool.mean_of({"far": (TEXT,)}), scores)  # type: ignore[arg-type]


def test_layers_of_a_step() -> None:
    published = TargetAwareConfig().layers
    assert published.at(0) == published.at(9) == (5, 8, 11, 14, 17, 20, 23) == tuple(range(5, 24, 3))
    drawn = LayerDraw.random(5, 24, 7)
    steps = [drawn.at(step, seed=3) for step in range(200)]
    assert all(len(set(s)) == 7 and s == tuple(sorted(s)) and set(s) <= set(range(5, 24)) for s in steps)
    assert steps[5] == LayerDraw.random(5, 24, 7).at(5, seed=3), "a resumed run draws the same layers"
    assert steps[:20] != [drawn.at(step, seed=4) for step in range(20)]
    assert {layer for s in steps for layer in s} == set(range(5, 24))
    assert AlignmentConfig().v2t.at(1) == (7, 11)
    for bad in (lambda: LayerDraw((1, 1)), lambda: LayerDraw((1, 2), 3), lambda: MaskWeights(bce=-1)):
        with pytest.raises(ValueError):
            bad()


def test_timestep_weights() -> None:
    t = torch.linspace(0, 1, 10001, dtype=torch.float64)
    bell = timestep_weight(t, "bell")
    assert bell[0] == bell[-1] == 0
    assert abs(float(bell.mean()) - 1) < 1e-3
    assert bell.argmax() == 5000
    assert torch.equal(timestep_weight(t, "uniform"), torch.ones_like(t))
    with pytest.raises(ValueError, match="uniform"):
        timestep_weight(t, "hump")  # type: ignore[arg-type]


def test_compiled_losses_are_the_same() -> None:
    """Through torch.compile's tracing and its split into a forward and a backward graph."""
    masks, pool, calls = masks_of(3), Pool.mean_of(WORDS), []

    def loss(q: Tensor, k: Tensor) -> Tensor:
        call = replace(calls[0], q=q, k=k)
        sure = alignment_loss({0: grounding_map(call, 0, pool)}, masks, WEIGHTS, "probabilities")
        return sure + alignment_loss({0: grounding_map(call, 0, pool, "logits")}, masks, WEIGHTS)

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        calls[:] = [make_call("joint")]
        found.append(gradients(function(calls[0].q, calls[0].k), calls[0]))
    assert_close(found[1], found[0], 1e-5)


def test_autocast_half_precision_inputs_are_computed_in_float32() -> None:
    call = make_call("joint", dtype=torch.bfloat16)
    maps = grounding_map(call, 0, Pool.mean_of(WORDS), "logits")
    assert maps.dtype == torch.float32
    want = explicit_map(call, 0, "sga", WORDS, "logits")
    torch.testing.assert_close(maps.double(), want, rtol=1e-4, atol=1e-5)
