"""Pooled attention against an explicit float64 softmax."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count
from torch.nn.attention import SDPBackend

from matrix_lib.core.attention import pooled_maps, sdpa_lse
from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows
from matrix_lib.core.attention.sdpa_lse import LseTap, row_lse, sdpa_with_lse


def tensors(seed=0, b=2, h=3, nq=37, nk=29, d=16, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(b, h, n, d, generator=g, dtype=dtype) * 1.5 for n in (nq, nk, nk))


def explicit(q, k, scale, mask=None):
    s = q.double() @ k.double().transpose(-1, -2) * scale
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask.double()
    return s.softmax(-1)


def masks(nq=37, nk=29):
    g = torch.Generator().manual_seed(3)
    key_only = torch.zeros(1, 1, 1, nk)
    key_only[..., 20:] = -torch.inf
    return {
        "none": None,
        "keys": key_only,
        "dense": torch.randn(nq, nk, generator=g),
        "bool": torch.rand(2, 1, nq, nk, generator=g) > 0.3,
        "three": torch.randn(2, nq, nk, generator=g),
    }


WORDS = Pool.mean_of({"cyclist": [0, 3, 5], "van": [5, 7], "rides": [11]})
TRACKS = Pool.mean_of({"cyclist": [1, 2, 9, 30], "van": [9, 10], "both": [1, 2, 9, 10, 30]})


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("given_lse", [True, False])
@pytest.mark.parametrize("budget", [None, 200])
def test_columns_and_rows_equal_the_softmax(name, given_lse, budget):
    q, k, _ = tensors()
    mask, scale = masks()[name], 0.21
    want = explicit(q, k, scale, mask[:, None] if name == "three" else mask)
    lse = row_lse(q, k, scale, mask=mask, budget=budget) if given_lse else None
    columns = pooled_columns(q, k, WORDS, scale, lse=lse, mask=mask, budget=budget)
    expected = torch.einsum("bhnc,ce->ben", want[..., WORDS.indices], WORDS.weights.double()) / 3
    assert (columns - expected).abs().max() <= 1e-5 * expected.max()
    rows = pooled_rows(q, k, TRACKS, scale, lse=lse, mask=mask, keys=(4, 20), budget=budget)
    expected = torch.einsum("bhrn,re->ben", want[:, :, TRACKS.indices, 4:24], TRACKS.weights.double()) / 3
    assert (rows - expected).abs().max() <= 1e-5 * expected.max()


ROW_WAYS = [pytest.param("cpu", way, torch.float32, 1e-5, id=f"cpu, {way}") for way in ("kernel", "products")]
ROW_WAYS += [
    pytest.param("cpu", "kernel", torch.bfloat16, 2e-4, id="cpu, bf16")
]  # whose kernel there rounds exponentials
ROW_WAYS += [
    pytest.param("cuda", way, dtype, 2e-5, id=f"cuda, {way}, {dtype}", marks=pytest.mark.gpu)
    for way in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "products")
    for dtype in (torch.bfloat16, torch.float16)
] * torch.cuda.is_available()


@pytest.mark.parametrize(("device", "way", "dtype", "near"), ROW_WAYS)
def test_rows_without_triton_equal_the_softmax(device, way, dtype, near, monkeypatch):
    """Both ways of a GPU; the first one by the kernel of a CPU as well."""
    ran = []
    if way.isupper():
        monkeypatch.setattr(pooled_maps, "ROW_KERNELS", [getattr(SDPBackend, way)])
        way = "kernel"
    monkeypatch.setenv("MATRIX_TRITON", "0")
    monkeypatch.setattr(pooled_maps, "ROWS_BY", ("triton", way, "products"))
    monkeypatch.setattr(pooled_maps, "HEAD_ROWS_BY", ("triton", way, "products"))
    monkeypatch.setattr(pooled_maps, "_MANY", 1)
    monkeypatch.setattr(pooled_maps, "has_lse", lambda q: q.dtype != torch.float64)
    monkeypatch.setattr(pooled_maps, "attend", lambda *given: ran.append(given) or sdpa_lse.attend(*given))
    q, k, _ = (t.to(device, dtype) for t in tensors(b=2, nq=70, nk=64, d=40))
    labels = tuple(torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).to(device, dtype) for n in (70, 64))
    pool = Pool.mean_of({"cyclist": range(30), "van": [29, 31, 69], "wheel": [5]})
    pool = dataclasses.replace(pool, weights=pool.weights * torch.tensor([1.0, 3.0, 1.0]))  # in three copies
    for extra in (None, labels):
        logits = q.double() @ k.double().mT * 0.2
        if extra is not None:
            logits += extra[0].double() @ extra[1].double().T * 0.2
        lse, p = logits.logsumexp(-1).float(), logits.softmax(-1)[:, :, pool.indices, 4:60]
        lse[1, :, 31] = -torch.inf  # looks at nothing
        p[1, :, list(pool.indices).index(31)] = 0
        want = torch.einsum("bhrn,re->bhen", p, pool.weights.double().to(device))
        for budget in (None, 9000, 700):
            given = {"lse": lse, "keys": (4, 56), "labels": extra, "budget": budget}
            got = pooled_rows(q, k, pool, 0.2, **given)
            assert (got - want.mean(1)).abs().max() <= near * want.mean(1).max()
            got = pooled_rows(q, k, pool, 0.2, per_head=True, **given)
            assert (got - want).abs().max() <= near * want.max()
    if device == "cpu" or way == "products":  # not every GPU has every kernel
        assert bool(ran) == (way == "kernel")
    k[0, 0, 10] = torch.nan  # what is not a number is not hidden, and stays where it is
    wrong = pooled_rows(q, k, pool, 0.2, lse=lse, keys=(4, 56)).isnan()
    assert wrong[0, :, 6].all()
    assert wrong.sum() == 3


def test_per_head_maps_average_to_the_mean_map():
    q, k, _ = tensors()
    each = pooled_columns(q, k, WORDS, 0.2, per_head=True)
    assert each.shape == (2, 3, 3, 37)
    torch.testing.assert_close(each.mean(1), pooled_columns(q, k, WORDS, 0.2))
    each = pooled_rows(q, k, TRACKS, 0.2, per_head=True)
    torch.testing.assert_close(each.mean(1), pooled_rows(q, k, TRACKS, 0.2))


@pytest.mark.parametrize("name", ["none", "keys", "bool"])
def test_gradients_equal_autograd_through_the_softmax(name):
    mask = masks()[name]
    q, k, _ = (t.requires_grad_() for t in tensors())
    g = torch.Generator().manual_seed(5)
    wc, wr = torch.randn(2, 3, 37, generator=g), torch.randn(2, 3, 29, generator=g)
    got = (pooled_columns(q, k, WORDS, 0.2, mask=mask, budget=300) * wc).sum()
    got = got + (pooled_rows(q, k, TRACKS, 0.2, mask=mask, budget=300) * wr).sum()
    got = torch.autograd.grad(got, (q, k))
    p = explicit(q, k, 0.2, mask)
    want = (torch.einsum("bhnc,ce->ben", p[..., WORDS.indices], WORDS.weights.double()) / 3 * wc).sum()
    want = want + (torch.einsum("bhrn,re->ben", p[:, :, TRACKS.indices], TRACKS.weights.double()) / 3 * wr).sum()
    for a, b in zip(got, torch.autograd.grad(want, (q, k))):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_a_kernels_lse_is_never_used_where_gradients_are_recorded():
    q, k, _ = (t.requires_grad_() for t in tensors())
    wrong = torch.zeros(2, 3, 37)
    torch.testing.assert_close(pooled_columns(q, k, WORDS, 0.2, lse=wrong), pooled_columns(q, k, WORDS, 0.2))


def test_rows_that_may_look_at_nothing_give_zero_and_not_nan():
    q, k, _ = tensors()
    mask = torch.ones(37, 29, dtype=torch.bool)
    mask[9] = False
    rows = pooled_rows(q, k, TRACKS, 0.2, mask=mask)
    assert rows.isfinite().all()
    assert (pooled_columns(q, k, WORDS, 0.2, mask=mask)[:, :, 9] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["none", "keys", "bool"])
def test_kernel_lse_comes_with_a_bit_identical_output(dtype, name):
    q, k, v = tensors(dtype=dtype)
    mask = masks()[name]
    mask = mask.to(dtype) if mask is not None and mask.dtype != torch.bool else mask
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    out, lse = sdpa_with_lse(q, k, v, attn_mask=mask, scale=0.3)
    assert torch.equal(out, want)
    assert lse is not None, "the CPU kernel returns one"
    logits = q.double() @ k.double().transpose(-1, -2) * 0.3
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    assert (lse - logits.logsumexp(-1)).abs().max() < (3e-2 if dtype == torch.bfloat16 else 1e-5)


def test_tap_listens_to_calls_however_their_arguments_are_passed():
    q, k, v = tensors()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with LseTap() as tap:
        a = sdpa(q, k, v, dropout_p=0.0, is_causal=False)
        b = sdpa(query=q, key=k, value=v, scale=0.5)
        c = sdpa(q[:, :, :29], k, v, None, 0.0, True)
    assert torch.equal(a, sdpa(q, k, v))
    assert torch.equal(b, sdpa(q, k, v, scale=0.5))
    assert torch.equal(c, sdpa(q[:, :, :29], k, v, is_causal=True))
    assert [lse is not None for _, _, lse, _ in tap.calls] == [True, True, False]
    assert tap.lse_for(q, k) is None, "three calls are ambiguous"


@settings(max_examples=count(30, soak=600))
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 3000))
def test_any_size_and_budget(nq, nk, seed, budget):
    q, k, _ = tensors(seed, 1, 2, nq, nk, 8)
    columns = Pool.mean_of({"a": [nk - 1], "b": list(range(nk))})
    got = pooled_columns(q, k, columns, 0.3, budget=budget)
    assert (got[:, 1] * nk - 1).abs().max() < 1e-5, "the mean over all columns is 1 / Nk"
    want = explicit(q, k, 0.3)[..., -1].mean(1)
    assert (got[:, 0] - want).abs().max() < 1e-5


def test_bad_tokens_are_named():
    q, k, _ = tensors()
    with pytest.raises(ValueError, match=r"key tokens 0\.\.40.*0\.\.28"):
        pooled_columns(q, k, Pool.mean_of({"a": [0, 40]}), 0.2)
    with pytest.raises(ValueError, match="'van'"):
        Pool.mean_of({"cyclist": [1], "van": []})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_log_sum_exp_of_kept_keys_without_a_mask(dtype):
    """What GPUs do, whose kernels give none together with a mask."""
    from matrix_lib.core.attention.sdpa_lse import _kept_lse

    q, k, _ = tensors(dtype=dtype)
    keep = torch.rand(2, 1, 1, 29, generator=torch.Generator().manual_seed(3)) > 0.5
    assert (_kept_lse(q, k, 0.125, keep & False) == -torch.inf).all(), "nothing to look at"
    got = _kept_lse(q, k, 0.125, keep)
    want = (q.double() @ k.double().mT * 0.125).masked_fill(~keep, -torch.inf).logsumexp(-1)
    assert (got - want).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
