"""The model nodes as the host runs them, on tiny diffusers folders under its own model directories."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_models import make_cogvideox, make_hunyuan, make_wan

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def diffusers_folder(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A root of models/diffusers with some tiny models in it."""
    import folder_paths

    root = tmp_path_factory.mktemp("models") / "diffusers"
    make_cogvideox(root / "cog-i2v", vae="wan")
    make_cogvideox(root / "authors" / "cog-1.5", version="1.5", vae="wan", text_encoder=False)
    make_wan(root / "wan-2.2", i2v=True, version="2.2")
    make_wan(root / "wan-t2v", text_encoder=False)
    for kind in ("latent_concat", "token_replace"):
        make_hunyuan(root / "hunyuan" / kind, i2v=kind, vae=False)
    folder_paths.add_model_folder_path("diffusers", str(root))
    yield root
    folder_paths.folder_names_and_paths["diffusers"][0].remove(str(root))


def load(pack: Any, folder: str, text_encoder: bool = True, vae: bool = True, kind: str = "diffusers folder") -> Any:
    source = {"source": kind, "folder": folder, "text_encoder": text_encoder, "vae": vae}
    return pack.run("MatrixLoadVideoDiT", source=source, weight_dtype="float32").result


def encode(clip: Any, text: str) -> Any:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def begin(pack: Any, model: Any, words: tuple[Any, Any], vae: Any, **more: Any) -> Any:
    """Positive, negative and latent of a first frame that is noise, unless `more` has a picture."""
    given = {"image": torch.rand(1, 64, 96, 3), "width": 96, "height": 64, "length": 9} | more
    positive, negative = words
    return pack.run("MatrixImageCondition", model=model, positive=positive, negative=negative, vae=vae, **given).result


def finish(model: Any, positive: Any, negative: Any, latent: Any, steps: int = 2, cfg: float = 3.0) -> Any:
    import nodes

    with torch.inference_mode():
        return nodes.common_ksampler(model, 1, steps, cfg, "euler", "simple", positive, negative, latent)[0]["samples"]


def test_schema_lists_the_folders(pack: Any, diffusers_folder: Path) -> None:
    inputs = pack.classes["MatrixLoadVideoDiT"].INPUT_TYPES()
    options = {option["key"]: option["inputs"] for option in inputs["required"]["source"][1]["options"]}
    assert list(options) == ["mini", "diffusers folder", "native file", "diffusers folder, references"]
    with pytest.raises(ValueError, match="has no transformer_ref"):
        load(pack, "cog-i2v", kind="diffusers folder, references")
    folders = options["diffusers folder"]["required"]["folder"]
    assert {"cog-i2v", "authors/cog-1.5", "wan-2.2", "wan-t2v", "hunyuan/token_replace"} <= set(folders[1]["options"])


def test_from_folder_to_frames(pack: Any, diffusers_folder: Path) -> None:
    model, clip, vae, low_noise = load(pack, "cog-i2v")
    assert low_noise is model
    assert pack.lib("hosts.comfy.repair").needs_repair(model) == []
    positive, negative = encode(clip, "a man throws the ball"), encode(clip, "")
    assert positive[0][0].shape == (1, 226, 64)
    image = torch.rand(1, 100, 200, 3)
    positive, negative, latent = begin(pack, model, (positive, negative), vae, image=image, batch_size=2)
    samples = finish(model, positive, negative, latent)
    assert samples.shape == (2, 16, 3, 8, 12)
    with torch.inference_mode():
        frames = vae.decode(samples)
    assert frames.shape[-3:] == (64, 96, 3)
    assert torch.isfinite(frames).all()


def test_the_first_frame_is_the_centre_of_the_picture(pack: Any, diffusers_folder: Path) -> None:
    model, _, vae, _ = load(pack, "cog-i2v", text_encoder=False)
    image = torch.zeros(1, 64, 160, 3)
    image[:, :, 32:128] = torch.rand(1, 64, 96, 3)
    condition = pack.lib("hosts.comfy.first_frame").image_condition
    with torch.inference_mode():
        whole = condition(model, vae, image, 96, 64, 9)
        centre = condition(model, vae, image[:, :, 32:128].contiguous(), 96, 64, 9)
    assert whole.framing.box() == (0, 32, 64, 96)
    assert torch.equal(whole.values["concat_latent_image"], centre.values["concat_latent_image"])
    # what comes after the first frame is zero where the network sees it
    seen = model.get_model_object("latent_format").process_in(whole.values["concat_latent_image"])
    assert seen[:, :, 0].abs().max() > 0
    assert seen[:, :, 1:].abs().max() < 1e-6


