"""Alignment LoRAs on models whose weights lie there packed: as on the same model unpacked, and gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support_loras import make_lora, noise
from support_native import conditioning, latent, sample
from support_packed import packed_pair
from torch import Tensor

from matrix_lib.backbones import lora as lora_module

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
# native family: family of the LoRA, extra channels. CogVideoX 1.5 has a matrix, so its projection is packed, too
CASES = {"cogvideox15": ("cogvideox", 16), "wan_i2v": ("wan", 20), "hunyuan": ("hunyuan_video", 16)}


@pytest.fixture(scope="module")
def pairs(comfy: Any) -> Any:
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            made[family] = packed_pair(family)
        return made[family]

    return get


def lora_for(family: str, plain: Any, extra: int) -> Any:
    name = CASES[family][0]
    state = plain.model.diffusion_model.state_dict()
    place = lora_module.native_projection(name)
    base = {part: state[f"{place}.{part}"].clone() for part in ("weight", "bias")}
    cells = 8 if family == "cogvideox15" else 1
    return make_lora(lora_module, name, extra * cells, base=base)


def run(model: Any, family: str, extra: int = 0) -> Tensor:
    from matrix_lib.hosts.comfy.lora import add_extra

    start = latent(family)
    both = [conditioning(family, seed) for seed in (1, 2)]
    if extra:
        channels = noise((1, extra, *start.shape[2:]), 4, 1.0)
        both = [add_extra(each, channels) for each in both]
    return sample(model, *both, start, steps=1)


def close(found: Tensor, wanted: Tensor) -> None:
    far = float((found - wanted).abs().max() / wanted.abs().max())
    assert far <= 1e-3


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_packed_model_takes_the_lora_as_the_unpacked_one_does(pairs: Any, family: str, strength: float) -> None:
    from matrix_lib.hosts.comfy.lora import apply_lora

    (model, plain), extra = pairs(family), CASES[family][1]
    before = run(model, family)
    close(before, run(plain, family))
    lora = lora_for(family, plain, extra)
    put, applied = apply_lora(model, lora, strength)
    want, reference = apply_lora(plain, lora, strength)
    assert (applied.matched, applied.missing) == (reference.matched, reference.missing)
    assert applied.widened == reference.widened
    wanted = run(want, family, extra)
    close(run(put, family, extra), wanted)
    assert float((wanted - before).abs().max()) > 0.05 * float(before.abs().max())
    assert torch.equal(run(model, family), before), "something is left on the packed model"
    assert type(put) is type(model)


@pytest.mark.parametrize("family", ["cogvideox15", "wan_i2v"])
def test_a_packed_model_that_is_loaded_with_a_lora_is_read_as_its_file_has_it(pairs: Any, family: str) -> None:
    """And LoRAs of the narrow width find their place, before or after the widening."""
    from comfy.weight_adapter import LoRAAdapter

    from matrix_lib.hosts.comfy.lora import apply_lora

    (model, plain), extra = pairs(family), CASES[family][1]
    lora, place = lora_for(family, plain, extra), f"diffusion_model.{lora_module.native_projection(CASES[family][0])}"
    weight = plain.model.diffusion_model.state_dict()[f"{place.removeprefix('diffusion_model.')}.weight"]
    narrow = LoRAAdapter(
        set(), (noise((weight.shape[0], 2), 7), noise((2, weight[0].numel()), 8), 2.0, None, None, None)
    )

    def with_both(start: Any, first: bool) -> Any:
        start = start.clone()
        if first:
            start.add_patches({f"{place}.weight": narrow}, 1.0)
        put, _ = apply_lora(start, lora)
        if not first:
            put.add_patches({f"{place}.weight": narrow}, 1.0)
        return put

    wanted = run(with_both(plain, True), family, extra)
    first = with_both(model, True)
    close(run(first, family, extra), wanted)
    close(run(with_both(model, False), family, extra), wanted)  # made while the other one is loaded


def test_packed_weights_that_their_loader_does_not_patch_are_refused_by_name(comfy: Any) -> None:
    from matrix_lib.hosts.comfy.lora import apply_lora

    model, plain = packed_pair("wan_i2v", patchable=False)
    with pytest.raises(
        ValueError, match=r"blocks\.0\.self_attn\..\.weight .* is packed \(Packed\).* brings no patcher"
    ):
        apply_lora(model, lora_for("wan_i2v", plain, 0))
