"""What is shown and steered is what really ran: other packs' overrides, replaced forwards, further predictions.

The truth is written down by stand-ins for other packs themselves: the q and k that they hand on.
"""

import functools
import itertools
import re

import pytest
import torch
from support_attention import Watcher, make_binding, make_tracks
from support_native import conditioning, latent, native_model, pixels, sample, text_rows
from torch.utils._pytree import tree_leaves

FAMILY, SIZE = "wan_t2v", (2, 6, 8)


@pytest.fixture(scope="module")
def model(comfy):
    return native_model(FAMILY)


class Seen(Watcher):
    """Keeps q and k of every call that counts, by site."""

    def __init__(self):
        self.kept, self.waiting, self.notes = {}, [], []

    def observe(self, call, lse):
        rows = [place for place, row in enumerate(call.rows) if row.branch == "cond" and row.binding is not None]
        if rows:
            self.waiting.append((call.site.name, call.q[rows], call.k[rows], call.scale, lse))

    def settle(self, site, whole):
        for name, *rest in self.waiting:
            if whole:
                self.kept.setdefault(name, []).append(rest)
        self.waiting.clear()

    def note(self, text):
        self.notes.append(text)


def inputs(family=FAMILY, size=SIZE):
    from matrix_lib.core.tracks import tracks
    from matrix_lib.core.words import binding
    from matrix_lib.hosts.comfy.run import BINDING, TRACKS

    words = make_binding(binding, text_rows(family))
    keys = {BINDING: words, TRACKS: make_tracks(tracks, *pixels(family, size))}
    return conditioning(family, 1, size, **keys), conditioning(family, 2, size), latent(family, 1, size)


def watched(model):
    from matrix_lib.hosts.comfy.attach import attach
    from matrix_lib.instrument.session import Session

    seen = Seen()
    return attach(model, lambda info: Session([seen])), seen


def with_override(model, override):
    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    return clone