def test_odd_clip_of_1_5(pack: Any, diffusers_folder: Path) -> None:
    model, clip, vae, _ = load(pack, "authors/cog-1.5", text_encoder=False)
    assert clip is None
    cond = [[torch.randn(1, 226, 64), {}]]
    positive, negative, latent = begin(pack, model, (cond, cond), vae)
    assert finish(model, positive, negative, latent).shape == (1, 16, 3, 8, 12)


def test_two_experts_of_wan(pack: Any, diffusers_folder: Path) -> None:
    high, clip, vae, low = load(pack, "wan-2.2")
    assert high is not low
    name = "blocks.0.ffn.0.weight"
    weights = [m.model.diffusion_model.state_dict()[name] for m in (high, low)]
    assert not torch.equal(*weights)
    tokens = clip.tokenize("a woman hands the cup to the man")
    assert len(tokens["umt5xxl"][0]) == 512
    words = encode(clip, "a woman hands the cup to the man"), encode(clip, "")
    positive, negative, latent = begin(pack, high, words, vae, width=64, height=48, length=5)
    assert positive[0][1]["concat_latent_image"].shape == (1, 16, 2, 6, 8)
    for model in (high, low):
        assert torch.isfinite(finish(model, positive, negative, latent, steps=1)).all()


@pytest.mark.parametrize("kind", ["latent_concat", "token_replace"])
def test_both_kinds_of_hunyuan(pack: Any, diffusers_folder: Path, kind: str) -> None:
    """The host fixes the size of HunyuanVideo's VAE; Wan's makes latents of the same shape and stands in here."""
    model = load(pack, f"hunyuan/{kind}", text_encoder=False, vae=False)[0]
    vae = load(pack, "wan-t2v", text_encoder=False)[2]
    cond = [[torch.randn(1, 12, 64), {"pooled_output": torch.randn(1, 768)}]]
    positive, negative, latent = begin(pack, model, (cond, cond), vae)
    assert ("concat_latent_image" in positive[0][1]) == (kind == "latent_concat")
    assert ("noise_mask" in latent) == (kind == "token_replace")
    samples = finish(model, positive, negative, latent, cfg=1.0)
    assert samples.shape == (1, 16, 3, 8, 12)
    if kind == "token_replace":
        assert torch.allclose(samples[:, :, :1], latent["samples"][:, :, :1], atol=1e-3)


@pytest.mark.parametrize(
    ("folder", "size", "message"),
    [
        ("cog-i2v", (100, 64, 9), r"width 100 is no multiple of 16 \(nearest: 96 or 112\)"),
        ("cog-i2v", (96, 64, 11), r"length 11 is not 4n \+ 1 \(nearest: 9 or 13\)"),
        ("wan-t2v", (96, 64, 9), "text-to-video model"),
    ],
)
def test_image_condition_says_what_is_wrong(
    pack: Any, diffusers_folder: Path, folder: str, size: tuple[int, int, int], message: str
) -> None:
    model, _, vae, _ = load(pack, folder, text_encoder=False)
    width, height, length = size
    cond = [[torch.zeros(1, 226, 64), {}]]
    with pytest.raises(ValueError, match=message):
        begin(pack, model, (cond, cond), vae, width=width, height=height, length=length)


def test_a_picture_of_no_numbers_is_refused(pack: Any, diffusers_folder: Path) -> None:
    model, _, vae, _ = load(pack, "cog-i2v", text_encoder=False)
    image = torch.rand(1, 64, 96, 3)
    image[0, 5, 5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"no numbers \(NaN\)"):
        pack.lib("hosts.comfy.first_frame").image_condition(model, vae, image, 96, 64, 9)


