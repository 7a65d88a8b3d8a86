"""Batch rows with regions of their own in one pass, against dense float64, and what cannot run that way."""

import pytest
import torch

from matrix_lib.core.attention.biased import attend, attend_rows, joinable, row_labels
from matrix_lib.core.attention.regions import LabelColumns, RegionLayout

N, SCALE = 40, 0.125
NEVER = float("-inf")
TABLE = torch.tensor([[0.0, NEVER], [NEVER, 0.0], [1.0, -2.0]])


def layout(seed, bias=TABLE, zeroed=None):
    g = torch.Generator().manual_seed(seed)
    query, key = (torch.randint(size, (N,), generator=g) for size in bias.shape)
    return RegionLayout(query, key, bias, zeroed)


def soft(seed):
    g = torch.Generator().manual_seed(seed)
    return LabelColumns(torch.rand(N, 3, generator=g), torch.randn(N, 3, generator=g))


def qkv(rows, dtype):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 2, N, 64, generator=g).to(dtype) for _ in range(3)]


def dense(q, k, v, rows):
    logits = q.double() @ k.double().transpose(-1, -2) * SCALE
    for place, (regions, columns) in enumerate(rows):
        if regions is not None:
            logits[place] += regions.bias[regions.query][:, regions.key]
        if columns is not None:
            logits[place] += columns.query.double() @ columns.key.double().T
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_every_row_has_its_own_regions(dtype, close):
    rows = [(layout(1), None), (layout(2, torch.randn(5, 4)), None), (layout(3), soft(3)), (None, soft(4))]
    q, k, v = qkv(len(rows), dtype)
    out, lse = attend_rows(q, k, v, SCALE, row_labels(rows, q, SCALE))
    want, norm = dense(q, k, v, rows)
    assert torch.isfinite(out).all()
    assert (out - want).abs().max() <= close * want.abs().max()
    assert (lse - norm).abs().max() <= 5 * close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forbidden_keys_stay_finite_in_every_type(dtype):
    q, k, v = qkv(1, dtype)
    regions = layout(1)
    out, _ = attend(q, k, v, SCALE, regions)
    want, _ = dense(q, k, v, [(regions, None)])
    assert (out - want).abs().max() <= 2e-2
    kept = regions.query == 0
    v2 = v.clone()
    v2[:, :, regions.key == 1] = 7.0
    again, _ = attend(q, k, v2, SCALE, regions)
    assert torch.equal(out[:, :, kept], again[:, :, kept]), "nothing is left of what a query may not look at"


def test_what_needs_more_than_labels_runs_apart():
    q, k, _ = qkv(1, torch.float32)
    assert joinable(layout(1), None, q, k)
    assert joinable(None, soft(1), q, k)
    assert not joinable(layout(1, zeroed=torch.ones(3, 2, dtype=torch.bool)), None, q, k)
    assert not joinable(layout(1, torch.full((3, 2), NEVER)), None, q, k), "a query that looks at nothing"
    assert not joinable(layout(1, torch.zeros(200, 2)), None, q, k), "more labels than kernels take"
    assert not joinable(layout(1), None, q.double(), k.double())
    long = torch.zeros(1, 1, 5000, 8)
    assert not joinable(None, LabelColumns(torch.zeros(5000, 1), torch.zeros(5000, 1)), long, long)
    with torch.enable_grad():
        assert not joinable(layout(1), None, q.requires_grad_(), k)