def softmax(q, k, v, scale):
    return (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v


def split(t, heads):
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("change", ["q", "k"])
@pytest.mark.parametrize("kernel", ["host", "torch", "own"])
def test_another_overrides_q_and_k_are_what_is_shown(model, change, kernel):
    truth = []

    def other(func, q, k, v, heads, mask=None, **kwargs):
        q, k = (q * 1.7, k) if change == "q" else (q, k * 0.6)
        if q.shape[0] == 2:
            truth.append((split(q, heads), split(k, heads)))
        if kernel == "host":
            return func(q, k, v, heads, mask=mask, **kwargs)
        q, k, v = (split(t, heads) for t in (q, k, v))
        run = torch.nn.functional.scaled_dot_product_attention
        out = run(q, k, v) if kernel == "torch" else softmax(q, k, v, q.shape[-1] ** -0.5)
        return out.transpose(1, 2).flatten(2)

    theirs = with_override(model, other)
    positive, negative, z = inputs()
    want = sample(theirs, positive, negative, z, steps=2)
    truth.clear()
    mine, seen = watched(theirs)
    assert torch.equal(sample(mine, positive, negative, z, steps=2), want)
    shown = [rest for calls in zip(*seen.kept.values()) for rest in calls]
    if kernel == "own":  # nobody sees what goes into it
        assert not shown
        assert any("changes what attention computes" in note and "other" in note for note in seen.notes)
        return
    assert not seen.notes
    assert len(shown) == len(truth) == 8
    for (q, k, *_), (real_q, real_k) in zip(shown, truth):
        assert torch.equal(q[0], real_q[1]), "the prompt's row comes second"
        assert torch.equal(k[0], real_k[1])


def test_an_own_kernel_that_changes_nothing_is_shown_and_passed_by_where_it_is_steered(model):
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.steer import steer

    def other(func, q, k, v, heads, mask=None, **kwargs):
        q, k, v = (split(t, heads) for t in (q, k, v))
        return softmax(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2)

    theirs, acted = with_override(model, other), []
    positive, negative, z = inputs()
    mine, seen = watched(theirs)
    sample(mine, positive, negative, z, steps=1)
    assert len(seen.kept) == 4
    assert not seen.notes
    got = sample(steer(theirs, RegionBias(), done=acted.append), positive, negative, z, steps=2)
    want = sample(steer(model, RegionBias()), positive, negative, z, steps=2)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert any("other" in note and "PyTorch's runs instead" in note for note in acted[0].notes)


def test_gradients_beside_an_own_kernel_and_beside_changed_keys(model):
    """Blocks are checkpointed: the way through another pack's override is the same in both of their runs."""
    from matrix_lib.core.guidance.gradient import GradientGuidance
    from matrix_lib.hosts.comfy.steer import steer

    def own(func, q, k, v, heads, mask=None, **kwargs):
        q, k, v = (split(t, heads) for t in (q, k, v))
        return softmax(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2)

    def halved(func, q, k, v, heads, **kwargs):
        return func(q, k * 0.5, v, heads, **kwargs)

    def behind(func, q, k, v, heads, mask=None, **kwargs):
        return own(func, q, k * 0.5, v, heads)

    given, guidance = inputs(), GradientGuidance()
    want = sample(steer(model, guidance), *given, steps=1)
    acted = []
    got = sample(steer(with_override(model, own), guidance, done=acted.append), *given, steps=1)
    assert (got - want).abs().max() < 1e-3 * want.abs().max()
    assert any("own" in note and "PyTorch's runs instead" in note for note in acted[0].notes)
    changed = with_override(model, halved)
    moved = sample(steer(changed, guidance), *given, steps=1) - sample(changed, *given, steps=1)
    assert moved.abs().max() > 0
    with pytest.raises(ValueError, match="cannot be steered"):
        sample(steer(with_override(model, behind), guidance), *given, steps=1)


def test_steering_acts_on_changed_keys_or_refuses(model):
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.steer import steer

    def scaled(func, q, k, v, heads, **kwargs):
        return func(q, k * 0.5, v, heads, **kwargs)

    def behind(func, q, k, v, heads, mask=None, **kwargs):
        q, k, v = (split(t, heads) for t in (q, k, v))
        return softmax(q, k * 0.5, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2)

    positive, negative, z = inputs()
    strong = RegionBias(words_up=3.0)
    plain = sample(steer(model, strong), positive, negative, z, steps=1)
    moved = sample(steer(with_override(model, scaled), strong), positive, negative, z, steps=1)
    assert (moved - plain).abs().max() > 1e-3 * plain.abs().max(), "the other pack's change is in it"
    with pytest.raises(ValueError, match=r"cannot be steered.*behind.*changes what attention computes"):
        sample(steer(with_override(model, behind), strong), positive, negative, z, steps=1)


def replaced(model, forward):
    """A clone whose first block's cross-attention has another forward, as packs do it."""
    clone = model.clone()
    block = clone.model.diffusion_model.blocks[0].cross_attn
    clone.add_object_patch("diffusion_model.blocks.0.cross_attn.forward", functools.partial(forward, block))
    return clone


def alone(block, x, context, **kwargs):
    """Calls PyTorch itself, past everybody's override."""
    q, k, v = block.norm_q(block.q(x)), block.norm_k(block.k(context)), block.v(context)
    q, k, v = (split(t, block.num_heads) for t in (q, k, v))
    return block.o(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def twice(block, x, context, transformer_options=None, **kwargs):
    """Attends to the prompt, and to something else."""
    first = type(block).forward(block, x, context, transformer_options=transformer_options or {})
    other = type(block).forward(block, x, context.flip(1), transformer_options=transformer_options or {})
    return first * 1.5 - other * 0.5


def halves(block, x, context, transformer_options=None, **kwargs):
    """Each half of the batch by itself."""
    parts = [
        type(block).forward(block, x[i : i + 1], context[i : i + 1], transformer_options=transformer_options or {})
        for i in range(len(x))
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("cfg", [1.0, 6.0])
@pytest.mark.parametrize("forward", [alone, twice, halves])
def test_a_replaced_forward_is_named_and_not_shown(model, forward, cfg):
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.steer import steer

    theirs = replaced(model, forward)
    positive, negative, z = inputs()
    want = sample(theirs, positive, negative, z, steps=2, cfg=cfg)
    mine, seen = watched(theirs)
    assert torch.equal(sample(mine, positive, negative, z, steps=2, cfg=cfg), want)
    if forward is halves and cfg == 1.0:  # one half is all: nothing is odd about it
        assert not seen.notes
        assert len(seen.kept) == 4
        return
    assert set(seen.kept) == {f"blocks.{i}.{part}" for i in (0, 1) for part in ("self_attn", "cross_attn")} - {
        "blocks.0.cross_attn"
    }
    assert any(forward.__name__ in note and "blocks.0.cross_attn" in note for note in seen.notes)
    with pytest.raises(ValueError, match=rf"blocks.0.cross_attn cannot be steered.*{forward.__name__}"):
        sample(steer(theirs, RegionBias()), positive, negative, z, steps=1, cfg=cfg)


def test_further_predictions_of_a_prompt_are_not_shown(model):
    """A pack asks for the prompt once more after guidance; another one first, with its own patches."""
    import comfy.samplers

    def again(args):
        (more,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"] * 0.5, args["sigma"], args["model_options"]
        )
        return args["denoised"] + (args["cond_denoised"] - more) * 0.1

    def left_out(args, more):
        return args

    def first(args):
        options = args["model_options"]
        inner = {**options["transformer_options"], "patches_replace": {"dit": {("double_block", 0): left_out}}}
        disturbed = comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"] * 0.5, args["sigma"], {**options, "transformer_options": inner}
        )
        out = comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], options)
        return [a + 0.1 * (a - b) for a, b in zip(out, disturbed)]

    positive, negative, z = inputs()
    for patch in ("set_model_sampler_post_cfg_function", "set_model_sampler_calc_cond_batch_function"):
        theirs = model.clone()
        getattr(theirs, patch)(again if "post" in patch else first)
        mine, seen = watched(theirs)
        plain, alone = watched(model)
        sample(plain, positive, negative, z, steps=1)
        sample(mine, positive, negative, z, steps=1)
        assert seen.kept.keys() == alone.kept.keys()
        for name, calls in seen.kept.items():
            assert len(calls) == 1, "the guider's own prediction alone"
            assert torch.equal(calls[0][0], alone.kept[name][0][0])
            assert torch.equal(calls[0][1], alone.kept[name][0][1])


