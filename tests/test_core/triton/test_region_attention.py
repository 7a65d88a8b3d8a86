"""The Triton kernel against float64 softmax, in Triton's interpreter: no GPU is needed for what it computes."""

import importlib.util

import pytest
import torch
from support_triton import PLACES, run_kernels

from matrix_lib.core.triton import kernels_for

SCRIPT = """
import torch
from matrix_lib.core.attention.biased import kernel_plan
from matrix_lib.core.attention.regions import RegionLayout
from matrix_lib.core.triton import region_attention

NEVER = float("-inf")
g = torch.Generator().manual_seed(0)
table = torch.tensor([[0, 1.0, -2, NEVER, 0], [0] * 5, [NEVER] * 5, [NEVER, 3, 3, NEVER, NEVER]])
for queries, keys, width in ((150, 200, 64), (131, 70, 128)):
    q, k, v = (torch.randn(2, n, 2, width, generator=g).half().to(device) for n in (queries, keys, keys))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    layout = RegionLayout(torch.randint(4, (queries,), generator=g), torch.randint(5, (keys,), generator=g), table)
    out, lse = region_attention.attend(q, k, v, 0.125, kernel_plan(layout, torch.device(device)))
    logits = q.double() @ k.double().transpose(-1, -2) * 0.125 + table.double()[layout.query][:, layout.key].to(device)
    want, norm = logits.softmax(-1).nan_to_num(0.0) @ v.double(), logits.logsumexp(-1)
    assert (out.double() - want).abs().max() < 2e-3, (out.double() - want).abs().max()
    blind = norm == NEVER
    assert blind.any() and torch.equal(lse == NEVER, blind) and not out[blind].any()
    assert (lse.double() - norm)[~blind].abs().max() < 1e-4
# a bias of low rank, beside regions
on_q, on_k = torch.randn(131, 5, generator=g).to(device), torch.randn(70, 5, generator=g).to(device)
out, lse = region_attention.attend(q, k, v, 0.125, kernel_plan(layout, torch.device(device)), (on_q, on_k))
logits = logits + on_q.double() @ on_k.double().T
assert (out.double() - logits.softmax(-1).nan_to_num(0.0) @ v.double()).abs().max() < 5e-3  # labels are rounded, too
assert (lse.double() - logits.logsumexp(-1))[~blind].abs().max() < 1e-2

# what is forbidden, and everything, in one pass
shut = torch.tensor([[0, NEVER, 0, NEVER, 0], [0.0] * 5, [NEVER] * 5, [NEVER, 0, 0, NEVER, NEVER]])
layout = RegionLayout(torch.randint(4, (131,), generator=g), torch.randint(5, (70,), generator=g), shut)
assert layout.only_forbids
out, lse, whole = region_attention.attend_both(
    q, k, v, 0.125, kernel_plan(layout, torch.device(device), both=True)
)
logits = q.double() @ k.double().transpose(-1, -2) * 0.125
allowed = logits + shut.double()[layout.query][:, layout.key].to(device)
assert (whole.double() - logits.softmax(-1) @ v.double()).abs().max() < 2e-3
assert (out.double() - allowed.softmax(-1).nan_to_num(0.0) @ v.double()).abs().max() < 2e-3
norm = allowed.logsumexp(-1)
assert (norm == NEVER).any() and torch.equal(norm == NEVER, lse == NEVER)
assert (lse.double() - norm)[norm != NEVER].abs().max() < 1e-4
print("agrees")
"""


@pytest.mark.parametrize("device", PLACES)
def test_the_kernel_equals_a_dense_bias_with_blind_rows_and_empty_tiles(device):
    if importlib.util.find_spec("triton") is None:
        assert kernels_for("region_attention", torch.zeros(1)) is None  # and `attend` goes the plain way
        return
    run_kernels(SCRIPT, device)
