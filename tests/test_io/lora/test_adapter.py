"""peft's own LoRAs: whatever its settings are, the weights change as in peft, or the setting is refused by name."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support_counts import count
from support_diffusers import build
from support_loras import make_lora, noise

from matrix_lib.backbones import lora as lora_module
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.io.lora.adapter import kind_of, with_settings
from matrix_lib.io.lora.read import describe, files_of, load_lora, save_lora
from matrix_lib.io.lora.write import lost_scale

PATTERNS = {
    "cogvideox": [
        r"attn1\.to_q",
        "to_k",
        r"transformer_blocks\.\d\.attn1\.to_v",
        r".*\.0\..*to_q",
        "transformer_blocks.1.attn1.to_q",
    ],
    "wan_t2v": ["attn1.to_q", r"attn\d\.to_k", r"blocks\.[02]\.attn2\.to_v", r"to_out\.0", "blocks.1.attn2.to_q"],
}
TARGETS = {
    "cogvideox": [["to_q", "to_v"], ["to_k", "net.2"], r".*attn1\.to_(q|k|v)"],
    "wan_t2v": [["to_q", "to_k"], ["to_out.0", "ffn.net.2"], r".*blocks\.\d\.attn[12]\.to_[qkv]"],
}
PROJECTION = {"cogvideox": "patch_embed.proj", "wan_t2v": "patch_embedding"}


@st.composite
def configurations(draw):
    """(family, LoraConfig, whether something of it is not honoured here)."""
    family = draw(st.sampled_from(["cogvideox", "wan_t2v"]))
    some = st.lists(st.sampled_from(PATTERNS[family]), max_size=3, unique=True)
    made = {
        "r": draw(st.integers(1, 9)),
        "lora_alpha": draw(st.sampled_from([1, 4, 16, 0.5, 7])),
        "use_rslora": draw(st.booleans()),
        "rank_pattern": {p: draw(st.integers(1, 9)) for p in draw(some)},
        "alpha_pattern": {p: draw(st.sampled_from([1, 3, 32])) for p in draw(some)},
        "target_modules": draw(st.sampled_from(TARGETS[family])),
        "lora_dropout": draw(st.sampled_from([0.0, 0.1])),
        "init_lora_weights": draw(st.sampled_from([True, True, "gaussian", "pissa"])),
    }
    if isinstance(made["target_modules"], list):
        made["layers_to_transform"] = draw(st.sampled_from([None, [0], [0, 2]]))
    odd = draw(st.sampled_from(["", "", "", "", "use_dora", "lora_bias", "bias", "norm_out", "projection"]))
    if odd in ("use_dora", "lora_bias"):
        made[odd] = made["init_lora_weights"] = True  # the only beginning that peft takes with biases
    elif odd == "bias":
        made["bias"] = draw(st.sampled_from(["all", "lora_only"]))
    elif odd == "norm_out":
        made["modules_to_save"] = ["proj_out"]
    elif odd == "projection":
        made["modules_to_save"] = [PROJECTION[family]]
    return family, made, odd not in ("", "projection", "use_dora") or made["init_lora_weights"] == "pissa"


@settings(max_examples=count(8, 400))
@given(configurations(), st.integers(0, 99))
def test_random_configurations_of_peft(tmp_path_factory, found, seed):
    """Ours, merged into a plain model, against peft's `merge_and_unload` of the same files."""
    family, made, refused = found
    folder = tmp_path_factory.mktemp("peft")
    plain = build(family)[0]
    peft = get_peft_model(torch.nn.ModuleDict({"transformer": build(family)[0]}), LoraConfig(**made))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if weight.requires_grad and ("lora_" in name or "modules_to_save" in name):
                weight.add_(0.05 * torch.randn(weight.shape, generator=draw))
    peft.save_pretrained(str(folder))
    if refused:
        with pytest.raises(ValueError, match="lora_bias|biases|modules_to_save|init_lora_weights"):
            load_lora(folder)
        return
    try:
        lora = load_lora(folder)
    except ValueError as error:  # peft sorts the patterns as it saves them: which was the first is lost
        if len(made["alpha_pattern"]) < 2 or "which one counted in training" not in str(error):
            raise
        return
    merge_lora(plain, lora)
    wanted = peft.merge_and_unload().state_dict()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(
            weight, wanted[f"transformer.{name}"], atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    save_lora(lora, folder / "again.safetensors", "matrix")
    assert load_lora(folder / "again.safetensors").scales() == lora.scales()


def adapter(folder, rank=4, **changed):
    """A peft folder of CogVideoX with these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "base_model.model.transformer_blocks.{}.attn1.to_q.lora_"
    state = {}
    for n in (0, 1):
        state[f"{stem.format(n)}A.weight"], state[f"{stem.format(n)}B.weight"] = (
            noise((rank, 128), n),
            noise((128, rank), n),
        )
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, **changed})
    )
    return folder


def test_rslora_is_a_root(tmp_path):
    (scale,) = load_lora(adapter(tmp_path / "a", rank=128, use_rslora=True)).scales()
    assert scale == pytest.approx(8 / math.sqrt(128))
    assert load_lora(adapter(tmp_path / "b", rank=128)).scales() == (8 / 128,)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"use_dora": True}, "say DoRA, and not all of its factors have magnitudes"),
        ({"peft_type": "LOHA"}, "are of LOHA"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["norm_out"]}, "name 'norm_out' in modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"layer_replication": [[0, 4]]}, "layer_replication="),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"something_new": 3}, "something_new=3, which is not honoured"),
        ({"alpha_pattern": {"to_q": 9, "attn1.to_q": 3}}, "alphas 9, 3: peft keeps them in the order of the alphabet"),
        ({"rank_pattern": {"to_q": 9}}, "has rank 4, and its settings say 9"),
        ({"alpha_pattern": {"to_(": 9}}, "no regular expression"),
        ({"alpha_pattern": {"(a+)+": 9}}, "repeats what repeats"),
        ({"alpha_pattern": {"x" * 500: 9}}, "pattern of 500 characters"),
        ({"alpha_pattern": [1]}, "alpha_pattern is {pattern: number}"),
    ],
)
def test_settings_that_are_refused(tmp_path, changed, said):
    with pytest.raises(ValueError) as told:
        load_lora(adapter(tmp_path / "a", **changed))
    assert said in str(told.value)
    assert load_lora(adapter(tmp_path / "b", something_off=None, lora_dropout=0.2, peft_version="9")).scales() == (2.0,)


def test_settings_of_other_components_are_not_ours(tmp_path):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_config.json").unlink()
    header = {"transformer.r": 4, "transformer.lora_alpha": 6, "text_encoder.r": 9, "text_encoder.use_dora": True}
    path = folder / "x.safetensors"
    save_file(load_file(folder / "adapter_model.safetensors"), path, {"lora_adapter_metadata": json.dumps(header)})
    assert load_lora(path).scales() == (1.5,)


def test_patterns_as_peft_reads_them():
    """The pattern ends the name, behind a dot or from its beginning."""
    one = lora_module.Factors(noise((4, 8), 0), noise((8, 4), 1))
    for patterns, wanted in (
        ({"to_q": 3, "attn1.to_q": 3}, 3),
        ({r"blocks\.\d+\.attn1\.to_q": 5}, 5),
        ({"o_q": 3}, 8),
        ({"1.attn1.to_q": 3}, 3),
        ({"^blocks.*to_q": 3}, 3),
        ({"transformer.blocks.1.attn1.to_q": 3}, 3),
    ):
        found = {"lora_alpha": 8, "alpha_pattern": patterns}
        whole = {"blocks.1.attn1.to_q": "transformer.blocks.1.attn1.to_q"}
        assert with_settings({"blocks.1.attn1.to_q": one}, whole, found)["blocks.1.attn1.to_q"].alpha == wanted, (
            patterns
        )


def test_what_changes_nothing_is_told(tmp_path):
    made = make_lora(lora_module, "cogvideox", alpha=0.0)
    save_lora(made, tmp_path / "zero.safetensors")
    assert "! all 10 modules change nothing (their alpha is 0)" in describe(load_lora(tmp_path / "zero.safetensors"))
    made = make_lora(lora_module, "cogvideox", alpha=4.0)
    name = next(iter(made.factors))
    made.factors[name].up.zero_()
    save_lora(made, tmp_path / "some.safetensors")
    told = describe(load_lora(tmp_path / "some.safetensors"))
    assert "! 1 of 10 modules change nothing (their factors are all zero" in told


@pytest.mark.parametrize("form", ["diffusers", "tavid"])
def test_a_lora_depends_on_all_its_files(tmp_path, form):
    made = make_lora(lora_module, "cogvideox", 1)
    written = save_lora(made, tmp_path / "x.safetensors" if form == "diffusers" else tmp_path, form)
    assert len(written) == 2
    assert set(written) <= set(files_of(written[0]))
    folder = adapter(tmp_path / "peft")
    assert folder / "adapter_config.json" in files_of(folder)


def test_formats_without_a_scale_warn():
    made = make_lora(lora_module, "wan", 20, alpha=8.0, rank=4)
    assert "this LoRA's is 2" in lost_scale(made, "diffsynth")
    assert "use it at 0.5" in lost_scale(made, "diffsynth")
    assert "use it at 1 " in lost_scale(made, "tavid")
    assert lost_scale(make_lora(lora_module, "wan", 20, alpha=2.0, rank=4), "diffsynth") == ""
    assert lost_scale(made, "matrix") == lost_scale(made, "comfyui") == lost_scale(made, "diffusers") == ""


def test_kinds_by_their_names():
    for names, said in (
        (["a.hada_w1_a"], "LoHa"),
        (["a.lora_B.bias"], "lora_bias"),
        (["norm.weight"], "modules_to_save"),
        (["what"], ""),
    ):
        assert said in kind_of(names)
        assert bool(kind_of(names)) == bool(said)
