"""Steering with prompts that change over the steps, over context windows, or that other nodes have put together."""

import dataclasses

import pytest
import torch
from support_native import conditioning, text_rows
from support_schedules import run, sigmas_of
from support_steering import bound, inputs, lib, models, size_of, windowed

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
FAMILY = "wan_t2v"
ROWS = text_rows(FAMILY)


def predictions(model):
    """(clone, list of every prediction after guidance)."""
    seen, clone = [], model.clone()

    def note(args):
        seen.append(args["denoised"].clone())
        return args["denoised"]

    clone.set_model_sampler_post_cfg_function(note)
    return clone, seen


def test_a_bound_prompt_is_steered_in_its_own_range_of_steps(lib, models):
    import node_helpers

    first, neg, empty = inputs(lib, FAMILY)
    rest = conditioning(FAMILY, 4, size_of(FAMILY))
    sigmas = sigmas_of(models(FAMILY), 4)
    first = node_helpers.conditioning_set_values(first, {"start_percent": 0.0, "end_percent": 0.45})
    rest = node_helpers.conditioning_set_values(rest, {"start_percent": 0.45, "end_percent": 1.0})
    plain, before = predictions(models(FAMILY))
    run(plain, (first + rest, neg, empty), sigmas)
    bias = lib.RegionBias(schedule=lib.Schedule(start=0.5))
    steered, after = predictions(lib.steer(models(FAMILY), bias))
    run(steered, (first + rest, neg, empty), sigmas)
    assert all(torch.equal(a, b) for a, b in zip(before, after)), "the schedule begins behind its range"
    steered, after = predictions(lib.steer(models(FAMILY), lib.RegionBias()))
    run(steered, (first + rest, neg, empty), sigmas)
    assert not torch.equal(before[0], after[0])


def test_each_window_is_steered_by_the_prompt_that_it_shows(lib, models):
    """Prompt travel: the first windows show a bound prompt, the last ones a plain one, and are left alone."""
    size = (7, 4, 4)
    first, neg, empty = inputs(lib, FAMILY, size)
    second = conditioning(FAMILY, 4, size)
    model = windowed(models(FAMILY))
    model.model_options["context_handler"].split_conds_to_windows = True
    sigmas = sigmas_of(models(FAMILY), 2)[:2]
    for positive, changed in ((first + second, "first"), (second + first, "last")):
        outs = [run(each, (positive, neg, empty), sigmas) for each in (model, lib.steer(model, lib.RegionBias()))]
        apart = (outs[0] - outs[1]).abs().amax((0, 1, 3, 4))
        near, far = (apart[:2], apart[-2:]) if changed == "first" else (apart[-2:], apart[:2])
        assert near.min() > 0
        assert far.max() == 0


def test_a_bound_and_a_plain_prompt_combined(lib, models):
    """The tracks of the one that has them are the unconditional prediction's, too."""
    positive, neg, empty = inputs(lib, FAMILY)
    plain, sigmas, ended = conditioning(FAMILY, 4, size_of(FAMILY)), sigmas_of(models(FAMILY), 2), []
    model = lib.steer(models(FAMILY), lib.Partition(1, branches="both"), done=ended.append)
    both = run(model, (positive + plain, neg, empty), sigmas, cfg=4.0)
    assert not torch.equal(both, run(models(FAMILY), (positive + plain, neg, empty), sigmas, cfg=4.0))
    assert any("1 of 2 positive prompts carry no binding" in note for note in ended[0].notes)
    other = lib.tracks.MaskTracks.from_boxes({"cyclist": {0: (0, 0, 16, 16)}, "van": {0: (32, 16, 64, 48)}}, 5, 48, 64)
    with pytest.raises(ValueError, match="2 positive conditionings carry different tracks"):
        run(model, (positive + bound(lib, FAMILY, 5, other), neg, empty), sigmas, cfg=4.0)


def test_rows_behind_a_bound_prompt_are_no_copies_of_it(lib, models):
    """Conditioning Concat of as many rows again, beside a repetition of a shorter prompt, which is one."""
    from nodes import ConditioningConcat

    positive, neg, empty = inputs(lib, FAMILY)
    sigmas, ended = sigmas_of(models(FAMILY), 2)[:2], []
    (twice,) = ConditioningConcat().concat(positive, conditioning(FAMILY, 4))
    assert twice[0][0].shape[1] == 2 * ROWS
    seen = []

    class Watch:
        def wants(self, site):
            return site.kind == "cross"

        def observe(self, call, lse):
            seen.extend(row.binding.length for row in call.rows if row.binding is not None)

        def step_done(self, step, denoised):
            """Nothing to do."""

        def settle(self, site, whole):
            """Nothing to do."""

        def note(self, text):
            """Nothing to do."""

    model = lib.attach(models(FAMILY), lambda info: lib.Session([Watch()]))
    run(model, (twice, neg, empty), sigmas)
    assert set(seen) == {2 * ROWS}
    bias = lib.RegionBias(track_up=0, track_down=0, words_up=3.0, words_down=3.0)
    run(lib.steer(models(FAMILY), bias, done=ended.append), (twice, neg, empty), sigmas)
    assert any(f"{ROWS} rows stand behind the bound prompt" in note for note in ended[0].notes)


