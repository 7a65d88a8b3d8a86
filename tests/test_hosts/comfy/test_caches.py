"""Steering beside the host's step caches, and beside packs that replace a block's forward."""

import itertools

import pytest
import torch
from support_counts import SOAK
from support_schedules import run, sigmas_of, watched
from support_steering import inputs, lib, models

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
FAMILY = "wan_t2v"


def cached(model, kind, threshold):
    from comfy_extras import nodes_easycache

    node = {"easy": nodes_easycache.EasyCacheNode, "lazy": nodes_easycache.LazyCacheNode}[kind]
    return node.execute(model, threshold, 0.1, 0.95, False).result[0]


def ran(model):
    """(clone, the sigma of every forward that ran through its blocks)."""
    seen, clone = [], model.clone()
    block = clone.model.diffusion_model.blocks[0]
    handle = block.register_forward_hook(lambda *_: seen.append(1))
    return clone, seen, handle


ACTING = {
    "perturbation": lambda lib: lib.Perturbation(scale=0.5),
    "gradient": lambda lib: lib.Gradient(0.05),
    "both": lambda lib: None,
}


def steered(lib, model, name):
    if name == "both":
        return lib.steer(lib.steer(model, lib.Gradient(0.05)), lib.Perturbation(scale=0.5))
    return lib.steer(model, ACTING[name](lib))


EVERY = list(itertools.product(ACTING, ("easy", "lazy"), (1.0, 6.0)))
# Here each way of steering meets each node and both scales once; `make soak` has all of them with all.
HALF = EVERY if SOAK else [each for i, each in enumerate(EVERY) if (i + i // 2 + i // 4) % 2 == 0]


@pytest.mark.soak
@pytest.mark.parametrize(("name", "kind", "cfg"), HALF)
def test_a_cache_that_skips_nothing_changes_nothing(lib, models, kind, name, cfg):
    """The second prediction is not answered from the first, and is not taken for it, whichever node comes first."""
    given, sigmas = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 5)
    want = run(steered(lib, models(FAMILY), name), given, sigmas, cfg=cfg)
    assert not torch.equal(want, run(models(FAMILY), given, sigmas, cfg=cfg))
    for model in (
        steered(lib, cached(models(FAMILY), kind, 0.0), name), cached(steered(lib, models(FAMILY), name), kind, 0.0)
    ):  # fmt: skip
        torch.testing.assert_close(run(model, given, sigmas, cfg=cfg), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["easy", "lazy"])
def test_the_steps_that_a_cache_skips_are_the_same_with_and_without_a_second_prediction(lib, models, kind):
    """A scale that is next to nothing: the cache sees the run as it would be, and is asked for no step more."""
    given, sigmas = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 10)
    base, seen, handle = ran(models(FAMILY))
    plain = run(cached(base, kind, 0.2), given, sigmas)
    alone = len(seen)
    assert alone < 10, "the cache does skip"
    seen.clear()
    out = run(cached(lib.steer(base, lib.Perturbation(scale=1e-6)), kind, 0.2), given, sigmas)
    handle.remove()
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)
    assert len(seen) == 2 * alone, "one second prediction for each that ran"


def test_a_skipped_step_is_moved_as_the_last_that_ran(lib, models):
    from comfy.patcher_extension import WrappersMP

    given, sigmas = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 10)
    moves, plain = [], []

    def note(args):
        plain.append(args["denoised"])
        return args["denoised"]

    def around(executor, *args, **kwargs):
        result = executor(*args, **kwargs)
        moves.append(result - plain[-1])
        return result

    outer = models(FAMILY).clone()
    outer.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "around", around)  # the first is the outermost
    model = cached(lib.steer(outer, lib.Perturbation(scale=1.0)), "easy", 0.3)
    model.set_model_sampler_post_cfg_function(note)
    model, calls = watched(model)
    run(model, given, sigmas)
    same = [torch.equal(a, b) or torch.allclose(a, b, atol=1e-6) for a, b in itertools.pairwise(moves)]
    assert any(same)
    assert not all(same)
    assert all(move.abs().max() > 1e-4 for move in moves)
    assert len(calls) == 10


def test_gradient_guidance_is_not_answered_by_a_cache_that_skips(lib, models):
    given, sigmas, ended = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 8), []
    for kind in ("easy", "lazy"):
        model = cached(lib.steer(models(FAMILY), lib.Gradient(0.05), done=ended.append), kind, 0.5)
        assert run(model, given, sigmas).isfinite().all()
        assert len(ended[-1].losses) == 8
        assert all(loss > 0 for _, loss in ended[-1].losses)


def test_intrinsic_denoising_says_when_a_cache_has_answered_it(lib, models):
    given, sigmas, ended = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 4), []
    for kind, threshold in (("easy", 0.5), ("lazy", 0.5), ("easy", 0.0), ("lazy", 0.0)):
        model = lib.steer(models(FAMILY), lib.Intrinsic(1), done=ended.append)
        assert run(cached(model, kind, threshold), given, sigmas).isfinite().all()
        assert any("a step cache" in note for note in ended[-1].notes) == (threshold > 0), kind


def test_a_forward_that_another_pack_has_set_stays(lib, models):
    """While gradients run, and afterwards: what stood on the block stands there again."""
    given, sigmas = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 3)
    block = models(FAMILY).model.diffusion_model.blocks[1]
    plain, original, calls = run(models(FAMILY), given, sigmas), block.forward, []

    def forward(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs) * 1.05

    block.forward = forward
    try:
        theirs = run(models(FAMILY), given, sigmas)
        assert not torch.equal(theirs, plain)
        for again in (True, False):
            calls.clear()
            run(lib.steer(models(FAMILY), lib.Gradient(0.05, checkpoint=again)), given, sigmas)
            assert len(calls) >= 6, "it took part in the passes with gradients, too"
            assert vars(block)["forward"] is forward
        assert torch.equal(run(models(FAMILY), given, sigmas), theirs)
    finally:
        del block.forward
    assert torch.equal(run(models(FAMILY), given, sigmas), plain)
