"""Alignment LoRAs on native models: against diffusers with the same file, beside other LoRAs, and gone afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_agreement import answer, network, with_lora
from support_attention import Watcher, make_binding, make_tracks
from support_loras import make_lora, noise
from support_models import make_cogvideox, make_hunyuan, make_wan
from support_native import conditioning, latent, native_model, sample
from torch import Tensor

from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones import lora as lora_module
from matrix_lib.backbones.lora import AlignmentLoRA, Factors
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.io.lora.read import FORMATS, load_lora, save_lora

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
EXTRA = {"cogvideox": 1, "cogvideox15": 1, "wan": 20, "hunyuan_video": 16}
NATIVE = {"cogvideox": "cogvideox", "wan": "wan_i2v", "hunyuan_video": "hunyuan"}


@pytest.fixture(scope="module")
def models(comfy: ModuleType) -> Any:
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            made[family] = native_model(NATIVE[family])
        return made[family]

    return get


def extra_channels(count: int, shape: Any, seed: int = 4) -> Tensor:
    return noise((1, count, *shape), seed, 1.0)


def conds(family: str, extra: Tensor | None) -> tuple[list, list]:
    from matrix_lib.hosts.comfy.lora import add_extra

    both = conditioning(NATIVE[family], 1), conditioning(NATIVE[family], 2)
    return both if extra is None else (add_extra(both[0], extra), add_extra(both[1], extra))


def run(model: Any, family: str, extra: Tensor | None = None, **options: Any) -> Tensor:
    return sample(model, *conds(family, extra), latent(NATIVE[family]), **{"steps": 1, **options})


def base_projection(model: Any, family: str) -> dict[str, Tensor]:
    state = model.model.diffusion_model.state_dict()
    place = lora_module.native_projection(family)
    return {name: state[f"{place}.{name}"].clone() for name in ("weight", "bias")}


def effective(model: Any, place: str) -> Tensor:
    """The weight that the loaded module computes with."""
    module = model.model.diffusion_model.get_submodule(place)
    weight = module.weight.detach().clone()
    for function in module.weight_function:
        weight = function(weight)
    return weight


def tiny(family: str, model: Any, **options: Any) -> AlignmentLoRA:
    return make_lora(lora_module, family, EXTRA[family], base=base_projection(model, family), **options)


# ---- against diffusers


def transformer_of(family: str, folder: Path) -> tuple[Any, Any]:
    """(diffusers transformer, native MODEL) of one tiny folder."""
    import diffusers

    from matrix_lib.hosts.comfy.load import load_transformer

    if family.startswith("cogvideox"):
        new = family.endswith("15")
        options: dict[str, Any] = {"version": "1.5"} if new else {"size": "2b"}
        make_cogvideox(folder, text_encoder=False, vae=False, **options)
        kind: Any = diffusers.CogVideoXTransformer3DModel
    elif family == "wan":
        make_wan(folder, i2v=True, version="2.2", text_encoder=False, vae=False)
        kind = diffusers.WanTransformer3DModel
    else:
        make_hunyuan(folder, vae=False)
        kind = diffusers.HunyuanVideoTransformer3DModel
    return kind.from_pretrained(folder / "transformer"), load_transformer(folder, "transformer", torch.float32)[0]


@pytest.mark.parametrize("family", ["cogvideox", "cogvideox15", "wan", "hunyuan_video"])
def test_each_format_gives_what_diffusers_gives(family: str, tmp_path: Path) -> None:
    from matrix_lib.hosts.comfy.lora import apply_lora

    name = "cogvideox" if family == "cogvideox15" else family
    transformer, model = transformer_of(family, tmp_path / "model")
    lora = make_lora(lora_module, name, EXTRA[family], alpha=8.0, rank=4, decoder=True)
    inner = transformer.get_submodule(REGISTRY[name].input_projection)
    shape = (4 if family == "cogvideox15" else 3, 8, 12)
    cells = 8 if inner.weight.ndim == 2 else 1
    wide = torch.cat(
        [inner.weight, noise((inner.weight.shape[0], EXTRA[family] * cells, *inner.weight.shape[2:]), 6)], 1
    )
    projection = {"weight": wide.detach() + noise(tuple(wide.shape), 7, 0.02)}
    if inner.bias is not None:
        projection["bias"] = inner.bias.detach() + 0.1
    lora = replace(lora, projection=projection)
    extra = extra_channels(EXTRA[family], shape)
    plain = network(model, family, extra, shape)
    adapted = with_lora(transformer, lora, tmp_path)
    for form in FORMATS:
        save_lora(lora, tmp_path / form, form)
        patched, report = apply_lora(model, load_lora(tmp_path / form, name))
        assert report.matched == report.total
        given = network(patched, family, extra, shape)
        assert torch.equal(given["x"][:, -EXTRA[family] :], extra)
        wanted = answer(adapted, family, given)
        got = given["out"]
        assert (got - wanted).abs().max() / wanted.abs().max() < 1e-3, form
        assert (got - plain["out"]).abs().max() / wanted.abs().max() > 0.05, "the LoRA does something"
    back = network(model, family, extra, shape)
    assert torch.equal(back["out"], plain["out"])
    assert back["x"].shape == plain["x"].shape


@pytest.mark.parametrize("family", NATIVE)
def test_the_hosts_own_loader_reads_the_native_format(family: str, models: Any, tmp_path: Path) -> None:
    """The factors load there as they do here; a projection is left alone."""
    import comfy.sd
    import comfy.utils

    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models(family)
    lora = replace(tiny(family, model, decoder=True), projection={})
    wanted = run(apply_lora(model, lora, 0.8)[0], family)
    for file in (lora, tiny(family, model, decoder=True)):
        (path,) = save_lora(file, tmp_path / "x.safetensors", "comfyui")
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
        loaded, _ = comfy.sd.load_lora_for_models(model, None, state, 0.8, 0.0)
        torch.testing.assert_close(run(loaded, family), wanted, rtol=1e-4, atol=1e-4)


# ---- alone


@pytest.mark.parametrize("family", NATIVE)
def test_strength_zero_and_the_original_are_bit_identical(family: str, models: Any) -> None:
    from matrix_lib.hosts.comfy.lora import apply_lora, widened

    model = models(family)
    extra = extra_channels(EXTRA[family], latent(NATIVE[family]).shape[2:])
    plain = run(model, family)  # loads the original: the weights may still hold the patches of an earlier clone
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    lora = tiny(family, model)
    off, _ = apply_lora(model, lora, 0.0)
    assert off is not model
    assert widened(off) is None
    assert torch.equal(run(off, family), plain)
    assert torch.equal(run(off, family, extra), plain), "a mask on a model that is not widened does nothing"
    on, report = apply_lora(model, lora)
    assert report.matched == report.total == 2 * len(lora.factors) + 2
    changed = run(on, family, extra)
    assert (changed - plain).abs().max() > 1e-3
    assert torch.equal(run(on, family, extra), changed)
    assert torch.equal(run(model, family), plain)
    after = model.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert widened(model) is None


@pytest.mark.parametrize("family", NATIVE)
def test_fresh_channels_change_nothing(family: str, models: Any) -> None:
    """New kernels start at zero: whatever the mask holds, the model answers as before, to the bit."""
    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models(family)
    base = base_projection(model, family)
    wide = torch.nn.functional.pad(base["weight"], (0, 0) * (base["weight"].ndim - 2) + (0, EXTRA[family]))
    fresh, _ = apply_lora(model, AlignmentLoRA(family, {}, {"weight": wide, "bias": base["bias"]}))
    extra = extra_channels(EXTRA[family], latent(NATIVE[family]).shape[2:])
    assert torch.equal(run(fresh, family, extra), run(model, family))
    assert torch.equal(run(fresh, family), run(model, family))


def test_strength_scales_every_part(models: Any) -> None:
    import comfy.model_management as management

    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models("wan")
    lora, base = tiny("wan", model), base_projection(model, "wan")
    patched, _ = apply_lora(model, lora, 0.25)
    management.load_models_gpu([patched])
    state = {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}
    quarter = effective(model, "patch_embedding")
    other, _ = apply_lora(model, lora, 1.0)  # made while a widened clone is loaded: its base is the checkpoint's
    management.load_models_gpu([other])
    full = effective(model, "patch_embedding")
    management.load_models_gpu([model])
    torch.testing.assert_close(full, lora.projection["weight"], rtol=0, atol=1e-6)
    padded = torch.nn.functional.pad(base["weight"], (0, 0) * 3 + (0, 20))
    want = padded + 0.25 * (lora.projection["weight"] - padded)
    torch.testing.assert_close(quarter, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(state["patch_embedding.bias"], base["bias"] + 0.25 * 0.05, rtol=0, atol=1e-6)
    factors = lora.factors["blocks.1.attn2.to_k"]
    own = model.model.diffusion_model.state_dict()["blocks.1.cross_attn.k.weight"]
    want = own + 0.25 * factors.scale() * factors.up @ factors.down
    torch.testing.assert_close(state["blocks.1.cross_attn.k.weight"], want, rtol=0, atol=1e-5)


def test_a_projection_of_the_models_own_width(models: Any) -> None:
    """A file may train the projection without widening it: then no mask is asked for."""
    from matrix_lib.hosts.comfy.lora import apply_lora, widened

    model = models("cogvideox")
    own = {name: tensor + 0.1 for name, tensor in base_projection(model, "cogvideox").items()}
    patched, report = apply_lora(model, AlignmentLoRA("cogvideox", {}, own))
    assert report.widened is None
    assert widened(patched) is None
    run(patched, "cogvideox")
    torch.testing.assert_close(effective(model, "patch_embed.proj"), own["weight"])
    assert not torch.equal(run(patched, "cogvideox"), run(model, "cogvideox"))


def test_quantised_weights(comfy: ModuleType) -> None:
    """On 8-bit weights the LoRA acts as on whole ones, within their precision; the new columns stay whole."""
    import comfy.sd
    from support_native import native_state

    from matrix_lib.hosts.comfy.lora import apply_lora

    made = {}
    for name, dtype in (("whole", torch.float32), ("quantised", torch.float8_e4m3fn)):
        state = {key: tensor.to(torch.float8_e4m3fn).float() for key, tensor in native_state("wan_i2v").items()}
        with torch.inference_mode():
            made[name] = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})
    extra = extra_channels(20, latent("wan_i2v").shape[2:])
    lora = tiny("wan", made["whole"])
    results = {name: run(apply_lora(model, lora)[0], "wan", extra) for name, model in made.items()}
    plain = run(made["quantised"], "wan")
    change = (results["whole"] - plain).abs().mean()
    assert (results["whole"] - results["quantised"]).abs().mean() < 0.5 * change
    assert torch.equal(run(made["quantised"], "wan"), plain)


def test_scale_of_a_file_without_one(models: Any) -> None:
    from matrix_lib.hosts.comfy.lora import apply_lora

    lora = tiny("wan", models("wan"), alpha=None)
    assert apply_lora(models("wan"), lora)[1].scales == (1.0,)
    assert apply_lora(models("wan"), lora.with_scale(0.5))[1].scales == (0.5,)


def test_weights_that_stay_in_main_memory(models: Any) -> None:
    """With too little memory the host patches weights as it casts them: the projection is widened there as well."""
    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models("wan")
    patched, _ = apply_lora(model, tiny("wan", model))
    patched.detach()
    patched.load(torch.device("cpu"), lowvram_model_memory=1)
    layer = model.model.diffusion_model.patch_embedding
    with torch.no_grad():
        assert layer(torch.randn(1, 56, 1, 4, 4)).shape == (1, 256, 1, 2, 2)
    patched.detach()


# ---- beside other LoRAs


def other_lora(width: int, seed: int) -> dict[str, Tensor]:
    """A LoRA as the host's loader reads it, on the attention and on a projection of `width` channels."""
    state = {}
    for i, (name, out, columns) in enumerate(
        (("patch_embedding", 256, width * 4), ("blocks.0.self_attn.q", 256, 256), ("blocks.1.cross_attn.o", 256, 256))
    ):
        state[f"diffusion_model.{name}.lora_A.weight"] = noise((2, columns), seed + 2 * i)
        state[f"diffusion_model.{name}.lora_B.weight"] = noise((out, 2), seed + 2 * i + 1)
    return state


