"""Steering tiny random diffusers transformers of every family."""

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_diffusers import FAMILIES, build, forward
from support_pipelines import TRACKS, text_to_video

from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.layers import Layers
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.editing import EditRunner


def scene(family):
    model, args, grid, length = build(family)
    height, width = (n * p for n, p in zip(grid.shape[1:], grid.token_pixels))
    tracks = make_tracks(tracks_module, grid.pixel_frames, height, width)
    return model, args, make_binding(binding_module, length, verb_time=(0.15, None)), tracks


MODES = [
    RegionBias(),
    RegionBias(soft=True, branches="both"),
    Partition(1),
    Perturbation("both"),
    TimedWords(up=1.0),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mode_runs_and_equals_the_dense_reference(family, monkeypatch):
    model, args, words, tracks = scene(family)
    plain, errors, run = forward(model, args), [], EditRunner.run

    def checked(self, call, edits, host_rows):
        edited = run(self, call, edits, host_rows)
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            mask = call.mask
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
        zeroed = torch.zeros_like(logits, dtype=torch.bool)
        matched = False
        for edit, row in ((edit, row) for given in edits for row, edit in enumerate(given) if edit is not None):
            matched |= edit.match is not None
            if edit.layout is not None:
                logits[row] += edit.layout.bias[edit.layout.query][:, edit.layout.key]
            if edit.layout is not None and edit.layout.zeroed is not None:
                zeroed[row] |= edit.layout.zeroed[edit.layout.query][:, edit.layout.key]
            if edit.columns is not None:
                logits[row] += edit.columns.query @ edit.columns.key.T
        want = logits.softmax(-1).masked_fill(zeroed, 0.0) @ call.v.double()
        if not matched:
            errors.append(float((edited.out - want).abs().max() / want.abs().max()))
        return edited

    monkeypatch.setattr(EditRunner, "run", checked)
    for guide in MODES:
        with steer(model, guide, words, tracks):
            out = forward(model, args)
        assert out.isfinite().all()
        assert not torch.equal(out, plain), guide
    with steer(model, MODES, words, tracks):
        assert forward(model, args).isfinite().all()
    assert len(errors) >= 6
    assert max(errors) <= 1e-5
    assert torch.equal(forward(model, args), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_i2v", "hunyuan"])
def test_watching_composes_in_either_order(family):
    model, args, words, tracks = scene(family)
    guide = RegionBias(3.0, 3.0)
    with steer(model, guide, words, tracks):
        want = forward(model, args)
    with watch(model, words, tracks) as outside, steer(model, guide, words, tracks):
        assert torch.equal(forward(model, args), want)
    with steer(model, guide, words, tracks), watch(model, words, tracks) as inside:
        assert torch.equal(forward(model, args), want)
    with watch(model, words, tracks) as plain:
        forward(model, args)
    seen = [watched.capture().streams[0] for watched in (outside, inside, plain)]
    for kind in ("v2t", "v2v"):
        first, second, other = (stream.get(kind).values for stream in seen)
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
    assert any("guidance steered" in note for note in outside.capture().meta["notes"])


def test_nothing_to_do_is_bit_identical_and_an_interrupt_leaves_nothing():
    model, args, words, tracks = scene("cogvideox")
    plain = forward(model, args)
    off = Schedule(((0.0, 0.0),))
    idle = [RegionBias(0, 0, 0, 0), RegionBias(schedule=off), Partition(0), Perturbation(scale=0)]
    idle += [TimedWords(down=0), TimedWords(schedule=off)]
    with steer(model, idle, words, tracks), steer(model, RegionBias(layers=Layers((), ())), words, tracks):
        assert torch.equal(forward(model, args), plain)

    def stop(*_):
        raise KeyboardInterrupt

    handle = model.transformer_blocks[1].attn1.to_out[0].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt), steer(model, MODES, words, tracks):
        forward(model, args)
    handle.remove()
    assert torch.equal(forward(model, args), plain)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_further_run_is_steered_as_the_first_one_and_a_capture_is_of_one():
    """Also where it has another number of steps. Guidance acts in the first steps of each."""
    pipe = text_to_video("wan", "flow")
    words = make_binding(binding_module, 512)
    first = Schedule(((0.0, 1.0), (0.5, 0.0)))
    early = [RegionBias(schedule=first), Perturbation("both", schedule=first)]
    want = []
    for steps in (3, 2):
        with steer(pipe.pipe, early, words, TRACKS):
            want.append(pipe(steps))
    with steer(pipe.pipe, early, words, TRACKS):
        got = [pipe(3), pipe(3), pipe(2)]
    assert [torch.equal(*pair) for pair in zip(got, (want[0], *want))] == [True] * 3
    assert not torch.equal(want[0], pipe(3))
    with watch(pipe.pipe, words) as seen:
        pipe(2)
        with pytest.raises(ValueError, match="another run has begun inside one `watch`"):
            pipe(2)
    assert [step.calls for step in seen.capture().steps] == [1, 1]


def test_perturbation_adds_the_same_to_both_branches():
    """So that uncond + g * (cond - uncond) moves by scale * (cond - perturbed), whatever g is; in one call or two."""
    model, args, words, tracks = scene("wan_t2v")
    plain, cond = forward(model, args), {key: value[1:] for key, value in args.items()}
    with steer(model, Perturbation("words", 1.0)):
        once = forward(model, args) - plain
    torch.testing.assert_close(once[0], once[1])
    with steer(model, [Perturbation("words", 1.0), Perturbation("words", 2.0)]):
        torch.testing.assert_close(forward(model, args) - plain, 3 * once, rtol=1e-3, atol=1e-5)
    uncond = {key: value[:1] for key, value in args.items()}
    with steer(model, Perturbation("words", 1.0), branches=None):
        first, second = forward(model, cond), forward(model, uncond)
    torch.testing.assert_close(first[0] - plain[1], once[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(second[0] - plain[0], once[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_prediction_leaves_everything_else_that_is_returned(family):
    """An object is returned with all of its fields, as a tuple is: sound stays beside a clip that was moved."""
    model, args, words, _ = scene(family)
    with torch.no_grad():
        plain = model(**args)
        with steer(model, Perturbation("words", 1.0), words):
            made = model(**args)
    with steer(model, Perturbation("words", 1.0), words):
        as_tuple = forward(model, args)
    assert type(made) is type(plain)
    assert list(made) == list(plain)
    assert torch.equal(made.sample, as_tuple)
    assert torch.equal(made[0], made.sample)
    assert not torch.equal(made.sample, plain.sample)
    for name in set(plain) - {"sample"}:
        assert torch.equal(getattr(made, name), plain[name])


def test_gradients_flow_through_steered_attention():
    model, args, words, tracks = scene("cogvideox")
    x = args["hidden_states"].clone().requires_grad_()
    with steer(model, [RegionBias(), Partition(1)], words, tracks):
        model(**{**args, "hidden_states": x}, return_dict=False)[0].square().mean().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_what_cannot_be_steered_is_said():
    model, _, words, tracks = scene("cogvideox")
    with pytest.raises(ValueError, match="RegionBias steers by mask tracks"), steer(model, RegionBias(), words):
        pass
    with pytest.raises(ValueError, match=r"layers \[9\] do not exist"):
        with steer(model, Partition(layers=Layers.only([9])), words, tracks):
            pass
    with pytest.raises(ValueError, match="2 bindings, 1 tracks"), steer(model, Partition(), [words] * 2, [tracks]):
        pass
    with pytest.raises(ValueError, match="TimedWords acts on words of the prompt: pass `binding`"):
        with steer(model, TimedWords()):
            pass
    untimed = make_binding(binding_module, words.length)
    with pytest.raises(ValueError, match="no phrase of the prompt has a time"), steer(model, TimedWords(), untimed):
        pass
    with steer(model, Perturbation()), pytest.raises(ValueError, match="in one `steer`"):
        with steer(model, Perturbation()):
            pass
