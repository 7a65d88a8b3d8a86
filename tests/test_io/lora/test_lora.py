"""LoRA files: every format to every other and back, the scale rule, and files that lie."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support_loras import make_lora, noise

from matrix_lib.backbones import lora as lora_module
from matrix_lib.backbones.lora import Factors, find_style, from_native, to_native
from matrix_lib.backbones.weight_names import FAMILIES as RULES
from matrix_lib.backbones.weight_names import native_name
from matrix_lib.io.lora.read import FORMATS, describe, load_lora, save_lora

FAMILIES = ("cogvideox", "wan", "hunyuan_video")
EXTRA = {"cogvideox": 1, "wan": 20, "hunyuan_video": 16}


def same(a: Any, b: Any) -> None:
    """Every tensor, every scale, and what the LoRA says of itself."""
    assert a.family == b.family
    assert set(a.factors) == set(b.factors) != set()
    for name in a.factors:
        x, y = a.factors[name], b.factors[name]
        assert torch.equal(x.down, y.down), name
        assert torch.equal(x.up, y.up), name
        assert x.down.dtype == y.down.dtype
        assert x.alpha == y.alpha
    for one, other in ((a.projection, b.projection), (a.extra, b.extra)):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def lora_of(family: str, **options: Any) -> Any:
    return make_lora(lora_module, family, EXTRA[family], decoder=True, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_format_to_any_other_and_back(family: str, tmp_path: Path) -> None:
    for alpha in (8.0, None):
        made = lora_of(family, alpha=alpha)
        for first in FORMATS:
            folder = tmp_path / f"{alpha}-{first}"
            save_lora(made, folder, first)
            once = load_lora(folder)
            assert once.source == first
            same(made, once)
            assert once.info == made.info
            for second in FORMATS:
                there, back = folder / second, folder / f"{second}-back"
                save_lora(once, there, second)
                save_lora(load_lora(there), back, first)
                same(made, load_lora(back))


@pytest.mark.parametrize("family", FAMILIES)
def test_native_factors_make_the_same_change(family: str) -> None:
    """up @ down of the stacked native factors is that of their parts, one under the other."""
    made = lora_of(family, alpha=6.0)
    native, stacked = to_native(made)
    assert bool(stacked) == (family == "hunyuan_video")
    again = from_native(native, family, stacked)
    assert set(again) == set(made.factors)
    if family != "hunyuan_video":
        return
    delta = {n: f.scale() * f.up @ f.down for n, f in made.factors.items()}
    wide = {n: f.scale() * f.up @ f.down for n, f in native.items()}
    parts = [delta[f"transformer_blocks.0.attn.to_{p}"] for p in "qkv"]
    torch.testing.assert_close(wide["double_blocks.0.img_attn.qkv"], torch.cat(parts))
    keys = wide["double_blocks.0.txt_attn.qkv"].chunk(3)
    torch.testing.assert_close(keys[1], delta["transformer_blocks.0.attn.add_k_proj"])
    assert not torch.cat([keys[0], keys[2]]).any(), "parts that the file has not stay as they are"
    single = [delta[f"single_transformer_blocks.0.{p}"] for p in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    torch.testing.assert_close(wide["single_blocks.0.linear1"], torch.cat(single))
    shift, scale = delta["norm_out.linear"].chunk(2)
    torch.testing.assert_close(wide["final_layer.adaLN_modulation.1"], torch.cat([scale, shift]))


def test_stacked_parts_of_other_ranks_and_scales(tmp_path: Path) -> None:
    made = lora_of("hunyuan_video")
    name = "transformer_blocks.0.attn.to_k"
    odd = replace(made, factors={**made.factors, name: Factors(noise((2, 256), 1), noise((256, 2), 2), 8.0)})
    for form in ("comfyui", "diffsynth"):
        save_lora(odd, tmp_path / form, form)  # type: ignore[arg-type]
        same(odd, load_lora(tmp_path / form))
    native = Factors(noise((4, 256), 3), noise((768, 4), 4), 2.0)  # trained on the native model: one `down` for three
    parts = from_native({"double_blocks.0.img_attn.qkv": native}, "hunyuan_video")
    assert [p.scale() for p in parts.values()] == [0.5] * 3
    (again,) = to_native(replace(made, factors=parts))[0].values()
    assert torch.equal(again.up, native.up)
    assert torch.equal(again.down, native.down)


def test_scale_is_stored_then_of_the_adapter_then_asked_for(tmp_path: Path) -> None:
    bare = lora_of("cogvideox", alpha=None, rank=4)
    (path, *_) = save_lora(bare, tmp_path / "a.safetensors", "diffusers")
    assert load_lora(path).scales() == (1.0,)
    assert any("at 1.0" in note for note in load_lora(path).notes)
    asked = load_lora(path, scale=0.5)
    assert asked.scales() == (0.5,)
    assert asked.stored_scale
    assert any("0.5, as asked" in note for note in asked.notes)
    # the adapter's header, with diffusers' pattern for one module
    settings = {"transformer.r": 4, "transformer.lora_alpha": 2.0, "transformer.alpha_pattern": {"0.attn1.to_q": 12}}
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps(settings)})
    header = load_lora(path, scale=0.25)
    assert header.scales() == (0.5, 3.0)
    assert header.factors["transformer_blocks.0.attn1.to_q"].scale() == 3.0
    # peft's own file pair
    (path,) = save_lora(
        replace(bare, projection={}, extra={}), tmp_path / "p" / "adapter_model.safetensors", "diffusers"
    )
    save_file(load_file(path), path)
    (tmp_path / "p" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 6}')
    assert load_lora(tmp_path / "p").scales() == (1.5,)
    # a stored alpha wins over all
    tensors = {f"{k.rpartition('.lora')[0]}.alpha": torch.tensor(1.0) for k in load_file(path) if "lora_A" in k}
    save_file({**load_file(path), **tensors}, path)
    assert load_lora(tmp_path / "p", scale=9.0).scales() == (0.25,)


def test_files_of_the_authors(tmp_path: Path) -> None:
    """As published: MATRIX's checkpoint of Wan, TAViD's two files. No alpha, no header."""
    state = {"patch_embedding.weight": noise((256, 56, 1, 2, 2), 1), "patch_embedding.bias": noise((256,), 2)}
    for block, kind in ((20, "cross"), (24, "cross"), (6, "self"), (8, "self")):
        for p in "qkvo":
            stem = f"blocks.{block}.{kind}_attn.{p}.lora_"
            state[f"{stem}A.default.weight"], state[f"{stem}B.default.weight"] = (
                noise((16, 256), 3),
                noise((256, 16), 4),
            )
    state["seg_head.decoder.weight"] = noise((3, 3), 5)
    save_file(state, tmp_path / "matrix.safetensors")
    matrix = load_lora(tmp_path / "matrix.safetensors")
    assert (matrix.family, matrix.source, len(matrix.factors)) == ("wan", "diffsynth", 16)
    assert matrix.blocks == ("blocks.6", "blocks.8", "blocks.20", "blocks.24")
    assert matrix.scales() == (0.5,)
    assert load_lora(tmp_path / "matrix.safetensors", scale=1.0).scales() == (1.0,)
    assert any("its authors merge it" in note for note in matrix.notes)
    assert "<id1>" in matrix.info.prompt_form
    assert set(matrix.extra) == {"seg_head.decoder.weight"}
    assert "0.5" in describe(matrix)
    bare = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    save_file(bare, tmp_path / "anybody.safetensors")
    anybody = load_lora(tmp_path / "anybody.safetensors")
    assert anybody.scales() == (1.0,)
    assert any(note.startswith("! the file stores no scale and is of nobody known") for note in anybody.notes)
    prefixed = {f"pipe.dit.{name}": tensor for name, tensor in state.items() if not name.startswith("seg_head")}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    assert set(load_lora(tmp_path / "prefixed.safetensors").factors) == set(matrix.factors)
    # TAViD
    folder = tmp_path / "tavid"
    folder.mkdir()
    names = [f"transformer.transformer_blocks.{i}.attn1.to_{p}.lora_" for i in (0, 1) for p in ("q", "k", "v", "out.0")]
    factors = {f"{n}A.weight": noise((4, 128), 6) for n in names} | {f"{n}B.weight": noise((128, 4), 7) for n in names}
    save_file(factors, folder / "pytorch_lora_weights.safetensors")
    torch.save({"weight": noise((128, 33, 2, 2), 8), "bias": noise((128,), 9)}, folder / "patch_embed_conv2d.pth")
    for path in (folder, folder / "pytorch_lora_weights.safetensors", folder / "patch_embed_conv2d.pth"):
        tavid = load_lora(path)
        assert (tavid.family, tavid.source, len(tavid.factors)) == ("cogvideox", "tavid", 8)
        assert tavid.projection["weight"].shape == (128, 33, 2, 2)
        assert tavid.scales() == (1.0,)
        assert (tavid.info.trigger, tavid.info.condition) == ("target", "target_mask")
    save_lora(tavid, tmp_path / "again", "tavid")
    pair = load_file(tmp_path / "again" / "pytorch_lora_weights.safetensors")
    assert set(pair) == set(factors)
    stored = torch.load(tmp_path / "again" / "patch_embed_conv2d.pth", weights_only=True)
    assert set(stored) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("stem", "family"),
    [
        ("diffusion_model.blocks.1.self_attn.q", "wan"),
        ("lora_unet_blocks_1_self_attn_q", "wan"),
        ("lora_unet__blocks_1_cross_attn_k", "wan"),
        ("base_model.model.transformer_blocks.1.attn1.to_q", "cogvideox"),
        ("transformer.blocks.1.attn_out", "cogvideox"),
        ("diffusion_model.double_blocks.1.img_attn.qkv", "hunyuan_video"),
        ("lora_unet_single_blocks_1_linear2", "hunyuan_video"),
        ("transformer.double_blocks.1.img_attn_qkv", "hunyuan_video"),
        ("diffusion_model.double_blocks.1.txt_mlp.fc1", "hunyuan_video"),
        ("diffusion_model.single_blocks.1.modulation.linear", "hunyuan_video"),
        ("lora_transformer_single_transformer_blocks_1_attn_to_q", "hunyuan_video"),
        ("lycoris_blocks_1_self_attn_q", "wan"),
        ("dit.blocks.1.self_attn.q", "wan"),
        ("net.blocks.1.self_attn.q_proj", "cosmos_predict2"),
        ("lora_unet_transformer_blocks_1_attn1_to_q", "cogvideox"),
        ("lora_unet_double_blocks_1_img_mlp_fc1", "hunyuan_video"),
        ("txt_in.individual_token_refiner.blocks.1.self_attn_qkv", "hunyuan_video"),
        ("diffusion_model.double_blocks.1.img_attn_q", "hunyuan_video15"),
        ("lora_unet_double_blocks_1_txt_attn_k", "hunyuan_video15"),
        ("transformer_2.blocks.1.attn1.to_q", "wan"),
        ("diffusion_model.face_adapter.fuser_blocks.1.linear1_kv", "wan"),
    ],
)
def test_other_spellings(stem: str, family: str, tmp_path: Path) -> None:
    for down, up in (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up")):
        rows = 768 if stem.endswith("qkv") else 256
        state = {f"{stem}.{down}.weight": noise((4, 256), 1), f"{stem}.{up}.weight": noise((rows, 4), 2)}
        save_file({**state, f"{stem}.alpha": torch.tensor(2.0)}, tmp_path / "x.safetensors")
        for known in (None, family):
            found = load_lora(tmp_path / "x.safetensors", known)
            assert found.family == family
            assert found.scales() == (0.5,)
            assert native_name(RULES[family], next(iter(found.factors))) is not None


def pairs(*names: str) -> dict[str, torch.Tensor]:
    state = {}
    for n, name in enumerate(names):
        state[f"{name}.lora_A.weight"] = noise((4, 256), n)
        state[f"{name}.lora_B.weight"] = noise((768 if "qkv" in name else 256, 4), 9 + n)
    return state


def test_queries_apart_beside_stacked_modules(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    names = [f"double_blocks.0.{name}" for name in ("img_attn_v", "img_attn_proj", "txt_attn.qkv")]
    save_file(pairs(*names), file)
    found = load_lora(file).factors
    parts = ("to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
    assert set(found) == {f"transformer_blocks.0.attn.{name}" for name in parts}
    assert torch.equal(found["transformer_blocks.0.attn.to_v"].up, noise((256, 4), 9))
    with pytest.raises(ValueError, match="LoRA of hunyuan_video15, and the model is hunyuan_video"):
        load_lora(file, "hunyuan_video")
    save_file(pairs(*names, "double_blocks.0.img_attn.qkv"), file)
    with pytest.raises(ValueError, match="two factors for .*to_v"):
        load_lora(file)


def test_both_experts_in_one_file(tmp_path: Path) -> None:
    file, parts = tmp_path / "x.safetensors", ("transformer", "transformer_2")
    header = json.dumps({f"{part}.lora_alpha": 4 * n for n, part in enumerate(parts, 1)})
    save_file(pairs(*(f"{part}.blocks.0.attn1.to_q" for part in parts)), file, {"lora_adapter_metadata": header})
    with pytest.raises(ValueError, match="for each expert of Wan 2.2: say part='transformer'"):
        load_lora(file)
    for n, part in enumerate(parts):
        found = load_lora(file, part=part)
        assert torch.equal(found.factors["blocks.0.attn1.to_q"].down, noise((4, 256), n))
        assert found.scales() == (1.0 + n,)


def test_names_of_several_families() -> None:
    both = ["transformer_blocks.0.ff.net.2"]
    with pytest.raises(ValueError, match="say which family"):
        find_style(both)
    assert find_style(both, "hunyuan_video") == ("hunyuan_video", "diffusers")
    with pytest.raises(ValueError, match="LoRA of wan, and the model is cogvideox"):
        find_style(["blocks.0.self_attn.q"], "cogvideox")
    with pytest.raises(ValueError, match="another model's LoRA"):
        find_style(["down_blocks.0.attentions.0.to_q"])
    # LTX-Video 2B and Cosmos Predict 2 2B are as wide, and call their modules the same: their words are not as wide
    q, k = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_k"
    assert find_style([q, k], None, {q: 2048, k: 1024}) == ("cosmos_predict2", "diffusers")
    assert find_style([q, k], None, {q: 2048, k: 2048}) == ("ltx", "diffusers")
    with pytest.raises(ValueError, match="is in cosmos_predict2 and ltx: say which family"):
        find_style([q], None, {q: 2048})
    # CogVideoX 5B and Mochi 1 are as wide, and the one of 48 blocks is Mochi's
    first, last = (f"transformer_blocks.{i}.attn1.to_q" for i in (41, 47))
    assert find_style([first], None, {first: 3072}) == ("cogvideox", "diffusers")
    assert find_style([first, last], None, {first: 3072, last: 3072}) == ("mochi", "diffusers")
    assert find_style(["transformer_blocks.0.attn1.add_q_proj"]) == ("mochi", "diffusers")


def good(tmp_path: Path, form: Any = "matrix") -> Path:
    return save_lora(lora_of("cogvideox"), tmp_path / form, form)[0]


def rewritten(path: Path, change: Any) -> Path:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        tensors, metadata = {n: file.get_tensor(n) for n in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def _drop(ending: str) -> Any:
    def change(tensors: dict, metadata: dict) -> None:
        name = next(n for n in sorted(tensors) if n.endswith(ending))
        del tensors[name]

    return change


def _header(**entries: Any) -> Any:
    def change(tensors: dict, metadata: dict) -> None:
        metadata["matrix_lora"] = json.dumps({**json.loads(metadata["matrix_lora"]), **entries})

    return change


LIES = [
    ("matrix", _drop(".up"), "lack their up"),
    ("matrix", _drop(".down"), "lack their down"),
    ("comfyui", _drop("lora_B.weight"), "lack their lora_B"),
    ("comfyui", _drop("lora_A.weight"), "lack their lora_A"),
    ("diffsynth", _drop("proj.weight"), "a bias, but no weight"),
    ("matrix", _header(version=9), "version 9"),
    ("matrix", _header(family="sdxl"), "wrong type"),
    ("matrix", _header(info={}), "wrong type"),
    ("matrix", _header(info=[1]), "wrong type"),
    ("comfyui", _header(stacked={"a": 3}), "wrong type"),
    ("comfyui", _header(alphas={"a": "x"}), "wrong type"),
    ("matrix", lambda t, m: m.update(matrix_lora="{"), "JSON"),
    ("matrix", lambda t, m: m.update(matrix_lora="[" * 100_000), "JSON"),
    ("matrix", lambda t, m: m.pop("matrix_lora"), "header of its format"),
    ("matrix", lambda t, m: t.update(other=torch.zeros(1)), "not of its format"),
    ("comfyui", lambda t, m: t.update({"blocks.0.q.weight": torch.zeros(2, 2)}), "whole modules: a whole model"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.0.q.lokr_w1": torch.zeros(2, 2)}), "LoKr"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.9.gate.alpha": torch.ones(1)}), "have no factors"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.0.q.alpha": torch.ones(3)}), "one finite number"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.0.q.alpha": torch.tensor(torch.nan)}), "one finite"),
    ("comfyui", lambda t, m: t.update({"blocks.0.q.lora_A.weight": torch.zeros(4, 128)}), "two factors"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.0.q.lora_A.weight": torch.zeros(5, 128)}), "rank"),
    ("comfyui", lambda t, m: t.update({"diffusion_model.blocks.0.q.lora_A.weight": torch.zeros(128)}), "rank"),
    ("matrix", lambda t, m: t.update({"lora.x.up": torch.zeros(2, 1), "lora.x.down": torch.zeros(1, 2)}), "not of cog"),
    ("matrix", lambda t, m: t.update({"projection.weight": torch.zeros(128)}), "input projection has a weight"),
    ("matrix", lambda t, m: t.update({"projection.bias": torch.zeros(9)}), "does not fit"),
    ("matrix", lambda t, m: t["lora.transformer_blocks.0.attn1.to_q.up"].fill_(torch.nan), "not finite"),
    ("tavid", lambda t, m: next(iter(t.values())).fill_(torch.inf), "not finite"),
    ("matrix", lambda t, m: t.update({"extra.x": torch.zeros(2, dtype=torch.int64)}), "I64"),
    ("diffusers", lambda t, m: (m.pop("matrix_lora"), m.update(lora_adapter_metadata="{")), "JSON"),
    ("diffusers", lambda t, m: (m.pop("matrix_lora"), m.update(lora_adapter_metadata='{"lora_alpha": "8"}')), "number"),
]


@pytest.mark.parametrize(("form", "change", "message"), LIES)
def test_files_that_lie(form: Any, change: Any, message: str, tmp_path: Path) -> None:
    path = rewritten(good(tmp_path, form), change)
    with pytest.raises(ValueError, match=message) as caught:
        load_lora(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 700


class Bomb:
    """Would write a file, if anybody ran what is in a pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_broken_and_hostile_files(tmp_path: Path) -> None:
    path = good(tmp_path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no whole safetensors"):
            load_lora(path)
    path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ValueError, match="no whole safetensors"):
        load_lora(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="looks like a pickle"):
        load_lora(path)
    for missing in (tmp_path / "none.safetensors", tmp_path / "empty"):
        with pytest.raises(ValueError, match="no LoRA file"):
            load_lora(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="0 safetensors"):
        load_lora(tmp_path / "empty")
    (tmp_path / "words.txt").write_text("x")
    with pytest.raises(ValueError, match="end in"):
        load_lora(tmp_path / "words.txt")


