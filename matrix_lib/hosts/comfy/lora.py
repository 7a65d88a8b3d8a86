"""Puts an alignment LoRA on a clone of a native MODEL: factors as the host's own patches, a wider input projection, and
the extra channels that it reads.

A weight wrapper appends the new columns of the projection as the host casts it, so the stored weight keeps its width:
the host's models read that width to lay out their own channels. (A projection that lies there packed, see `packed.py`,
is padded by a patch instead, as it is unpacked.) Patches of the wide weight are split into their narrow
part, which the host patches in, and their part of the new columns. Extra channels ride in each conditioning's
`model_conds`, so the host batches them, cuts them into context windows and crops them to areas; an APPLY_MODEL wrapper
appends them behind the channels that the model had.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, replace
from typing import Any, Literal

import comfy.conds
import torch
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...backbones import REGISTRY
from ...backbones.lora import AlignmentLoRA, Factors, Info, native_projection, swap_halves
from ...backbones.weight_names import FAMILIES, NativeName, native_name
from ...core.no_compile import hidden
from .clip_latent import clip_shape
from .dora import DoRAAdapter
from .families import family
from .model import backbone_of, diffusion_model, patch_of
from .packed import check_patchable, packed, shape_of, unpacked
from .run import PREFIX_FRAMES
from .warn import warn

__all__ = ["COND", "Applied", "Widened", "add_extra", "apply_lora", "widened", "without_picture"]

KEY = "matrix_lora"
COND = "matrix_extra"
"""Key of `model_conds`: the extra channels, (1, channels, T, H, W) as the network sees them."""

_HEAD = "diffusion_model."


@dataclass(frozen=True)
class Widened:
    """What an input projection was widened to: `base` channels that the model had, `extra` behind them."""

    base: int
    extra: int
    info: Info

    @property
    def condition(self) -> str:
        """What the extra channels take: "target_mask" or "id_map". Raises ValueError for masks of source and target."""
        if self.info.condition == "source_target":
            raise ValueError(
                "this LoRA reads masks of source and target, a research setting of mini that no node gives: train with "
                "task.condition=target_mask or id_map"
            )
        return self.info.condition or ("target_mask" if self.extra == 1 else "id_map")


@dataclass(frozen=True)
class Applied:
    """What was put on a model. `matched` and `total` count tensors that serve at inference; `missing` names modules
    that this model has not; `pictures_off` counts layers whose cross-attention to the picture is off, None where that
    was not asked for."""

    matched: int
    total: int
    missing: tuple[str, ...]
    widened: Widened | None
    scales: tuple[float, ...]
    pictures_off: int | None = None

    def __str__(self) -> str:
        lines = [f"{self.matched} of {self.total} tensors matched; scale {', '.join(f'{s:g}' for s in self.scales)}"]
        if self.missing:
            lines.append(f"this model has no {', '.join(self.missing[:3])} ({len(self.missing)} modules)")
        if self.widened is not None:
            what = {"target_mask": "the target mask", "id_map": "the ID map"}[self.widened.condition]
            lines.append(
                f"input widened from {self.widened.base} to {self.widened.base + self.widened.extra} channels: give "
                f"both conditionings {what} with MATRIX Mask Condition"
            )
        if self.pictures_off is not None:
            lines.append(
                f"cross-attention to the picture is off in {self.pictures_off} layers"
                if self.pictures_off
                else "this model has no cross-attention to a picture that could be off"
            )
        return "\n".join(lines)


def widened(model: Any) -> Widened | None:
    """How a MODEL was widened by `apply_lora`; None where it was not."""
    return model.model_options.get("transformer_options", {}).get(KEY)


def apply_lora(
    model: Any, lora: AlignmentLoRA, strength: float = 1.0, image_attention: Literal["", "on", "off"] = ""
) -> tuple[Any, Applied]:
    """(clone with the LoRA, what matched). At strength 0 the clone carries no patch and samples bit-identically.

    image_attention: whether the model's cross-attention to the picture stays (Wan 2.1 I2V); "": as the LoRA says.

    Raises:
        ValueError: another family, no tensor that matches, sizes of another model, or a projection that is not the
            model's own with channels behind it.
    """
    spec = backbone_of(model)
    if lora.family != spec.name:
        raise ValueError(f"this is a LoRA of {lora.family}, and the model is {spec.title}")
    place = f"{_HEAD}{native_projection(lora.family)}.weight"
    bytes_only = packed(model, place)
    # reading a packed weight may unload the model: only where its values are asked for
    weight = _original(model, place) if lora.projection or not bytes_only else _shape_only(model, place)
    assert weight is not None
    wide = _width(model, lora, weight)
    if wide.extra:
        spec.check_widens()
    names = [name for name in model.model_state_dict(_HEAD) if name.endswith(".weight")]
    patches, missing = _factor_patches(lora, {name: shape_of(model, name) for name in names}, place, wide)
    check_patchable(model, dict.fromkeys(key if isinstance(key, str) else key[0] for key in patches))
    total = lora.tensors
    matched = total - sum(len(lora.factors[name].parts) for name in missing)
    missing = [_native(lora, name).key for name in missing]
    if not matched:
        raise ValueError(f"none of the LoRA's {total} tensors fits this model; it has no {', '.join(missing[:3])}")
    clone = model.clone()
    report = Applied(matched, total, tuple(missing), wide if wide.extra else None, lora.scales())
    if strength == 0.0:
        return clone, report
    if (image_attention or lora.info.image_attention) == "off":
        report = replace(report, pictures_off=without_picture(clone))
    if wide.extra and widened(model) is None:
        _feed(clone, wide)
        columns = wide.extra * _cells(model, weight)
        if bytes_only:  # its module asks no weight wrapper; the host's padding patch is put on while it is unpacked
            shape = (weight.shape[0], weight.shape[1] + columns, *weight.shape[2:])
            clone.add_patches({place: ("diff", (torch.zeros(shape), {"pad_weight": True}))}, 1.0)
        else:
            clone.add_weight_wrapper(place, Columns(torch.zeros(weight.shape[0], columns, *weight.shape[2:])))
    if lora.projection:
        clone.add_patches(_projection_patches(model, lora, place, weight), strength)
    clone.add_patches(patches, strength)
    _place_by_width(clone, place)
    return clone, report


def without_picture(model: Any) -> int:
    """Turns off a MODEL's cross-attention to the picture, in place, as an object patch: its values are zero, whatever
    it is given. Returns in how many layers; 0 where the model has none.

    The code that MATRIX's authors released never runs this attention; the host always does, and without a CLIP vision
    output on the text.
    """
    spec, count = backbone_of(model), 0
    for name, module in model.model.diffusion_model.named_modules():
        if spec.image_values and name.rpartition(".")[2] == spec.image_values[0]:
            model.add_object_patch(f"{_HEAD}{name}.forward", _Nothing(int(module.out_features)))
            count += 1
    return count


class _Nothing:
    """Forward of a linear layer whose outputs are zero."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.width)