def test_other_loras_compose_in_any_order(models: Any, comfy: ModuleType) -> None:
    """Narrow and wide ones on the same projection, before and behind ours: all give one result."""
    import itertools

    import comfy.sd

    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models("wan")
    lora = tiny("wan", model)
    narrow, wide = other_lora(36, 50), other_lora(56, 60)

    def load(state: dict[str, Tensor]) -> Any:
        return lambda m: comfy.sd.load_lora_for_models(m, None, dict(state), 0.7, 0.0)[0]

    steps = {"ours": lambda m: apply_lora(m, lora)[0], "narrow": load(narrow), "wide": load(wide)}
    extra = extra_channels(20, latent("wan_i2v").shape[2:])
    results, weights = {}, {}
    for order in itertools.permutations(steps):
        patched = model
        for name in order:
            patched = steps[name](patched)
        results[order] = run(patched, "wan", extra)
        weights[order] = effective(model, "patch_embedding")
    alone = run(steps["ours"](model), "wan", extra)
    first = next(iter(results))
    for result in results.values():
        torch.testing.assert_close(result, results[first], rtol=1e-4, atol=1e-4)
    want = lora.projection["weight"].clone()
    for state, columns in ((narrow, 36), (wide, 56)):
        up, down = (state[f"diffusion_model.patch_embedding.lora_{side}.weight"] for side in "BA")
        want[:, :columns] += 0.7 * (up @ down).reshape(256, columns, 1, 2, 2)
    for order, weight in weights.items():
        torch.testing.assert_close(weight, want, rtol=0, atol=1e-5, msg=str(order))
    assert (results[first] - alone).abs().max() > 1e-3
    run(model, "wan")
    assert effective(model, "patch_embedding").shape[1] == 36


