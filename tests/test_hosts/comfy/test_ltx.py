"""LTX-Video and LTX-2 natively: guides behind the clip, masks that split attention, sound in the same latent."""

import itertools

import pytest
import torch
from support_attention import Explicit, Watcher, make_binding, make_tracks
from support_compiled import Counted, compiled_native, fresh
from support_counts import SOAK
from support_ltx import given, native_vae
from support_native import LTX_LATENT, conditioning, native_model, pixels, sample, text_rows
from support_steering import lib, models

__all__ = ["fresh", "lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
KINDS = {
    "no guide": {},
    "image": {"image": True},
    "one guide": {"guides": 1},
    "two guides": {"guides": 2},
    "weak guides": {"guides": 2, "strength": 0.6},
    "masked guide, image": {"guides": 1, "region": True, "image": True},
    "spread guide": {"guides": 1, "spread": True},
    "weak spread guide and another": {"guides": 2, "spread": True, "strength": 0.5},
}
CASES = [(*case, None) for case in itertools.product(("ltx", "ltx2"), KINDS)]
CASES += [("ltx2", "no guide", False), ("ltx2", "weak guides", False), ("ltx20", "masked guide, image", True)]


def words(lib, family, **more):
    keys = {
        lib.BINDING: make_binding(lib.binding, text_rows(family)),
        lib.TRACKS: make_tracks(lib.tracks, *pixels(family)),
    }
    return conditioning(family, 1, **keys, **more)


@pytest.mark.parametrize(("family", "kind", "sound"), CASES)
def test_maps_are_those_of_the_clip_whatever_guides_it(lib, models, family, kind, sound):
    run = given(family, words(lib, family), **KINDS[kind], sound=sound)
    model = models(family)
    plain = sample(model, *run, steps=1, **run.options)
    runs = []

    def start(info):
        runs.append(lib.Recorder(lib.RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas))
        return lib.Session([runs[-1]])

    assert torch.equal(sample(lib.attach(model, start), *run, steps=1, **run.options), plain)
    stream = runs[0].result().streams[0]
    assert stream.grid.shape == LTX_LATENT
    assert stream.grid.pixel_frames == pixels(family)[0]
    assert not runs[0].notes
    tracks = run.positive[0][1][lib.TRACKS].to_grid(stream.grid, "nearest")
    query = {name: tracks.query(name) for name in tracks.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    explicit = Explicit({p.name: p.rows for p in run.positive[0][1][lib.BINDING].phrases}, query)
    watched = lib.attach(model, lambda info: lib.Session([explicit]))
    assert torch.equal(sample(watched, *run, steps=1, **run.options), plain)
    split = KINDS[kind].get("strength", 1.0) != 1.0 or "region" in KINDS[kind]
    for kind_of, layer in itertools.product(("v2t", "v2v"), (0, 1)):
        ((call, maps),) = explicit.seen[kind_of, layer]
        want = maps[[row.branch for row in call.rows].index("cond")]
        got = stream.get(kind_of).values[stream.get(kind_of).layers.index(layer), 0].double()
        assert (got - want).abs().max() <= 6e-4 * want.max()
        assert (call.q.shape[2] < call.k.shape[2]) == split or kind_of == "v2t"


@pytest.mark.parametrize(("family", "kind"), [("ltx", "weak guides"), ("ltx2", "masked guide, image")])
def test_steering_leaves_guides_alone_and_equals_the_dense_reference(lib, models, family, kind, monkeypatch):
    run, errors, real = given(family, words(lib, family), **KINDS[kind]), [], lib.host.EditRunner.run

    def checked(self, call, edits, host_rows):
        edited = real(self, call, edits, host_rows)
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            logits = logits + call.mask.double()
        for every in edits:
            for row, edit in enumerate(every):
                if edit is not None and edit.layout is not None:
                    logits[row] += edit.layout.bias[edit.layout.query][:, edit.layout.key]
        want = logits.softmax(-1) @ call.v.double()
        errors.append(float((edited.out - want).abs().max() / want.abs().max()))
        guides = call.site.kind == "self" and edits[0][0] is not None
        if guides:
            assert not edits[0][0].layout.key[call.grid.size :].any()
        return edited

    monkeypatch.setattr(lib.host.EditRunner, "run", checked)
    plain = sample(models(family), *run, steps=1, **run.options)
    steered = sample(lib.steer(models(family), lib.RegionBias()), *run, steps=1, **run.options)
    assert not torch.equal(steered, plain)
    assert len(errors) >= 4
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("family", ["ltx", "ltx2"])
def test_what_acts_before_steps_moves_the_clip_alone(lib, models, family):
    """Guides, and the sound of LTX-2, are as the sampler made them when the first prediction is asked for."""
    from comfy.patcher_extension import WrappersMP

    run, seen = given(family, words(lib, family), guides=2, strength=0.7), []

    def note(executor, x, *args, **kwargs):
        seen.append(x.clone())
        return executor(x, *args, **kwargs)

    model = models(family).clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "note", note)
    sample(model, *run, steps=2, **run.options)
    plain = [x.clone() for x in seen]
    held = {"samples": torch.randn(1, 128, *LTX_LATENT, generator=torch.Generator().manual_seed(5))}
    # the second asks for a prediction where the latent was, through the guider
    ways = ((lib.Clock(0.5, 0.5), held, 0), (lib.Intrinsic(1), None, 1), (lib.Gradient(), None, 0))
    for guide, reference, place in ways:
        seen.clear()
        sample(lib.steer(model, guide, reference=reference), *run, steps=2, **run.options)
        changed = (seen[place] != plain[0]).flatten()
        size = torch.Size((128, LTX_LATENT[0] + 2, *LTX_LATENT[1:]))
        clip = changed[: size.numel()].view(size)
        assert clip[:, : LTX_LATENT[0]].any(), guide
        assert not clip[:, LTX_LATENT[0] :].any(), guide
        assert not changed[size.numel() :].any(), guide


@pytest.mark.parametrize("family", ["ltx", "ltx2"])
def test_masks_of_a_widened_input_are_the_clips_alone(lib, models, family):
    """With guides behind the clip, of which one leaves gaps, and sound beside it: what the further channel adds to
    each token is its place of the mask times its column, and nothing in guides."""
    from functools import partial

    from matrix_lib.backbones.lora import AlignmentLoRA
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.mask_condition import behind_references, target_mask

    run, model = given(family, words(lib, family), **KINDS["weak spread guide and another"]), models(family)
    place = model.model.diffusion_model.patchify_proj
    column = torch.randn(len(place.weight), 1, generator=torch.Generator().manual_seed(2))
    wide = {"weight": torch.cat([place.weight.clone(), column], 1), "bias": place.bias.clone()}
    patched, _ = apply_lora(model, AlignmentLoRA(family, {}, wide))
    tracks = run.positive[0][1][lib.TRACKS]
    make = partial(target_mask, tracks, ("van",), stride=32)
    made = behind_references(make, patched, (run.positive, run.negative), run.latent)
    assert made.channels.shape == (1, 1, LTX_LATENT[0] + 2, *LTX_LATENT[1:])
    both = [add_extra(side, made.channels) for side in (run.positive, run.negative)]
    seen = []
    hook = place.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    sample(model, *run, steps=1, **run.options)
    sample(patched, *both, run.latent, steps=1, **run.options)
    hook.remove()
    assert not place._forward_pre_hooks
    plain, masked = seen[0], seen[-1]
    clip = made.channels[0, 0, : LTX_LATENT[0]].flatten()
    assert 0 < clip.sum() < LTX_LATENT[1] * LTX_LATENT[2]
    mask = torch.cat([clip, torch.zeros(plain.shape[1] - len(clip))])
    torch.testing.assert_close((masked - plain)[0], mask[:, None] * column[:, 0], rtol=1e-4, atol=1e-4)
    short = [add_extra(side, made.channels[:, :, :3]) for side in (run.positive, run.negative)]
    with pytest.raises(ValueError, match="the mask condition was made for a latent of"):
        sample(patched, *short, run.latent, steps=1, **run.options)


def widened(model, family, run, guides):
    """(a model with one more channel, its conditionings with a mask in every frame of the clip and none in guides, what
    that channel adds to a token, the mask)."""
    from matrix_lib.backbones.lora import AlignmentLoRA
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora

    place = model.model.diffusion_model.patchify_proj
    draw = torch.Generator().manual_seed(2)
    column = torch.randn(len(place.weight), 1, generator=draw)
    wide = {"weight": torch.cat([place.weight.clone(), column], 1), "bias": place.bias.clone()}
    mask = torch.rand(1, 1, *LTX_LATENT, generator=draw)
    mask = torch.nn.functional.pad(mask, (0, 0, 0, 0, 0, guides))
    patched, _ = apply_lora(model, AlignmentLoRA(family, {}, wide))
    return patched, [add_extra(side, mask) for side in (run.positive, run.negative)], column[:, 0], mask


@pytest.mark.parametrize(("family", "guides"), [("ltx", 0), ("ltx2", 0), ("ltx2", 1)])
def test_context_windows_get_their_part_of_the_mask(lib, models, family, guides):
    """Tokens of each window get the mask of its own frames, and guides that stand in it get none. (The host itself runs
    no guides of LTX-Video 0.9 in windows.)"""
    import comfy.context_windows as windows
    from comfy.patcher_extension import WrappersMP

    run, model, seen = given(family, words(lib, family), guides=guides, region=True), models(family), []
    patched, both, column, mask = widened(model, family, run, guides)
    place, at = model.model.diffusion_model.patchify_proj, []

    def spy(executor, *args, **kwargs):
        options = next(a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "context_window" in a)
        at.append(options["context_window"])
        return executor(*args, **kwargs)

    for each in (model.clone(), patched):
        each.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
        each.model_options["context_handler"] = windows.IndexListContextHandler(
            windows.get_matching_context_schedule("standard_static"), windows.get_matching_fuse_method("pyramid"),
            context_length=2, context_overlap=1, dim=2,
        )  # fmt: skip
        hook = place.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
        sample(each, *(both if each is patched else run[:2]), run.latent, steps=1, **run.options)
        hook.remove()
    half = len(seen) // 2
    assert half == len(at) // 2 >= 2
    assert {len(window.guide_frames_indices) for window in at} <= {0, guides}
    for plain, masked, window in zip(seen[:half], seen[half:], at[half:], strict=True):
        anchor = getattr(window, "causal_anchor_index", None)
        index = [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]
        want = mask[0, 0, index].flatten()
        want = torch.cat([want, want.new_zeros(plain.shape[1] - len(want))])[:, None] * column
        torch.testing.assert_close((masked - plain)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("family", ["ltx", *(["ltx2"] if SOAK else [])])
@pytest.mark.parametrize("how", ["whole", "blocks"])
def test_a_compiled_model_reads_the_mask(lib, models, fresh, how, family):
    """As the model does that is not compiled, beside a run without a mask, before and behind it. LTX-2, which reads its
    mask in the same place and takes far longer to trace, in `make soak`."""
    backend = Counted()
    run, model = given(family, words(lib, family), guides=1), models(family)
    patched, both, *_ = widened(model, family, run, 1)
    plain, masked = (
        sample(model, *run, steps=1, **run.options),
        sample(patched, *both, run.latent, steps=1, **run.options),
    )
    assert (plain - masked).abs().max() > 1e-2
    fast, wide = (compiled_native(each, how, backend) for each in (model, patched))
    for each, conds, want in (
        (fast, run[:2], plain),
        (wide, both, masked),
        (fast, run[:2], plain),
        (wide, both, masked),
    ):
        before = backend.ran
        assert torch.equal(sample(each, *conds, run.latent, steps=1, **run.options), want)
        assert backend.ran > before, "nothing compiled ran"


def test_conditionings_that_count_guides_differently_are_refused(lib, models):
    run = given("ltx", words(lib, "ltx"), guides=2)
    other = given("ltx", words(lib, "ltx"), guides=1)
    watched = lib.attach(models("ltx"), lambda info: lib.Session([]))
    with pytest.raises(ValueError, match="tokens of guide frames"):
        sample(watched, run.positive, other.negative, run.latent, steps=1, **run.options)


def test_prompts_of_lengths_that_divide_the_registers_are_no_copies(lib, models):
    """16 rows and the 1008 registers behind them are not 64 prompts; nor do prompts of two lengths mix."""
    from matrix_lib.hosts.comfy.run import BINDING

    kept = {}
    for rows in (16, 21):
        bound = conditioning("ltx2", 1, rows=rows, **{BINDING: make_binding(lib.binding, rows)})
        explicit = Explicit({"cyclist": (1, 2, 4), "van": (4, 6), "passes": (9,)}, {"x": torch.tensor([0])})
        runs = []

        def start(info, runs=runs, explicit=explicit):
            runs.append(lib.Recorder(lib.RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas))
            return lib.Session([runs[-1], explicit])

        run = given("ltx2", bound)
        sample(lib.attach(models("ltx2"), start), *run, steps=1)
        call, maps = explicit.seen["v2t", 0][0]
        assert call.text_k == (0, 1024)
        want = maps[[row.branch for row in call.rows].index("cond")]
        got = runs[0].result().streams[0].v2t[0, 0]
        assert (got - want).abs().max() <= 6e-4 * want.max()
        kept[rows] = got
    assert not torch.equal(kept[16], kept[21])


def test_words_of_gemma_are_the_keys_that_they_are_bound_to(lib, comfy):
    """From the prompt to the block: the host's Gemma 3 reads it with its own tokenizer class (around a vocabulary that
    was trained here), and where nothing mixes rows another word changes the keys of its phrase and no others."""
    from support_words import make_clip, only_embeddings

    from matrix_lib.hosts.comfy.prompts import bind_prompt, encode

    clip, model = only_embeddings(make_clip("gemma3")), native_model("ltx2", layers=1)
    for block in model.model.diffusion_model.video_embeddings_connector.transformer_1d_blocks:
        for last in (block.attn1.to_out[0], block.ff.net[2]):
            for name in ("weight", "bias"):
                setattr(last, name, torch.nn.Parameter(torch.zeros(getattr(last, name).shape), requires_grad=False))
    keys, bindings = [], []
    for word in ("red", "old"):
        read, binding = bind_prompt(clip, f"at noon; a {word} cup, and the van", f"a: a {word} cup\nb: the van")
        ((rows, more),) = encode(clip, read)
        seen = Keys()
        watched = lib.attach(model, lambda info, seen=seen: lib.Session([seen]))
        sample(watched, *given("ltx2", [[rows.clone(), {**more, lib.BINDING: binding}]]), steps=1)
        keys.append(seen.keys)
        bindings.append(binding)
    own, other = (each.phrase("a").rows for each in bindings)
    assert own == other
    assert keys[0].shape[1] == 1024
    differs = (keys[0] - keys[1]).abs().amax((0, 2)).nonzero().flatten().tolist()
    assert differs
    assert set(differs) < set(own)


@pytest.mark.parametrize(("family", "guides"), [("ltx", 0), ("ltx2", 2)])
def test_whatever_takes_the_clip_apart_and_decodes_it(lib, models, family, guides):
    """The run is found by the sampler's own latent, without its sound, and without its guides; frames that the host
    decodes of any of these, in one piece or in tiles, lie under the heat of their own token frames."""
    import comfy.sample
    import numpy as np
    from comfy_extras.nodes_lt import LTXVCropGuides, LTXVSeparateAVLatent

    import nodes
    from matrix_lib.draw.capture import Choice, Look, attention_pictures
    from matrix_lib.hosts.comfy.watching import RUNS, Watch

    RUNS.clear()
    run = given(family, words(lib, family), guides=guides)
    watch = Watch(lib.RecorderConfig(), "", "m")
    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(run.latent, 3)
        out = comfy.sample.sample(
            watch.attach(models(family)), noise, 1, 6.0, "euler", "simple", *run, denoise=1.0, disable_pbar=True,
            seed=3, noise_mask=run.mask,
        )  # fmt: skip
        clip = {"samples": out}
        if family == "ltx2":
            clip, sound = LTXVSeparateAVLatent.execute(clip).result
            assert sound["samples"].shape[2] == 7
        cut = LTXVCropGuides.execute(run.positive, run.negative, clip).result[2]
        capture = RUNS.capture(out, watch.key)
        assert all(RUNS.capture(each["samples"], watch.key) is capture for each in (clip, cut))
        with pytest.raises(ValueError, match="something changed it behind the sampler"):
            RUNS.capture(cut["samples"] + 1, watch.key)
        vae, tiles = native_vae(), (64, 16, 16, 8)
        plain, whole = nodes.VAEDecode(), nodes.VAEDecodeTiled()
        decoded = [plain.decode(vae, {"samples": out})[0], whole.decode(vae, clip, *tiles)[0]]
        decoded += [plain.decode(vae, cut)[0], whole.decode(vae, cut, *tiles)[0]]
        for size in (tiles, (512, 64, 64, 8)) if family == "ltx2" else ():  # the host tiles no sound beside a clip
            with pytest.raises((AttributeError, TypeError), match="NestedTensor"):
                whole.decode(vae, {"samples": out}, *size)
    assert [len(frames) for frames in decoded] == [17 + 8 * guides] * 2 + [17] * 2
    assert not torch.equal(decoded[2], decoded[3])  # tiles were blended
    grid, tracks = capture.stream().grid, run.positive[0][1][lib.TRACKS]
    assert grid.shape == LTX_LATENT

    def drawn(frames, tracks=None):
        pictures = attention_pictures(capture, Choice(names="van", layers="1"), frames, tracks, Look(width=96))[2]
        return [np.asarray(each)[:64] for each in pictures]  # without the legend, which counts them

    for frames in decoded[:2] if guides else decoded[3:]:
        pictures = drawn(frames)
        assert len(pictures) == 17
        for frame, moment in ((0, 0), (8, 1), (9, 2)):
            assert np.array_equal(pictures[frame], drawn(frames[frame : frame + 1])[moment]), frame
    outlined = drawn(frames, tracks)
    assert not np.array_equal(outlined, pictures)
    assert np.array_equal(outlined, drawn(frames[:17], tracks))


def test_networks_are_told_apart(lib, comfy):
    from matrix_lib.hosts.comfy.model import backbone_of, grid_of

    for family, name in (("ltx", "ltx"), ("ltx2", "ltx2"), ("ltx20", "ltx2")):
        model = native_model(family, layers=1)
        assert backbone_of(model).name == name
        grid = grid_of(model, (3, 4, 6))
        assert (grid.shape, grid.frame_pixels, grid.pixel_frames) == ((3, 4, 6), (128, 192), 17)


class Keys(Watcher):
    """Keys (H, N, D) of the prompt in the first attention to words."""

    def wants(self, site):
        return site.kind == "cross"

    def observe(self, call, lse):
        row = [each.branch for each in call.rows].index("cond")
        self.keys = call.k[row].clone()


def listen(lib, model, **config):
    """(MODEL whose sound is recorded, list that gets a recorder for each run)."""
    runs = []

    def start(info):
        chosen = lib.RecorderConfig(**{"v2t": False, "v2v": False, "sound": True} | config)
        runs.append(lib.Recorder(chosen, info.spec.name, info.sites, info.grid, info.sigmas))
        return lib.Session([runs[-1]])

    return lib.attach(model, start), runs


@pytest.mark.parametrize("kind", ["no guide", "weak guides"])
def test_whose_sound_it_is(lib, models, kind, tmp_path):
    """Words and instances that each moment of the sound attends to, with guides behind the clip and without."""
    import numpy as np

    from matrix_lib.draw.capture import Choice, shares_chart
    from matrix_lib.io.captures import load_capture, save_capture

    run, model = given("ltx2", words(lib, "ltx2"), **KINDS[kind]), models("ltx2")
    plain = sample(model, *run, **run.options)
    heard, runs = listen(lib, model, v2t=True)
    assert torch.equal(sample(heard, *run, **run.options), plain)
    capture = runs[0].result()
    stream = load_capture(save_capture(capture, tmp_path / "heard.safetensors")).stream()
    carried = run.positive[0][1]
    tracks = carried[lib.TRACKS].to_grid(runs[0].grid, "nearest")
    inside = {name: tracks.maps[i].flatten().nonzero().flatten() for i, name in enumerate(tracks.names)}
    explicit = Explicit({each.name: each.rows for each in carried[lib.BINDING].phrases}, {}, inside=inside)
    explicit.wants = lambda site: site.has_sound
    assert torch.equal(sample(lib.attach(model, lambda info: lib.Session([explicit])), *run, **run.options), plain)
    assert set(stream.maps) == {"v2t", "a2t", "a2v"}
    assert set(stream.on_clip) == {"v2t"}
    assert stream.get("a2t").entities == ("cyclist", "van", "passes")
    assert stream.get("a2v").entities == ("cyclist", "van")
    for name in ("a2t", "a2v"):
        values = stream.get(name).values[..., 0, 0]
        assert values.shape == (2, 2, len(stream.get(name).entities), 7)
        for layer in (0, 1):
            rows = [(out, call.rows) for call, out in explicit.seen[name, layer]]
            want = torch.stack([out[[row.branch for row in each].index("cond")] for out, each in rows])[..., 0, 0]
            assert (values[layer] - want).abs().max() <= 6e-4 * want.max()
    assert stream.get("a2v").over.chance == tuple(len(rows) / 72 for rows in inside.values())
    picture, table = shares_chart(capture, Choice("a2v", layers="1"), 25.0)
    other, _ = shares_chart(capture, Choice("a2v", layers="0"), 25.0)
    assert (np.asarray(picture) != np.asarray(other)).any()
    first = capture.maps("a2v", layer=1, entity="cyclist").flatten()
    assert table.splitlines()[2].startswith(f"| cyclist | {first[0]:.4f} | {first[1]:.4f} |")
    with pytest.raises(ValueError, match="no places in the clip"):
        capture.aas(tracks, "a2v")
    with pytest.raises(ValueError, match="is a map of the clip"):
        shares_chart(capture, Choice("v2t"), 25.0)


def test_models_and_runs_without_sound_are_told(lib, models):
    run = given("ltx", words(lib, "ltx"))
    with pytest.raises(ValueError, match="makes no sound"):
        sample(listen(lib, models("ltx"))[0], *run, steps=1)
    run = given("ltx2", words(lib, "ltx2"), sound=False)
    heard, runs = listen(lib, models("ltx2"), v2t=True)
    sample(heard, *run, steps=1)
    assert "the latent held none" in runs[0].result().meta["notes"][0]
    heard, runs = listen(lib, models("ltx2"))
    sample(heard, *run, steps=1)
    with pytest.raises(ValueError, match="nothing was recorded"):
        runs[0].result()