def add_extra(conditioning: list, channels: Tensor) -> list:
    """CONDITIONING with extra channels (1, C, T, H, W) for a widened model."""
    out = []
    for words, values in conditioning:
        conds = {**values.get("model_conds", {}), COND: comfy.conds.CONDNoiseShape(channels)}
        out.append([words, {**values, "model_conds": conds}])
    return out


# -- weights ----------------------------------------------------------------------------------------------------------


def _original(model: Any, key: str) -> Tensor | None:
    """A weight as the checkpoint has it, also while a patched clone is loaded; None where the model has none."""
    found = model.get_key_patches(key).get(key)
    if not found:
        return None
    if packed(model, key):
        return unpacked(model, key)
    weight, convert = found[0]
    return convert(weight, inplace=False).detach().as_subclass(Tensor)  # type: ignore[no-any-return]


def _shape_only(model: Any, key: str) -> Tensor:
    return torch.empty(shape_of(model, key), device="meta")


def _cells(model: Any, weight: Tensor) -> int:
    """Numbers per channel in a row of the projection: 1 for a convolution, a patch for CogVideoX 1.5's matrix."""
    if weight.ndim > 2:
        return 1
    return math.prod(patch_of(model))


def _width(model: Any, lora: AlignmentLoRA, weight: Tensor) -> Widened:
    """What the model's input is once the LoRA is on it. The LoRA may also be an ordinary one for a model that is
    widened already."""
    cells, already = _cells(model, weight), widened(model)
    base = weight.shape[1] // cells
    projection = lora.projection.get("weight")
    factors = lora.factors.get(REGISTRY[lora.family].input_projection)
    wants = base
    if projection is not None:
        same = weight.shape[0], weight.shape[2:]
        if projection.ndim != weight.ndim or (projection.shape[0], projection.shape[2:]) != same:
            raise ValueError(
                f"the LoRA's input projection is {list(projection.shape)}, the model's {list(weight.shape)}: they "
                "belong to models of another size"
            )
        wants = projection.shape[1] // cells
    elif factors is not None:
        wants = factors.down.flatten(1).shape[1] // (cells * weight[0, 0].numel())
    if wants < base:
        raise ValueError(
            f"the LoRA's input projection takes {wants} channels, the model {base}: the LoRA was trained on another "
            "kind of this model (text-to-video against image-to-video?)"
        )
    if already is not None and projection is not None and wants > base:
        raise ValueError("this MODEL's input is widened by another LoRA already; one mask condition at a time")
    if already is not None and wants not in (base, base + already.extra):
        raise ValueError(f"the LoRA takes {wants} channels; this MODEL has {base}, widened to {base + already.extra}")
    return already or Widened(base, wants - base, lora.info)


