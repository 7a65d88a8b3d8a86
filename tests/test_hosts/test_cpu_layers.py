"""oneDNN's layers: the same values, and nothing of them where gradients are wanted."""

import copy

import pytest
import torch
from torch import nn

from matrix_lib.hosts.cpu_layers import OneDnnLinear, use_onednn


def kernels(call):
    """The operations that a call ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    return {event.name for event in seen.events()}


@pytest.mark.parametrize(("stride", "padding"), [(1, (0, 1, 1)), ((2, 1, 1), 0)])
def test_values_are_the_same_and_gradients_are_left_alone(stride, padding):
    torch.manual_seed(0)
    plain = nn.Conv3d(6, 5, 3, stride, padding)
    quick, x = use_onednn(copy.deepcopy(plain)), torch.randn(1, 6, 5, 12, 10)
    again = copy.deepcopy(quick)
    with torch.no_grad():
        want = plain(x)
        for module in (quick, again):
            torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)
        assert "aten::slow_conv3d_forward" in kernels(lambda: plain(x))
        assert "aten::slow_conv3d_forward" not in kernels(lambda: again(x))
        again.weight.mul_(2)  # its own, not those that it was copied from
        torch.testing.assert_close(
            again(x) - again.bias[:, None, None, None], 2 * (want - plain.bias[:, None, None, None])
        )
        assert torch.equal(quick.double()(x.double()), plain.double()(x.double()))
    for module in (plain, quick):
        module.float()(x).square().sum().backward()
    assert torch.equal(quick.weight.grad, plain.weight.grad)


def test_the_hosts_way_to_pad_a_first_frame(comfy):
    import comfy.ldm.wan.vae as host

    torch.manual_seed(0)
    plain = host.CausalConv3d(4, 4, 3, padding=1)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    quick = use_onednn(copy.deepcopy(plain))
    for frames in (1, 4):
        x = torch.randn(1, 4, frames, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(quick(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_many_rows_have_the_same_values(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 40, bias), torch.randn(2, 50, 48)
    want, name = layer(x), "mkldnn::_linear_pointwise"
    x86 = torch.backends.mkl.is_available()  # what PyTorch takes elsewhere is left to it

    def run(x, wanted, layer=layer):
        with OneDnnLinear():
            found = kernels(lambda: got.append(layer(x)))
        assert (name in found) == (wanted and x86)

    got = []
    with torch.no_grad():
        run(x, True)
        run(x[:, :10], False)  # few rows
        run(x.double(), False, copy.deepcopy(layer).double())
        run(x, False, lambda x: nn.functional.linear(x, layer.weight[:20], torch.ones(40)[::2]))  # lies apart
    torch.testing.assert_close(got[0], want, rtol=1e-5, atol=1e-5)
    assert torch.equal(got[1], layer(x[:, :10]))
    run(x, False)
    assert torch.autograd.grad(got[4].sum(), layer.weight)[0].shape == (40, 48)
    assert name not in kernels(lambda: layer(x)), "outside of it"
