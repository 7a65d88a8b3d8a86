"""Which tokens are the clip, for every network of the host: with and without references, poses, subjects and earlier
frames beside it.

Nothing here counts tokens: where the clip stands is found by changing its latents and looking which rows of the first
block's queries change, in the attention calls that really run.
"""

import re
from dataclasses import dataclass, field, replace

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_native import conditioning, latent, native_model, text_rows
from support_wan import CASES, RECIPES, SIZE, Setup, configs, picture, setup, wan_model, wan_vae

pytestmark = pytest.mark.usefixtures("comfy")

WORDS = {"cyclist": (1, 2, 4), "van": (4, 6), "passes": (9,)}
STEPS = 2


@dataclass
class Seen:
    """The attention calls of a network's blocks, as an override and hooks of the test's own see them."""

    calls: list = field(default_factory=list)  # (module path, q, k, mask, sides) with q, k (B, H, N, D)
    at: str = ""

    PATHS = re.compile(r"blocks\.\d+(\.self_attn|\.cross_attn)?|(double|single)_blocks\.\d+")

    def watch(self, model):
        network = model.model.diffusion_model
        names = [name for name, _ in network.named_modules() if self.PATHS.fullmatch(name)]
        inner = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
        self.handles = [network.get_submodule(name).register_forward_pre_hook(self._enter(name)) for name in inner]
        self.handles += [network.get_submodule(name).register_forward_hook(self._leave) for name in inner]
        clone = model.clone()
        clone.model_options["transformer_options"]["optimized_attention_override"] = self.override
        return clone

    def _enter(self, name):
        def enter(module, args):
            self.at = name

        return enter

    def _leave(self, module, args, out):
        self.at = ""

    def override(self, func, q, k, v, heads, mask=None, **kwargs):
        if self.at:
            split = [t if kwargs.get("skip_reshape") else t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k)]
            sides = tuple(kwargs["transformer_options"]["cond_or_uncond"])
            self.calls.append((self.at, *(t.clone() for t in split), mask, sides))
        return func(q, k, v, heads, mask=mask, **kwargs)

    def of(self, kind, side=0):
        """{path: [(q, k, mask) of the batch row of that side]}; of cross-attention the last call of each forward."""
        out = {}
        forwards = sum(path == self.calls[0][0] for path, *_ in self.calls)
        for path, q, k, mask, sides in self.calls:
            if (kind == "cross") == path.endswith("cross_attn"):
                out.setdefault(path, []).append((q, k, mask, sides))
        found = {}
        for path, calls in out.items():
            several = len(calls) // forwards  # a picture is attended to first
            calls = calls[several - 1 :: several]
            found[path] = [
                (q[i * (len(q) // len(sides))], k[i * (len(k) // len(sides))], mask)
                for q, k, mask, sides in calls
                for i, which in enumerate(sides)
                if which == side
            ]
        return found


def run(model, made, noise, steps, cfg, seen, start=None):
    """Samples, with `seen` watching. `start`: the latent, else that of the setup."""
    import comfy.sample

    watched = seen.watch(model)
    try:
        with torch.inference_mode():
            z = made.latent if start is None else start
            return comfy.sample.sample(
                watched,
                noise,
                steps,
                cfg,
                "euler",
                "simple",
                made.positive,
                made.negative,
                z,
                disable_pbar=True,
                seed=1,
            )
    finally:
        for handle in seen.handles:
            handle.remove()


def changed(got, base):
    """Rows of (H, N, D) that differ."""
    return ((got - base).abs().amax((0, 2)) > 1e-5 * base.abs().max()).nonzero()[:, 0].tolist()


def clip_rows(made, patch, together):
    """(F, h * w): for each token of the clip its row in the calls of the first block. `together`: runs in a batch."""
    pt, ph, pw = patch
    noise = torch.randn(made.latent.shape, generator=torch.Generator().manual_seed(4))
    t, h, w = noise.shape[2:]
    frames = [(slice(f, f + pt), slice(None), slice(None)) for f in range(made.front, t, pt)]
    places = [
        (slice(made.front, None), slice(i, i + ph), slice(j, j + pw)) for i in range(0, h, ph) for j in range(0, w, pw)
    ]
    batch = noise.repeat(1 + len(frames) + len(places), 1, 1, 1, 1)
    start = made.latent.repeat(len(batch), 1, 1, 1, 1)
    for row, where in enumerate([*frames, *places], 1):
        batch[(row, slice(None), *where)] += 1.0
        start[(row, slice(None), *where)] += 1.0  # a flow that begins from the clip takes no noise
    queries = []
    for part in range(0, len(batch), together):
        seen, rows = Seen(), slice(part, part + together)
        run(made.model, made, batch[rows], 1, 1.0, seen, start[rows])
        queries += list(seen.calls[0][1])
    found = [set(changed(query, queries[0])) for query in queries[1:]]
    in_frame, in_place = found[: len(frames)], found[len(frames) :]
    given, n = made.given, len(places)
    rows = [[in_frame[f] & in_place[p] for p in range(n)] for f in range(given, len(frames))]
    assert all(len(each) == 1 for frame in rows for each in frame), "every token of the clip is one row"
    assert [len(each) for each in in_frame] == [0] * given + [n] * (len(frames) - given)
    first = torch.tensor([[next(iter(each)) for each in frame] for frame in rows])
    return torch.cat([first[:1] - n * (given - f) for f in range(given)] + [first])  # overwritten frames stand before


def text_start(made, kind):
    """Which key is the prompt's first row: by changing its row 4."""
    noise = torch.randn(made.latent.shape, generator=torch.Generator().manual_seed(4))
    keys = []
    for change in (0.0, 3.0):
        (rows, more), *rest = made.positive
        words = rows.clone()
        words[:, 4] += change
        seen = Seen()
        run(made.model, Setup(made.model, [[words, more], *rest], made.negative, made.latent), noise, 1, 1.0, seen)
        keys.append(next(iter(seen.of(kind).values()))[0][1])
    rows = changed(keys[1], keys[0])
    whole = made.positive[0][0].shape[1]
    assert len(rows) in (1, whole)  # HunyuanVideo's refiner mixes the prompt's rows
    return rows[0] - (4 if len(rows) == 1 else 0)


def probabilities(q, k, mask):
    logits = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask.double().reshape(1, 1, -1)
    return logits.softmax(-1)


def recording(model):
    """(MODEL whose runs are recorded, the recorders)."""
    from matrix_lib.hosts.comfy import attach
    from matrix_lib.instrument.recorder import Recorder, RecorderConfig
    from matrix_lib.instrument.session import Session

    made = []

    def start(info):
        sizes = info.samples * info.prompts
        made.append(Recorder(RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas, sizes))
        return Session([made[-1]])

    return attach.attach(model, start), made


def bound(tracks_of, rows, seed, width=4096, **more):
    """Two CONDITIONINGs, the first with words and tracks."""
    from matrix_lib.core.words import binding
    from matrix_lib.hosts.comfy.run import BINDING, TRACKS

    keys = {BINDING: make_binding(binding, rows, WORDS), TRACKS: tracks_of}
    g = torch.Generator().manual_seed(seed)
    positive, negative = (torch.randn(1, rows, width, generator=g) for _ in range(2))
    return [[positive, {**more, **keys}]], [[negative, dict(more)]]


def agrees(made, cfg, patch=(1, 2, 2), stride=8, together=100):
    """Recorded maps equal the softmax of the calls that ran, at the rows that the clip was found in."""
    from matrix_lib.core.grid import Grid
    from matrix_lib.hosts.comfy.run import TRACKS

    t, h, w = made.latent.shape[2:]
    grid = Grid.from_latent((t - made.front, h, w), patch, 4, stride)
    rows = clip_rows(made, patch, together).flatten()
    joint = not any(name.endswith("cross_attn") for name, _ in made.model.model.diffusion_model.named_modules())
    text = text_start(made, "joint" if joint else "cross")
    noise = torch.randn(made.latent.shape, generator=torch.Generator().manual_seed(8))
    watched, recorders = recording(made.model)
    seen = Seen()
    run(watched, made, noise, STEPS, cfg, seen)
    stream = recorders[0].result().streams[0]
    assert stream.grid.shape == grid.shape, "the grid is the clip's own"
    on_grid = made.positive[0][1][TRACKS].to_grid(grid, "nearest")
    query = {name: on_grid.query(name) for name in on_grid.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    for kind, site in (("v2t", "joint" if joint else "cross"), ("v2v", "self")):
        found = stream.get(kind)
        maps, layers, entities = found.values, found.layers, found.entities
        calls = list(seen.of(site).values())
        assert len(calls) == len(layers) == 2
        for layer, per_step in enumerate(calls):
            assert len(per_step) == STEPS
            for step, (q, k, mask) in enumerate(per_step):
                p = probabilities(q, k, mask)

                def expected(at, p=p, kind=kind):
                    if kind == "v2t":
                        return torch.stack([p[:, at][..., [text + r for r in WORDS[e]]].mean((0, 2)) for e in entities])
                    return torch.stack([p[:, at[query[e]]][..., at].mean((0, 1)) for e in entities])

                want, got = expected(rows), maps[layer, step].flatten(1).double()
                # 2^-11: maps are kept as 16-bit floats
                assert ((got - want).abs() <= want.abs() * 2**-11 + 1e-4 * want.max()).all(), (kind, layer, step)
                moved = expected(rows.roll(1))
                assert (got - moved).abs().max() > 0.01 * want.max(), "one row off would show"


@pytest.mark.parametrize(
    ("name", "recipe", "cfg"),
    [
        pytest.param(name, recipe, cfg, id=f"{name}-{recipe.label}-{cfg:.0f}")
        for name, recipe in CASES
        for cfg in ((1.0,) if recipe.alone else (1.0, 6.0))
    ],
)
def test_wan(name, recipe, cfg):
    from matrix_lib.core.tracks import tracks

    size = recipe.size
    positive, negative = bound(make_tracks(tracks, size["length"], size["height"], size["width"]), 24, 1)
    made = setup(name, recipe, positive, negative)
    stride = made.model.get_model_object("latent_format").spacial_downscale_ratio
    agrees(made, cfg, stride=stride, together=1 if recipe.alone else 100)


def test_infinite_talk_counts_seconds_as_its_sound(comfy):
    """25 frames per second, by what its node puts on the MODEL; the same model without it makes 16, or is SkyReels."""
    from matrix_lib.core.tracks import tracks
    from matrix_lib.hosts.comfy.model import rate_doubt, rate_of

    recipe = next(each for each in RECIPES["WAN21_I2V"] if each.node == "WanInfiniteTalkToVideo")
    positive, negative = bound(make_tracks(tracks, 9, SIZE["height"], SIZE["width"]), 24, 1)
    made, plain = setup("WAN21_I2V", recipe, positive, negative), wan_model("WAN21_I2V")
    assert (rate_of(made.model), rate_doubt(made.model)) == (25, "")
    assert rate_of(plain) == 16
    assert "SkyReels V2" in rate_doubt(plain)
    watched, recorders = recording(made.model)
    run(watched, made, torch.randn(made.latent.shape), 1, 1.0, Seen())
    assert recorders[0].grid.fps == 25


def test_a_further_segment_of_animate_reads_its_own_part_of_the_tracks():
    """It starts with the offset that the node before gave, less the frames that it continues, as its poses do."""
    from comfy.patcher_extension import WrappersMP

    from matrix_lib.core.guidance.dual_clock import DualClockDenoising
    from matrix_lib.core.tracks import tracks
    from matrix_lib.hosts.comfy.steer import steer

    first = next(each for each in RECIPES["WAN22_Animate"] if each.label == "further")
    given = {**first.given, "pose_video": 13, "video_frame_offset": 9}  # 9 frames are made, and 5 of them continued
    whole = make_tracks(tracks, 13, SIZE["height"], SIZE["width"])
    positive, negative = bound(whole.starting(9 - 5), 24, 1)
    made = setup("WAN22_Animate", replace(first, given=given), positive, negative)
    with torch.inference_mode():
        poses = wan_vae().encode(picture(13)[9 - 5 :])
    torch.testing.assert_close(made.positive[0][1]["pose_video_latent"], poses)
    agrees(made, 1.0)
    # dual-clock denoising holds it to the same part of a clip, with noise that stays
    seen = []

    def note(executor, x, timestep, *args, **kwargs):
        seen.append((x[:, :, made.front :].clone(), float(timestep.flatten()[0])))
        return executor(x, timestep, *args, **kwargs)

    held = steer(made.model, DualClockDenoising(0.5, 0.5), tracks=whole.starting(9 - 5), reference={"samples": poses})
    held.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "note", note)
    run(held, made, torch.randn(made.latent.shape), 4, 1.0, Seen())
    clean = made.model.model.process_latent_in(poses)
    first, second = ((x - (1 - sigma) * clean) / sigma for x, sigma in seen[1:3])
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert 0.8 < float(first.std()) < 1.2


OTHERS = [(family, False, cfg) for family in ("cogvideox", "cogvideox15", "hunyuan") for cfg in (1.0, 6.0)]


# The host runs HunyuanVideo's reference in batches of one alone, so not beside a second prediction.
@pytest.mark.parametrize(("family", "reference", "cfg"), [*OTHERS, ("hunyuan", True, 1.0)])
def test_other_families(family, reference, cfg):
    from matrix_lib.core.tracks import tracks
    from matrix_lib.core.words import binding
    from matrix_lib.hosts.comfy.run import BINDING, TRACKS

    rows, size = text_rows(family), (4 if family == "cogvideox15" else 3, 4, 6)
    shape = latent(family, 1, size).shape
    of = make_tracks(tracks, (shape[2] - 1) * 4 + 1, 32, 48)
    more = {"ref_latent": torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(2))} if reference else {}
    keys = {BINDING: make_binding(binding, rows, WORDS), TRACKS: of}
    positive, negative = (conditioning(family, seed, size, **more, **given) for seed, given in ((1, keys), (2, {})))
    z = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    patch = (2 if family == "cogvideox15" else 1, 2, 2)
    agrees(Setup(native_model(family), positive, negative, z), cfg, patch, together=1 if reference else 100)


def networks():
    """Every network of the host's tree that is a Wan network, by class name."""
    import importlib
    import pkgutil

    import comfy.ldm.wan
    from comfy.ldm.wan.model import WanModel

    modules = [
        importlib.import_module(f"comfy.ldm.wan.{each.name}") for each in pkgutil.iter_modules(comfy.ldm.wan.__path__)
    ]
    found = (value for module in modules for value in vars(module).values() if isinstance(value, type))
    return {cls.__name__: cls for cls in found if issubclass(cls, WanModel)}


def test_every_network_of_the_host_is_measured_here_or_refused_by_name(comfy):
    from matrix_lib.hosts.comfy import attach
    from matrix_lib.hosts.comfy.model import rate_of

    rates = {"WAN22_Animate": 30, "WAN22_WanDancer": 30, "WAN21_HuMo": 25, "WAN22_T2V": 24}  # this is 5B
    measured = set()
    for name in configs():
        model = wan_model(name)
        assert rate_of(model) == rates.get(name, 16), name
        network = type(model.model.diffusion_model).__name__
        if name in RECIPES:
            measured.add(network)
            attach.attach(model, lambda info: None)
            continue
        with pytest.raises(
            ValueError, match=rf"{network} is a Wan network.*Watching and steering attention works with"
        ):
            attach.attach(model, lambda info: None)
    from matrix_lib.hosts.comfy.families.wan import FAMILY

    for name, cls in networks().items():
        if name not in measured:
            with pytest.raises(ValueError, match=f"{name} is a Wan network"):
                FAMILY.check(cls.__new__(cls))
    assert set(RECIPES) <= set(configs()), "a recipe of a model that this host does not have"


def test_a_class_that_lays_out_its_own_tokens_is_refused_and_one_that_does_not_is_its_base(comfy):
    from comfy.ldm.wan.model import WanModel

    from matrix_lib.hosts.comfy import attach

    class Renamed(WanModel):
        extra = 1

    class Other(Renamed):
        def forward_orig(self, *args, **kwargs):
            return super().forward_orig(*args, **kwargs)

    model = wan_model("WAN21_T2V")
    model.model.diffusion_model.__class__ = Renamed
    attach.attach(model, lambda info: None)
    model.model.diffusion_model.__class__ = Other
    with pytest.raises(ValueError, match="Other is a Wan network whose attention cannot be followed: it is not known"):
        attach.attach(model, lambda info: None)


def vace(recipe=1):
    from matrix_lib.core.tracks import tracks

    positive, negative = bound(make_tracks(tracks, SIZE["length"], SIZE["height"], SIZE["width"]), 24, 1)
    return setup("WAN21_Vace", RECIPES["WAN21_Vace"][recipe], positive, negative)


def sampled(made, cfg=6.0):
    noise = torch.randn(made.latent.shape, generator=torch.Generator().manual_seed(8))
    watched, recorders = recording(made.model)
    out = run(watched, made, noise, STEPS, cfg, Seen())
    return out, recorders


def test_conditionings_that_disagree_about_the_reference_are_refused():
    made = vace()
    (words, more), *_ = made.negative
    (frames,), (mask,) = more["vace_frames"], more["vace_mask"]
    with_more = torch.ones_like(mask)  # here the first frame is one to make
    negative = [[words, {**more, "vace_frames": [frames], "vace_mask": [with_more]}]]
    with pytest.raises(ValueError, match=r"disagree about how many reference frames stand in front.*\(0, 1 latent"):
        sampled(replace(made, negative=negative))


def test_tracks_are_of_the_clip_without_its_references():
    from matrix_lib.core.tracks import tracks
    from matrix_lib.hosts.comfy.run import TRACKS

    made = vace()
    made.positive[0][1][TRACKS] = make_tracks(tracks, 5, SIZE["height"], SIZE["width"])
    with pytest.raises(ValueError, match="the tracks have 5 frames, but the video has 9"):
        sampled(made)


def test_a_sequence_that_something_else_lengthens_is_refused(comfy):
    made = vace()
    block = made.model.model.diffusion_model.blocks[0].self_attn
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: (
            (torch.cat([args[0], args[0][:, :1]], 1), torch.cat([args[1], args[1][:, :1]], 1)),
            kwargs,
        ),
        with_kwargs=True,
    )
    try:
        with pytest.raises(
            ValueError, match=r"blocks.0.self_attn attends with 25 tokens to 25, where 24 \(6 before the clip"
        ):
            sampled(made)
    finally:
        handle.remove()


@pytest.mark.parametrize("anchored", [True, False])
def test_windows_over_a_latent_with_references(comfy, anchored):
    """Windows count the frames of the latent, and a later one shows the reference or does not; maps are of the clip."""
    import comfy.context_windows as host

    from matrix_lib.hosts.comfy import attach
    from matrix_lib.instrument.session import Session

    made, seen = vace(), set()

    class Look:
        def wants(self, site):
            return site.kind == "self"

        def step_done(self, step, denoised):
            seen.add(tuple(denoised.shape))

        def settle(self, site, whole):
            assert whole

        def note(self, text):
            raise AssertionError(text)

        def observe(self, call, lse):
            seen.add((call.video_q, call.video_k, call.grid.shape, call.frame_index, call.q.shape[2]))

    watched = attach.attach(made.model, lambda info: Session([Look()]))
    watched.model_options["context_handler"] = host.IndexListContextHandler(
        host.get_matching_context_schedule("standard_static"),
        host.get_matching_fuse_method("pyramid"),
        context_length=3,
        context_overlap=2,
        dim=2,
        causal_window_fix=anchored,
    )
    run(watched, made, torch.randn(made.latent.shape), 1, 1.0, Seen())
    first = ((6, 12), (6, 12), (2, 2, 3), (0, 1), 18)
    later = ((6, 18), (6, 18), (3, 2, 3), (0, 1, 2), 24) if anchored else ((0, 18), (0, 18), (3, 2, 3), (0, 1, 2), 18)
    assert seen == {first, later, (1, 16, 3, 4, 6)}


def test_what_acts_before_steps_leaves_references_alone():
    """Both clocks hold the whole clip; the reference frame in front of it stays what the sampler made of it."""
    import comfy.sample

    from matrix_lib import DualClockDenoising
    from matrix_lib.hosts.comfy.steer import steer

    made = vace()
    given = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    held = steer(made.model, DualClockDenoising(1.0, 1.0), reference={"samples": given})
    noise = torch.randn(made.latent.shape, generator=torch.Generator().manual_seed(8))
    states = []
    for model in (made.model, held):
        with torch.inference_mode():
            comfy.sample.sample(
                model, noise, 2, 1.0, "euler", "simple", made.positive, made.negative, made.latent, disable_pbar=True,
                callback=lambda step, x0, x, total: states.append(x.clone()),
            )  # fmt: skip
    plain, steered = states[:2], states[2:]
    assert torch.equal(plain[0][:, :, :1], steered[0][:, :, :1])
    assert not torch.allclose(plain[0][:, :, 1:], steered[0][:, :, 1:])


def test_mask_conditions_begin_with_the_clip():
    from matrix_lib.core.tracks import tracks
    from matrix_lib.hosts.comfy.mask_condition import behind_references, target_mask

    of = make_tracks(tracks, 1, SIZE["height"], SIZE["width"])
    for recipe, front in ((0, 0), (1, 1)):
        made = vace(recipe)
        mask = behind_references(
            lambda latent: target_mask(of, ["van"], latent), made.model, (made.positive, made.negative), made.latent
        )
        assert mask.channels.shape[2:] == made.latent.shape[2:]
        assert mask.channels.flatten(3).any(-1).flatten().nonzero().flatten().tolist() == [front]