def _factor_patches(
    lora: AlignmentLoRA, shapes: dict[str, tuple[int, ...]], place: str, wide: Widened
) -> tuple[dict[Any, Any], list[str]]:
    """Patches by the host's keys, (key, (dimension, start, rows)) for a part of a stacked weight; and modules that the
    model has not. Raises ValueError where sizes do not fit."""
    patches: dict[Any, Any] = {}
    missing = []
    for name, factors in lora.factors.items():
        target = _native(lora, name)
        key = f"{_HEAD}{target.key}.weight"
        if key not in shapes:
            missing.append(name)
            continue
        rows, columns = shapes[key][0], math.prod(shapes[key][1:])
        height, width = factors.up.shape[0], factors.down.flatten(1).shape[1]
        accepted = (columns, columns // wide.base * (wide.base + wide.extra)) if key == place else (columns,)
        # parts of a stacked weight have equal rows, but for the last one, which ends with it
        start = rows - height if target.part == target.parts - 1 else target.part * height
        if width not in accepted or start < 0 or start + height > rows or (target.parts == 1 and start):
            raise ValueError(
                f"{name} of the LoRA changes a {height}x{width} weight, and that of this model is {rows}x{columns}: "
                "it was trained on a model of another size"
            )
        if target.op == "swap":
            factors = swap_halves(factors)
        patches[key if target.parts == 1 else (key, (0, start, height))] = _adapter(factors)
    return patches, missing


def _native(lora: AlignmentLoRA, name: str) -> NativeName:
    found = native_name(FAMILIES[lora.family], name)
    assert found is not None
    return found


def _adapter(factors: Factors) -> Any:
    if factors.magnitude is not None:
        return DoRAAdapter(factors)
    alpha = factors.scale() * factors.rank
    return LoRAAdapter(set(), (factors.up, factors.down, alpha, None, None, None))


def _projection_patches(model: Any, lora: AlignmentLoRA, place: str, weight: Tensor) -> dict[str, Any]:
    """What turns the model's projection, with zeros behind it, into the LoRA's; the bias likewise."""
    delta = lora.projection["weight"].float().clone()
    delta[:, : weight.shape[1]] -= weight.to("cpu", torch.float32)
    patches: dict[str, Any] = {place: ("diff", (delta,))}
    key = place.removesuffix("weight") + "bias"
    if "bias" in lora.projection:
        bias = _original(model, key)
        if bias is None or bias.shape != lora.projection["bias"].shape:
            raise ValueError("the LoRA's input projection has a bias that this model has no place for")
        patches[key] = ("diff", (lora.projection["bias"].float() - bias.to("cpu", torch.float32),))
    return patches


class Columns:
    """Weight wrapper: columns behind those of a weight, (out, columns, ...)."""

    def __init__(self, columns: Tensor) -> None:
        self.columns = columns

    def __call__(self, weight: Tensor) -> Tensor:
        return torch.cat([weight, self.columns.to(weight)], dim=1)

    def move_to(self, device: torch.device) -> int:
        """Asked by the host when it loads the module; returns the bytes that lie there now."""
        self.columns = self.columns.to(device)
        return self.columns.nbytes


def _place_by_width(model: Any, key: str) -> None:
    """Places every patch of the projection by its width, whatever the order in which people loaded them."""
    if not packed(model, key):
        _split_wide(model, key)
        return
    patches = model.patches.get(key, [])
    pad = next((patch for patch in patches if _pads(patch[1])), None)
    if pad is None:
        return
    full = pad[1][1][0].flatten(1).shape[1]
    wide = [patch for patch in patches if patch is not pad and _columns(patch[1]) == full]
    rest = [patch for patch in patches if patch is not pad and not any(patch is each for each in wide)]
    ordered = [*rest, pad, *wide]
    if any(new is not old for new, old in zip(ordered, patches, strict=True)):
        model.patches[key] = ordered
        model.patches_uuid = uuid.uuid4()


def _pads(value: Any) -> bool:
    """Whether a patch is the padding one."""
    return isinstance(value, tuple) and value[0] == "diff" and len(value[1]) > 1 and bool(value[1][1].get("pad_weight"))


def _columns(value: Any) -> int:
    """The columns of the weight that a patch is for; 0 where its kind does not tell."""
    if isinstance(value, LoRAAdapter):
        return int(value.weights[1].flatten(1).shape[1])
    tensors = value[1] if isinstance(value, tuple) and len(value) == 2 and value[0] == "diff" else value
    known = isinstance(tensors, tuple) and len(tensors) > 0 and isinstance(tensors[0], Tensor)
    return int(tensors[0].flatten(1).shape[1]) if known else 0


def _split_wide(model: Any, key: str) -> bool:
    """Patches of the wide weight become ones of the narrow weight and a part of the appended columns. Returns whether
    there was one."""
    wrappers = model.weight_wrapper_patches.get(key, [])
    mine = next((w for w in wrappers if isinstance(w, Columns)), None)
    weight = _original(model, key)
    if mine is None or weight is None:
        return False
    columns, narrow = mine.columns.float(), weight.flatten(1).shape[1]
    full, patches = narrow + columns.flatten(1).shape[1], []
    for patch in model.patches.get(key, []):
        parts = _split(patch, narrow, full)
        if parts is not None:
            patch, piece = parts
            columns = columns + piece.to(columns).reshape(columns.shape)
        patches.append((patch, parts is not None))
    if not any(split for _, split in patches):
        return False
    model.patches[key] = [patch for patch, _ in patches]
    model.weight_wrapper_patches[key] = [Columns(columns) if w is mine else w for w in wrappers]
    model.patches_uuid = uuid.uuid4()
    return True


def _split(patch: tuple, narrow: int, full: int) -> tuple[tuple, Tensor] | None:
    """(the patch of the first `narrow` columns, what it adds to the others); None where it is not for `full` columns,
    or cannot be split (DoRA, Tucker and other kinds: the host then says that it does not fit)."""
    strength, value, model_strength, offset, function = patch
    if offset is not None or function is not None:
        return None
    if isinstance(value, LoRAAdapter):
        up, down, alpha, mid, dora, _ = value.weights
        if mid is not None or dora is not None or down.flatten(1).shape[1] != full:
            return None
        flat, scale = down.flatten(1), 1.0 if alpha is None else float(alpha) / down.shape[0]
        head = LoRAAdapter(value.loaded_keys, (up.flatten(1), flat[:, :narrow], alpha, None, None, None))
        tail = strength * scale * (up.flatten(1).float() @ flat[:, narrow:].float())
        return (strength, head, model_strength, None, None), tail
    tensors = value[1] if isinstance(value, tuple) and len(value) == 2 and value[0] == "diff" else value
    if not isinstance(tensors, tuple) or not tensors or not isinstance(tensors[0], Tensor):
        return None
    delta = tensors[0]
    if delta.flatten(1).shape[1] != full:
        return None
    at = narrow // delta[0, 0].numel()
    return (strength, ("diff", (delta[:, :at],)), model_strength, None, None), strength * delta[:, at:].float()


# -- channels ---------------------------------------------------------------------------------------------------------


def _feed(model: Any, wide: Widened) -> None:
    options = model.model_options.setdefault("transformer_options", {})
    options[KEY] = wide
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, Feed(wide, backbone_of(model).name))
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _split_before_loading)


