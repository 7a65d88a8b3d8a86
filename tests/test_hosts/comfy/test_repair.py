"""Native CogVideoX: what the host gets wrong is found and mended on a clone, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_models import make_cogvideox, make_hunyuan, make_wan
from torch import Tensor

KINDS = {
    "2b": {"size": "2b", "i2v": False},
    "5b": {"size": "5b", "i2v": False},
    "5b-i2v": {"size": "5b", "i2v": True},
    "1.5": {"version": "1.5", "i2v": False},
    "1.5-i2v": {"version": "1.5", "i2v": True},
}
FAULTS = {
    "2b": ("not scaled", "schedule", "rotary", "table"),
    "5b": ("not scaled", "rotary"),
    "5b-i2v": ("not scaled", "rotary", "table"),
    "1.5": ("not scaled", "filled"),
    "1.5-i2v": ("not scaled", "multiplied", "filled"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cogvideox")
    return {name: make_cogvideox(root / name, text_encoder=False, **options) for name, options in KINDS.items()}


def host_model(folder: Path) -> Any:
    """What the host makes of the folder, before any repair."""
    from matrix_lib.hosts.comfy.load import _build

    return _build(str(folder), "transformer", None)


def run(
    model: Any, frames: int = 3, size: tuple[int, int] = (8, 12), seed: int = 5, i2v: bool = True, **kw: Any
) -> Tensor:
    import comfy.sample

    generator = torch.Generator().manual_seed(seed)
    latent = torch.zeros(1, 16, frames, *size)
    noise = torch.randn(latent.shape, generator=generator)
    image = torch.randn(latent.shape, generator=generator)
    cond, uncond = ([[torch.randn(1, 226, 64, generator=generator), {"concat_latent_image": image}]] for _ in range(2))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            2,
            kw.pop("cfg", 3.0),
            "euler",
            "simple",
            cond,
            uncond,
            latent,
            disable_pbar=True,
            seed=seed,
            **kw,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_faults_are_found_and_then_gone(folders: dict[str, Path], kind: str) -> None:
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    model = host_model(folders[kind])
    found = needs_repair(model)
    assert len(found) == len(FAULTS[kind])
    assert all(any(word in text for text in found) for word in FAULTS[kind]), found
    mended, notes = repair(model)
    assert notes == found
    assert needs_repair(mended) == []
    assert repair(mended) == (mended, [])
    assert needs_repair(model) == found


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_stays_as_it_was(folders: dict[str, Path], kind: str) -> None:
    from matrix_lib.hosts.comfy.repair import repair

    model = host_model(folders[kind])
    before, weights = run(model), {k: v.clone() for k, v in model.model.state_dict().items()}
    mended, _ = repair(model)
    changed = run(mended)
    assert not torch.equal(before, changed)
    assert torch.equal(run(model), before)
    assert torch.equal(run(mended), changed)
    assert torch.equal(run(model), before)
    after = model.model.state_dict()
    assert set(after) == set(weights)
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    assert not model.object_patches
    assert not any(model.wrappers.values())


@pytest.mark.parametrize("kind", ["2b", "5b-i2v", "1.5-i2v"])
def test_repair_survives_clones_and_loras(folders: dict[str, Path], kind: str) -> None:
    import comfy.sd

    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    model, _ = repair(host_model(folders[kind]))
    plain = run(model)
    generator = torch.Generator().manual_seed(0)
    lora = {
        "diffusion_model.blocks.0.q.lora_A.weight": torch.randn(4, 128, generator=generator) * 0.3,
        "diffusion_model.blocks.0.q.lora_B.weight": torch.randn(128, 4, generator=generator) * 0.3,
    }
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert needs_repair(with_lora) == []
    assert not torch.equal(run(with_lora), plain)
    assert torch.equal(run(model.clone()), plain)
    # the other way round: a LoRA first, the repair after it
    first, _ = comfy.sd.load_lora_for_models(host_model(folders[kind]), None, lora, 1.0, 0.0)
    assert torch.equal(run(repair(first)[0]), run(with_lora))


def test_nothing_is_left_after_an_exception(folders: dict[str, Path]) -> None:
    from matrix_lib.hosts.comfy.repair import repair

    model, _ = repair(host_model(folders["5b-i2v"]))
    plain = run(model)

    def stop(*_: Any) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(model, callback=stop)
    assert not model.model.diffusion_model.patch_embed._forward_hooks
    assert torch.equal(run(model), plain)


def test_odd_clips_of_1_5_work_under_every_kind_of_sampling(folders: dict[str, Path]) -> None:
    """Masks, previews, several samplers and a start from a clip: frames that were put in front never show."""
    import comfy.sample

    from matrix_lib.hosts.comfy.repair import repair
    from matrix_lib.hosts.comfy.run import PREFIX_FRAMES

    model, _ = repair(host_model(folders["1.5"]))
    shapes, leads = [], []

    def look(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or args[-1]
        leads.append((x.shape[2], options.get(PREFIX_FRAMES)))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "probe", look)
    out = run(model, callback=lambda step, x0, x, total: shapes.append((x0.shape[2], x.shape[2])))
    assert out.shape[2] == 3
    assert shapes == [(3, 3)] * 2
    assert set(leads) == {(4, 1)}
    leads.clear()
    assert run(model, frames=4).shape[2] == 4
    assert set(leads) == {(4, None)}
    latent, noise = torch.randn(1, 16, 3, 8, 12), torch.randn(1, 16, 3, 8, 12)
    mask = torch.ones(1, 1, 3, 8, 12)
    mask[:, :, :2] = 0
    cond = [[torch.randn(1, 226, 64), {}]]
    for sampler in ("heun", "dpmpp_2m", "uni_pc", "ddim"):
        with torch.inference_mode():
            done = comfy.sample.sample(
                model,
                noise,
                3,
                2.0,
                sampler,
                "simple",
                cond,
                cond,
                latent,
                denoise=0.6,
                noise_mask=mask,
                disable_pbar=True,
                seed=1,
            )
        assert done.shape == latent.shape
        assert torch.isfinite(done).all()
        assert torch.allclose(done[:, :, :2], latent[:, :, :2], atol=1e-2)


def test_lead_frames_go_around_wrappers_that_came_before(folders: dict[str, Path]) -> None:
    from matrix_lib.hosts.comfy.repair import repair
    from matrix_lib.hosts.comfy.run import PREFIX_FRAMES

    seen = []

    def look(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((noise.shape[2], executor.class_obj.model_options["transformer_options"].get(PREFIX_FRAMES)))
        return executor(noise, *args, **kwargs)

    model = host_model(folders["1.5"])
    model.add_wrapper_with_key("outer_sample", "other", look)
    mended, _ = repair(model)
    assert run(mended).shape[2] == 3
    assert seen == [(4, 1)]
    assert run(model).shape[2] == 3
    assert seen == [(4, 1), (3, None)]


def test_the_hosts_own_5b_i2v_at_its_released_base_grid(comfy: ModuleType) -> None:
    """Loaded by the host itself, with the learned table of 49 frames at 480 x 720: positions against diffusers."""
    import comfy.model_management
    import comfy.sd
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from support_models import randomize

    from matrix_lib.backbones.weight_names import FAMILIES, to_native
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    theirs = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=32,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=1,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    randomize(theirs, 3, 0.15)
    state = to_native({k: v.clone() for k, v in theirs.state_dict().items()}, FAMILIES["cogvideox"])
    host = comfy.sd.load_diffusion_model_state_dict(state)
    assert len(needs_repair(host)) == 3
    model, _ = repair(host)
    assert needs_repair(model) == []
    x, words = torch.randn(1, 13, 32, 60, 90), torch.randn(1, 226, 8)
    comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    (table,) = model.get_wrappers("diffusion_model", "matrix_repair")
    with torch.inference_mode():
        wanted = theirs.patch_embed(words, x)
        got = table(SimpleExecutor(network, network.patch_embed), words, x)
    assert torch.allclose(got, wanted, atol=1e-5)
    assert network.use_rotary_positional_embeddings
    rotary = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 13)
    for ours, other in zip(network._get_rotary_emb(30, 45, 13, "cpu"), rotary, strict=True):
        assert torch.allclose(ours, other, atol=1e-5)


class SimpleExecutor:
    """What a wrapper sees of the host's executor: the object it wraps, and the call to pass on."""

    def __init__(self, class_obj: Any, call: Any) -> None:
        self.class_obj = class_obj
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


