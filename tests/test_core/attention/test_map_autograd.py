"""Maps with gradients: against an explicit float64 softmax, in half precision, and what they hold in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from matrix_lib.core.attention.map_autograd import dots, picked, softmax_columns, softmax_rows
from matrix_lib.core.attention.sdpa_lse import row_lse, sdpa_with_lse

SCALE, SPAN = 0.3, (4, 30)
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 3e-3}


def tensors(dtype: torch.dtype = torch.float32, n: int = 40, b: int = 2, d: int = 16) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple((torch.randn(b, 3, n, d, generator=g) * 1.5).to(dtype).requires_grad_() for _ in "qk")  # type: ignore[return-value]


def pools(n: int = 40, entities: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens of two rows of a batch; the second has fewer, and its last ones are padding."""
    g = torch.Generator().manual_seed(1)
    indices = torch.stack([torch.randperm(n, generator=g)[:7] for _ in range(2)])
    weights = torch.rand(2, 7, entities, generator=g)
    weights[:, :3, 0], weights[1, 5:], indices[1, 5:] = 0, 0, 0
    return indices, weights


def explicit(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    logits = q.double() @ k.double().mT * SCALE
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    return logits.softmax(-1)


def wanted(kind: str, q: Tensor, k: Tensor, mask: Tensor | None, entities: int = 3) -> Tensor:
    """(B, H, E, N) from the whole attention matrix."""
    indices, weights = (t.to(q.device) for t in pools(q.shape[2], entities))
    p, video = explicit(q, k, mask), slice(SPAN[0], sum(SPAN))
    rows = []
    for b in range(2):
        if kind == "columns":
            rows.append(torch.einsum("hnr,re->hen", p[b, :, video][..., indices[b]], weights[b].double()))
        else:
            rows.append(torch.einsum("hrn,re->hen", p[b, :, indices[b]][..., video], weights[b].double()))
    return torch.stack(rows)


def made(kind: str, q: Tensor, k: Tensor, mask: Tensor | None, carried: bool, entities: int = 3, **more: Any) -> Tensor:
    indices, weights = (t.to(q.device) for t in pools(q.shape[2], entities))
    if carried:
        lse = sdpa_with_lse(q, k, k, attn_mask=mask, scale=SCALE)[1]
        assert lse is not None
        assert lse.requires_grad
    else:
        with torch.no_grad():
            lse = row_lse(q, k, SCALE, mask=mask)
    if kind == "columns":
        return softmax_columns(q, k, lse, mask, indices, weights, SCALE, SPAN, **more)
    return softmax_rows(q, k, picked(lse, indices), mask, indices, weights, SCALE, SPAN, **more)


def check(got: Tensor, want: Tensor, given: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], close: float) -> None:
    assert (got - want).norm() / want.norm() < close
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(want.device)
    grads = torch.autograd.grad(got, given, g.to(got))
    for a, b in zip(grads, torch.autograd.grad(want, exact, g)):
        assert (a - b).norm() / b.norm() < close


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("carried", [False, True], ids=["again", "carried"])
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_values_and_gradients(kind: str, dtype: torch.dtype, carried: bool, per_head: bool) -> None:
    given = tensors(dtype)
    exact = tuple(t.detach().double().requires_grad_() for t in given)
    want = wanted(kind, *exact, None)
    got = made(kind, *given, None, carried, per_head=per_head, budget=500)
    check(got, want if per_head else want.mean(1), given, exact, CLOSE[dtype])  # type: ignore[arg-type]


@pytest.mark.parametrize("carried", [False, True], ids=["again", "carried"])
@pytest.mark.parametrize("mask", ["keys", "bool", "dense"])
@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_masks(kind: str, mask: str, carried: bool) -> None:
    g = torch.Generator().manual_seed(5)
    keys = torch.zeros(1, 1, 1, 40)
    keys[..., 33:] = -torch.inf
    choices = {"keys": keys, "bool": torch.rand(2, 1, 40, 40, generator=g) > 0.3, "dense": torch.randn(40, 40)}
    given = tensors()
    exact = tuple(t.detach().double().requires_grad_() for t in given)
    want = wanted(kind, *exact, choices[mask]).mean(1)
    check(made(kind, *given, choices[mask], carried, budget=500), want, given, exact, 1e-5)  # type: ignore[arg-type]


