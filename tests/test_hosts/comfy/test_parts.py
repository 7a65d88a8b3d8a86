"""Runs that are parts of a longer schedule, inside the real host: split over two samplers or two models, refining, and
with noise that was added elsewhere."""

import copy

import pytest
import torch
from support_native import native_model
from support_schedules import reference, run, sigmas_of
from support_steering import inputs, lib, models

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
FAMILY = "wan_t2v"


@pytest.fixture(scope="module")
def sampling(models):
    return models(FAMILY).get_model_object("model_sampling")


@pytest.mark.parametrize("scheduler", ["simple", "karras", "beta", "ddim_uniform", "linear_quadratic"])
def test_the_place_of_a_part_is_found_in_the_schedule_that_it_was_cut_from(models, sampling, scheduler):
    from matrix_lib.hosts.comfy.parts import part_of

    every = sigmas_of(models(FAMILY), 12, scheduler).tolist()
    steps = len(every) - 1
    assert part_of(sampling, every).whole
    for first, last in ((0, 3), (3, 8), (8, steps), (steps - 2, steps)):
        part = part_of(sampling, every[first : last + 1])
        assert (part.places, part.steps) == (tuple(range(first, last)), steps), (first, last)
        assert part.begins == (first == 0)


def test_sigmas_of_nobody_are_placed_by_the_time_of_the_model(sampling):
    from matrix_lib.hosts.comfy.parts import part_of, percent_of

    for share in (0.2, 0.5, 0.9):
        assert percent_of(sampling, sampling.percent_to_sigma(share)) == pytest.approx(share, abs=1e-5)
    cut = [sampling.percent_to_sigma(share) for share in (0.5, 0.613, 0.73, 0.871)]
    part = part_of(sampling, [*cut, 0.0])
    assert part.steps == 8
    assert part.places == pytest.approx((4.0, 4.904, 5.84, 6.968), abs=1e-3)
    own = [1.0, 0.97, 0.913, 0.71, 0.3, 0.0]
    assert part_of(sampling, own).places == (0, 1, 2, 3, 4), "a whole run, whoever made its sigmas"
    assert part_of(sampling, own[::-1]).whole, "noise that grows (unsampling) is left as it is"


