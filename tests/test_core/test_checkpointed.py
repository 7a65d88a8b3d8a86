"""A function that runs again in the backward pass, and one that raises."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from matrix_lib.core.checkpointed import checkpointed


def broken(x):
    raise KeyError(f"broken at {tuple((x * x).shape)}")


def hooks_are_on():
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def test_gradients_and_arguments():
    x, calls = torch.randn(3, requires_grad=True), []

    def cube(x, by=1.0):
        calls.append(1)
        return by * x * x * x, "more"

    out, more = checkpointed(cube, x, by=2.0)
    out.sum().backward()
    torch.testing.assert_close(x.grad, 6 * x.detach() ** 2)
    assert (more, len(calls)) == ("more", 2)


def test_what_raises_leaves_no_hook_behind():
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(KeyError, match="broken at") as plain:
        checkpoint(broken, x, use_reentrant=False)
    assert hooks_are_on(), "PyTorch mends it itself: this module can go"
    del plain  # what is left of it is collected here
    assert not hooks_are_on()
    with pytest.raises(KeyError, match="broken at") as ours:
        checkpointed(broken, x)
    assert not hooks_are_on()
    assert ours.value.args
