"""Acting before the steps of samplers that call the model with copies and keep their state to themselves, as the
multi-stage samplers of other packs do."""

from types import SimpleNamespace

import pytest
import torch
from support_samplers import FOREIGN, foreign
from support_schedules import reference, run, sigmas_of, watched
from support_steering import inputs, lib, models

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
FAMILY = "wan_t2v"
SIGMAS = torch.tensor([0.98, 0.8, 0.6, 0.45, 0.2, 0.0])
MEMORYLESS = ("res_2s", "heun_end", "rk4", "res_2s_sde")


class Host:
    """A linear flow model."""

    def __init__(self):
        import comfy.model_sampling

        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=comfy.model_sampling.CONST()))

    def __call__(self, x, sigma, **_):
        return torch.tanh(x) * 0.4 + 0.1 * sigma[0]


class Moves:
    """Moves the latent before some steps."""

    asks_model = True

    def __init__(self, *at):
        self.at, self.seen = at, []

    def begin(self, x, part):
        """Nothing to prepare."""

    def acts(self, step, steps):
        return step in self.at

    def __call__(self, at):
        self.seen.append((at.step, at.level.sigma))
        return at.x * 0.7 + 0.3


def sampled(lib, name, *at, sigmas=SIGMAS):
    x = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    hook, sampler = Moves(*at), foreign(name)
    function = lib.steps.stepped(sampler, [hook]).sampler_function if at else sampler.sampler_function
    given = {"model_options": {"transformer_options": {}}, "seed": 0}
    torch.manual_seed(1)
    return function(Host(), x, sigmas.clone(), extra_args=given, callback=lambda _: None, disable=True), hook


@pytest.mark.parametrize("name", MEMORYLESS)
def test_a_move_is_what_it_is_between_two_samplers(lib, name):
    """Each step on its own, and the latent moved by hand between two: that is the truth for a sampler that remembers
    nothing, also where it draws noise."""
    x = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    function, given = foreign(name).sampler_function, {"model_options": {"transformer_options": {}}}
    torch.manual_seed(1)
    for step in range(len(SIGMAS) - 1):
        if step in (1, 3):
            x = x * 0.7 + 0.3
        x = function(Host(), x, SIGMAS[step : step + 2], extra_args=given)
    ours, hook = sampled(lib, name, 1, 3)
    assert hook.seen == [(1, pytest.approx(0.8)), (3, pytest.approx(0.45))]
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, sampled(lib, name)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_ends_with_noise_is_moved_too(lib, name):
    """A first part of a split run gives the moved latent, as its steps made it."""
    for last in (2, 3):
        cut = SIGMAS[: last + 1]
        ours, plain = sampled(lib, name, 1, sigmas=cut)[0], sampled(lib, name, sigmas=cut)[0]
        assert (ours - plain).abs().max() > 0.05


def test_one_that_remembers_predictions_keeps_them(lib):
    """res_2m: where the start is moved before the first step, it is the run from that start."""
    x = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.3
    for name in ("res_2m", "deis_2m"):
        given = {"model_options": {"transformer_options": {}}}
        want = foreign(name).sampler_function(Host(), x, SIGMAS, extra_args=given)
        torch.testing.assert_close(sampled(lib, name, 0)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FOREIGN)
def test_dual_clock_holds_under_them(lib, models, name):
    """The same noise at every held step, as under the host's own samplers; two steps are enough to be held."""
    given, z = inputs(lib, FAMILY), reference()
    model, calls = watched(models(FAMILY))
    sigmas = sigmas_of(model, 5)
    held = lib.hold(model, lib.Clock(0.6, 0.4), z)
    out = run(held, given, sigmas, sampler=foreign(name))
    noises = []
    for step in (0, 1, 2):
        x, sigma = next(call for call in calls if abs(call[1] - float(sigmas[step])) < 1e-5)
        if name in ("heun_end", "rk4") and step:  # a stage of the step before is at the same sigma
            x, sigma = [call for call in calls if abs(call[1] - float(sigmas[step])) < 1e-5][1]
        noises.append((x - (1 - sigma) * model.model.process_latent_in(z["samples"])) / sigma)
    for each in noises[1:]:
        torch.testing.assert_close(each.float(), noises[0].float(), rtol=1e-3, atol=2e-3)
    plain = run(models(FAMILY), given, sigmas, sampler=foreign(name))
    assert not torch.equal(out, plain)
    assert torch.equal(run(lib.hold(model, lib.Clock(0, 0), z), given, sigmas, sampler=foreign(name)), plain)
    two = sigmas_of(model, 2)
    held = lib.hold(models(FAMILY), lib.Clock(0.5, 0.5), z)
    one, other = (run(held, given, two, sampler=foreign(name), seed=5, start=None) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, run(models(FAMILY), given, two, sampler=foreign(name)))


@pytest.mark.parametrize("name", ["res_2m", "res_2s_sde"])
def test_gradient_and_intrinsic_act_under_them(lib, models, name):
    given, ended = inputs(lib, FAMILY), []
    sigmas = sigmas_of(models(FAMILY), 3)
    plain = run(models(FAMILY), given, sigmas, sampler=foreign(name))
    for guidance in (lib.Gradient(), lib.Intrinsic(1)):
        model = lib.steer(models(FAMILY), guidance, done=ended.append)
        out = run(model, given, sigmas, sampler=foreign(name))
        assert out.isfinite().all()
        assert (out - plain).abs().max() > 1e-3
        assert len(ended[-1].figures()) == 3


def test_attention_is_steered_under_them_in_every_stage(lib, models):
    given = inputs(lib, FAMILY)
    sigmas = sigmas_of(models(FAMILY), 3)
    for guidance in (lib.Partition(1), lib.Perturbation()):
        out = run(lib.steer(models(FAMILY), guidance), given, sigmas, sampler=foreign("res_2s"))
        assert not torch.equal(out, run(models(FAMILY), given, sigmas, sampler=foreign("res_2s")))


def test_one_that_is_not_affine_is_refused(lib):
    import comfy.samplers

    def sample_odd(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for step in range(len(sigmas) - 1):
            x = model(x.clone(), sigmas[step].expand(len(x)), **extra_args) * x.std() + x.square()
            callback({"x": x, "denoised": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step]})
        return x

    function = lib.steps.stepped(comfy.samplers.KSAMPLER(sample_odd), [Moves(1)]).sampler_function
    with pytest.raises(ValueError, match="'odd' does not show where its steps begin"):
        function(Host(), torch.randn(1, 2, 3, 4, 4), SIGMAS, extra_args={"model_options": {}}, callback=None)
