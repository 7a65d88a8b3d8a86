"""Watching and steering diffusers transformers that torch.compile has taken, whole and block by block."""

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_compiled import Counted, compiled_transformer, fresh
from support_counts import count
from support_diffusers import build, forward

from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.steer import steer

__all__ = ["fresh"]  # a fixture

pytestmark = pytest.mark.usefixtures("one_thread", "fresh")


CASES = [("wan_t2v", "blocks"), ("wan_t2v", "whole"), ("cogvideox15", "in place"), ("hunyuan", "blocks")][: count(1, 4)]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "how"), CASES)
def test_maps_and_steering_are_those_of_the_uncompiled_model(family, how, caplog):
    model, args, grid, length = build(family)
    binding = make_binding(binding_module, length)
    (ph, pw), backend = grid.token_pixels, Counted()
    tracks = make_tracks(tracks_module, grid.pixel_frames, grid.height * ph, grid.width * pw)
    layers = [1]  # the blocks beside it share its code, and are not watched

    def everything(net):
        found = [forward(net, args)]
        with watch(net, binding, tracks, layers=layers) as seen:
            found.append(forward(net, args))
        maps = seen.capture().streams[0]
        with steer(net, RegionBias(), binding, tracks):
            found.append(forward(net, args))
        return [*found, maps.v2t, maps.v2v]

    want = everything(model)
    fast = compiled_transformer(model, how, backend)
    plain = forward(fast, args)
    ran = backend.ran
    assert ran
    got = everything(fast)
    assert backend.ran > 2 * ran, "something ran uncompiled"
    for found, wanted in zip(got, want, strict=True):
        assert float(wanted.float().std()) > 0
        assert torch.equal(found, wanted)
    assert not torch.equal(want[2], want[0])
    assert torch.equal(forward(fast, args), plain)
    assert ("compiled with fullgraph" in caplog.text) == (how == "blocks")
    assert not any("forward" in vars(m) for m in model.modules() if m is not fast)
