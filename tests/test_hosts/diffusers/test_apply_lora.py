"""`apply_lora` on diffusers pipelines: against float64 formulas, undone to the bit, beside everything else."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from support_attention import make_binding
from support_diffusers import build
from support_models import randomize
from support_pipelines import FRAMES, TRACKS, H, W, text_to_video
from torch import Tensor, nn

import matrix_lib
from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones.lora import AlignmentLoRA, Factors, Info
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.hosts.diffusers.steer import steer

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILY = {"cogvideox": "cogvideox", "cogvideox15": "cogvideox", "hunyuan": "hunyuan_video"}
FAMILY["hunyuan_skyreels"] = "hunyuan_video"
FAMILY |= dict.fromkeys(("wan_t2v", "wan_animate"), "wan")
LAYERS = {
    "cogvideox": "transformer_blocks.{}.attn1",
    "wan": "blocks.{}.attn2",
    "hunyuan_video": "transformer_blocks.{}.attn",
}


def noise(shape: Any, seed: int, std: float = 0.1) -> Tensor:
    return std * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def lora_of(net: Any, family: str, extra: int = 0, seed: int = 0, **info: Any) -> AlignmentLoRA:
    """Random factors on the attention of two layers, and a projection that is wider by `extra` channels."""
    factors = {}
    for layer in (0, 1):
        for place, name in enumerate(("to_q", "to_k", "to_v", "to_out.0")):
            path = f"{LAYERS[family].format(layer)}.{name}"
            linear = net.get_submodule(path)
            at = seed + 20 * layer + 2 * place
            up, down = noise((linear.out_features, 4), at + 1), noise((4, linear.in_features), at)
            factors[path] = Factors(down, up, 8.0)
    projection = {}
    if extra:
        inner = net.get_submodule(REGISTRY[family].input_projection)
        weight = inner.weight.detach()
        columns = extra * (weight.shape[1] // net.config.in_channels if weight.ndim == 2 else 1)
        wide = torch.cat([weight, noise((len(weight), columns, *weight.shape[2:]), seed + 90, 0.3)], 1)
        projection = {"weight": wide + noise(wide.shape, seed + 91, 0.02)}
        if inner.bias is not None:
            projection["bias"] = inner.bias.detach() + 0.1
    return AlignmentLoRA(family, factors, projection, info=Info(**info))


def wide_tracks(left: bool = True) -> MaskTracks:
    box = (8, 8, 40, 56) if left else (56, 0, 96, 40)
    return MaskTracks.from_boxes({"mug": {0: box}}, 1, H, W)


# ---- float64, from the formulas


def image_pipeline() -> Any:
    """CogVideoX image to video, tiny, as TAViD's base is: 16 channels of latents, 16 of the first frame."""
    net = build("cogvideox")[0]
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=16, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    pipe = diffusers.CogVideoXImageToVideoPipeline(None, None, randomize(vae, 5, 0.1), net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Formula(nn.Module):
    """The patch embedding as a sum over channels and pixels of a patch: y = b + sum_cij W_cij x_cij, C = 33."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight.double(), bias.double()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        patches = x.reshape(n, c, h // 2, 2, w // 2, 2)
        return torch.einsum("nchiwj,dcij->ndhw", patches, self.weight) + self.bias[:, None, None]


def reference(pipe: Any, lora: AlignmentLoRA, mask: Tensor, words: Tensor, image: Tensor, start: Tensor) -> Tensor:
    """Three DDIM steps in float64: W + (alpha / r) B A in the attention, [z_t, z_image, m] into the projection, where m
    is the target's mask of the first frame, then zeros, for both branches of the guidance."""
    net = copy.deepcopy(pipe.transformer).double()
    for name, one in lora.factors.items():
        module = net.get_submodule(name)
        module.weight.data += one.alpha / one.down.shape[0] * one.up.double() @ one.down.double()
    net.patch_embed.proj = Formula(lora.projection["weight"], lora.projection["bias"])
    vae = copy.deepcopy(pipe.vae).double()
    seen = vae.encode(2 * image.double()[:, :, None] - 1).latent_dist
    z = seen.mean + seen.std * torch.randn(seen.mean.shape, generator=torch.Generator().manual_seed(4)).double()
    first = torch.cat([z, torch.zeros(1, 16, 2, H // 8, W // 8).double()], 2) * vae.config.scaling_factor
    m = torch.zeros(1, 1, 3, H // 8, W // 8, dtype=torch.float64)
    m[0, 0, 0] = mask[::8, ::8]
    x = start.double().transpose(1, 2)
    alphas = pipe.scheduler.alphas_cumprod.double()
    for t in (999, 666, 332):
        later = t - 333
        v = []
        for row in words.double():
            hidden = torch.cat([x, first, m], 1).transpose(1, 2)
            v.append(net(hidden, row[None], torch.tensor([t]), return_dict=False)[0].transpose(1, 2))
        v_t = v[0] + 6.0 * (v[1] - v[0])
        a, a_next = alphas[t], alphas[later] if later >= 0 else torch.ones(()).double()
        clean, eps = a.sqrt() * x - (1 - a).sqrt() * v_t, a.sqrt() * v_t + (1 - a).sqrt() * x
        x = a_next.sqrt() * clean + (1 - a_next).sqrt() * eps
    return x.transpose(1, 2)


@torch.no_grad()
def test_a_target_aware_clip_is_the_formulas() -> None:
    pipe, tracks = image_pipeline(), wide_tracks()
    lora = lora_of(pipe.transformer, "cogvideox", 1)
    words, start = noise((2, 226, 64), 8, 1.0), noise((1, 3, 16, H // 8, W // 8), 9, 1.0)
    image = torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(2))

    def run() -> Tensor:
        return pipe(
            image=image, height=H, width=W, num_frames=FRAMES, num_inference_steps=3, guidance_scale=6.0,
            prompt_embeds=words[1:], negative_prompt_embeds=words[:1], latents=start.clone(), output_type="latent",
            generator=torch.Generator().manual_seed(4),
        ).frames  # fmt: skip

    plain = run()
    with matrix_lib.apply_lora(pipe, lora, tracks):
        got = run()
    assert pipe.scheduler.timesteps.tolist() == [999, 666, 332]
    wanted = reference(pipe, lora, tracks.mask("mug", 0).double(), words, image, start)
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-4
    assert float((plain - wanted).abs().max() / wanted.abs().max()) > 0.05
    bare = reference(pipe, lora, torch.zeros(H, W).double(), words, image, start)
    assert float((bare - wanted).abs().max() / wanted.abs().max()) > 1e-2, "the mask counts"
    assert torch.equal(run(), plain), "nothing is left of it"


@torch.no_grad()
@pytest.mark.parametrize("extra", [1, 16])
def test_a_widened_lora_in_a_stock_pipeline(extra: int, caplog: pytest.LogCaptureFixture) -> None:
    """33 channels for 32 (target mask), 48 for 32 (ID map): applied they are fed; merging says that they are not."""
    pipe = image_pipeline()
    lora = lora_of(pipe.transformer, "cogvideox", extra, condition="id_map" if extra > 1 else "target_mask")
    words, start = noise((2, 226, 64), 8, 1.0), noise((1, 3, 16, H // 8, W // 8), 9, 1.0)

    def run() -> Tensor:
        return pipe(
            image=torch.full((1, 3, H, W), 0.4), height=H, width=W, num_frames=FRAMES, num_inference_steps=1,
            prompt_embeds=words[1:], negative_prompt_embeds=words[:1], latents=start.clone(), output_type="latent",
            generator=torch.Generator().manual_seed(4),
        ).frames  # fmt: skip

    plain = run()
    for strength, moved in ((1.0, True), (0.0, False)):
        with matrix_lib.apply_lora(pipe, lora, wide_tracks(), strength=strength):
            assert torch.equal(run(), plain) != moved
    assert not caplog.records
    merge_lora(pipe.transformer, lora)
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"the transformer takes {32 + extra} channels, and diffusers' pipelines give it 32" in said
    assert "matrix_lib.apply_lora(pipe, lora, tracks)" in said


# ---- alone


@pytest.mark.parametrize("family", ["wan", "hunyuan"])
def test_an_ordinary_lora_is_what_merging_makes(family: str) -> None:
    made = text_to_video(family, "flow")
    name = FAMILY[made.family]
    lora, plain = lora_of(made.transformer, name), made()
    with matrix_lib.apply_lora(made.pipe, lora, strength=0.5):
        got = made()
    assert torch.equal(made(), plain)
    merge_lora(made.transformer, lora, 0.5)
    wanted = made()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - plain).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["cogvideox", "cogvideox15", "wan_t2v", "wan_animate", "hunyuan_skyreels"])
def test_strength_and_the_wide_weight(family: str) -> None:
    """A bare transformer at strength s answers as one whose weights went s of the way, whatever its projection is."""
    net, args, *_ = build(family)
    name = FAMILY[family]
    lora, tracks = lora_of(net, name, 1), wide_tracks()
    whole = copy.deepcopy(net)
    merge_lora(whole, lora, 0.3)
    latents = args["hidden_states"]
    at = 2 if REGISTRY[name].frames_first else 1
    shape = list(latents.shape)
    shape[at] = 1
    mask = torch.zeros(shape).transpose(1, at)  # (B, 1, T, h, w), or the same in the order of CogVideoX
    mask[:, 0, int(family == "wan_animate")] = tracks.mask("mug", 0)[::8, ::8].float()
    with torch.no_grad():
        wide = torch.cat([latents, mask.transpose(1, at)], at)
        wanted = whole(**{**args, "hidden_states": wide}, return_dict=False)[0]
        plain = net(**args, return_dict=False)[0]
        applied = matrix_lib.apply_lora(net, lora, tracks, strength=0.3)
        torch.testing.assert_close(net(**args, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-4)
        applied.strength = 0.0
        assert torch.equal(net(**args, return_dict=False)[0], plain)
        applied.remove()
        assert torch.equal(net(**args, return_dict=False)[0], plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert (plain - wanted).abs().max() > 1e-2


def test_weights_that_wait_elsewhere() -> None:
    """Offloaded weights are on the meta device until their module runs."""
    import accelerate

    net, args, *_ = build("cogvideox")
    lora = lora_of(net, "cogvideox", 1)
    with torch.no_grad():
        with matrix_lib.apply_lora(net, lora, wide_tracks()):
            wanted = net(**args, return_dict=False)[0]
        accelerate.cpu_offload(net, torch.device("cpu"))
        assert net.patch_embed.proj.weight.is_meta
        with matrix_lib.apply_lora(net, lora, wide_tracks()):
            assert torch.equal(net(**args, return_dict=False)[0], wanted)


# ---- beside everything else


@pytest.fixture
def cog(monkeypatch: pytest.MonkeyPatch) -> Any:
    import support_diffusers

    real = diffusers.CogVideoXTransformer3DModel
    monkeypatch.setattr(diffusers, "CogVideoXTransformer3DModel", lambda **given: real(**{**given, "in_channels": 16}))
    return support_diffusers


def merged_run(made: Any, lora: AlignmentLoRA, mask: Tensor, around: Any) -> Tensor:
    """The same run on merged weights, its channels fed by hand."""
    net = made.transformer
    keep = net.state_dict()
    before, channels = {name: value.clone() for name, value in keep.items()}, net.config.in_channels
    place = net.get_submodule(REGISTRY[lora.family].input_projection)
    merge_lora(net, lora)
    net.register_to_config(in_channels=channels)

    def feed(module: Any, args: Any, kwargs: Any) -> Any:
        x = kwargs["hidden_states"]
        if x.shape[2] > channels:
            return None
        return args, {**kwargs, "hidden_states": torch.cat([x, mask.expand(len(x), -1, -1, -1, -1)], 2)}

    handle = net.register_forward_pre_hook(feed, with_kwargs=True)
    with around(made.pipe):
        out = made()
    handle.remove()
    place.in_channels, place.weight = channels, nn.Parameter(before["patch_embed.proj.weight"])
    net.load_state_dict(before)
    return out


WAYS: dict[str, Any] = {
    "region bias": lambda: matrix_lib.RegionBias(1.5, layers=matrix_lib.Layers((0, 1), (0, 1))),
    "perturbation": lambda: matrix_lib.Perturbation(scale=1.0, layers=matrix_lib.Layers((0,), (1,))),
    "intrinsic": lambda: matrix_lib.IntrinsicDenoising(),
    "gradient": lambda: matrix_lib.GradientGuidance(layers=matrix_lib.Layers((0, 1), (0, 1))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", [True, False])
def test_steered_and_watched(way: str, inside: bool, cog: Any) -> None:
    """In either order with `steer` and `watch`, as on merged weights; predictions are repeated as wide as they were."""
    made = text_to_video("cogvideox", "ddim")
    lora, binding = lora_of(made.transformer, "cogvideox", 1), make_binding(binding_module, 226)
    target = wide_tracks()
    mask = torch.zeros(1, 3, 1, H // 8, W // 8)
    mask[0, 0, 0] = target.mask("mug", 0)[::8, ::8].float()
    wanted = merged_run(made, lora, mask, lambda pipe: steer(pipe, [WAYS[way]()], binding, TRACKS))
    lo, st = matrix_lib.apply_lora, matrix_lib.steer
    if inside:
        with st(made.pipe, [WAYS[way]()], binding, TRACKS), lo(made.pipe, lora, target):
            got = made()
    else:
        with lo(made.pipe, lora, target), st(made.pipe, [WAYS[way]()], binding, TRACKS):
            with matrix_lib.watch(made.pipe, binding, TRACKS) as seen:
                got = made()
        assert seen.capture().maps("v2t", entity="van").isfinite().all()
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-3


def test_each_prompt_has_tracks_of_its_own(cog: Any) -> None:
    """A batch of two prompts under guidance: each row as it comes alone."""
    made = text_to_video("cogvideox", "ddim")
    lora, words = lora_of(made.transformer, "cogvideox", 1), noise((3, 226, 64), 3, 1.0)
    start = noise((1, 3, 16, H // 8, W // 8), 9, 1.0)

    def run(rows: list[int]) -> Tensor:
        return made.pipe(
            height=H, width=W, num_frames=FRAMES, num_inference_steps=2, guidance_scale=6.0, output_type="latent",
            prompt_embeds=words[rows], negative_prompt_embeds=words[:1].expand(len(rows), -1, -1),
            latents=start.expand(len(rows), -1, -1, -1, -1).clone(),
        ).frames  # fmt: skip

    left, right = wide_tracks(), wide_tracks(left=False)
    with matrix_lib.apply_lora(made.pipe, lora, [left, right]):
        both = run([1, 2])
    for row, tracks in enumerate((left, right)):
        with matrix_lib.apply_lora(made.pipe, lora, tracks):
            torch.testing.assert_close(both[row : row + 1], run([row + 1]), rtol=1e-3, atol=1e-3)
    with matrix_lib.apply_lora(made.pipe, lora, left):
        assert (both[1:] - run([2])).abs().max() > 1e-3, "the other's mask would show"


def test_after_an_error_and_an_interrupt() -> None:
    net, args, *_ = build("wan_t2v")
    lora = lora_of(net, "wan", 1)
    with torch.no_grad():
        plain = net(**args, return_dict=False)[0]
        for error in (RuntimeError, KeyboardInterrupt):
            bomb = net.blocks[1].register_forward_pre_hook(lambda *_, error=error: (_ for _ in ()).throw(error()))
            with pytest.raises(error), matrix_lib.apply_lora(net, lora, wide_tracks()):
                net(**args)
            bomb.remove()
            assert torch.equal(net(**args, return_dict=False)[0], plain)


# ---- what cannot work is said


def test_what_is_refused() -> None:
    net, args, *_ = build("wan_t2v")
    lora, tracks = lora_of(net, "wan", 1), wide_tracks()
    apply = matrix_lib.apply_lora
    with pytest.raises(ValueError, match="LoRA of cogvideox, and the model is Wan"):
        apply(net, lora_of(build("cogvideox")[0], "cogvideox"))
    with pytest.raises(ValueError, match="reads the mask of its target in the first frame: pass `tracks`"):
        apply(net, lora)
    with pytest.raises(ValueError, match="which one is the target"):
        apply(net, lora, TRACKS)
    with pytest.raises(ValueError, match="ID map is encoded by the model's VAE, and WanTransformer3DModel has none"):
        apply(net, lora_of(net, "wan", 20), tracks)
    pipe = text_to_video("wan", "flow").pipe
    pipe.vae = diffusers.AutoencoderKLWan(base_dim=4, z_dim=16)
    with pytest.raises(ValueError, match="widens the input by 3 channels, and id maps of this model have 20"):
        apply(pipe, lora_of(net, "wan", 3), tracks)
    with pytest.raises(ValueError, match="takes 16 channels, the model 36"):
        apply(
            build("wan_i2v")[0],
            replace(lora_of(net, "wan"), projection={"weight": net.patch_embedding.weight.detach()}),
        )
    with pytest.raises(ValueError, match="64x64.*another size"):
        apply(net, AlignmentLoRA("wan", {"blocks.0.attn1.to_q": Factors(torch.zeros(2, 32), torch.zeros(32, 2))}))
    with pytest.raises(ValueError, match="none of the LoRA's modules is in this model"):
        apply(net, AlignmentLoRA("wan", {"blocks.9.attn1.to_q": Factors(torch.zeros(2, 64), torch.zeros(64, 2))}))
    with pytest.raises(ValueError, match="one mask condition at a time"), apply(net, lora, tracks):
        apply(net, lora, tracks)
    with apply(net, lora, tracks), apply(net, lora_of(net, "wan")), torch.no_grad():
        net(**args)  # an ordinary one goes beside
    gone = MaskTracks.from_boxes({"mug": {1: (8, 8, 40, 56)}}, 3, H, W)
    with pytest.raises(ValueError, match="nowhere in the first frame"), apply(net, lora, gone), torch.no_grad():
        net(**args)


def test_compiled_transformers() -> None:
    """One that is compiled is refused; one that is compiled afterwards follows, also once the LoRA is off."""
    net, args, *_ = build("wan_t2v")
    lora = lora_of(net, "wan", 1)
    with torch.no_grad():
        plain = net(**args, return_dict=False)[0]
        with matrix_lib.apply_lora(net, lora, wide_tracks()) as applied:
            wanted = net(**args, return_dict=False)[0]
            quick = torch.compile(net, backend="eager")
            torch.testing.assert_close(quick(**args, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quick(**args, return_dict=False)[0], plain, rtol=1e-4, atol=1e-4)
        assert not applied.active
        net.compile(backend="eager")
        net(**args)
        with pytest.raises(ValueError, match="compiled already.*before torch.compile"):
            matrix_lib.apply_lora(net, lora, wide_tracks())


def test_modules_that_never_run_are_told(caplog: pytest.LogCaptureFixture) -> None:
    net, args, *_ = build("wan_t2v")
    lora = lora_of(net, "wan")
    net.blocks = net.blocks[:1] + nn.ModuleList([nn.Identity()])
    kept = {name: one for name, one in lora.factors.items() if name.startswith("blocks.0")}
    net.blocks[0].spare = nn.Module()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        del net.blocks[1]
        with matrix_lib.apply_lora(net, replace(lora, factors=kept)) as applied:
            net(**args)
            assert not caplog.records
            assert applied.missing == ()
        net.blocks[0].attn2.forward = lambda x, *_, **__: torch.zeros_like(x)
        with matrix_lib.apply_lora(net, replace(lora, factors=kept)):
            net(**args)
            net(**args)
    assert [record.getMessage() for record in caplog.records] == [
        "MATRIX: the LoRA changes blocks.0.attn2.to_k (4 modules), which this transformer has and did not run"
    ]
