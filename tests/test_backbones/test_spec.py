"""Every fact of every family is there, and each part of the house that asks for it gets an answer."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from matrix_lib.backbones import REGISTRY, UNETS, every_model, families, match, reader, text_lengths
from matrix_lib.backbones.lora import native_projection
from matrix_lib.backbones.weight_names import FAMILIES, native_name
from matrix_lib.core.grid import Grid
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.model_shape import ModelShape

EVERY = {**REGISTRY, **UNETS}
TEXT_ALONE = ("mochi",)  # without image-to-video models


@pytest.mark.parametrize("name", EVERY)
def test_a_spec_is_whole(name: str) -> None:
    spec = EVERY[name]
    assert spec.name == name
    assert all((spec.title, spec.pipelines, spec.text_encoder_titles, spec.text_tokens))
    for host in ("native", "diffusers"):
        for known in spec.blocks(host).classes:  # type: ignore[arg-type]
            assert match([known], host) is spec  # type: ignore[arg-type]
    if name in REGISTRY:
        assert all((spec.native.stacks, spec.diffusers.stacks, spec.vae, spec.clip_loader))
        assert spec.first_frame or name in TEXT_ALONE
        assert spec.latent_channels + spec.room_for_image in spec.native_channels
        assert reader(spec.text_encoder) is not None


def test_classes_with_a_rate_of_their_own(comfy: ModuleType) -> None:
    """Each is a network of the family in one of the hosts, and of two classes the nearer counts."""
    import diffusers

    from matrix_lib.hosts.comfy.families.wan_parts import LAYOUTS

    spec = REGISTRY["wan"]
    assert set(spec.doubted_fps) <= set(spec.native.classes)
    for name in spec.class_fps:
        assert name in LAYOUTS or name in spec.diffusers.classes, name
    skyreels = diffusers.SkyReelsV2Transformer3DModel.__new__(diffusers.SkyReelsV2Transformer3DModel)
    assert (spec.rate((1, 2, 2), 8, skyreels), spec.rate((1, 2, 2), 8), spec.rate((1, 2, 2), 16)) == (24, 16, 24)


def test_people_are_told_of_every_family() -> None:
    """Tooltips and errors take their lists of families from here."""
    told = families().replace(" or ", ", ").split(", ")
    assert len(told) == len(set(told))
    for spec in REGISTRY.values():
        assert (spec.kin or spec.title) in told
        assert f"{spec.title} {spec.versions}".strip() in every_model().split(", ")
        assert f"{spec.text_tokens} {spec.title}" in text_lengths().replace(" tokens", "").split(", ")


@pytest.mark.parametrize("name", REGISTRY)
def test_weights_and_loras_know_its_names(name: str) -> None:
    rules = FAMILIES[name]
    assert native_name(rules, f"{REGISTRY[name].input_projection}.weight") is not None
    assert native_projection(name)


@pytest.mark.parametrize("name", REGISTRY)
def test_comfyui_knows_it(name: str, comfy: ModuleType) -> None:
    from matrix_lib.hosts.comfy.families import family as comfy_family

    found = comfy_family(name)
    assert found.spec is REGISTRY[name]
    found.vae_rules({})
    grid = Grid.from_latent((3, 4, 6), found.spec.patch)
    own = {"forward": lambda self: None, "forward_orig": lambda self: None, "ref_conv": None}
    network = type(found.spec.native.classes[0], (torch.nn.Module,), own)()
    around = found.around(network, grid, {})
    assert (around.before_text, around.after_text, around.before_clip, around.after_clip) == (0, 0, 0, 0)
    nothing = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)))
    assert found.defects(nothing) == []


@pytest.mark.parametrize("name", [name for name in EVERY if not EVERY[name].modular])
def test_diffusers_knows_it(name: str) -> None:
    found, spec = family(name), EVERY[name]
    assert found.spec is spec
    config = SimpleNamespace(latents_mean=[0.5] * 4, latents_std=[2.0] * 4, scaling_factor=0.5)
    latents = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    vae = SimpleNamespace(config=config)
    assert torch.allclose(found.unscaled(vae, found.scaled(vae, latents)), latents)
    hidden = torch.zeros(2, 3, 4, 5, 5)
    text = {"rows": torch.zeros(2, 7, 8), "mask": torch.ones(2, 7), "pooled": torch.zeros(2, 8)}
    text |= {"glyphs": torch.zeros(2, 3, 8), "glyph_mask": torch.ones(2, 3)}
    width = 4 + spec.room_for_image
    asked = FrozenDict(guidance_embeds=True, in_channels=width, image_embed_dim=5, patch_size=spec.patch)
    given = found.inputs(asked, hidden, torch.zeros(2), text, guidance=6.0)
    width -= given["condition_mask"].shape[1] if "condition_mask" in given else 0  # beside the latents
    shape = (2, 75, 4) if spec.flat else (2, 3, 4, 5, 5) if spec.frames_first else (2, width, 3, 5, 5)
    assert given["hidden_states"].shape == ((2, 3, 5, 5, width) if spec.channels_last else shape)
    if spec.flat:
        assert found.size(given) == (3, 5, 5)
    made = given["hidden_states"] if spec.flat or spec.frames_first else given["hidden_states"][:, :4]
    made = given["hidden_states"][..., :4] if spec.channels_last else made
    assert found.output(made, hidden).shape == hidden.shape
    assert ("guidance" in given) == spec.guidance_input
    for way in spec.first_frame.values():
        found.bind_options(way)


@pytest.mark.parametrize("name", REGISTRY)
def test_training_knows_it(name: str) -> None:
    spec = REGISTRY[name]
    config = {"_class_name": spec.diffusers.classes[0], "patch_size": list(spec.patch)}
    plain = ModelShape.of(f"{spec.title}Pipeline", config, {})
    assert (plain.spec, plain.image, plain.image_channels, plain.text_rows) == (spec, "", 0, spec.text_tokens)
    channels = spec.latent_channels
    if not spec.narrow:
        assert plain.extra_channels("id_map") == (20 if spec.id_map == "masked" else channels)
    else:
        with pytest.raises(ValueError, match="cannot be widened"):
            plain.extra_channels("target_mask")
    for kind, way in spec.first_frame.items():
        config["image_condition_type"] = kind
        shape = ModelShape.of(f"{spec.title}{spec.image_pipelines.split('|')[0]}Pipeline", config, {})
        assert shape.image == way
        due = {"padded": channels, "tokens": channels, "masked": 20, "concat": channels + 1, "replace": 0}
        assert shape.image_channels == due[way]
