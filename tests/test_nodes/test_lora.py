"""The LoRA nodes as the host runs them: files in models/loras, conditionings, the sampler."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_attention import make_tracks
from support_loras import make_lora
from support_models import make_wan
from support_native import conditioning, latent, native_model, sample

NATIVE = {"cogvideox": "cogvideox", "wan": "wan_i2v", "hunyuan_video": "hunyuan"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loras(comfy: ModuleType, pack: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `loras` folder with a file of each kind."""
    import folder_paths

    root = tmp_path_factory.mktemp("models") / "loras"
    types, files = pack.lib("backbones.lora"), pack.lib("io.lora.read")
    for family, extra in (("cogvideox", 1), ("cogvideox", 16), ("wan", 20), ("hunyuan_video", 16)):
        files.save_lora(make_lora(types, family, extra), root / f"{family}-{extra}.safetensors")
    files.save_lora(make_lora(types, "cogvideox", 1, alpha=None), root / "tavid", "tavid")
    files.save_lora(make_lora(types, "cogvideox", 1), root / "adapter.safetensors", "diffusers")
    (root / "broken.safetensors").write_bytes(b"no")
    folder_paths.add_model_folder_path("loras", str(root))
    folder_paths.filename_list_cache.clear()
    yield root
    folder_paths.folder_names_and_paths["loras"][0].remove(str(root))
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def vae(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small VAE with 16 latent channels."""
    from matrix_lib.hosts.comfy.load import load_vae

    return load_vae(make_wan(tmp_path_factory.mktemp("vae"), text_encoder=False))


@pytest.fixture(scope="module")
def models(comfy: ModuleType) -> dict[str, Any]:
    return {family: native_model(name) for family, name in NATIVE.items()}


def tracks_of(pack: Any) -> Any:
    made = make_tracks(pack.lib("core.tracks.tracks"), 9, 64, 96)
    return made.with_roles({"cyclist": "subject", "van": "object"})


def masked(pack: Any, model: Any, family: str, **options: Any) -> Any:
    name = NATIVE[family]
    inputs = {"positive": conditioning(name, 1), "negative": conditioning(name, 2), "tracks": tracks_of(pack)}
    size = {"samples": latent(name)}
    return pack.run("MatrixMaskCondition", **{"model": model, "latent": size, **inputs, **options})


def test_the_menu_lists_loras_and_not_their_projections(pack: Any, loras: Path) -> None:
    options = pack.classes["MatrixApplyLoRA"].INPUT_TYPES()["required"]["lora"][1]["options"]
    assert {"adapter.safetensors", "wan-20.safetensors"} <= set(options)
    assert str(Path("tavid") / "pytorch_lora_weights.safetensors") in options
    assert not [name for name in options if name.endswith((".projection.safetensors", ".pth"))]


@pytest.mark.parametrize(("family", "extra"), [("cogvideox", 1), ("cogvideox", 16), ("wan", 20), ("hunyuan_video", 16)])
def test_from_file_to_sample(family: str, extra: int, pack: Any, loras: Path, models: Any, vae: Any) -> None:
    name, model = NATIVE[family], models[family]
    plain = sample(model, conditioning(name, 1), conditioning(name, 2), latent(name), steps=1)
    patched, report = pack.run("MatrixApplyLoRA", model=model, lora=f"{family}-{extra}.safetensors").result
    total = 2 * len(make_lora(pack.lib("backbones.lora"), family).factors) + 2
    assert f"{total} of {total} tensors matched; scale 2" in report
    assert "MATRIX Mask Condition" in report
    assert "trigger: target" in report
    positive, negative, picture = masked(pack, patched, family, vae=vae).result
    assert picture.shape == (1, 64, 96, 3)
    key = pack.lib("hosts.comfy.lora").COND
    for side in (positive, negative):
        assert side[0][1]["model_conds"][key].cond.shape == (1, extra, 3, 8, 12)
    out = sample(patched, positive, negative, latent(name), steps=1)
    assert torch.isfinite(out).all()
    assert not torch.allclose(out, plain)
    again = sample(model, conditioning(name, 1), conditioning(name, 2), latent(name), steps=1)
    assert torch.equal(plain, again)


def test_id_map_in_the_colours_that_the_lora_knows(pack: Any, loras: Path, models: Any, vae: Any) -> None:
    """The palette picture of the first frame; Wan: its mask and a clip that goes on in grey, as a first frame is."""
    patched = pack.run("MatrixApplyLoRA", model=models["wan"], lora="wan-20.safetensors").result[0]
    positive, _, picture = masked(pack, patched, "wan", vae=vae).result
    tracks = tracks_of(pack)
    for name, colour in (("cyclist", (1.0, 0.0, 0.0)), ("van", (0.0, 1.0, 0.0))):
        assert torch.equal(picture[0][tracks.mask(name, 0)].unique(dim=0), torch.tensor([colour]))
    channels = positive[0][1]["model_conds"][pack.lib("hosts.comfy.lora").COND].cond
    assert torch.equal(channels[:, :4, 0], torch.ones(1, 4, 8, 12))
    assert not channels[:, :4, 1:].any()
    clip = torch.full((9, 64, 96, 3), 0.5)
    clip[:1] = picture
    with torch.inference_mode():
        wanted = models["wan"].get_model_object("latent_format").process_in(vae.encode(clip))
    torch.testing.assert_close(channels[:, 4:], wanted.float())
    patched = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora="cogvideox-16.safetensors").result[0]
    channels = masked(pack, patched, "cogvideox", vae=vae).result[0][0][1]["model_conds"]["matrix_extra"].cond
    with torch.inference_mode():
        first = models["cogvideox"].get_model_object("latent_format").process_in(vae.encode(picture))
    torch.testing.assert_close(channels[:, :, :1], first.float())
    assert not channels[:, :, 1:].any()


def test_tavid_with_its_two_files(pack: Any, loras: Path, models: Any) -> None:
    name = str(Path("tavid") / "pytorch_lora_weights.safetensors")
    patched, report = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora=name).result
    assert "used at 1.0" in report
    assert "from 32 to 33 channels" in report
    asked = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora=name, scale=0.5).result[1]
    assert "scale 0.5" in asked
    _, _, picture = masked(pack, patched, "cogvideox").result
    assert torch.equal(picture[0, ..., 0].bool(), tracks_of(pack).mask("van", 0))
    both = masked(pack, patched, "cogvideox", target="cyclist, van").result[2]
    assert both.sum() > picture.sum()


def test_strength_zero(pack: Any, loras: Path, models: Any) -> None:
    model = models["cogvideox"]
    off = pack.run("MatrixApplyLoRA", model=model, lora="cogvideox-1.safetensors", strength=0.0).result[0]
    conds = conditioning("cogvideox", 1), conditioning("cogvideox", 2)
    assert torch.equal(sample(off, *conds, latent("cogvideox")), sample(model, *conds, latent("cogvideox")))


def test_a_forgotten_mask_is_told(pack: Any, loras: Path, models: Any, caplog: Any) -> None:
    patched = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora="cogvideox-1.safetensors").result[0]
    with caplog.at_level(logging.WARNING):
        sample(patched, conditioning("cogvideox", 1), conditioning("cogvideox", 2), latent("cogvideox"))
    assert len([r for r in caplog.records if "carries no mask" in r.getMessage()]) == 1


def test_a_file_that_changes_is_read_again(pack: Any, loras: Path) -> None:
    node = pack.classes["MatrixApplyLoRA"]
    before = node.fingerprint_inputs(lora="broken.safetensors", strength=1.0)
    (loras / "broken.safetensors").write_bytes(b"none")
    assert node.fingerprint_inputs(lora="broken.safetensors", strength=1.0) != before


@pytest.mark.parametrize("second", ["tavid/patch_embed_conv2d.pth", "cogvideox-1.projection.safetensors"])
def test_a_second_file_that_changes_is_read_again(pack: Any, loras: Path, second: str) -> None:
    """The projection beside a LoRA is a part of it: replaced, added or taken away, the node runs again."""
    node, file = pack.classes["MatrixApplyLoRA"], loras / second
    name = str(Path("tavid") / "pytorch_lora_weights.safetensors") if "tavid" in second else "cogvideox-1.safetensors"
    before, whole = node.fingerprint_inputs(lora=name), file.read_bytes() if file.is_file() else None
    assert node.fingerprint_inputs(lora=name) == before
    file.write_bytes(b"another one")
    try:
        assert node.fingerprint_inputs(lora=name) != before
    finally:
        file.unlink()
        if whole is not None:
            file.write_bytes(whole)


def test_what_does_not_fit_says_so(pack: Any, loras: Path, models: Any, vae: Any) -> None:
    wan, cog = models["wan"], models["cogvideox"]
    for model, name, words in (
        (wan, "cogvideox-1.safetensors", "the model is wan"),
        (cog, "broken.safetensors", "no whole safetensors"),
        (cog, "gone.safetensors", "'gone.safetensors' is not on this machine"),
    ):
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixApplyLoRA", model=model, lora=name)
    with pytest.raises(ValueError, match="no widening LoRA"):
        masked(pack, cog, "cogvideox")
    mask = pack.run("MatrixApplyLoRA", model=cog, lora="cogvideox-1.safetensors").result[0]
    with pytest.raises(ValueError, match="16 channels, and the LoRA on the model takes 1"):
        masked(pack, mask, "cogvideox", kind="ID map", vae=vae)
    wide = pack.run("MatrixApplyLoRA", model=cog, lora="cogvideox-16.safetensors").result[0]
    with pytest.raises(ValueError, match="connect it"):
        masked(pack, wide, "cogvideox")
    tracks = pack.lib("core.tracks.tracks").MaskTracks
    many = tracks.from_boxes({f"i{n}": {0: (0, 0, 20, 20)} for n in range(3)}, 9, 64, 96)
    with pytest.raises(ValueError, match="knows 2 colours"):
        masked(pack, wide, "cogvideox", vae=vae, tracks=many)
    with pytest.raises(ValueError, match="which one is the target"):
        masked(pack, mask, "cogvideox", tracks=many)


@pytest.mark.parametrize(
    "clip_vision", [pytest.param(True, marks=pytest.mark.soak, id="picture"), pytest.param(False, id="text alone")]
)
def test_the_picture_s_cross_attention_is_off(clip_vision: bool, pack: Any, loras: Path, models: Any, vae: Any) -> None:
    """As a model whose values of the picture are zero, to the bit; also where the host would feed it the text. The
    LoRA's file may say so, the node's menu goes before it, and strength 0 leaves everything."""
    types, files = pack.lib("backbones.lora"), pack.lib("io.lora.read")
    lora = make_lora(types, "wan", 20)
    files.save_lora(replace(lora, info=replace(lora.info, image_attention="off")), loras / "without.safetensors")
    zeroed = native_model("wan_i2v")
    for name, weight in zeroed.model.diffusion_model.named_parameters():
        if ".v_img." in name:
            with torch.inference_mode():
                weight.zero_()

    def run(model: Any, file: str, said: str, **options: Any) -> tuple[torch.Tensor, str]:
        patched, report = pack.run("MatrixApplyLoRA", model=model, lora=file, image_attention=said, **options).result
        sides = []
        for side in masked(pack, patched, "wan", vae=vae).result[:2]:
            values = dict(side[0][1])
            if not clip_vision:
                del values["clip_vision_output"]
            sides.append([[side[0][0], values]])
        return sample(patched, *sides, latent("wan_i2v"), steps=1), report

    wanted, _ = run(zeroed, "wan-20.safetensors", "as the model has it")
    plain, report = run(models["wan"], "wan-20.safetensors", "automatic")
    assert "picture" not in report
    assert float((plain - wanted).norm() / wanted.norm()) > 1e-3
    off, report = run(models["wan"], "wan-20.safetensors", "off")
    assert "cross-attention to the picture is off in 2 layers" in report
    assert torch.equal(off, wanted)
    own, report = run(models["wan"], "without.safetensors", "automatic")
    assert "trained without the model's cross-attention to the picture" in report
    assert torch.equal(own, wanted)
    assert torch.equal(run(models["wan"], "without.safetensors", "as the model has it")[0], plain)
    if not clip_vision:
        text_to_video = native_model("wan_t2v")
        _, found = pack.lib("hosts.comfy.lora").apply_lora(text_to_video, make_lora(types, "wan"), 1.0, "off")
        assert "no cross-attention to a picture that could be off" in str(found)


def test_a_grey_target_mask_keeps_its_values(pack: Any, loras: Path, models: Any, vae: Any) -> None:
    """As the code of TAViD's authors reads it: each 8th pixel of the first frame's mask, as it is."""
    patched = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora="cogvideox-1.safetensors").result[0]
    grey = torch.rand(64, 96, generator=torch.Generator().manual_seed(2))
    positive, _, picture = masked(pack, patched, "cogvideox", grey_mask=grey[None]).result
    channels = positive[0][1]["model_conds"][pack.lib("hosts.comfy.lora").COND].cond
    assert torch.equal(channels[0, 0, 0], grey[::8, ::8])
    assert not channels[:, :, 1:].any()
    assert torch.equal(picture[0, :, :, 1], grey)
    several = torch.rand(9, 64, 96, generator=torch.Generator().manual_seed(3))
    for given, wanted in ((grey[None], grey), (several, several[4]), (None, tracks_of(pack).mask("van", 4).float())):
        later = masked(pack, patched, "cogvideox", grey_mask=given, start_frame=4).result
        assert torch.equal(later[2][0, :, :, 1], wanted), "of the frame that a later clip starts with"
        first = later[0][0][1]["model_conds"][pack.lib("hosts.comfy.lora").COND].cond
        assert torch.equal(first[0, 0, 0], wanted[::8, ::8])
    with pytest.raises(ValueError, match="grey_mask has 4 masks, and start_frame is 4"):
        masked(pack, patched, "cogvideox", grey_mask=several[:4], start_frame=4)
    with pytest.raises(ValueError, match=r"of the tracks' size \(64, 96\), from 0 to 1; got \(32, 96\)"):
        masked(pack, patched, "cogvideox", grey_mask=grey[None, :32])
    wide = pack.run("MatrixApplyLoRA", model=models["cogvideox"], lora="cogvideox-16.safetensors").result[0]
    with pytest.raises(ValueError, match="a grey mask is a target mask"):
        masked(pack, wide, "cogvideox", vae=vae, grey_mask=grey[None])