def backwards(model, positive, negative):
    """A guider of its own order and names."""
    import comfy.samplers

    class Guider(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            run = functools.partial(comfy.samplers.calc_cond_batch, self.inner_model)
            (away,) = run([self.conds["unwanted"]], x, timestep, model_options)
            nothing, wanted = run([self.conds["unwanted"], self.conds["wanted"]], x, timestep, model_options)
            return away + (wanted - nothing) * 3.0

    guider = Guider(model)
    guider.inner_set_conds({"unwanted": negative, "wanted": positive})
    return guider


def test_a_guider_of_its_own_order_and_names(model):
    import comfy.samplers

    positive, negative, z = inputs()
    mine, seen = watched(model)
    plain, alone = watched(model)
    sample(plain, positive, negative, z, steps=1)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 1)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        guider = backwards(mine, positive, negative)
        guider.sample(noise, z, comfy.samplers.sampler_object("euler"), sigmas, seed=0)
    assert seen.kept.keys() == alone.kept.keys()
    assert all(len(calls) == 1 and calls[0][0].shape[0] == 1 for calls in seen.kept.values())
    assert not seen.notes


def test_a_capture_of_what_cannot_be_seen_says_why_and_holds_no_zeros(model):
    from matrix_lib.hosts.comfy.attach import attach
    from matrix_lib.instrument.recorder import Recorder, RecorderConfig
    from matrix_lib.instrument.session import Session

    def recording(model):
        made = []

        def start(info):
            made.append(Recorder(RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas))
            return Session([made[-1]])

        return attach(model, start), made

    def taken(executor, *args, **kwargs):  # assigns the slot behind everybody
        given = [{**each, "optimized_attention_override": plain} if isinstance(each, dict) else each for each in args]
        return executor(*given, **kwargs)

    def plain(func, *args, **kwargs):
        return func(*args, **kwargs)

    import comfy.patcher_extension as extension

    late = model.clone()
    late.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, "late", taken)
    watched, made = recording(late)
    sample(watched, *inputs(), steps=1)
    with pytest.raises(ValueError, match=r"nothing was recorded: blocks.0.self_attn.*another pack took our place"):
        made[-1].result()

    watched, made = recording(replaced(model, alone))
    sample(watched, *inputs(), steps=2)
    capture = made[-1].result()
    assert any("alone" in note for note in capture.meta["notes"])
    with pytest.raises(ValueError, match="layer 0|nothing|not"):
        capture.maps("v2t", layer=0, entity="cyclist")
    assert capture.maps("v2t", layer=1, entity="cyclist").sum() > 0

    watched, made = recording(late)  # the host has put the class's own forward where the patch was
    sample(watched, *inputs(), steps=1)
    with pytest.raises(ValueError, match=r"^(?!.*replaces its forward)nothing was recorded: blocks.0.self_attn"):
        made[-1].result()