def test_our_loras_stack(models: Any) -> None:
    """One of the attention alone goes with a widening one, in any order; two widening ones do not."""
    from matrix_lib.hosts.comfy.lora import apply_lora

    model = models("cogvideox")
    wide, plain = tiny("cogvideox", model), replace(tiny("cogvideox", model, seed=40), projection={})
    extra = extra_channels(1, latent("cogvideox").shape[2:])
    both = apply_lora(apply_lora(model, wide)[0], plain)[0]
    other = apply_lora(apply_lora(model, plain)[0], wide)[0]
    torch.testing.assert_close(run(both, "cogvideox", extra), run(other, "cogvideox", extra), rtol=1e-4, atol=1e-4)
    # an ordinary LoRA that was trained on the widened model
    factors = {"patch_embed.proj": Factors(noise((2, 33, 2, 2), 1), noise((128, 2, 1, 1), 2), 2.0)}
    later = AlignmentLoRA("cogvideox", factors)
    on = apply_lora(apply_lora(model, wide)[0], later)
    assert on[1].matched == 2
    assert (run(on[0], "cogvideox", extra) - run(apply_lora(model, wide)[0], "cogvideox", extra)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="one mask condition at a time"):
        apply_lora(apply_lora(model, wide)[0], wide)


def test_attention_is_watched_through_a_widened_model(models: Any) -> None:
    """Capture and LoRA on one MODEL, in either order: the same picture, and maps of every layer."""
    from support_native import text_rows

    from matrix_lib.core.words import binding as binding_module
    from matrix_lib.hosts.comfy.attach import attach
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.run import BINDING, TRACKS
    from matrix_lib.instrument.session import Session

    model, extra = models("wan"), extra_channels(20, latent("wan_i2v").shape[2:])
    keys = {BINDING: make_binding(binding_module, text_rows("wan_i2v")), TRACKS: tracks_of()}
    both = [add_extra(conditioning("wan_i2v", seed, **keys), extra) for seed in (1, 2)]
    lora, seen = tiny("wan", model), []

    class Observer(Watcher):
        def observe(self, call: Any, lse: Any) -> None:
            seen.append((call.site.name, call.grid.shape))

    def watch(m: Any) -> Any:
        return attach(m, lambda info: Session([Observer()]))

    plain = sample(apply_lora(model, lora)[0], *both, latent("wan_i2v"), steps=1)
    for watched in (watch(apply_lora(model, lora)[0]), apply_lora(watch(model), lora)[0]):
        seen.clear()
        assert torch.equal(sample(watched, *both, latent("wan_i2v"), steps=1), plain)
        assert len({name for name, _ in seen}) == 4
        assert {shape for _, shape in seen} == {(3, 4, 6)}


