"""A log-sum-exp with its gradient, out of the kernel that computes the attention anyway."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from matrix_lib.core.attention import sdpa_lse as attention_grad
from matrix_lib.core.attention.sdpa_lse import sdpa_with_lse

SCALE = 0.3
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 3e-3}


def tensors(dtype: torch.dtype = torch.float32, nq: int = 37, nk: int = 29, d: int = 16) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 3, n, d, generator=g) * 1.5).to(dtype).requires_grad_() for n in (nq, nk, nk)]


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = q @ k.mT * SCALE
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1) @ v, logits.logsumexp(-1)


def asked(dtype: torch.dtype, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Upstream gradients of the output and of the log-sum-exp; some rows have none of one or of both."""
    g = torch.Generator().manual_seed(1)
    out, lse = torch.randn(2, 3, 37, 16, generator=g) * size, torch.randn(2, 3, 37, generator=g)
    out[:, :, ::5], lse[:, :, 3:9], out[:, :, 4], lse[:, :, 4] = 0, 0, 0, 0
    return out.to(dtype), lse


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
def test_both_gradients_at_once(dtype: torch.dtype, size: float) -> None:
    given = tensors(dtype)
    exact = [t.detach().double().requires_grad_() for t in given]
    grads = asked(dtype, size)
    got = torch.autograd.grad(sdpa_with_lse(*given, scale=SCALE), given, grads)
    want = torch.autograd.grad(explicit(*exact, None), exact, [g.double() for g in grads])
    for a, b in zip(got, want):
        assert (a - b).norm() / b.norm() < CLOSE[dtype]


@pytest.mark.parametrize("kind", ["keep", "add"])
def test_with_a_mask(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    mask = torch.rand(2, 1, 37, 29, generator=g) > 0.3 if kind == "keep" else torch.randn(37, 29, generator=g)
    given = tensors()
    exact = [t.detach().double().requires_grad_() for t in given]
    grads = asked(torch.float32)
    got = torch.autograd.grad(sdpa_with_lse(*given, attn_mask=mask, scale=SCALE), given, grads)
    for a, b in zip(got, torch.autograd.grad(explicit(*exact, mask), exact, [t.double() for t in grads])):
        assert (a - b).norm() / b.norm() < CLOSE[torch.float32]


@pytest.mark.parametrize("kind", ["none", "each head's own"])
def test_a_few_heads_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a call is large, two copies of a few of its heads are held and not of all."""
    given, grads = tensors(), asked(torch.float32)
    mask = None if kind == "none" else torch.randn(2, 3, 37, 29, generator=torch.Generator().manual_seed(3))
    found = []
    for most in (1 << 24, 1200):
        monkeypatch.setattr(attention_grad, "_GROUP", most)
        monkeypatch.setattr(attention_grad, "_AT_ONCE", most)
        found.append(torch.autograd.grad(sdpa_with_lse(*given, attn_mask=mask, scale=SCALE), given, grads))
    for a, b in zip(*found):
        assert torch.equal(a, b)


def test_gradcheck() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=g, dtype=torch.float64).requires_grad_() for n in (6, 5, 5))
    assert torch.autograd.gradcheck(lambda *given: sdpa_with_lse(*given, scale=SCALE), (q, k, v))
    assert torch.autograd.gradcheck(lambda *given: sdpa_with_lse(*given, scale=SCALE)[1], (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_nothing_is_asked_of_trains_bit_for_bit_the_same(dtype: torch.dtype) -> None:
    given, plain = tensors(dtype), tensors(dtype)
    out, lse = sdpa_with_lse(*given, scale=SCALE)
    want = torch.nn.functional.scaled_dot_product_attention(*plain, scale=SCALE)
    assert torch.equal(out, want)
    grad = asked(dtype)[0]
    wanted = torch.autograd.grad(want, plain, grad)
    for a, b in zip(torch.autograd.grad(out, given, grad, retain_graph=True), wanted):
        assert torch.equal(a, b)
    for a, b in zip(torch.autograd.grad((out, lse), given, (grad, torch.zeros_like(lse))), wanted):
        assert torch.equal(a, b), "rows without a gradient of their log-sum-exp are left alone"


def test_no_larger_than_the_plain_call() -> None:
    """What is kept for the backward pass: q, k, v, the output and one number a row."""
    given = tensors(nq=64, nk=48)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sdpa_with_lse(*given, scale=SCALE)
    assert sum(kept.values()) == 2 * 3 * (2 * 64 * 16 + 2 * 48 * 16 + 64)


def test_under_gradient_checkpointing() -> None:
    given = tensors()

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = sdpa_with_lse(q, k, v, scale=SCALE)
        return out.sin().sum() + lse.cos().sum()

    got = torch.autograd.grad(checkpoint(loss, *given, use_reentrant=False), given)
    for a, b in zip(got, torch.autograd.grad(loss(*given), given)):
        assert torch.equal(a, b)


GPU = torch.cuda.is_available()
KERNELS = [SDPBackend.FLASH_ATTENTION] + [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION] * GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_kernels_of_this_machine(kernel: SDPBackend, dtype: torch.dtype) -> None:
    """Every fused kernel that there is, with the head sizes of the large models, and tokens that fill no tile."""
    for d in (64, 128):
        g = torch.Generator().manual_seed(0)
        to = {"device": "cuda" if GPU else "cpu", "dtype": dtype}
        given = [torch.randn(1, 300, 4, d, generator=g).to(**to).transpose(1, 2).requires_grad_() for _ in range(3)]  # type: ignore[arg-type]
        exact = [t.detach().double().requires_grad_() for t in given]
        grads = (torch.randn(1, 4, 300, d, generator=g).to(**to), torch.randn(1, 4, 300, generator=g).to(to["device"]))  # type: ignore[arg-type]
        with sdpa_kernel(kernel):
            found = sdpa_with_lse(*given, scale=SCALE)
        assert found[1] is not None, "this kernel gives its log-sum-exp"
        got = torch.autograd.grad(found, given, grads)
        for a, b in zip(got, torch.autograd.grad(explicit(*exact, None), exact, [t.double() for t in grads])):
            assert (a - b).norm() / b.norm() < 2e-2