def test_words_of_a_bound_prompt_behind_are_bound_too(lib, models):
    """Conditioning Concat of two prompts, each as MATRIX Bind Prompt encodes it, is one prompt of all their rows."""
    from matrix_lib.hosts.comfy.bound_rows import remember
    from nodes import ConditioningConcat

    positive, neg, empty = inputs(lib, FAMILY)
    rows = {"cyclist": (3, 5), "van": (7, 8), "passes": (12,)}
    second, sigmas = bound(lib, FAMILY, 4, rows=rows), sigmas_of(models(FAMILY), 2)[:2]
    whole = {"cyclist": (1, 2, 4, ROWS + 3, ROWS + 5), "van": (4, 6, ROWS + 7, ROWS + 8), "passes": (9, ROWS + 12)}

    def captured(given):
        runs = []

        def start(info):
            made = lib.Recorder(lib.RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas, info.samples)
            runs.append((made, info))
            return lib.Session([made])

        run(lib.attach(models(FAMILY), start), (given, neg, empty), sigmas)
        return runs[0][0].result().streams[0], runs[0][1].notes

    (joined,) = ConditioningConcat().concat(positive, second)
    wanted = [[joined[0][0], {**joined[0][1], lib.BINDING: bound(lib, FAMILY, 4, rows=whole)[0][1][lib.BINDING]}]]
    wanted[0][1][lib.BINDING] = dataclasses.replace(wanted[0][1][lib.BINDING], length=2 * ROWS)
    seen, notes = captured(joined)
    assert any(f"{ROWS} rows stand behind" in note for note in notes), "nobody said whose they are"
    remember(second[0][0], second[0][1][lib.BINDING])
    (now, notes), (due, _) = captured(joined), captured(wanted)
    assert not any("stand behind" in note for note in notes)
    assert torch.equal(now.v2t, due.v2t)
    assert not torch.equal(now.v2t, seen.v2t)
    steered = [
        run(lib.steer(models(FAMILY), lib.RegionBias()), (each, neg, empty), sigmas) for each in (joined, wanted)
    ]
    assert torch.equal(*steered)
    scaled = [[torch.cat([positive[0][0], second[0][0] * 1.01], 1), joined[0][1]]]
    assert any(f"{ROWS} rows stand behind" in note for note in captured(scaled)[1]), "these rows are nobody's"


def test_a_repeated_prompt_is_steered_as_the_prompt(lib, models):
    """The host repeats a shorter prompt to batch it with a longer one: all copies of a word are the word."""
    from matrix_lib.core.guidance.scene import GridScene, Spans
    from matrix_lib.core.sites import AttentionCall, AttentionSite

    ((_, more),), _, _ = inputs(lib, FAMILY)
    grid = lib.Grid.from_latent(size_of(FAMILY), (1, 2, 2))
    scene = GridScene(grid, more[lib.TRACKS], more[lib.BINDING])
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=g) for n in (grid.size, 512, 512))
    outs = []
    for copies in (1, 2):
        keys, values = k.repeat(1, 1, copies, 1), v.repeat(1, 1, copies, 1)
        site = AttentionSite(0, "cross", "x")
        call = AttentionCall(
            site, q, keys, values, 0.3, grid, (), None, (0, grid.size), None, (0, 512 * copies), 0, 1.0
        )  # fmt: skip
        layout = lib.RegionBias().edit(scene.scene(call), Spans.of(call), 4.0, True, False).layout
        bias = layout.bias[layout.query][:, layout.key]
        outs.append(((q @ keys.mT * 0.3 + bias).softmax(-1)) @ values)
    torch.testing.assert_close(outs[1], outs[0])


def test_a_mixed_prompt_is_told(lib, models, comfy):
    from matrix_lib.hosts.comfy.bound_rows import mark_of
    from matrix_lib.hosts.comfy.run import ENCODED
    from nodes import ConditioningAverage

    positive, neg, empty = inputs(lib, FAMILY)
    ((rows, more),) = positive
    positive, ended = [[rows, {**more, ENCODED: mark_of(rows)}]], []
    model = lib.steer(models(FAMILY), lib.RegionBias(), done=ended.append)
    sigmas = sigmas_of(models(FAMILY), 2)[:2]
    run(model, (positive, neg, empty), sigmas)
    assert not any("mixed" in note for note in ended[0].notes)
    (mixed,) = ConditioningAverage().addWeighted(positive, conditioning(FAMILY, 4), 0.5)
    run(model, (mixed, neg, empty), sigmas)
    assert any("mixed or scaled behind 'MATRIX Bind Prompt'" in note for note in ended[1].notes)


def test_tracks_that_go_on_behind_the_clip_are_told_in_every_mode(lib, models):
    frames = 13
    long = lib.tracks.MaskTracks.from_boxes(
        {"cyclist": {0: (0, 0, 32, 24), 12: (32, 24, 64, 48)}, "van": {0: (32, 24, 64, 48)}}, frames, 48, 64
    )
    given, sigmas, ended = inputs(lib, FAMILY, tracks=long), sigmas_of(models(FAMILY), 3), []
    reference = {"samples": torch.randn(given[2].shape, generator=torch.Generator().manual_seed(5))}
    for guidance in (lib.RegionBias(), lib.Partition(1), lib.Gradient(0.05), lib.Intrinsic(1), lib.Clock(0.5, 0.2)):
        z = reference if type(guidance) is lib.Clock else None
        run(lib.steer(models(FAMILY), guidance, reference=z, done=ended.append), given, sigmas)
        assert any("13 frames; the first 5 are used" in note for note in ended[-1].notes), guidance
    later = long.starting(8)
    assert later.frames == 5
    assert torch.equal(later.mask("cyclist", 0), long.mask("cyclist", 8))
    with pytest.raises(ValueError, match="cannot start with frame 13: give a start_frame"):
        long.starting(13)