def test_a_path_is_no_folder_name(pack: Any, diffusers_folder: Path, tmp_path: Path) -> None:
    make_cogvideox(tmp_path / "outside", text_encoder=False, vae=False)
    for name in ("../outside", str(tmp_path / "outside"), "authors/../cog-i2v", ""):
        with pytest.raises(ValueError, match="is not on this machine"):
            load(pack, name)


def test_native_file(pack: Any, diffusers_folder: Path) -> None:
    import folder_paths
    from safetensors.torch import save_file

    root = diffusers_folder.parent / "diffusion_models"
    root.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("diffusion_models", str(root))
    model = load(pack, "wan-t2v", text_encoder=False, vae=False)[0]
    save_file(model.model.diffusion_model.state_dict(), root / "wan.safetensors")
    (root / "wan.ckpt").write_bytes(b"pickle")
    run = {"source": "native file", "file": "wan.safetensors"}
    opened, clip, vae, low = pack.run("MatrixLoadVideoDiT", source=run, weight_dtype="float32").result
    assert type(opened.model).__name__ == "WAN21"
    assert (clip, vae) == (None, None)
    assert low is opened
    with pytest.raises(ValueError, match="pickles are not read"):
        pack.run("MatrixLoadVideoDiT", source={**run, "file": "wan.ckpt"}, weight_dtype="default")
    save_file({"a": torch.zeros(1)}, root / "other.safetensors")
    for name, words in (
        ("other.safetensors", "ComfyUI finds no model"),
        ("../x.safetensors", "is not on this machine"),
        ("", "is not on this machine"),
    ):
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixLoadVideoDiT", source={**run, "file": name}, weight_dtype="default")
    whole = (root / "wan.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        pack.run("MatrixLoadVideoDiT", source={**run, "file": "cut.safetensors"}, weight_dtype="default")


def test_repair_node_tells_what_it_did(pack: Any, diffusers_folder: Path) -> None:
    folder = diffusers_folder / "cog-i2v"
    broken = pack.lib("hosts.comfy.load")._build(str(folder), "transformer", torch.float32)
    out = pack.run("MatrixRepairModel", model=broken)
    assert out.result[0] is not broken
    assert "not scaled" in out.ui["text"][0]
    again = pack.run("MatrixRepairModel", model=out.result[0])
    assert again.result[0] is out.result[0]
    assert again.ui["text"] == ("Nothing to repair.",)


def test_interrupting_a_load_stops_it(pack: Any, diffusers_folder: Path) -> None:
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        load(pack, "wan-t2v", text_encoder=False)
    assert load(pack, "wan-t2v", text_encoder=False)[0] is not None


def test_every_input_and_output_is_explained(pack: Any) -> None:
    docs = Path(__file__).resolve().parents[2] / "web" / "docs"
    for name in ("MatrixLoadVideoDiT", "MatrixRepairModel", "MatrixImageCondition"):
        schema = pack.classes[name].GET_SCHEMA()
        assert all(item.tooltip for item in [*schema.inputs, *schema.outputs])
        assert schema.description
        assert schema.search_aliases
        assert (docs / f"{name}.md").read_text(encoding="utf-8").count("\n## ") >= 4
        json.dumps(pack.classes[name].INPUT_TYPES())


def graph(folder: str, **changes: Any) -> dict[str, Any]:
    """Folder to pictures, in the form that the host's API takes."""
    load = {"source": "diffusers folder", "source.folder": folder, "source.text_encoder": True, "source.vae": True}
    frame = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "vae": ["1", 2], "image": ["4", 0]}
    size = {"width": 96, "height": 64, "length": 9, "batch_size": 1, **changes}
    sampler = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["5", 0], "negative": ["5", 1], "latent_image": ["5", 2]}
    nodes = {
        "1": ("MatrixLoadVideoDiT", load | {"weight_dtype": "default"}),
        "2": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a man throws the ball"}),
        "3": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "4": ("EmptyImage", {"width": 120, "height": 64, "batch_size": 1, "color": 8421504}),
        "5": ("MatrixImageCondition", frame | size),
        "6": ("KSampler", sampler | links),
        "7": ("VAEDecode", {"samples": ["6", 0], "vae": ["1", 2]}),
        "8": ("PreviewImage", {"images": ["7", 0]}),
        "9": ("MatrixRepairModel", {"model": ["1", 0], "variant": "automatic", "dynamic_cfg": "off"}),
        "10": ("PreviewAny", {"source": ["9", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def test_through_a_running_host(server: Any) -> None:
    """Validation, execution and errors over HTTP, as a workflow meets them."""
    make_cogvideox(server.base / "models" / "diffusers" / "cog", vae="wan")
    make_cogvideox(server.base / "outside", text_encoder=False, vae=False)
    info = server.get("/object_info/MatrixLoadVideoDiT")["MatrixLoadVideoDiT"]
    options = {option["key"]: option["inputs"] for option in info["input"]["required"]["source"][1]["options"]}
    folders = options["diffusers folder"]["required"]["folder"][1]["options"]
    assert "cog" in folders
    assert set(folders) <= {"cog", "matrix-random"}  # the server is shared with the demo's tests
    outputs = server.run(graph("cog"))
    assert len(outputs["8"]["images"]) == 9
    assert outputs["9"]["text"] == ["Nothing to repair."]
    with pytest.raises(RuntimeError, match=r"width 100 is no multiple of 16 \(nearest: 96 or 112\)"):
        server.run(graph("cog", width=100))
    for name in ("../../outside", str(server.base / "outside")):
        with pytest.raises(RuntimeError, match="not in list|no model folder"):
            server.run(graph(name))


def pictures() -> dict[str, torch.Tensor]:
    """A smooth and a rough picture, larger and smaller than the clip, of other proportions."""
    made = {}
    for rows, columns in ((301, 401), (1080, 1920), (40, 50), (64, 96)):
        y, x = torch.linspace(0, 3, rows)[:, None, None], torch.linspace(0, 5, columns)[None, :, None]
        smooth = 0.5 + 0.5 * torch.sin(x + y * torch.tensor([1.0, 2.0, 3.0]))
        rough = torch.rand(rows, columns, 3, generator=torch.Generator().manual_seed(rows))
        made |= {f"smooth {columns}x{rows}": smooth[None], f"rough {columns}x{rows}": rough[None]}
    return made


def test_the_image_condition_is_that_of_the_hosts_own_node(pack: Any, diffusers_folder: Path) -> None:
    from comfy_extras.nodes_wan import WanImageToVideo

    model, _, vae, _ = load(pack, "wan-2.2", text_encoder=False)
    condition = pack.lib("hosts.comfy.first_frame").image_condition
    for name, image in pictures().items():
        with torch.inference_mode():
            ours = condition(model, vae, image, 96, 64, 9).values["concat_latent_image"]
            cond = [[torch.zeros(1, 1, 1), {}]]
            theirs = WanImageToVideo.execute(cond, cond, vae, 96, 64, 9, 1, start_image=image).result[0][0][1]
        assert torch.equal(ours, theirs["concat_latent_image"]), name


def test_the_first_frame_is_fitted_as_the_tracks_say(pack: Any, diffusers_folder: Path) -> None:
    """A picture of another shape, against the same picture brought to the size by the host's own nodes."""
    from comfy_extras.nodes_images import ResizeAndPadImage

    import nodes

    model, _, vae, _ = load(pack, "cog-i2v", text_encoder=False)
    image, cond = torch.rand(1, 50, 140, 3), [[torch.randn(1, 226, 64), {}]]
    tracks = pack.run("MatrixBoxTracks", boxes="a: 4 4 20 20", width=140, height=50, frames=1).result[0]
    ready = {
        "center": nodes.ImageScale().upscale(image, "bilinear", 96, 64, "center")[0],
        "stretch": nodes.ImageScale().upscale(image, "bilinear", 96, 64, "disabled")[0],
        "pad": ResizeAndPadImage.execute(image, 96, 64, "black", "bilinear").result[0],
    }
    given = {"model": model, "positive": cond, "negative": cond, "vae": vae, "width": 96, "height": 64, "length": 9}
    for fit, picture in ready.items():
        fitted = pack.run("MatrixEditTracks", tracks=tracks, fit=fit).result[0]
        ours = pack.run("MatrixImageCondition", image=image, tracks=fitted, **given).result[0]
        theirs = pack.run("MatrixImageCondition", image=picture, **given).result[0]
        assert torch.equal(ours[0][1]["concat_latent_image"], theirs[0][1]["concat_latent_image"]), fit