def test_more_entities_than_a_head_has_numbers() -> None:
    given = tensors(d=8)
    exact = tuple(t.detach().double().requires_grad_() for t in given)
    for kind in ("columns", "rows"):
        want = wanted(kind, *exact, None, entities=19).mean(1)
        check(made(kind, *given, None, False, entities=19), want, given, exact, 1e-5)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("carried", [False, True], ids=["again", "carried"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_kernels_of_this_machine(kind: str, dtype: torch.dtype, carried: bool) -> None:
    """The same in the head sizes of the large models, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for d in (64, 128):
        given = tuple((t.detach() * 0.5).to(device).requires_grad_() for t in tensors(dtype, n=200, d=d))
        exact = tuple(t.detach().double().requires_grad_() for t in given)
        want = wanted(kind, *exact, None).mean(1)
        check(made(kind, *given, None, carried), want, given, exact, CLOSE[dtype])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_half_precision_takes_very_small_gradients(kind: str) -> None:
    """Losses are means over millions of pixels: what reaches a map is far below what float16 can hold."""
    given = tensors(torch.float16)
    exact = tuple(t.detach().double().requires_grad_() for t in given)
    want, got = wanted(kind, *exact, None).mean(1), made(kind, *given, None, False)
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    few = torch.autograd.grad((got * g.float() * 1e-2).sum(), given)
    for a, b in zip(few, torch.autograd.grad((want * g * 1e-2).sum(), exact)):
        assert (a - b).norm() / b.norm() < 1e-2


def test_gradcheck() -> None:
    q, k = tensors(torch.float64, d=8)
    for kind in ("columns", "rows"):
        for carried in (False, True):
            fast = torch.autograd.gradcheck(lambda q, k: made(kind, q, k, None, carried), (q, k), fast_mode=True)
            assert fast


def test_a_map_of_nothing_has_no_gradient() -> None:
    q, k = tensors()
    for kind in ("columns", "rows"):
        for a in torch.autograd.grad(made(kind, q, k, None, False).sum() * 0, (q, k)):
            assert (a == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dots(dtype: torch.dtype) -> None:
    (tokens, _), wide = tensors(dtype), torch.promote_types(torch.float32, dtype)
    mixed = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(3)).to(wide).requires_grad_()
    exact = tokens.detach().double().requires_grad_(), mixed.detach().double().requires_grad_()
    want = torch.einsum("bhnd,bhed->ben", exact[0][:, :, 4:34], exact[1]) / 3
    check(
        dots(tokens, mixed, SPAN, budget=600), want, (tokens, mixed), exact, 5e-3 if dtype == torch.bfloat16 else 1e-5
    )


# -- memory -----------------------------------------------------------------------------------------------------------


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that anything makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self.most = max(self.most, value.untyped_storage().nbytes() // value.element_size())
        return out


def held(build: Callable[[Tensor, Tensor], Tensor], n: int) -> tuple[int, int]:
    """Bytes that one map keeps for its backward pass beyond q and k, and the most elements of any tensor on the way."""
    q, k = tensors(torch.bfloat16, n, b=1)
    mine, kept = {q.untyped_storage().data_ptr(), k.untyped_storage().data_ptr()}, {}

    def pack(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage()
        if at.data_ptr() not in mine:
            kept[at.data_ptr()] = at.nbytes()
        return tensor

    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made = build(q, k)
        made.square().sum().backward()
    return sum(kept.values()), seen.most


def test_what_a_map_holds_grows_with_the_tokens_and_never_with_their_pairs() -> None:
    indices, weights = torch.arange(6)[None], torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(0))

    def both(q: Tensor, k: Tensor) -> Tensor:
        n = q.shape[2]
        with torch.no_grad():  # as where the model's own attention has given it
            lse = sdpa_with_lse(q, k, k, scale=SCALE)[1]
        assert lse is not None
        given = (indices, weights, SCALE, (0, n))
        options = {"budget": 1 << 14}
        return torch.stack(
            [
                softmax_columns(q, k, lse.requires_grad_(), None, *given, **options),  # type: ignore[arg-type]
                softmax_rows(q, k, picked(lse, indices), None, *given, **options),  # type: ignore[arg-type]
            ]
        )

    found = {n: held(both, n) for n in (512, 1024, 2048)}
    for n, (kept, most) in found.items():
        assert kept < 3 * n * 4 * 4, "one number a row and head, and the maps themselves"
        assert most <= max(3 * n * 16, 1 << 14), f"{n}: {most}"
    assert found[2048][0] <= 4.1 * found[512][0]


def test_nothing_is_held_between_the_passes_of_a_checkpointed_block() -> None:
    q, k = tensors(b=2)
    kept = []

    def block(q: Tensor, k: Tensor) -> Tensor:
        return made("columns", q, k, None, True).sum() + made("rows", q, k, None, True).sum()

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = checkpoint(block, q, k, use_reentrant=False)
    assert not kept or sum(t.numel() for t in kept) <= q.numel() + k.numel()
    for a, b in zip(torch.autograd.grad(out, (q, k)), torch.autograd.grad(block(q, k), (q, k))):
        assert torch.equal(a, b)
