"""Watching tiny random diffusers transformers of every family, against an explicit float64 softmax."""

import math

import pytest
import torch
from support_attention import Explicit, Watcher, make_binding, make_tracks
from support_diffusers import FAMILIES, build, forward

from matrix_lib.core.sites import BatchRow
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import attach, sites_of, watch
from matrix_lib.instrument.session import Session


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_equal_the_explicit_softmax_and_outputs_do_not_change(family):
    model, args, grid, length = build(family)
    binding = make_binding(binding_module, length)
    frames, (ph, pw) = grid.pixel_frames, grid.token_pixels
    tracks = make_tracks(tracks_module, frames, grid.height * ph, grid.width * pw)
    plain, joint = forward(model, args), any(site.has_t2v for site in sites_of(model))
    heard = any(site.has_a2t for site in sites_of(model))
    with watch(model, binding, tracks, t2v=joint, t2t=joint, sound=heard) as seen:
        assert torch.equal(forward(model, args), plain)
    assert torch.equal(forward(model, args), plain)
    stream = seen.capture().streams[0]
    assert stream.entities == ("cyclist", "van", "passes")

    on_grid = tracks.to_grid(grid, "nearest")
    query = {name: on_grid.query(name) for name in on_grid.names}
    query["passes"] = torch.cat([query["cyclist"], query["van"]]).unique()
    assert stream.entities_v2v == tuple(query)
    inside = {name: on_grid.maps[at].flatten().nonzero().flatten() for at, name in enumerate(on_grid.names)}
    explicit = Explicit({p.name: p.rows for p in binding.phrases}, query, looks=True, inside=inside)
    rows = (BatchRow("uncond"), BatchRow("cond"))

    def begin(forward):
        forward.rows = rows

    with attach(model, Session([explicit]), begin):
        assert torch.equal(forward(model, args), plain)
    assert set(stream.maps) == {"v2t", "v2v", *(("t2v", "t2t") if joint else ()), *(("a2t", "a2v") if heard else ())}
    for kind, layers in ((kind, maps.layers) for kind, maps in stream.maps.items()):
        assert set(layers) == {layer for name, layer in explicit.seen if name == kind}
        for place, layer in enumerate(layers):
            want = torch.cat([each for _, each in explicit.seen[kind, layer]])  # Mochi attends row by row
            assert len(want) == 2
            got = stream.get(kind).values[place, 0]
            # the second batch row is the conditional one; float16 storage rounds to 2^-11 of a value
            assert (got - want[1]).abs().max() <= 6e-4 * want[1].max(), (kind, layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_live_maps_are_float32_exact_and_differentiable(family):
    """What observers compute from a call equals the explicit softmax to 1e-4 of its maximum, gradients too."""
    from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows

    model, args, grid, _ = build(family)
    words, tokens = {"cyclist": (1, 2, 4), "van": (4, 6)}, {"cyclist": torch.tensor([0, 1, 7])}
    explicit = Explicit(words, tokens)
    problems, checked = [], []

    class Check(Watcher):
        wants, step_done = explicit.wants, explicit.step_done

        def observe(self, call, lse):
            if call.text_starts and len(call.q) > 1:  # words stand elsewhere in each row
                for row in range(len(call.q)):
                    self.observe(call.row(row), None if lse is None else lse[row : row + 1])
                return
            explicit.observe(call, lse)
            f, n = call.video_q
            offset = call.text_k[0] if call.text_k else 0
            weights = torch.randn(grid.size, generator=torch.Generator().manual_seed(3))
            for kind, has in (("v2t", call.site.has_v2t), ("v2v", call.site.has_v2v)):
                if not has:
                    continue
                want = explicit.seen[kind, call.site.layer][-1][1].flatten(2)
                if kind == "v2t":
                    pool = Pool.mean_of({name: [offset + r for r in at] for name, at in words.items()})
                    part = call.mask if call.mask is None or call.mask.shape[-2] == 1 else call.mask[..., f : f + n, :]
                    part_lse = None if lse is None else lse[:, :, f : f + n]

                    def read(q, k, **kw):
                        return pooled_columns(q[:, :, f : f + n], k, pool, call.scale, mask=part, budget=5000, **kw)
                else:
                    pool, part_lse = Pool.mean_of({name: f + at for name, at in tokens.items()}), lse

                    def read(q, k, **kw):
                        return pooled_rows(q, k, pool, call.scale, mask=call.mask, keys=call.video_k, budget=5000, **kw)

                got = read(call.q, call.k, lse=part_lse)
                problems.append(float((got - want).abs().max() / want.max()))
                with torch.enable_grad():
                    q, k = call.q.detach().requires_grad_(), call.k.detach().requires_grad_()
                    mine = torch.autograd.grad((read(q, k) * weights).sum(), (q, k))
                    again = Explicit(words, tokens)
                    again.observe(type(call)(**{**call.__dict__, "q": q, "k": k}), None)
                    ref = again.seen[kind, call.site.layer][-1][1].flatten(2)
                    theirs = torch.autograd.grad((ref * weights).sum(), (q, k))
                problems.extend(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs))
                checked.append((kind, call.site.layer, lse is not None))

    with attach(model, Session([Check()]), lambda forward: None):
        forward(model, args)
    assert max(problems) <= 1e-4, max(problems)
    assert {layer for _, layer, _ in checked} == {site.layer for site in sites_of(model)}
    assert all(has for _, _, has in checked), "PyTorch's CPU kernel hands over its log-sum-exp"


