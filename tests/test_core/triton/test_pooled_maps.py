"""The Triton kernels against a float64 softmax at any head size: label columns of steered calls make it odd."""

import importlib.util

import pytest
import torch
from support_triton import PLACES, run_kernels

from matrix_lib.core.triton import kernels_for

SCRIPT = """
import torch
from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows
from matrix_lib.core.triton import pooled_maps

g = torch.Generator().manual_seed(0)
pool = Pool.mean_of({"a": [3, 4], "b": [4, 9, 60], "c": [0]})
for width, kind in ((64, torch.float16), (72, torch.float16), (136, torch.float32)):
    q, k = (torch.randn(1, 70, 2, width, generator=g).to(device, kind).transpose(1, 2) for _ in range(2))
    assert pooled_maps.takes(q)
    logits = q.double() @ k.double().transpose(-1, -2) * width**-0.5
    lse, p = logits.logsumexp(-1).float(), logits.softmax(-1)
    at, weights, members = (t.to(device) for t in (pool.indices, pool.weights, pool.members))
    mixed = weights.double()
    for per_head in (False, True):
        ours = pooled_maps.columns(q, k[:, :, at], lse, weights, width**-0.5, per_head)
        want = torch.einsum("bhnc,ce->bhen", p[..., at], mixed)
        assert (ours.double() - (want if per_head else want.mean(1))).abs().max() < 1e-5, (width, "columns")
        ours = pooled_maps.rows(q[:, :, at], k, lse[:, :, at], weights, members, width**-0.5, per_head)
        want = torch.einsum("bhrn,re->bhen", p[:, :, at], mixed)
        assert (ours.double() - (want if per_head else want.mean(1))).abs().max() < 1e-5, (width, "rows")
    if width == 72:  # under a bias: the same for every head
        labels = tuple(torch.randn(70, 5, generator=g).to(device, kind) for _ in range(2))
        logits = logits + labels[0].double() @ labels[1].double().T * width**-0.5
        lse, p = logits.logsumexp(-1).float(), logits.softmax(-1)
        given = (q, k[:, :, at], lse, weights, width**-0.5, False, (labels[0], labels[1][at]))
        want = torch.einsum("bhnc,ce->ben", p[..., at], mixed) / 2
        assert (pooled_maps.columns(*given).double() - want).abs().max() < 1e-5
        near = (labels[0][at], labels[1][7:50])
        ours = pooled_maps.rows(
            q[:, :, at], k[:, :, 7:50], lse[:, :, at], weights, members, width**-0.5, False, near
        )
        each = torch.einsum("bhrn,re->ben", p[:, :, at, 7:50], mixed) / 2
        assert (ours.double() - each).abs().max() < 1e-5
        plain = pooled_columns(q.float(), k.float(), pool, width**-0.5, labels=labels)
        assert (plain.double() - want).abs().max() < 1e-5
        plain = pooled_rows(q.float(), k.float(), pool, width**-0.5, labels=labels, keys=(7, 43))
        assert (plain.double() - each).abs().max() < 1e-5
print("agrees")
"""


@pytest.mark.parametrize("device", PLACES)
def test_the_kernels_equal_a_softmax_at_every_head_size(device):
    if importlib.util.find_spec("triton") is None:
        assert kernels_for("pooled_maps", torch.zeros(1)) is None  # and maps are made the plain way
        return
    run_kernels(SCRIPT, device)