def test_modules_of_a_clone_are_that_clone_s_alone(model):
    """Object patches come with the load, behind the start of a run, and stay until another clone is loaded."""
    import copy

    name = "blocks.0.cross_attn"
    other = model.clone()
    with torch.inference_mode():
        other.add_object_patch(
            f"diffusion_model.{name}", copy.deepcopy(model.model.diffusion_model.get_submodule(name))
        )
        wrapped = model.clone()
        wrapped.add_object_patch("diffusion_model.blocks", torch.nn.ModuleList())
    for each, works in ((other, True), (model, True), (wrapped, False), (model, True)):
        mine, seen = watched(each)
        if not works:  # as a pack that rebuilds the network: there is nothing that we know
            with pytest.raises(ValueError, match="its attention cannot be found"):
                sample(mine, *inputs(), steps=1)
            each.patch_model()  # as a run without this pack leaves it
            continue
        sample(mine, *inputs(), steps=1)
        assert name in seen.kept
        assert not seen.notes


def test_a_part_of_the_picture_is_not_taken_for_the_whole(model):
    positive, negative, z = inputs()
    left = [[rows, {**more, "area": (6, 4, 0, 0), "strength": 1.0}] for rows, more in positive]
    mine, seen = watched(model)
    sample(mine, [*left, *positive], negative, z, steps=1)
    assert any("2 x 6 x 4 of the latent's 2 x 6 x 8" in note for note in seen.notes)
    assert seen.kept
    assert all(len(calls) == 1 for calls in seen.kept.values()), "the whole picture's prompt is there"


def test_attention_in_parts_is_named(model):
    def halves(func, q, k, v, heads, **kwargs):
        return torch.cat([func(part, k, v, heads, **kwargs) for part in q.chunk(2, 1)], 1)

    mine, seen = watched(with_override(model, halves))
    sample(mine, *inputs(), steps=1)
    assert not seen.kept
    assert any("12 tokens where 24 are due, or in parts" in note for note in seen.notes), seen.notes


def picture(q):
    """Keys and values of a pack's own."""
    g = torch.Generator().manual_seed(4)
    return tuple(torch.randn(len(q), 5, q.shape[-1], generator=g) for _ in range(2))


def added(func, q, k, v, heads, **kwargs):
    return 0.5 * func(q, k, v, heads, **kwargs) + 0.5 * func(q, *picture(q), heads, **kwargs)


def in_place(func, q, k, v, heads, **kwargs):
    """By PyTorch's kernel, first, and into a part of the output."""
    run = torch.nn.functional.scaled_dot_product_attention
    theirs = run(*(split(t, heads) for t in (q, *picture(q)))).transpose(1, 2).flatten(2)
    out = func(q, k, v, heads, **kwargs).unflatten(2, (heads, -1)).flatten(2)
    out[:, 1:] += theirs[:, 1:]
    return out.float()


def unseen(func, q, k, v, heads, **kwargs):
    """A kernel that is no operation of PyTorch fills what was made empty."""
    more = torch.empty_like(q)
    more.numpy()[:] = v.mean(1, keepdim=True).numpy()
    return func(q, k, v, heads, **kwargs) + more


@pytest.mark.parametrize("other", [added, in_place, unseen])
def test_what_an_override_adds_is_followed_where_it_has_nothing_of_the_text(model, other):
    """Else it is named. Both kinds are in `matrix_cells.packs`."""
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.steer import steer

    torch._dynamo.reset()  # another test may have compiled something
    given, theirs = inputs(), with_override(model, other)
    want = sample(theirs, *given, steps=2)
    mine, seen = watched(theirs)
    assert torch.equal(sample(mine, *given, steps=2), want)
    steered = functools.partial(sample, steer(theirs, RegionBias(words_up=3.0)), *given, steps=2)
    reason = f"{other.__name__} gives something else"
    if other in (added, in_place):
        assert not seen.notes
        assert [len(calls) for calls in seen.kept.values()] == [2] * 4
        assert (steered() - want).abs().max() > 1e-3 * want.abs().max()
        torch.compile(softmax)  # never run: from here on it is not followed
        reason = "beside torch.compile it is not seen what it adds"
    else:
        assert not seen.kept
        assert any(reason in note for note in seen.notes)
    with pytest.raises(ValueError, match=f"cannot be steered: .*{reason}"):
        steered()
    torch._dynamo.reset()