def test_leading_latents_of_cogvideox_15_stand_for_frame_0():
    model, args, grid, length = build("cogvideox15")
    with watch(model, make_binding(binding_module, length), prefix_frames=1) as seen:
        forward(model, args)
    led = seen.capture().streams[0].grid
    assert (led.shape, led.prefix_frames, led.latent_frames) == (grid.shape, 1, grid.latent_frames - 1)
    assert led.pixel_spans() == ((0, 1), (1, 9))


def test_attachments_nest_and_both_see_the_same():
    model, args, _, length = build("cogvideox")
    binding = make_binding(binding_module, length)
    plain = forward(model, args)
    with watch(model, binding) as outer, watch(model, binding, layers=[1]) as inner:
        assert torch.equal(forward(model, args), plain)
    a, b = outer.capture().streams[0], inner.capture().streams[0]
    assert b.layers_v2t == (1,)
    assert torch.equal(a.v2t[1], b.v2t[0])


class Boom(BaseException):
    """Like the host's interrupt: not an Exception."""


@pytest.mark.parametrize("error", [ValueError, Boom])
def test_errors_and_interrupts_leave_nothing_behind(error):
    model, args, _, length = build("hunyuan")
    plain = forward(model, args)

    class Fails(Watcher):
        def wants(self, site):
            return True

        def observe(self, call, lse):
            if call.site.layer == 2:
                raise error("stop")

    for _ in range(3):
        with pytest.raises(error), attach(model, Session([Fails()]), lambda f: None):
            forward(model, args)
        assert not torch.overrides._get_current_function_mode_stack()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(forward(model, args), plain)


def test_two_prompts_in_one_batch_never_mix():
    model, args, _, length = build("cogvideox")
    a = make_binding(binding_module, length)
    b = make_binding(binding_module, length, {"cyclist": (100, 101), "van": (103,), "passes": (7, 8)})
    with watch(model, [a, b], branches=["cond"]) as seen:
        forward(model, args)
    capture = seen.capture()
    for row, binding in enumerate((a, b)):
        alone = {key: value[row : row + 1] for key, value in args.items()}
        with watch(model, binding) as single:
            forward(model, alone)
        want = single.capture().streams[0].v2t.float()
        assert (capture.streams[row].v2t.float() - want).abs().max() <= 1e-3 * want.max()


def test_steps_bins_and_branches_of_pipelines_that_call_twice_a_step():
    model, args, grid, length = build("wan_t2v")
    binding = make_binding(binding_module, length)
    one = {key: value[:1] for key, value in args.items()}
    other = {**one, "encoder_hidden_states": args["encoder_hidden_states"][1:]}
    maps = []
    with watch(model, binding, steps=3, bins=2) as seen:
        for step in range(3):
            at = torch.tensor([900 - 100 * step])
            with watch(model, binding) as single:
                forward(model, {**one, "timestep": at})
            maps.append(single.capture().streams[0].v2t[:, 0].float())
            forward(model, {**other, "timestep": at})
    capture = seen.capture()
    assert [(s.index, s.calls) for s in capture.steps] == [(0, 2), (2, 1)]
    got = capture.streams[0].v2t.float()
    want = torch.stack([(maps[0] + maps[1]) / 2, maps[2]], 1)
    assert (got - want).abs().max() <= 1e-3 * want.max()
    assert grid.shape == got.shape[-3:]


def test_bad_requests_are_told_clearly():
    model, args, _, length = build("cogvideox")
    binding = make_binding(binding_module, length)
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist.*0\.\.2"), watch(model, binding, layers=[7]):
        pass
    with pytest.raises(ValueError, match="Known: CogVideoX"), watch(torch.nn.Linear(2, 2), binding):
        pass
    with pytest.raises(ValueError, match="did not run"), watch(model, binding) as seen:
        seen.capture()
    longer = make_binding(binding_module, 300)
    with pytest.raises(ValueError, match="300 rows.*226"), watch(model, longer):
        forward(model, args)
    with pytest.raises(ValueError, match="raise the budget"), watch(model, binding, budget_mb=1e-4):
        forward(model, args)


def test_memory_of_a_watched_forward_is_the_maps_and_not_the_matrix():
    model, args, grid, length = build("cogvideox")
    with watch(model, make_binding(binding_module, length)) as seen:
        forward(model, args)
    assert seen.capture().nbytes == 2 * 3 * 3 * math.prod(grid.shape)