def test_prefix_noise_is_drawn_from_the_seed() -> None:
    from matrix_lib.hosts.comfy.families.cogvideox_parts import prefix_noise

    noise = torch.randn(2, 16, 3, 4, 4)
    prefix_frames = prefix_noise(noise, 1, 11)
    assert prefix_frames.shape == (2, 16, 1, 4, 4)
    assert torch.equal(prefix_frames, prefix_noise(noise, 1, 11))
    assert not torch.equal(prefix_frames, prefix_noise(noise, 1, 12))
    assert not prefix_noise(torch.zeros_like(noise), 1, 11).any()


def test_the_networks_input_has_unit_scale(folders: dict[str, Path]) -> None:
    from matrix_lib.hosts.comfy.repair import repair

    model = host_model(folders["5b"])
    scales = []
    for each in (model, repair(model)[0]):
        seen: list[float] = []

        def look(executor: Any, x: Tensor, *args: Any, seen: list[float] = seen, **kwargs: Any) -> Any:
            seen.append(float(x.std()))
            return executor(x, *args, **kwargs)

        probe = each.clone()
        probe.add_wrapper_with_key("diffusion_model", "probe", look)
        run(probe)
        scales.append(seen[0])
    assert scales[0] > 1000
    assert 0.9 < scales[1] < 1.1


