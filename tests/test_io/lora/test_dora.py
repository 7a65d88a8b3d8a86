"""DoRA: magnitudes beside factors, in every format and on diffusers models as peft has them; refused where they cannot
be followed. `test_training/tasks/test_alignment.py` trains them and compares both hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support_diffusers import build
from support_loras import make_lora, noise

from matrix_lib.backbones import lora as lora_module
from matrix_lib.backbones.lora import AlignmentLoRA, Factors
from matrix_lib.hosts.diffusers.apply_lora import apply
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.io.lora.read import describe, load_lora, save_lora

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ("cogvideox", "wan", "hunyuan_video")


def dora(family: str, extra: int = 0, some: bool = False, **options: Any) -> AlignmentLoRA:
    """A random LoRA whose factors, or `some` of them, have magnitudes; natively stacked weights are whole."""
    lora = make_lora(lora_module, family, extra, **options)
    lora = replace(lora, factors={name: one for name, one in lora.factors.items() if "add_k_proj" not in name})
    made = {
        name: replace(one, magnitude=1 + noise((one.up.shape[0],), n)) if not some or n % 2 == 0 else one
        for n, (name, one) in enumerate(lora.factors.items())
    }
    return replace(lora, factors=made)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_format_that_has_a_place_for_them_keeps_them(family: str, tmp_path: Path) -> None:
    """Also natively, where HunyuanVideo's q, k and v are one weight."""
    lora = dora(family, 1)
    for form in ("matrix", "diffusers", "comfyui", "tavid"):
        save_lora(lora, tmp_path / form, form)
        found = load_lora(tmp_path / form)
        assert set(found.dora) == set(lora.factors)
        assert found.digest == lora.digest, form
        assert f"DoRA: {len(lora.factors)} of its modules" in describe(found)
    with pytest.raises(ValueError, match="diffsynth has no place for the magnitudes"):
        save_lora(lora, tmp_path / "x.safetensors", "diffsynth")


def test_a_part_of_the_modules_is_written_where_it_can_be(tmp_path: Path) -> None:
    lora = dora("hunyuan_video", some=True)
    save_lora(lora, tmp_path / "own.safetensors", "matrix")
    assert set(load_lora(tmp_path / "own.safetensors").dora) == set(lora.dora)
    with pytest.raises(ValueError, match="all modules or none"):
        save_lora(lora, tmp_path / "x.safetensors", "diffusers")
    with pytest.raises(ValueError, match="parts are a DoRA: such a LoRA has no native form"):
        save_lora(lora, tmp_path / "x.safetensors", "comfyui")
    wan = dora("wan", some=True)
    save_lora(wan, tmp_path / "wan.safetensors", "comfyui")
    assert load_lora(tmp_path / "wan.safetensors").digest == wan.digest


def test_on_a_model_as_diffusers_and_peft_have_it(tmp_path: Path) -> None:
    """Hooks, and weights that are merged, against the adapter that diffusers itself loads."""
    model, args, *_ = build("cogvideox")
    lora = dora("cogvideox", alpha=6.0)
    save_lora(lora, tmp_path / "x.safetensors", "diffusers")

    def run(net: Any) -> torch.Tensor:
        with torch.no_grad():
            return net.eval()(**args)[0]  # type: ignore[no-any-return]

    plain = run(model)
    with apply(model, load_lora(tmp_path / "x.safetensors")) as applied:
        assert applied.matched == applied.total == 3 * len(lora.factors)
        hooked = run(model)
        applied.strength = 0.0
        assert torch.equal(run(model), plain)
        applied.strength = 0.5
        half = run(model)
    assert torch.equal(run(model), plain)
    theirs = build("cogvideox")[0]
    theirs.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    wanted = run(theirs)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(wanted.abs().max())}
    torch.testing.assert_close(hooked, wanted, **close)
    assert (wanted - plain).abs().max() > 0.01 * plain.abs().max()
    for strength, made in ((1.0, hooked), (0.5, half)):
        merged = build("cogvideox")[0]
        merge_lora(merged, lora, strength)
        torch.testing.assert_close(run(merged), made, **close)


def test_what_its_norms_cannot_be_known_of_is_refused() -> None:
    model = build("cogvideox")[0]
    lora, ordinary = dora("cogvideox"), make_lora(lora_module, "cogvideox")
    with apply(model, ordinary), pytest.raises(ValueError, match="has another LoRA on it.*apply it first"):
        apply(model, lora)
    with apply(model, lora), apply(model, ordinary):
        pass
    name = next(iter(lora.factors))
    module = model.get_submodule(name)
    whole = module.weight
    module.weight = torch.nn.Parameter(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"lies packed \(torch.uint8\).*load the model unquantised"):
        apply(model, lora)
    module.weight = whole
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), model)
    with pytest.raises(ValueError, match="has another LoRA of peft on it"):
        apply(model, lora)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {n: v.T if n.endswith("dora_scale") else v for n, v in s.items()}, "magnitudes of inputs"),
        (lambda s: {n: v[:4] if n.endswith("dora_scale") else v for n, v in s.items()}, "one magnitude for each"),
        (lambda s: {n: v * float("nan") if n.endswith("dora_scale") else v for n, v in s.items()}, "not finite"),
        (lambda s: {n: v for n, v in s.items() if n.endswith("dora_scale")}, "magnitudes .DoRA. have no factors"),
    ],
)
def test_files_that_are_not_whole(tmp_path: Path, change: Any, said: str) -> None:
    (path,) = save_lora(dora("cogvideox"), tmp_path / "x.safetensors", "comfyui")
    state = {name: value.contiguous() for name, value in change(load_file(path)).items()}
    save_file(state, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=said):
        load_lora(tmp_path / "y.safetensors")


def test_a_dora_of_the_input_projection_is_refused(tmp_path: Path) -> None:
    lora = dora("cogvideox")
    one = Factors(noise((4, 32, 2, 2), 0), noise((128, 4, 1, 1), 1), 4.0, torch.ones(128))
    save_lora(replace(lora, factors={"patch_embed.proj": one}), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="DoRA of the input projection"):
        load_lora(tmp_path / "x.safetensors")
