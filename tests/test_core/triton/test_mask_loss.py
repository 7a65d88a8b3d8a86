"""The mask loss' Triton kernels against the plain operations: in Triton's interpreter no GPU is needed for it."""

import importlib.util

import pytest
import torch
from support_triton import PLACES, run_kernels

from matrix_lib.core.losses.mask_loss import mask_loss
from matrix_lib.core.triton import kernels_for

SCRIPT = """
import torch
from matrix_lib.core import triton
from matrix_lib.core.losses.config import MaskWeights
from matrix_lib.core.losses.mask_loss import mask_loss
from matrix_lib.core.triton import mask_loss as mask_kernel

g = torch.Generator().manual_seed(0)
weights = MaskWeights(bce=0.7, dice=1.3, l2=2.0)
for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, 4e-3)):
    for size in ((3, 2, 9, 7), (2, 5, 60, 64)):
        x = (torch.randn(size, generator=g) * 4).to(device, dtype)
        x[0, 0, 0, :4] = torch.tensor([-200.0, 200.0, 0.0, -80.0])
        masks = (torch.rand(size, generator=g) > 0.9).to(device)
        masks[1] = False
        strength = torch.tensor([1.0, 2.0, 0.5], device=device)[: len(x)]
        given, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        want = mask_loss(exact, masks, weights)
        bce, dice, l2 = mask_kernel.terms(given.flatten(1), masks.flatten(1), weights.max_pos_weight)
        for got, each in zip((bce, dice, l2), (want.bce, want.dice, want.l2)):
            torch.testing.assert_close(got.double(), each, rtol=1e-5, atol=1e-7)
        total = weights.bce * bce + weights.dice * dice + weights.l2 * l2
        (a,) = torch.autograd.grad((total * strength).sum(), given)
        (b,) = torch.autograd.grad((want.total * strength.double()).sum(), exact)
        assert a.dtype == dtype and (a - b).norm() / b.norm() < close, (a - b).norm() / b.norm()
        (a,) = torch.autograd.grad(mask_kernel.terms(given.flatten(1), masks.flatten(1), 3.0)[0].sum(), given)
        (b,) = torch.autograd.grad(mask_loss(exact, masks, MaskWeights(max_pos_weight=3.0)).bce.sum(), exact)
        assert (a - b).norm() / b.norm() < close
known = torch.tensor([True, False, True, True, True], device=device)
wanted = mask_loss(exact, masks, weights, known=known)
triton.available = lambda tensor: True
found = mask_loss(x.float().requires_grad_(), masks, weights, known=known)
torch.testing.assert_close(found.total.double(), wanted.total, rtol=1e-5, atol=1e-7)
assert "_Terms" in type(found.bce.grad_fn).__name__
print("agrees")
"""


@pytest.mark.parametrize("device", PLACES)
def test_the_kernels_equal_the_plain_operations(device):
    if importlib.util.find_spec("triton") is None:
        assert kernels_for("mask_loss", torch.zeros(1)) is None  # and `mask_loss` goes the plain way
        return
    run_kernels(SCRIPT, device)


@pytest.mark.gpu
def test_mask_loss_on_this_machine():
    """On a GPU the kernels, elsewhere the plain operations: a clip's worth of pixels against float64."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    g = torch.Generator().manual_seed(0)
    x, masks = torch.randn(2, 9, 120, 180, generator=g) * 4, torch.rand(2, 9, 120, 180, generator=g) > 0.9
    given, exact = x.to(device).requires_grad_(), x.double().requires_grad_()
    found, wanted = mask_loss(given, masks.to(device)), mask_loss(exact, masks)
    torch.testing.assert_close(found.total.cpu().double(), wanted.total, rtol=1e-5, atol=1e-6)
    (a,), (b,) = torch.autograd.grad(found.total.sum(), given), torch.autograd.grad(wanted.total.sum(), exact)
    assert (a.cpu() - b).norm() / b.norm() < 1e-5
