"""Watching tiny random native models of every family inside the real host, against an explicit float64 softmax."""

import gc
import random

import pytest
import torch
from support_attention import Explicit, Watcher, make_binding, make_tracks
from support_counts import SEED, count
from support_native import FAMILIES, REFERENCES, SKYREELS, conditioning, latent, native_model, pixels, sample, text_rows

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def models(comfy):
    made = {}

    def get(family):
        if family not in made:
            made[family] = native_model(family)
        return made[family]

    return get


class Tools:
    """The library's own modules; imported once the host is up."""

    def __init__(self):
        from matrix_lib.core.tracks import tracks
        from matrix_lib.core.words import binding
        from matrix_lib.hosts.comfy import attach, run
        from matrix_lib.hosts.comfy.model import sites_of
        from matrix_lib.instrument.recorder import Recorder, RecorderConfig
        from matrix_lib.instrument.session import Session

        self.binding, self.tracks, self.host, self.run = binding, tracks, attach, run
        self.Recorder, self.Config, self.Session, self.sites_of = Recorder, RecorderConfig, Session, sites_of

    def words(self, family, rows=None):
        return make_binding(self.binding, text_rows(family), rows)

    def bound(self, family, seed, words=None, size=None, **more):
        tracks = make_tracks(self.tracks, *pixels(family, size))
        keys = {self.run.BINDING: words or self.words(family), self.run.TRACKS: tracks}
        return conditioning(family, seed, size, **keys, **more)

    def recording(self, model, **config):
        """(attached model, list that fills with a recorder per run)."""
        runs = []

        def start(info):
            recorder = self.Recorder(
                self.Config(**config), info.spec.name, info.sites, info.grid, info.sigmas, info.samples * info.prompts
            )
            runs.append(recorder)
            return self.Session([recorder])

        return self.host.attach(model, start), runs

    def observing(self, model, observer):
        return self.host.attach(model, lambda info: self.Session([observer]))


@pytest.fixture(scope="module")
def tools(comfy):
    return Tools()


def clean(model):
    """Nothing of ours is on the shared module or the patcher."""
    module = model.model.diffusion_model
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    options = model.model_options.get("transformer_options", {})
    return hooks == 0 and "optimized_attention_override" not in options and "matrix" not in options