# ---- masks


def tracks_of(frames: int = 9, height: int = 64, width: int = 96) -> Any:
    return make_tracks(tracks_module, frames, height, width).with_roles({"cyclist": "subject", "van": "object"})


def test_tavid_as_its_method_describes(models: Any, tmp_path: Path) -> None:
    """33 channels into the network: noise, image, the target's first-frame mask by nearest x1/8, then zeros; the same
    for both branches of the guidance."""
    from comfy.patcher_extension import WrappersMP

    from matrix_lib.core.tracks.conditions import find_targets
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.mask_condition import target_mask

    model, tracks = models("cogvideox"), tracks_of()
    save_lora(tiny("cogvideox", model, alpha=None), tmp_path, "tavid")
    for part in tmp_path.glob("*.safetensors"):  # as published: no header of ours
        from safetensors.torch import load_file, save_file

        save_file(load_file(part), part)
    loaded = load_lora(tmp_path)
    assert loaded.source == "tavid"
    patched, report = apply_lora(model, loaded)
    assert report.widened is not None
    assert (report.widened.condition, report.widened.base, report.scales) == ("target_mask", 32, (1.0,))
    assert find_targets(tracks) == ("van",)
    empty = latent("cogvideox")
    made = target_mask(tracks, ("van",), empty)
    assert made.channels.shape == (1, 1, 3, 8, 12)
    mask = tracks.mask("van", 0)
    assert torch.equal(made.channels[0, 0, 0].bool(), mask[::8, ::8])
    assert not made.channels[:, :, 1:].any()
    seen: list[Tensor] = []

    def spy(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(x.clone())
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    positive, negative = (add_extra(c, made.channels) for c in conds("cogvideox", None))
    sample(patched, positive, negative, empty, steps=1)
    rows = torch.cat(seen)
    assert rows.shape == (2, 33, 3, 8, 12)
    assert torch.equal(rows[:, 32:], made.channels.expand(2, -1, -1, -1, -1))
    image = model.get_model_object("latent_format").process_in(conds("cogvideox", None)[0][0][1]["concat_latent_image"])
    torch.testing.assert_close(rows[0, 16:32], image[0], rtol=1e-3, atol=1e-3)


def test_masks_of_other_sizes_are_cropped_as_the_picture_is() -> None:
    from matrix_lib.hosts.comfy.mask_condition import target_mask

    wide = tracks_of(9, 64, 160)
    made = target_mask(wide, ("van",), torch.zeros(1, 16, 3, 8, 12))
    assert torch.equal(made.channels[0, 0, 0].bool(), wide.mask("van", 0)[:, 32:128][::8, ::8])
    assert made.picture.shape == (1, 64, 96, 3)
    with pytest.raises(ValueError, match="a video latent"):
        target_mask(wide, ("van",), torch.zeros(1, 4, 8, 12))
    gone = tracks_module.MaskTracks.from_boxes({"a": {4: (0, 0, 9, 9), 8: (0, 0, 9, 9)}}, 9, 64, 96)
    with pytest.raises(ValueError, match="nowhere in the first frame"):
        target_mask(gone, ("a",), torch.zeros(1, 16, 3, 8, 12))


def test_which_one_is_the_target() -> None:
    from matrix_lib.core.tracks.conditions import find_targets

    tracks = tracks_of()
    assert find_targets(tracks, " cyclist , van") == ("cyclist", "van")
    with pytest.raises(ValueError, match="which one"):
        find_targets(make_tracks(tracks_module, 9, 64, 96))
    with pytest.raises(ValueError, match="no instance|lamp"):
        find_targets(tracks, "lamp")


def test_odd_clips_of_cogvideox_15(tmp_path: Path) -> None:
    """The mask stays in the first latent frame, as the first frame does and as it was in training."""
    from matrix_lib.hosts.comfy.load import load_transformer
    from matrix_lib.hosts.comfy.lora import apply_lora

    make_cogvideox(tmp_path, version="1.5", text_encoder=False, vae=False)
    model = load_transformer(tmp_path, "transformer", torch.float32)[0]
    weight = model.model.diffusion_model.state_dict()["patch_embed.proj.weight"]
    wide = torch.cat([weight, noise((weight.shape[0], 8), 1)], 1)
    patched, report = apply_lora(model, AlignmentLoRA("cogvideox", {}, {"weight": wide}))
    assert report.widened is not None
    assert (report.widened.base, report.widened.extra) == (32, 1)
    extra = extra_channels(1, (3, 8, 12))
    given = network(patched, "cogvideox15", extra, (3, 8, 12))
    assert given["x"].shape == (1, 33, 4, 8, 12)
    assert torch.equal(given["x"][0, 32], torch.cat([extra[0, 0], torch.zeros(1, 8, 12)]))


def test_context_windows_get_their_part_of_the_mask(models: Any, comfy: ModuleType) -> None:
    import comfy.context_windows as windows
    from comfy.patcher_extension import WrappersMP

    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora

    model = models("hunyuan_video")
    patched, _ = apply_lora(model, tiny("hunyuan_video", model))
    extra = extra_channels(16, (6, 8, 12))
    seen: list[tuple[list[int], Tensor]] = []

    def spy(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = next(a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "context_window" in a)
        window = options["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)  # a frame that the host puts in front of a later window
        seen.append(([*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list], x.clone()))
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    patched.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=3,
        context_overlap=1,
        dim=2,
    )
    size = (6, 8, 12)
    both = [add_extra(conditioning("hunyuan", seed, size), extra) for seed in (1, 2)]
    sample(patched, *both, torch.zeros(1, 16, *size), steps=1)
    assert len(seen) >= 2
    for index, x in seen:
        assert torch.equal(x[:1, 16:], extra[:, :, index])


# ---- what does not fit


def test_what_does_not_fit_says_so(models: Any) -> None:
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora

    model = models("cogvideox")
    lora = tiny("cogvideox", model)
    with pytest.raises(ValueError, match="LoRA of cogvideox, and the model is Wan"):
        apply_lora(models("wan"), lora)
    wrong = replace(lora, factors={"transformer_blocks.0.attn1.to_q": Factors(noise((4, 64), 1), noise((64, 4), 2))})
    with pytest.raises(ValueError, match="another size"):
        apply_lora(model, wrong)
    far = Factors(noise((4, 128), 1), noise((128, 4), 2))
    none = AlignmentLoRA("cogvideox", {"transformer_blocks.30.attn1.to_q": far})
    with pytest.raises(ValueError, match="none of the LoRA's 2 tensors"):
        apply_lora(model, none)
    some = replace(lora, factors={**lora.factors, **none.factors})
    report = apply_lora(model, some)[1]
    assert report.missing == ("blocks.30.q",)
    assert f"{report.total - 2} of {report.total} tensors matched" in str(report)
    for shape, words in (((64, 33, 2, 2), "another size"), ((128, 16, 2, 2), "text-to-video")):
        with pytest.raises(ValueError, match=words):
            apply_lora(model, replace(lora, projection={"weight": noise(shape, 1)}))
    patched, _ = apply_lora(model, lora)
    for channels, words in (
        (extra_channels(16, (3, 8, 12)), "16 mask channels"),
        (extra_channels(1, (3, 4, 6)), "was made for"),
    ):
        with pytest.raises(ValueError, match=words):
            sample(patched, *(add_extra(c, channels) for c in conds("cogvideox", None)), latent("cogvideox"), steps=1)
    assert torch.isfinite(run(model, "cogvideox")).all()