MODES = {
    "bias": lambda lib: lib.RegionBias(schedule=lib.Schedule(((0.0, 2.0), (1.0, 0.5)), end=0.7)),
    "masked": lambda lib: lib.Partition(4),
    "perturbation": lambda lib: lib.Perturbation(schedule=lib.Schedule(((0.2, 0.0), (0.8, 1.0)))),
    "gradient": lambda lib: lib.Gradient(schedule=lib.Schedule(start=0.3)),
    "intrinsic": lambda lib: lib.Intrinsic(1, share=0.2, schedule=lib.Schedule(start=0.2, end=0.8)),
    "dual clock": lambda lib: lib.Clock(0.7, 0.2),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_in_two_parts_is_the_run_in_one(lib, models, mode):
    """Also of two models, as the two experts of Wan 2.2: each is steered, and knows only its own sigmas."""
    given, guidance = inputs(lib, FAMILY), MODES[mode](lib)
    sigmas = sigmas_of(models(FAMILY), 6)
    ended = []

    def steered(model, **more):
        held = reference() if mode == "dual clock" else None
        return lib.steer(model, guidance, reference=held, **more)

    whole = run(steered(models(FAMILY)), given, sigmas)
    assert not torch.equal(whole, run(models(FAMILY), given, sigmas))
    first = run(steered(models(FAMILY)), given, sigmas[:4])
    both = run(steered(models(FAMILY), done=ended.append), given, sigmas[3:], noise=False, start=first)
    torch.testing.assert_close(both, whole, rtol=1e-3, atol=2e-4)
    (actor,) = ended
    assert any("part of a split run, steps 4 to 6 of 6" in note for note in actor.notes)
    alone = run(models(FAMILY), given, sigmas[3:], noise=False, start=first)
    assert not torch.allclose(both, alone, rtol=1e-3, atol=2e-4), "the second part is steered, too"


def test_two_experts_are_one_run(lib, models):
    given, other = inputs(lib, FAMILY), native_model(FAMILY, seed=3)
    sigmas, guidance = sigmas_of(models(FAMILY), 4), lib.Partition(3)
    halves = []
    for low in (lib.steer(other, guidance), other):
        high = run(lib.steer(models(FAMILY), guidance), given, sigmas[:3])
        halves.append(run(low, given, sigmas[2:], noise=False, start=high))
    alone = run(models(FAMILY), given, sigmas[:3])
    assert not torch.equal(high, alone)
    assert not torch.equal(*halves), "step 3 of 4 is masked in the second expert"
    free = lib.steer(other, lib.Partition(2))
    assert torch.equal(run(free, given, sigmas[2:], noise=False, start=high), halves[1]), "and with 2 it is not"


def test_a_short_first_part_is_held_by_the_defaults(lib, models):
    """Two high-noise steps of four: in a count of two steps the defaults would be less than half a step."""
    given, ended = inputs(lib, FAMILY), []
    sigmas = sigmas_of(models(FAMILY), 4)
    held = lib.hold(models(FAMILY), lib.Clock(), reference())
    assert not torch.equal(run(held, given, sigmas[:3]), run(models(FAMILY), given, sigmas[:3]))
    run(lib.steer(models(FAMILY), lib.Clock(), reference=reference(), done=ended.append), given, sigmas[:3])
    assert any("8% are less than half a step: outside" in note for note in ended[0].notes)


def test_a_second_part_of_another_seed_is_held_with_what_is_left(lib, models):
    given, ended = inputs(lib, FAMILY), []
    sigmas = sigmas_of(models(FAMILY), 6)
    held = lib.steer(models(FAMILY), lib.Clock(0.7, 0.2), reference=reference(), done=ended.append)
    whole = run(held, given, sigmas)
    first = run(held, given, sigmas[:4])
    both = run(held, given, sigmas[3:], noise=False, start=first, seed=0)
    assert any("noise of another seed" in note for note in ended[-1].notes)
    free = run(models(FAMILY), given, sigmas[3:], noise=False, start=first, seed=0)
    assert (both - whole).norm() < 0.5 * (free - whole).norm()


def test_a_refining_pass_keeps_the_first_one(lib, models):
    """Denoise 0.5 under a held MODEL: neither the start of anything, nor thrown away."""
    given, ended = inputs(lib, FAMILY), []
    half = sigmas_of(models(FAMILY), 8)[-5:]
    held = lib.steer(models(FAMILY), lib.Clock(0.8, 0.6), reference=reference(), done=ended.append)
    clip = run(held, given, sigmas_of(models(FAMILY), 4))
    again = run(held, given, half, start=clip, seed=9)
    assert torch.equal(again, run(models(FAMILY), given, half, start=clip, seed=9))
    notes = " ".join(ended[-1].notes)
    assert "a refining pass, steps 5 to 8 of 8" in notes
    assert "refines a clip that is not the reference" in notes
    masked = lib.steer(models(FAMILY), lib.Partition(4), done=ended.append)
    assert torch.equal(run(masked, given, half, start=clip, seed=9), again), "the first four of eight are over"
    assert any("nothing is done in it" in note for note in ended[-1].notes)
    five = run(lib.steer(models(FAMILY), lib.Partition(5)), given, half, start=clip, seed=9)
    assert not torch.equal(five, again)


def test_a_rough_animation_may_itself_be_refined(lib, models):
    """Time-to-Move's own way: sampling begins from the noisy reference, and the inside is held longer."""
    given, ended = inputs(lib, FAMILY), []
    sigmas = sigmas_of(models(FAMILY), 10)[1:]
    rough = reference()
    held = lib.steer(models(FAMILY), lib.Clock(0.6, 0.2), reference=rough, done=ended.append)
    out = run(held, given, sigmas, start=rough["samples"])
    assert not torch.equal(out, run(models(FAMILY), given, sigmas, start=rough["samples"]))
    assert not any("not the reference" in note for note in ended[0].notes)


def test_noise_that_was_added_elsewhere(lib, models):
    """AddNoise, and a sampler that adds none: the run begins at the start all the same, and is held."""
    from comfy_extras.nodes_custom_sampler import AddNoise, Noise_RandomNoise

    family = "cogvideox"
    model, given = models(family), inputs(lib, family)
    g = torch.Generator().manual_seed(5)
    rough = {"samples": torch.randn(given[2].shape, generator=g)}
    sigmas = sigmas_of(model, 4)
    with torch.inference_mode():
        noisy = AddNoise.execute(model, Noise_RandomNoise(5), sigmas, {"samples": given[2]}).result[0]["samples"]
    held = lib.hold(model, lib.Clock(0.5, 0.5), rough)
    ours, plain = (run(each, given, sigmas, noise=False, start=noisy) for each in (held, model))
    assert not torch.equal(ours, plain)
    assert (ours - run(held, given, sigmas)).norm() < 0.2 * (ours - plain).norm(), "the start is forgotten"


def test_few_steps_are_told_where_settings_collapse(lib, models):
    given, ended = inputs(lib, FAMILY), []
    sigmas = sigmas_of(models(FAMILY), 4)
    for guidance, want in (
        (lib.Partition(4), "all 4 steps are masked (frozen_steps 4)"),
        (lib.Clock(0.2, 0.2), ""),
        (lib.Clock(0.1, 0.0), "10% are less than half a step: nothing is held"),
        (lib.Clock(0.3, 0.2), "30% and 20% are the same step 1"),
        (lib.RegionBias(schedule=lib.Schedule(start=0.1, end=0.3)), "none of the 4 steps is acted on"),
    ):
        z = reference() if guidance.where == "step" else None
        run(lib.steer(models(FAMILY), guidance, reference=z, done=ended.append), given, sigmas)
        notes = list(ended[-1].notes)
        assert (want in " ".join(notes)) if want else not notes, guidance


def test_runs_are_not_changed_by_being_told_of(lib, models):
    """A guidance is a value: what a run is part of stays with the run."""
    guidance = lib.Partition(2)
    before = copy.deepcopy(guidance)
    model = lib.steer(models(FAMILY), guidance)
    given, sigmas = inputs(lib, FAMILY), sigmas_of(models(FAMILY), 4)
    plain = run(model, given, sigmas)
    run(model, given, sigmas[:3])
    assert torch.equal(run(model, given, sigmas), plain)
    assert guidance == before