def another_word(rows):
    """Rows (B, N, width) or (N, width), of which two are another text's."""
    rows, place = rows.clone(), (..., slice(3, 5), slice(None))
    rows[place] = torch.randn(rows[place].shape, generator=torch.Generator().manual_seed(9)) * rows.std()
    return rows


def where_the_text_goes(model, given, lists):
    """Paths of the outermost modules before the blocks whose output changes with rows of the prompt alone."""
    runs, modules = [], list(model.model.diffusion_model.named_modules())
    for text in (given[0][0][0], another_word(given[0][0][0])):
        made = []

        def keep(name, out, made=made):
            made.append((name, [float(t.double().sum()) for t in tree_leaves(out) if isinstance(t, torch.Tensor)]))

        hooks = [each.register_forward_hook(lambda *a, n=name, keep=keep: keep(n, a[2])) for name, each in modules]
        sample(model, [[text, given[0][0][1]]], *given[1:], steps=1, cfg=1.0)
        [each.remove() for each in hooks]
        runs.append(itertools.takewhile(lambda each: not each[0].startswith(lists), made))
    found = [name for (name, a), (_, b) in zip(*runs) if a != b]
    return [name for name in found if not name.startswith((*(f"{each}." for each in found), "t5_y_embedder"))]


MAKE_OF_TEXT = ("wan_t2v", "cogvideox", "hunyuan", "ltx", "ltx2", "hunyuan15", "kandinsky5", "minimax_h3", "mochi")


@pytest.mark.parametrize("family", MAKE_OF_TEXT)
def test_another_text_before_the_blocks_is_named_and_not_steered(comfy, family):
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.model import backbone_of, sites_of
    from matrix_lib.hosts.comfy.steer import steer

    model, given = native_model(family), inputs(family, None)
    native, of_text = backbone_of(model).native, {site.name for site in sites_of(model) if site.has_v2t}
    names = where_the_text_goes(model, given, native.lists)
    assert [bool(re.match(native.text_way, name)) for name in names or [""]] == [True] * len(names), names
    due = [(name, another_word, "gives it another text than the prompt's") for name in names]
    due += [
        (names[0], torch.clone, ""),
        (names[0], lambda rows: 1.2 * rows, "changes what the model makes of its text"),
    ]
    for (name, change, what), hook in itertools.product(due, (False, True)):
        module = model.model.diffusion_model.get_submodule(name)

        def theirs(*given, change=change, module=module, hook=hook, **more):
            out = given[2] if hook else type(module).forward(module, *given, **more)
            return change(out) if isinstance(out, torch.Tensor) else (change(out[0]), *out[1:])

        hooks = [module.register_forward_hook(theirs)] if hook else setattr(module, "forward", theirs)
        mine, seen = watched(model)
        want = sample(model, *given, steps=1)
        assert torch.equal(sample(mine, *given, steps=1), want)
        assert [what in note for note in seen.notes][:1] == [True] * bool(what), (name, hook, seen.notes)
        steered = functools.partial(sample, steer(model, RegionBias(words_up=3.0)), *given, steps=1)
        if change is another_word:
            assert not of_text & seen.kept.keys()
            with pytest.raises(ValueError, match=f"cannot be steered: .* {what}"):
                steered()
        else:
            assert of_text <= seen.kept.keys()
            assert not torch.equal(steered(), want)
        [each.remove() for each in hooks or ()]
        vars(module).pop("forward", None)


def test_another_module_in_the_place_of_what_the_text_goes_through_is_named(comfy):
    model = native_model("wan_t2v")
    own = model.model.diffusion_model.text_embedding
    other = model.clone()
    other.add_object_patch("diffusion_model.text_embedding", torch.nn.Sequential(*own, torch.nn.Identity()))
    for chosen, named in ((other, True), (model, False)):
        mine, seen = watched(chosen)
        sample(mine, *inputs("wan_t2v", None), steps=1)
        assert any("stands in the place of text_embedding" in note for note in seen.notes) == named, seen.notes