def test_models_that_are_right_pass_through(comfy: ModuleType, tmp_path: Path) -> None:
    from matrix_lib.hosts.comfy.families.cogvideox import describe
    from matrix_lib.hosts.comfy.load import load_folder
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    wan = load_folder(make_wan(tmp_path / "wan", text_encoder=False), text_encoder=False, vae=False).model
    assert describe(wan) is None
    assert needs_repair(wan) == []
    assert repair(wan) == (wan, [])


def test_inpainting_models_are_left_alone(comfy: ModuleType) -> None:
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    void = native(in_channels=48, patch_size_t=2)
    assert type(void.model.model_config).__name__ == "CogVideoX_Inpaint"
    assert needs_repair(void) == []
    assert repair(void)[0] is void


def native(heads: int = 2, in_channels: int = 16, **options: Any) -> Any:
    """A model in the host's own format, made without our loader."""
    import comfy.ops
    import comfy.sd
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

    network = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        in_channels=in_channels,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=1,
        use_rotary_positional_embeddings=True,
        device="cpu",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
        **options,
    )
    return comfy.sd.load_diffusion_model_state_dict({k: torch.zeros_like(v) for k, v in network.state_dict().items()})


def test_other_loaders_models_are_told_apart_by_their_shape(comfy: ModuleType) -> None:
    from matrix_lib.hosts.comfy.families.cogvideox import describe

    small, large = describe(native(heads=30)), describe(native(heads=48))
    assert small is not None
    assert large is not None
    assert (small.rotary, small.snr_shift, small.base) == (False, 3.0, (13, 30, 45))
    assert (large.rotary, large.snr_shift, large.base) == (True, 1.0, (13, 30, 45))
    forced = describe(native(heads=2), "5b")
    assert forced is not None
    assert forced.rotary
    new = describe(native(heads=48, in_channels=32, patch_size_t=2, ofs_embed_dim=16))
    assert new is not None
    assert (new.temporal_patch, new.inverted_image, new.rotary) == (2, True, True)


def test_a_host_that_is_right_is_left_alone(comfy: ModuleType) -> None:
    """Each probe asks for behaviour: a model on which somebody else has put things right shows no fault."""
    from matrix_lib.backbones.positions import axis_positions, rotary_table
    from matrix_lib.hosts.comfy.families.cogvideox_parts import Sampling
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    model = native(heads=48)
    assert len(needs_repair(model)) == 2
    model.model.model_sampling = Sampling()
    model.model.diffusion_model._get_rotary_emb = lambda h, w, t, device: rotary_table(
        t, *axis_positions((h, w), (30, 45)), 64, device
    )
    assert needs_repair(model) == []
    assert repair(model)[0] is model


@pytest.mark.parametrize("mode", ["steps", "diffusers"])
def test_dynamic_cfg_follows_its_formula(folders: dict[str, Path], mode: str) -> None:
    import math

    from matrix_lib.hosts.comfy.families.cogvideox_parts import DynamicCFG, Sampling
    from matrix_lib.hosts.comfy.repair import repair

    sampling = Sampling()
    timesteps = [999, 749, 499, 249]
    sigmas = torch.cat([sampling.sigmas[timesteps], torch.zeros(1)])
    for step, t in enumerate(timesteps):
        share = step / 4 if mode == "steps" else (4 - t) / 4
        wanted = 1 + 6 * (1 - math.cos(math.pi * share**5.0)) / 2
        assert DynamicCFG(mode).scale(6.0, sigmas[step], sigmas, sampling) == pytest.approx(wanted, rel=1e-6)
    model = repair(host_model(folders["5b"]))[0]
    grown, notes = repair(model, dynamic_cfg=mode)
    assert notes == []
    assert "sampler_cfg_function" not in model.model_options
    assert not torch.equal(run(grown), run(model))
    assert torch.equal(run(grown, cfg=1.0), run(model, cfg=1.0))


