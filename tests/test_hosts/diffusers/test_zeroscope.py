"""Steering a tiny random ZeroScope U-Net: every attention against dense references, and its own pipeline."""

import diffusers
import pytest
import torch
from support_attention import make_binding, make_tracks
from support_models import randomize

from matrix_lib.core.attention.matching import match_distribution
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.published import PEEKABOO_SITES, published
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.scene import GridScene
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.layers import Layers
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import backbone_of, watch
from matrix_lib.hosts.diffusers.latents import encode_clip
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.hosts.diffusers.unet import find_unet_sites

FRAMES, H, W, TEXT = 4, 9, 12, 12  # latent: the second resolution has 5 x 6 places
TRACKS = make_tracks(tracks_module, FRAMES, 8 * H, 8 * W)
WORDS = make_binding(binding_module, TEXT)


def make_unet():
    torch.manual_seed(0)
    blocks = ("CrossAttnDownBlock3D", "DownBlock3D"), ("UpBlock3D", "CrossAttnUpBlock3D")
    unet = diffusers.UNet3DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, down_block_types=blocks[0],
        up_block_types=blocks[1], cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    return randomize(unet).eval()


@pytest.fixture(scope="module")
def unet():
    return make_unet()


def run(unet, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, text = torch.randn(2, 4, FRAMES, H, W, generator=g), torch.randn(2, TEXT, 32, generator=g)
    with torch.no_grad():
        return unet(x, 7, text).sample


def test_sites(unet):
    sites = [site for _, site in find_unet_sites(unet)]
    assert [s.kind for s in sites if s.layer == 0] == ["temporal", "temporal"]
    assert [s.kind for s in sites if s.layer == 1] == ["spatial", "cross", "temporal", "temporal"]
    order = [s.name.split(".")[0] for s in sites]
    assert order == sorted(order, key=["transformer_in", "down_blocks", "mid_block", "up_blocks"].index)
    assert max(s.layer for s in sites) == 4
    assert backbone_of(unet).name == "zeroscope"


def watched(unet, taken):
    """Records q, k, v and the output of every attention call, by module name."""
    handles = []
    for module, site in find_unet_sites(unet):

        def hook(mod, args, given, out, site=site):
            x = args[0] if args else given["hidden_states"]
            other = given.get("encoder_hidden_states")
            split = lambda t: t.unflatten(-1, (mod.heads, -1)).transpose(1, 2).double()  # noqa: E731
            context = x if other is None else other
            q, k, v = split(mod.to_q(x)), split(mod.to_k(context)), split(mod.to_v(context))
            taken.append((site, mod, q, k, v, out.double()))

        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    return handles


def pair_bias(guide, grid_scene, words, kind, at):
    """Bias of every query and key of one frame (space, words) or one place (time), by the rules' own words."""
    names = grid_scene.names
    inside = grid_scene.inside.flatten(2)  # (E, F, P)
    who = inside[:, :, at] if kind == "temporal" else inside[:, at]  # (E, n)
    n = who.shape[1]
    if kind == "cross":
        bias = torch.zeros(n, TEXT, dtype=torch.double)
        owners = {}
        for phrase in words.phrases if words is not None else ():
            mine = {phrase.name} if phrase.role != "verb" else {phrase.subject, phrase.object}
            for row in phrase.rows:
                owners.setdefault(row, set()).update(mine)
        for i in range(n):
            here = {name for e, name in enumerate(names) if who[e, i]}
            own = any(here & owner for owner in owners.values())
            for row in range(TEXT):
                held = bool(here & owners.get(row, set()))
                if isinstance(guide, RegionBias):
                    bias[i, row] = (guide.words_up if held else -guide.words_down) if row in owners else 0.0
                elif words is not None:
                    keep = (held if row in owners else not own) and (guide.begin or row > 0)
                    bias[i, row] = 0.0 if keep else -torch.inf
        return bias
    shared = torch.einsum("ei,ej->ij", who.double(), who.double()) > 0
    empty = ~who.any(0)
    if isinstance(guide, RegionBias):
        any_ = who.any(0)[:, None].double()
        return torch.where(shared, guide.track_up, -guide.track_down * any_)
    return torch.where(shared | (empty[:, None] & empty[None]), 0.0, -torch.inf).double()


GUIDES = [
    RegionBias(2.0, 3.0, 1.5, 0.5, branches="both"),
    Partition(5, match=None),
    Partition(5, match="channel"),
    Partition(5, match="global"),
    Partition(5, match=None, layers=PEEKABOO_SITES, begin=False),
]


@pytest.mark.parametrize("guide", GUIDES, ids=["bias", "partition", "matched", "matched globally", "peekaboo"])
def test_every_attention_equals_the_dense_reference(unet, guide):
    taken = []
    handles = watched(unet, taken)
    with steer(unet, guide, WORDS, TRACKS, steps=1):
        out = run(unet)
    for handle in handles:
        handle.remove()
    assert out.isfinite().all()
    seen = set()
    for site, mod, q, k, v, got in taken:
        level = (H, W) if q.shape[0 if site.kind == "temporal" else 2] in (2 * H * W, H * W) else (5, 6)
        stride = 8 if level == (H, W) else 16
        grid_scene = GridScene(Grid(FRAMES, *level, (1, 1, 1), 1, stride), TRACKS, None)
        seen.add((site.kind, level))
        want = torch.zeros_like(q)
        for n in range(q.shape[0]):
            per = q.shape[0] // 2
            b, at = n // per, n % per
            bias = pair_bias(guide, grid_scene, WORDS if b == 1 else None, site.kind, at)
            if (site.kind == "cross" and b == 0) or not guide.layers.names(site):
                bias = torch.zeros_like(bias)
            logits = q[n] @ k[n].transpose(-1, -2) * q.shape[-1] ** -0.5
            plain, bent = (p.softmax(-1) @ v[n] for p in (logits, logits + bias))
            want[n] = bent
            if isinstance(guide, Partition) and guide.match is not None and bias.any():
                want[n] = match_distribution(bent[None], plain[None], guide.match)[0]
        want = mod.to_out[0].double()(want.transpose(1, 2).flatten(2))
        mod.to_out[0].float()
        error, size = (got - want).abs(), want.abs().max()
        if isinstance(guide, Partition) and guide.match is not None:  # where values are nearly equal, ranks may swap
            assert error.median() <= 1e-5 * size, site.name
            assert error.max() <= 1e-2 * size, site.name
        else:
            assert error.max() <= 1e-5 * size, site.name
    assert seen == {(kind, level) for kind in ("spatial", "cross", "temporal") for level in ((H, W), (5, 6))}


def test_the_sites_of_peekaboo(unet):
    """30 of the 66 attentions of a U-Net that is built as ZeroScope's; by name in `steer`, with what is published."""
    whole = diffusers.UNet3DConditionModel(
        block_out_channels=(8, 8, 8, 8), cross_attention_dim=8, attention_head_dim=8, norm_num_groups=4
    )
    sites = [site for _, site in find_unet_sites(whole)]
    chosen = [site for site in sites if PEEKABOO_SITES.names(site)]
    assert (len(sites), len(chosen)) == (66, 30)
    assert {site.name.split(".")[0] for site in chosen} == {"mid_block", "up_blocks"}
    assert sum(site.kind == "temporal" for site in chosen) == 10
    assert all(site.name.endswith("attn1") for site in chosen if site.kind == "temporal")
    with steer(unet, "ivg_da_masks", WORDS, TRACKS, steps=1) as editors:
        named = run(unet)
    assert editors[0].guidance == published("ivg_da_masks")[0]
    own = Partition(4, "channel", layers=PEEKABOO_SITES, begin=False)
    with steer(unet, own, WORDS, TRACKS, steps=1):
        assert torch.equal(run(unet), named)
    with pytest.raises(ValueError, match="no guidance called 'ivg'; there are peekaboo_masks, ivg_da_masks"):
        steer(unet, "ivg", WORDS, TRACKS).__enter__()
    with pytest.raises(ValueError, match="matches no attention of this model"):
        steer(unet, Partition(layers=Layers(sites="blocks")), WORDS, TRACKS).__enter__()
    first = make_binding(binding_module, TEXT, {"cyclist": (0, 4, 5), "van": (7,), "passes": (9,)})
    with pytest.raises(ValueError, match="the first row of this prompt is a word"):
        steer(unet, own, first, TRACKS).__enter__()


def test_modes_steps_and_layers(unet):
    plain = run(unet)
    off = Schedule(((0.0, 0.0),))
    idle = [
        RegionBias(0, 0, 0, 0),
        RegionBias(schedule=off),
        Partition(0),
        Perturbation(scale=0),
        Partition(schedule=off),
    ]
    with steer(unet, idle, WORDS, TRACKS):
        assert torch.equal(run(unet), plain)
    with steer(unet, RegionBias(layers=Layers((), ())), WORDS, TRACKS):
        assert torch.equal(run(unet), plain)
    outs = [plain]
    modes = [
        RegionBias(), RegionBias(soft=True, branches="both"), Partition(1), Partition(1, branches="cond"),
        Perturbation("both"), Perturbation("words", bound=True), Perturbation("tracks", bound=True),
        Partition(1, layers=Layers((2,), (2,))), RegionBias(layers=Layers((), (0,))),
    ]  # fmt: skip
    for guide in (*modes, modes):
        with steer(unet, guide, WORDS, TRACKS, steps=1) as editors:
            out = run(unet)
        assert out.isfinite().all()
        assert not any(torch.equal(out, other) for other in outs), guide
        outs.append(out)
        if isinstance(guide, Partition):
            (found,) = editors[0].variances()
            assert found.matched == pytest.approx(found.unmasked, rel=1e-4)
    assert torch.equal(run(unet), plain)
    assert not unet._forward_hooks
    assert not unet._forward_pre_hooks


def test_awkward_tracks(unet):
    dot = torch.zeros(FRAMES, 8 * H, 8 * W)
    dot[:, 40, 40] = 1
    leaves, blinks, over = torch.zeros_like(dot), torch.zeros_like(dot), torch.zeros_like(dot)
    leaves[0, :, :20] = 1
    blinks[::2, :30] = 1
    over[:, :, :50] = 1
    make = tracks_module.MaskTracks.from_masks
    for tracks in (
        make({"cyclist": dot, "van": over}),
        make({"cyclist": leaves, "van": over}),
        make({"cyclist": blinks, "van": dot}),
        make({"cyclist": over, "van": torch.ones_like(dot)}),
        make({"cyclist": torch.zeros_like(dot), "van": dot}, allow_empty=True),
        make({"cyclist": over[:1], "van": dot[:1]}),
    ):
        with steer(unet, [RegionBias(branches="both"), Partition(1), Perturbation(bound=True)], WORDS, tracks, steps=1):
            assert run(unet).isfinite().all()


@pytest.mark.parametrize(("name", "cfg"), [("ddim", 6.0), ("ddim", 1.0), ("dpm++", 6.0), ("euler", 6.0)])
def test_the_pipeline_with_everything(unet, name, cfg):
    schedulers = {
        "ddim": diffusers.DDIMScheduler, "dpm++": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
    }  # fmt: skip
    pipe = diffusers.TextToVideoSDPipeline(
        vae=diffusers.AutoencoderKL(
            latent_channels=4, block_out_channels=(8,) * 4, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=None, tokenizer=None, unet=unet, scheduler=schedulers[name](clip_sample=False)
        if name == "ddim" else schedulers[name](),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(1)
    words = torch.randn(2, TEXT, 32, generator=g)

    def video():
        return pipe(
            prompt_embeds=words[:1], negative_prompt_embeds=words[1:], num_frames=FRAMES, height=8 * H, width=8 * W,
            num_inference_steps=3, guidance_scale=cfg, output_type="latent", generator=torch.Generator().manual_seed(2),
        ).frames  # fmt: skip

    plain = video()
    with steer(pipe, [Partition(0), IntrinsicDenoising(0)], WORDS, TRACKS):
        assert torch.equal(video(), plain)
    with steer(pipe, IntrinsicDenoising(), WORDS, TRACKS) as (refiner,):
        alone = video()
    assert alone.isfinite().all()
    assert not torch.equal(alone, plain)
    assert [at.step for at in refiner.taus()] == [0, 1, 2]
    with steer(pipe, [Partition(1), RegionBias(), IntrinsicDenoising(1)], WORDS, TRACKS) as acting:
        out = video()
    assert out.isfinite().all()
    assert not torch.equal(out, alone)
    assert [at.step for at in acting[0].variances()] == [0]
    clip = torch.randint(0, 256, (FRAMES, 8 * H, 8 * W, 3), generator=g, dtype=torch.uint8)
    reference = encode_clip(pipe, clip)
    assert reference.shape == (4, FRAMES, H, W)
    with torch.no_grad():
        third = pipe.vae.encode(clip[2].permute(2, 0, 1)[None].div(127.5).sub(1)).latent_dist.mode()[0]
    torch.testing.assert_close(reference[:, 2], third * pipe.vae.config.scaling_factor, rtol=1e-4, atol=1e-4)
    with steer(pipe, DualClockDenoising(1, 1), WORDS, TRACKS, reference=reference):
        held = video()
    assert (held - reference).std() < 0.7 * (plain - reference).std(), "held to the last step"
    assert torch.equal(video(), plain)


def test_what_cannot_be_is_said(unet):
    with pytest.raises(ValueError, match=r"layers \[9\] do not exist"):
        with steer(unet, Partition(layers=Layers.only([9])), WORDS, TRACKS):
            pass
    with steer(unet, RegionBias(), WORDS, TRACKS), pytest.raises(ValueError, match="in one `steer`"):
        with steer(unet, Partition(), WORDS, TRACKS):
            pass
    with pytest.raises(ValueError, match="cannot be found|not captured"), watch(unet, WORDS, TRACKS):
        pass


def test_regions_of_every_frame_are_made_once(unet, monkeypatch):
    """Also where there are more frames and resolutions than calls of other models."""
    from matrix_lib.core.guidance import partition

    made, frames = [], 40
    real = partition.partition_layout
    monkeypatch.setattr(partition, "partition_layout", lambda *given: made.append(1) or real(*given))
    tracks = make_tracks(tracks_module, frames, 8 * H, 8 * W)
    text = torch.randn(1, TEXT, 32)
    guide = Partition(frozen_steps=2, match=None)
    with steer(unet, guide, WORDS, tracks, branches=("cond",), steps=4), torch.no_grad():
        for t in (9, 7):
            unet(torch.randn(1, 4, frames, H, W), t, text)
            made.append(0)
    first = made.index(0)
    assert sum(made[:first]) > 128
    assert not sum(made[first:])
