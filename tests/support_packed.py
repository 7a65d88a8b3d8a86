"""Tiny native models whose matrices lie there packed by the `gguf` package, and are unpacked as they are used.

The mechanism of the loaders that people have: a class of tensors that holds bytes and tells the shape of what is in
them, layers that unpack, and a patcher that hangs patches on the packed tensor instead of changing it.
"""

from __future__ import annotations

from typing import Any

import gguf
import torch
from support_native import native_state
from torch import Tensor, nn

KIND = gguf.GGMLQuantizationType.Q8_0
BLOCK = 32  # numbers that share a scale


class Packed(Tensor):
    """Bytes of a matrix. `shape` and `dtype` are the matrix's (CogVideoX asks for them), `size()` that of the bytes."""

    meant: torch.Size
    hung: list

    @staticmethod
    def of(data: Tensor, meant: Any, hung: Any = ()) -> Packed:
        made = data.as_subclass(Packed)
        made.meant, made.hung = torch.Size(meant), list(hung)
        return made

    @property
    def shape(self) -> torch.Size:
        return getattr(self, "meant", None) or self.size()

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return Packed.of(Tensor.to(self.as_subclass(Tensor), *args, **kwargs), self.meant, self.hung)

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def detach(self) -> Any:
        return self

    def values(self) -> Tensor:
        found = gguf.quants.dequantize(self.as_subclass(Tensor).cpu().numpy(), KIND)
        return torch.from_numpy(found).reshape(self.meant)


def pack(weight: Tensor) -> Packed:
    return Packed.of(torch.from_numpy(gguf.quants.quantize(weight.float().numpy(), KIND)), weight.shape)


def operations() -> Any:
    """The host's layers, but for linear ones, which keep packed weights as they are."""
    import comfy.lora
    import comfy.ops

    class Operations(comfy.ops.manual_cast):  # type: ignore[misc]
        class Linear(comfy.ops.manual_cast.Linear):  # type: ignore[misc]
            def __init__(self, inside: int, outside: int, bias: bool = True, device: Any = None, dtype: Any = None):
                nn.Module.__init__(self)
                self.in_features, self.out_features = inside, outside
                self.weight = self.bias = None

            def _load_from_state_dict(self, state: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
                for name in ("weight", "bias"):
                    if f"{prefix}{name}" in state:
                        setattr(self, name, nn.Parameter(state[f"{prefix}{name}"], requires_grad=False))

            def _save_to_state_dict(self, state: Any, prefix: str, keep: bool) -> None:
                """A stand-in for what the host counts bytes with: what it holds is no weight of a model."""
                for name in ("weight", "bias"):
                    if (value := getattr(self, name)) is not None:
                        state[f"{prefix}{name}"] = torch.empty(value.size(), device="meta")

            def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
                if not isinstance(self.weight, Packed):
                    return super().forward_comfy_cast_weights(x)  # type: ignore[no-any-return]
                weight = self.weight.values().to(x)
                for patches, key in self.weight.hung:
                    weight = comfy.lora.calculate_weight(patches, weight, key)
                return nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x))

    return Operations


def patcher_class() -> Any:
    import comfy.utils
    from comfy.model_patcher import ModelPatcher

    class PackedPatcher(ModelPatcher):  # type: ignore[misc]
        def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False, **more: Any):
            weight = comfy.utils.get_attr(self.model, key)
            if not isinstance(weight, Packed):
                return super().patch_weight_to_device(key, device_to, inplace_update, **more)
            if key in self.patches:
                hung = Packed.of(weight.as_subclass(Tensor), weight.meant, [(self.patches[key], key)])
                comfy.utils.set_attr_param(self.model, key, hung)
            return None

        def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
            if unpatch_weights:
                for weight in self.model.parameters():
                    if isinstance(weight, Packed):
                        weight.hung = []
            return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

        def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> Any:
            return super().load(*args, force_patch_weights=True, **kwargs)

        def clone(self, *args: Any, **kwargs: Any) -> Any:
            made = super().clone(*args, **kwargs)
            made.__class__ = PackedPatcher
            return made

    return PackedPatcher


def packed_pair(family: str, patchable: bool = True) -> tuple[Any, Any]:
    """(a MODEL whose matrices are packed, the same one with the unpacked values in them)."""
    import comfy.sd

    state = native_state(family)
    bytes_, values = dict(state), dict(state)
    for name, weight in state.items():
        if weight.ndim == 2 and name.endswith(".weight") and weight.shape[1] % BLOCK == 0:
            bytes_[name] = pack(weight)
            values[name] = bytes_[name].values()
    with torch.inference_mode():
        options = {"custom_operations": operations()}
        model = comfy.sd.load_diffusion_model_state_dict(bytes_, model_options={**options, "dtype": torch.float32})
        plain = comfy.sd.load_diffusion_model_state_dict(values, model_options={"dtype": torch.float32})
    if patchable:
        model.__class__ = patcher_class()
    return model, plain