def test_positions_are_diffusers(comfy: ModuleType) -> None:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed, get_3d_sincos_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    from matrix_lib.backbones.positions import add_sincos, axis_positions, rotary_table

    for t, h, w in ((13, 30, 45), (5, 45, 30), (3, 24, 42), (1, 17, 60), (2, 60, 60)):
        crop = get_resize_crop_region_for_grid((h, w), 45, 30)
        theirs = get_3d_rotary_pos_embed(64, crop, (h, w), t)
        ours = rotary_table(t, *axis_positions((h, w), (30, 45)), 64)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        table = get_3d_sincos_pos_embed(48, (w, h), t, 1.875, 1.0).float()
        assert torch.allclose(add_sincos(torch.zeros(1, t, h, w, 48)).reshape(t, h * w, 48), table, atol=1e-6)


def test_the_hosts_classes_are_asked_and_answer(comfy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """The probes run on the host's classes as they are, and believe a class that does things rightly."""
    from comfy.ldm.cogvideo import model as host

    from matrix_lib.backbones.positions import add_sincos
    from matrix_lib.hosts.comfy.families import cogvideox

    class Table(host.CogVideoXPatchEmbed):
        def forward(self, text_embeds: Tensor, image_embeds: Tensor) -> Tensor:
            kept = self.use_positional_embeddings, self.use_learned_positional_embeddings
            self.use_positional_embeddings = self.use_learned_positional_embeddings = False
            embeds = super().forward(text_embeds, image_embeds)
            self.use_positional_embeddings, self.use_learned_positional_embeddings = kept
            grid = (image_embeds.shape[1], image_embeds.shape[3] // 2, image_embeds.shape[4] // 2)
            if kept[1] and grid == (2, 2, 4):
                return embeds + self.pos_embedding
            words = text_embeds.shape[1]
            video = add_sincos(embeds[:, words:].unflatten(1, grid)).flatten(1, 3)
            return torch.cat([embeds[:, :words], video], dim=1)

    class Front(host.CogVideoXTransformer3DModel):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            prefix_frames = x.shape[2] % 2
            return super().forward(torch.cat([x[:, :, :prefix_frames], x], dim=2), *args, **kwargs)[
                :, :, prefix_frames:
            ]

    for learned in (False, True):
        assert not cogvideox._host_adds_table(host.CogVideoXPatchEmbed, learned)
        assert cogvideox._host_adds_table(Table, learned)
    assert cogvideox._host_fills_behind(host.CogVideoXTransformer3DModel)
    assert not cogvideox._host_fills_behind(Front)
    assert "cannot ask" not in caplog.text


def test_hunyuans_given_first_frame(comfy: ModuleType, tmp_path: Path) -> None:
    """The wrapper sleeps without a given frame, leaves no hook behind, and mends a clone only."""
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    from matrix_lib.hosts.comfy.families.hunyuan_video import _host_misplaces
    from matrix_lib.hosts.comfy.load import _build
    from matrix_lib.hosts.comfy.repair import needs_repair, repair

    assert _host_misplaces(HunyuanVideo) == (True, True)
    host = _build(str(make_hunyuan(tmp_path / "hunyuan", i2v="token_replace", vae=False)), "transformer", None)
    assert needs_repair(host) == []
    assert len(needs_repair(host, first_frame=True)) == 1
    model, notes = repair(host)
    assert notes == needs_repair(host, first_frame=True)
    assert needs_repair(model, first_frame=True) == []
    assert repair(model) == (model, [])

    def once(model: Any, stop: bool = False, **values: Any) -> Tensor:
        import comfy.sample

        generator = torch.Generator().manual_seed(0)
        noise, text = torch.randn(1, 16, 2, 8, 8, generator=generator), torch.randn(1, 9, 64, generator=generator)
        cond = [[text, {"pooled_output": torch.randn(1, 768, generator=generator), "guidance": 6.0, **values}]]
        latent = torch.zeros_like(noise)
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                noise,
                1,
                1.0,
                "euler",
                "simple",
                cond,
                cond,
                latent,
                disable_pbar=True,
                seed=1,
                callback=(lambda *_: 1 / 0) if stop else None,
            )

    assert torch.equal(once(model), once(host))
    before = once(host, guiding_frame_index=0)
    assert not torch.equal(once(model, guiding_frame_index=0), before)
    with pytest.raises(ZeroDivisionError):
        once(model, stop=True, guiding_frame_index=0)
    network = model.model.diffusion_model
    assert not network.guidance_in._forward_hooks
    assert not any(block._forward_pre_hooks for block in network.single_blocks)
    assert torch.equal(once(host, guiding_frame_index=0), before)