def _split_before_loading(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the host loads weights inside it, so LoRAs that were added after ours find their place."""
    patcher = executor.class_obj.model_patcher
    _place_by_width(patcher, f"{_HEAD}{native_projection(backbone_of(patcher).name)}.weight")
    return executor(*args, **kwargs)


def _of_window(extra: Tensor | None, frames: int, options: dict[str, Any]) -> Tensor | None:
    """The part of a mask (B, C, T, H, W) that a context window of so many frames sees, where the host left it whole: it
    counts no guides behind the clip, which have no mask, and of which each window has those that overlap it."""
    window = options.get("context_window")
    if extra is None or window is None or extra.shape[2] == frames:
        return extra
    anchor = getattr(window, "causal_anchor_index", None)
    index = [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]
    guides = len(getattr(window, "guide_frames_indices", ()))
    if len(index) + guides != frames or max(index) >= extra.shape[2]:
        return extra
    return torch.nn.functional.pad(extra[:, :, index], (0, 0, 0, 0, 0, guides))


class Feed:
    """APPLY_MODEL wrapper: appends the extra channels of each conditioning, zeros where it has none."""

    def __init__(self, wide: Widened, backbone: str) -> None:
        self.wide, self.family = wide, family(backbone)
        self._told = False
        self._tokens: Tensor | None = None  # (B, N, extra), of the forward that runs

    def __call__(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Any:
        extra = kwargs.pop(COND, None)
        options = transformer_options if transformer_options is not None else {}
        if self.family.reads_tokens:
            shape = clip_shape(x, kwargs.get("latent_shapes"))
            self.family.left_out(kwargs)  # says so where tokens of the clip itself are dropped
            made = self._extra(_of_window(extra, shape[1], options), x.new_empty(x.shape[0], *shape), 0)
            self._tokens = self.family.as_tokens(made)
            place = diffusion_model(executor.class_obj).get_submodule(native_projection(self.family.spec.name))
            handle = place.register_forward_pre_hook(hidden(self._widen))
            try:
                return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
            finally:
                handle.remove()
                self._tokens = None
        own = self.wide.base - x.shape[1]
        parts = []
        if own:
            given = x.new_zeros(x.shape[0], own, *x.shape[2:]) if c_concat is None else c_concat[:, :own].to(x)
            parts.append(given)
        parts.append(self._extra(extra, x, int(options.get(PREFIX_FRAMES, 0))))
        return executor(x, t, torch.cat(parts, dim=1), c_crossattn, control, options, **kwargs)

    def _widen(self, place: Any, args: tuple[Any, ...]) -> Any:
        """Forward pre-hook of a projection that reads tokens."""
        if self._tokens is None:  # of a graph that was compiled while this wrapper was on
            return None
        own = self.family.behind_tokens(self._tokens, args[0])
        return (torch.cat([args[0], own.to(args[0])], -1), *args[1:])

    def _extra(self, extra: Tensor | None, x: Tensor, prefix_frames: int) -> Tensor:
        if extra is None:
            if not self._told:
                self._told = True
                warn(
                    "a conditioning of this widened model carries no mask, so it gets an empty one. Put MATRIX "
                    "Mask Condition between the conditionings and the sampler."
                )
            return x.new_zeros(x.shape[0], self.wide.extra, *x.shape[2:])
        if extra.shape[1] != self.wide.extra:
            raise ValueError(
                f"the conditioning carries {extra.shape[1]} mask channels, and this LoRA takes {self.wide.extra}: "
                "set MATRIX Mask Condition to the other kind of mask, or to automatic"
            )
        if prefix_frames and extra.shape[2] + prefix_frames == x.shape[2]:
            # CogVideoX 1.5: like the first frame, the mask lies in the first of them, as it did in training
            extra = torch.nn.functional.pad(extra, (0, 0, 0, 0, 0, prefix_frames))
        if extra.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"the mask condition was made for a latent of {list(extra.shape[2:])} (frames, height, width), and "
                f"{list(x.shape[2:])} is sampled: give MATRIX Mask Condition the latent that goes to the sampler"
            )
        return extra.to(x)