def test_pickles_are_read_as_tensors_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    projection = good(tmp_path, "tavid").with_name("patch_embed_conv2d.pth")
    whole = projection.read_bytes()
    bad: list[Any] = [Bomb(target), {"weight": Bomb(target)}, {"weight": [1.0]}, [1, 2], {3: torch.zeros(2)}, "text"]
    for content in bad:
        torch.save(content, projection)
        with pytest.raises(ValueError, match="more than tensors|flat dict"):
            load_lora(projection.parent)
    projection.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(ValueError, match="'patch_embed_conv2d.pth': it is no whole PyTorch file"):
        load_lora(projection.parent)
    for size in (0, 3, len(whole) // 2, len(whole) - 30):
        projection.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no whole PyTorch file"):
            load_lora(projection.parent)
    torch.save({"bias": torch.zeros(128)}, projection)
    with pytest.raises(ValueError, match="no weight"):
        load_lora(projection.parent)
    torch.save({"a.lora_A.weight": torch.zeros(2, 2), "a.lora_B.weight": torch.zeros(2, 2)}, projection)
    with pytest.raises(ValueError, match="projection was expected"):
        load_lora(projection.parent)
    assert not target.exists(), "code of a pickle ran"


def test_what_saving_refuses(tmp_path: Path) -> None:
    made = lora_of("cogvideox")
    with pytest.raises(ValueError, match="formats are"):
        save_lora(made, tmp_path, "ckpt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save_lora(made, tmp_path / "x.pth", "matrix")
    with pytest.raises(ValueError, match="no projection"):
        save_lora(replace(made, projection={}), tmp_path, "tavid")
    assert not list(tmp_path.iterdir())


def test_diffusers_reads_our_file(tmp_path: Path) -> None:
    """Names, ranks and scales reach peft through diffusers' own loader."""
    from diffusers import CogVideoXTransformer3DModel

    made = lora_of("cogvideox", alpha=8.0)
    odd = "transformer_blocks.1.attn1.to_q"
    made = replace(made, factors={**made.factors, odd: Factors(noise((2, 128), 1), noise((128, 2), 2), 6.0)})
    (path, beside) = save_lora(made, tmp_path / "x.safetensors", "diffusers")
    assert beside.name == "x.projection.safetensors"
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=64, text_embed_dim=16, num_layers=2, time_embed_dim=8
    )
    model.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    module = model.transformer_blocks[1].attn1.to_q
    assert module.scaling["x"] == 3.0
    assert model.transformer_blocks[0].attn1.to_q.scaling["x"] == 2.0
    assert torch.equal(module.lora_B["x"].weight, made.factors[odd].up)
