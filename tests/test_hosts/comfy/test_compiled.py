"""Watching and steering models that torch.compile has taken, in the three ways that people compile them."""

import logging

import pytest
import torch
from support_compiled import Counted, compiled_native, fresh
from support_counts import count
from support_native import sample
from support_steering import inputs, lib, models

__all__ = ["fresh", "lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy", "one_thread", "fresh")
# the host's own node compiles all of it; others compile block by block, in a wrapper of their own or by object patches
CASES = [("cogvideox", "whole"), ("wan_t2v", "blocks"), ("hunyuan", "patches")][: count(1, 3)]


def recording(lib, model, runs):
    def start(info):
        made = lib.Recorder(lib.RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas, info.samples)
        runs.append(made)
        return lib.Session([made])

    return lib.attach(model, start)


def ways(lib, reference):
    """Every way of steering: name, guidance, more arguments."""
    return [
        ("region bias", lib.RegionBias(), {}),
        ("partition", lib.Partition(1), {}),
        ("matching", lib.Partition(1, match="global"), {}),
        ("perturbation", lib.Perturbation("both", 1.5), {}),
        ("intrinsic", lib.Intrinsic(2), {}),
        ("dual clock", lib.Clock(0.67, 0.5), {"reference": reference}),
        ("gradient", lib.Gradient(), {}),
    ]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "how"), CASES)
def test_capture_and_all_steering_are_those_of_the_uncompiled_model(lib, models, family, how, caplog):
    given, backend = inputs(lib, family), Counted()
    noise = torch.randn(given[2].shape, generator=torch.Generator().manual_seed(5))
    plain = models(family)
    fast = compiled_native(plain, how, backend)
    base = sample(fast, *given)
    assert backend.ran
    assert torch.equal(base, sample(plain, *given))
    runs = []
    for model in (plain, fast):
        before = backend.ran
        assert torch.equal(sample(recording(lib, model, runs), *given), base)
        assert (backend.ran > before) == (model is fast), "nothing compiled ran"
    want, got = (run.result().streams[0] for run in runs)
    for kind in ("v2t", "v2v"):
        assert torch.equal(getattr(got, kind), getattr(want, kind))
        assert float(getattr(want, kind).std()) > 0
    for name, guidance, more in ways(lib, {"samples": noise}):
        before, wanted = backend.ran, sample(lib.steer(plain, guidance, **more), *given)
        assert backend.ran == before
        assert not torch.equal(wanted, base), name
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert torch.equal(sample(lib.steer(fast, guidance, **more), *given), wanted), name
        assert backend.ran > before, f"{name}: nothing compiled ran"
        assert "step cache" not in caplog.text, "there is none"
        assert ("runs uncompiled where gradients are wanted" in caplog.text) == (name == "gradient")
    before = backend.ran
    assert torch.equal(sample(fast, *given), base), "graphs with somebody attached are left in the compiled model"
    assert backend.ran > before
    assert torch.equal(sample(plain, *given), base)


def test_a_model_that_is_compiled_after_the_capture_was_attached(lib, models):
    """The compile node puts its modules in behind our wrapper then. A second run records the same."""
    given, backend, runs = inputs(lib, "cogvideox"), Counted(), []
    plain = models("cogvideox")
    recorded = recording(lib, plain, runs)
    base = sample(recorded, *given)
    fast = compiled_native(recorded, "blocks", backend)
    for _ in range(2):
        assert torch.equal(sample(fast, *given), base)
    assert backend.ran
    first, *others = (run.result().streams[0] for run in runs)
    for other in others:
        assert torch.equal(other.v2t, first.v2t)
        assert torch.equal(other.v2v, first.v2v)


def test_graphs_that_cannot_end_at_each_attention_are_stepped_out_of_by_name(lib, models, caplog):
    given, runs = inputs(lib, "hunyuan"), []
    plain = models("hunyuan")
    fast = compiled_native(plain, "blocks", "cudagraphs")
    with caplog.at_level(logging.WARNING):
        out = sample(recording(lib, fast, runs), *given)
    assert torch.equal(out, sample(recording(lib, plain, runs), *given))
    fast_maps, maps = (run.result().streams[0] for run in runs)
    assert torch.equal(fast_maps.v2v, maps.v2v)
    assert "double_blocks.0 is compiled, and runs uncompiled while it is watched or steered: CUDA graphs" in caplog.text


def test_a_cache_that_a_compiled_model_hides_is_told(lib, models):
    from comfy_extras.nodes_easycache import EasyCacheNode

    given, ended = inputs(lib, "cogvideox"), []
    steered = lib.steer(models("cogvideox"), lib.Intrinsic(1), done=ended.append)
    fast = compiled_native(steered, "whole", Counted())
    for model, told in ((fast, False), (EasyCacheNode.execute(fast, 0.5, 0.1, 0.95, False).result[0], True)):
        sample(model, *given)
        assert any("cannot be seen" in note for note in ended[-1].notes) == told
        assert not any("has answered" in note for note in ended[-1].notes)