@pytest.mark.parametrize(
    ("family", "sampler"),
    [*((family, "euler") for family in (*FAMILIES, REFERENCES, SKYREELS)), ("cogvideox", "heun"), ("hunyuan", "heun")],
)
def test_maps_equal_the_explicit_softmax_and_latents_do_not_change(tools, models, family, sampler):
    model, z = models(family), latent(family)
    pos, neg = tools.bound(family, 1), conditioning(family, 2)
    plain = sample(model, pos, neg, z, sampler=sampler)
    joint = any(site.has_t2v for site in tools.sites_of(model))
    heard = any(site.has_a2t for site in tools.sites_of(model))
    watched, runs = tools.recording(model, t2v=joint, t2t=joint, sound=heard)
    assert torch.equal(sample(watched, pos, neg, z, sampler=sampler), plain)
    assert torch.equal(sample(model, pos, neg, z, sampler=sampler), plain)
    assert clean(model)
    capture = runs[0].result()
    stream = capture.streams[0]
    binding = pos[0][1][tools.run.BINDING]
    on_grid = pos[0][1][tools.run.TRACKS].to_grid(stream.grid, "nearest")
    query = {name: on_grid.query(name) for name in on_grid.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    inside = {name: on_grid.maps[at].flatten().nonzero().flatten() for at, name in enumerate(on_grid.names)}
    explicit = Explicit({p.name: p.rows for p in binding.phrases}, query, looks=True, inside=inside)
    assert torch.equal(sample(tools.observing(model, explicit), pos, neg, z, sampler=sampler), plain)
    assert [step.calls for step in capture.steps] == ([1, 1] if sampler == "euler" else [1, 2])  # heun looks ahead
    assert set(stream.maps) == {"v2t", "v2v", *(("t2v", "t2t") if joint else ()), *(("a2t", "a2v") if heard else ())}
    for kind in stream.maps:
        maps, layers = stream.get(kind).values, stream.get(kind).layers
        assert set(layers) == {layer for name, layer in explicit.seen if name == kind} == {0, 1}
        for place, layer in enumerate(layers):
            for step in range(2):
                calls = [
                    out[i]
                    for call, out in explicit.seen[kind, layer]
                    for i, row in enumerate(call.rows)
                    if row.branch == "cond" and call.step == step
                ]
                want = torch.stack(calls).mean(0)
                got = maps[place, step].double()
                assert (got - want).abs().max() <= 6e-4 * want.max(), (kind, layer, step)


@pytest.mark.parametrize("family", FAMILIES)
def test_live_reads_are_exact_in_float32(tools, models, family):
    from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows

    words, tokens = {"a": (1, 2, 4), "b": (4, 6)}, {"a": torch.tensor([0, 1, 7])}
    explicit, errors = Explicit(words, tokens), []

    class Check(Watcher):
        wants, step_done = explicit.wants, explicit.step_done

        def observe(self, call, lse):
            explicit.observe(call, lse)
            f, n = call.video_q
            offset = call.text_k[0] if call.text_k else 0
            if call.site.has_v2t:
                want = explicit.seen["v2t", call.site.layer][-1][1].flatten(2)
                pool = Pool.mean_of({name: [offset + r for r in at] for name, at in words.items()})
                part = None if lse is None else lse[:, :, f : f + n]
                got = pooled_columns(call.q[:, :, f : f + n], call.k, pool, call.scale, lse=part, mask=call.mask)
                errors.append(float((got - want).abs().max() / want.max()))
            if call.site.has_v2v:
                want = explicit.seen["v2v", call.site.layer][-1][1].flatten(2)
                pool = Pool.mean_of({name: f + at for name, at in tokens.items()})
                got = pooled_rows(call.q, call.k, pool, call.scale, lse=lse, mask=call.mask, keys=call.video_k)
                errors.append(float((got - want).abs().max() / want.max()))

    mask = {}
    if family == "hunyuan":
        keep = torch.ones(1, 40, dtype=torch.long)
        keep[:, 30:] = 0
        mask["attention_mask"] = keep
    pos, neg = tools.bound(family, 1, **mask), conditioning(family, 2)
    sample(tools.observing(models(family), Check()), pos, neg, latent(family))
    assert len(errors) >= 8
    assert max(errors) <= 1e-4


@pytest.mark.parametrize(
    ("family", "size"),
    [("cogvideox", (3, 7, 11)), ("wan_t2v", (3, 7, 11)), ("wan_t2v", (1, 8, 8)), ("hunyuan", (5, 6, 10))],
)
def test_odd_sizes(tools, models, family, size):
    pos, neg, z = tools.bound(family, 1, size=size), conditioning(family, 2, size), latent(family, 1, size)
    watched, runs = tools.recording(models(family))
    assert torch.equal(sample(watched, pos, neg, z), sample(models(family), pos, neg, z))
    stream = runs[0].result().streams[0]
    assert stream.grid.shape == (size[0], -(-size[1] // 2), -(-size[2] // 2))
    assert stream.v2t.isfinite().all()
    assert stream.v2t.float().sum() > 0


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
def test_two_positives_and_a_batch_of_two_never_mix(tools, models, family):
    one, two = tools.words(family), tools.words(family, {"cyclist": (20, 21), "van": (30,), "passes": (11, 12)})
    a, b = tools.bound(family, 1, one), tools.bound(family, 5, two)
    neg, z = conditioning(family, 2), latent(family, 2)
    watched, runs = tools.recording(models(family))
    sample(watched, a + b, neg, z, steps=1)
    together = {s.key: s for s in runs[0].result().streams}
    assert set(together) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for ordinal, pos in enumerate((a, b)):
        watched, runs = tools.recording(models(family))
        sample(watched, pos, neg, z, steps=1)
        for s in runs[0].result().streams:
            want, got = s.v2t.float(), together[ordinal, s.key[1]].v2t.float()
            assert (got - want).abs().max() <= 2e-3 * want.max()
            assert together[ordinal, s.key[1]].binding is pos[0][1][tools.run.BINDING]
    assert not torch.equal(together[0, 0].v2t, together[0, 1].v2t), "two samples have noise of their own"


def test_cfg_one_and_conditionings_of_different_length(tools, models):
    family = "hunyuan"
    pos = tools.bound(family, 1)
    short = conditioning(family, 2, rows=23)
    for cfg in (1.0, 6.0):
        watched, runs = tools.recording(models(family))
        assert torch.equal(
            sample(watched, pos, short, latent(family), cfg=cfg),
            sample(models(family), pos, short, latent(family), cfg=cfg),
        )
        assert [s.calls for s in runs[0].result().steps] == [1, 1]


def test_a_prompt_that_the_host_repeats_counts_all_its_copies(tools, models):
    """A positive of 113 rows beside a negative of 226 comes twice in a row into one batch."""
    family, length = "cogvideox", 113
    words = make_binding(tools.binding, length)
    pos = tools.bound(family, 1, words, rows=length)
    neg = conditioning(family, 2)
    watched, runs = tools.recording(models(family))
    sample(watched, pos, neg, latent(family), steps=1)
    rows = {p.name: (*p.rows, *(r + length for r in p.rows)) for p in words.phrases}
    explicit = Explicit(rows, {"x": torch.tensor([0])})
    sample(tools.observing(models(family), explicit), pos, neg, latent(family), steps=1)
    ((call, maps),) = explicit.seen["v2t", 0]
    assert call.text_k == (0, 226), "the host did repeat it"
    want = 2 * maps[[row.branch for row in call.rows].index("cond")]
    got = runs[0].result().streams[0].v2t[0, 0]
    assert (got - want).abs().max() <= 6e-4 * want.max()


def test_context_windows_fill_the_whole_clip(tools, models, comfy):
    import comfy.context_windows as windows

    family, size = "wan_t2v", (9, 8, 12)
    model = models(family).clone()
    model.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule("standard_static"),
        windows.get_matching_fuse_method("pyramid"),
        context_length=4,
        context_overlap=1,
        dim=2,
    )
    pos, neg, z = tools.bound(family, 1, size=size), conditioning(family, 2, size), latent(family, 1, size)
    plain = sample(model, pos, neg, z, steps=1)
    seen = []

    class Frames(Watcher):
        def wants(self, site):
            return site.layer == 0

        def observe(self, call, lse):
            seen.append((call.grid.frames, call.frame_index))

    sample(tools.observing(model, Frames()), pos, neg, z, steps=1)
    assert {f for _, index in seen for f in index} == set(range(9))
    assert all(len(index) == frames for frames, index in seen)
    assert any(index[0] == 2 for _, index in seen), "a later window brings its causal anchor frame along"
    watched, runs = tools.recording(model)
    assert torch.equal(sample(watched, pos, neg, z, steps=1), plain)
    stream = runs[0].result().streams[0]
    assert stream.grid.frames == 9
    assert (stream.v2t.float().sum((-1, -2)) > 0).all(), "every frame of the clip has video-to-text maps"
    first = stream.v2v.float().sum((-1, -2))[0, 0, 0]
    assert (first[:4] > 0).all()
    assert (first[4:] == 0).all(), "windows without the query frame have no video-to-video row"


class Stop(BaseException):
    """Like the host's interrupt: no Exception."""


def failing(tools, model, error, layer=1):
    class Fails(Watcher):
        def observe(self, call, lse):
            if call.site.layer == layer:
                raise error

    return tools.observing(model, Fails())


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_and_interrupts_leave_the_model_untouched(tools, models, family):
    model, z = models(family), latent(family)
    pos, neg = tools.bound(family, 1), conditioning(family, 2)
    plain = sample(model, pos, neg, z, steps=1)
    for error in (ValueError("x"), Stop()):
        with pytest.raises(type(error)):
            sample(failing(tools, model, error), pos, neg, z, steps=1)
        assert clean(model)
    assert torch.equal(sample(model, pos, neg, z, steps=1), plain)


def test_beside_another_pack_that_owns_the_override_slot(tools, models):
    family, count = "wan_i2v", []

    def other(func, *args, **kwargs):
        count.append(1)
        return func(*args, **kwargs) * 0.5

    theirs = models(family).clone()
    theirs.model_options["transformer_options"]["optimized_attention_override"] = other
    pos, neg, z = tools.bound(family, 1), conditioning(family, 2), latent(family)
    want = sample(theirs, pos, neg, z)
    calls = len(count)
    watched, runs = tools.recording(theirs)
    assert torch.equal(sample(watched, pos, neg, z), want)
    assert len(count) == 2 * calls
    assert runs[0].result().streams[0].v2t.float().sum() > 0


def test_an_unknown_model_and_a_foreign_binding_are_refused(tools, models):
    class Other:
        model = type("M", (), {"diffusion_model": torch.nn.Linear(2, 2)})()

    with pytest.raises(ValueError, match="Known: CogVideoX, Wan, HunyuanVideo"):
        tools.host.attach(Other(), lambda info: None)
    family = "hunyuan"
    long = make_binding(tools.binding, 400)
    watched, _ = tools.recording(models(family))
    with pytest.raises(ValueError, match="400 rows.*sees 40"):
        sample(watched, tools.bound(family, 1, long), conditioning(family, 2), latent(family))
    watched, runs = tools.recording(models(family))
    sample(watched, conditioning(family, 1), conditioning(family, 2), latent(family), steps=1)
    with pytest.raises(ValueError, match="MatrixBindPrompt"):
        runs[0].result()


@pytest.mark.soak
def test_random_runs_leak_nothing(tools, models):
    """Watched, nested, failing, interrupted and plain runs in any order: same latents, nothing left over."""
    rng = random.Random(4 + SEED)
    family = "cogvideox"
    model, z = models(family), latent(family, 1, (2, 4, 4))
    pos, neg = tools.bound(family, 1, size=(2, 4, 4)), conditioning(family, 2, (2, 4, 4))
    plain = sample(model, pos, neg, z, steps=1)

    def tensors():
        gc.collect()
        return sum(1 for o in gc.get_objects() if type(o) is torch.Tensor)

    def once(kind):
        if kind == "plain":
            assert torch.equal(sample(model, pos, neg, z, steps=1), plain)
        elif kind == "watched":
            watched, runs = tools.recording(model)
            assert torch.equal(sample(watched, pos, neg, z, steps=1), plain)
            runs[0].result()
        elif kind == "nested":
            watched, _ = tools.recording(model)
            watched, runs = tools.recording(watched, layers=(1,))
            assert torch.equal(sample(watched, pos, neg, z, steps=1), plain)
            assert runs[0].result().streams[0].layers_v2t == (1,)
        elif kind == "other pack":
            theirs = model.clone()
            override = theirs.model_options["transformer_options"]
            override["optimized_attention_override"] = lambda f, *a, **k: f(*a, **k)
            watched, _ = tools.recording(theirs)
            assert torch.equal(sample(watched, pos, neg, z, steps=1), plain)
        elif kind == "attach fails":
            watched, _ = tools.recording(model, layers=(99,))
            with pytest.raises(ValueError, match="99"):
                sample(watched, pos, neg, z, steps=1)
        else:
            error = ValueError("x") if kind == "error" else Stop()
            with pytest.raises(type(error)):
                sample(failing(tools, model, error, rng.randrange(2)), pos, neg, z, steps=1)

    kinds = ["plain", "watched", "nested", "other pack", "attach fails", "error", "interrupt"]
    for kind in kinds:
        once(kind)
    before = tensors()
    for _ in range(count(70, soak=200)):
        once(rng.choice(kinds))
        assert clean(model)
    assert tensors() <= before + 5
    once("plain")
