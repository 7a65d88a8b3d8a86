"""Counting against sorting, in Triton's interpreter: ties, both zeros, infinities, channels of one value."""

import importlib.util

import pytest
import torch
from support_triton import PLACES, run_kernels

from matrix_lib.core.triton import kernels_for

SCRIPT = """
import torch
from matrix_lib.core.attention.matching import match_distribution
from matrix_lib.core.triton import matching

g = torch.Generator().manual_seed(0)
matching._AHEAD, matching._LANES = 4, 8
for dtype, heads in ((torch.bfloat16, 1), (torch.float16, 2)):
    # of one size, so that few counters are needed; float64 is sorted
    a, b = (torch.rand(1, 21, heads, 8, generator=g) * 1.5 + 0.5 for _ in range(2))
    a, b = (each.to(dtype).transpose(1, 2) * torch.randn(1, generator=g).to(dtype).sign() for each in (a, b))
    a[0, :, ::2] *= -1
    a[0, 0, :, :2], b[0, 0, :, 3], b[0, 0, :, 4] = 0, 1, -1
    b[0, -1, :, 5:], a[0, -1, :, 5:] = b[0, -1, :, 5:].round(), (a[0, -1, :, 5:] * 2).round() / 2
    a[0, 0, 5:9, 2], b[0, 0, 4, 2], a[0, 0, 3, 6], a[0, 0, 4, 7] = -0.0, -0.0, float("inf"), float("-inf")
    b[0, 0, 3, 7], b[0, 0, 4, 7] = float("inf"), float("-inf")
    a[0, 0, 7, 0] = b[0, 0, 2, 5] = float("nan")
    assert matching.takes(a, b) and not matching.takes(a.float(), b.float())
    made = torch.empty_like(a).to(device)
    matching.match(a.to(device), b.to(device), made)
    want = match_distribution(a.double(), b.double()).to(dtype)
    assert torch.equal(made.cpu().nan_to_num(77), want.nan_to_num(77)), (made.cpu() != want).nonzero()[:5]
    matching._COUNTERS = matching._SORTED = 1  # one head at a time
print("agrees")
"""


@pytest.mark.parametrize("device", PLACES)
def test_counting_equals_sorting(device):
    if importlib.util.find_spec("triton") is None:
        assert kernels_for("matching", torch.zeros(1), torch.zeros(1)) is None  # and values are sorted
        return
    run_kernels(SCRIPT, device)
