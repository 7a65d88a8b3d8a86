"""A LoRA on a diffusers pipeline for as long as it is wanted: its factors and, where it widens the input, its channels.

    with apply(pipe, lora, tracks) as applied:
        video = pipe(image=image, prompt=prompt).frames[0]

Nothing of the model is changed: hooks add what the LoRA does beside its modules, so quantised and offloaded weights
work as others do, the configuration that pipelines read their own channels from stays, and undoing is exact.

B batch rows, C channels of the model, E extra channels.
"""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.lora import AlignmentLoRA, Factors
from ...backbones.spec import input_channels
from ...core.grid import Fit
from ...core.no_compile import hidden
from ...core.tracks.tracks import MaskTracks
from ..compiled import compiled_parts, plain
from .attach import backbone_of, no_other
from .batches import Branch
from .laid_out import LaidOut, Segment, Segments, arguments, clip_begins, told_segments
from .lora_channels import MaskChannels
from .picture_attention import without_picture

__all__ = ["AppliedLoRA", "apply", "transformer_of"]

_PARTS = ("transformer", "transformer_2", "transformer_ref")
_widened: weakref.WeakKeyDictionary[nn.Module, AppliedLoRA] = weakref.WeakKeyDictionary()
_taken: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""How many LoRAs act on a module."""


def apply(
    model: Any,
    lora: AlignmentLoRA,
    tracks: MaskTracks | Sequence[MaskTracks] | None = None,
    *,
    strength: float = 1.0,
    target: str = "",
    part: str = "",
    branches: Sequence[Branch] | None = None,
    fit: Fit | None = None,
    mask: Tensor | None = None,
) -> AppliedLoRA:
    """Puts a LoRA on a diffusers pipeline of a family that is known, or on a bare transformer.

    Args:
        tracks: masks of the instances in the first frame, or one per prompt of the batch; what a widened LoRA reads. An
            ordinary LoRA needs none.
        strength: how strongly it acts, on top of its own scale; `AppliedLoRA.strength` changes it later.
        target: target mask: names of the instances, separated by commas. Empty takes those in the role of the object,
            or the only one.
        part: "transformer" or "transformer_2" of a pipeline with two experts (Wan 2.2); "transformer_ref" of MiniMax
            H3's, whose other transformer makes clips without references.
        branches: as in `watch`; for several prompts.
        fit: how the picture becomes the first frame, as in `watch`; None asks the pipeline.
        mask: target mask: (rows, columns) in [0, 1] of the tracks' size, whose grey values stay, as in TAViD's code; of
            a clip that is made in segments (Wan Animate) those of all its frames (frames, rows, columns).

    Raises ValueError for a LoRA of another family or size, tracks without the target, an ID map without a VAE, a second
    widening LoRA, fused projections and a transformer that is compiled already.
    """
    net = transformer_of(model, part)
    spec = backbone_of(net)
    if lora.family != spec.name:
        raise ValueError(f"this is a LoRA of {lora.family}, and the model is {spec.title}")
    if compiled := compiled_parts(net):
        raise ValueError(
            f"{compiled[0]} is compiled already, and its graphs would not see the LoRA: apply it before torch.compile"
        )
    place = net.get_submodule(spec.input_projection)
    extra = _extra(net, _layer(place), lora, spec.input_projection)
    if extra:
        spec.check_widens()
    if extra and net in _widened:
        raise ValueError("this transformer's input is widened by another LoRA already; one mask condition at a time")
    modules, missing = _modules(net, lora)
    channels = MaskChannels(model, net, lora, extra, tracks, target, branches, fit, mask) if extra else None
    return AppliedLoRA(net, place, lora, modules, missing, channels, strength, _listening(model, part))


@contextlib.contextmanager
def _listening(model: Any, part: str) -> Iterator[None]:
    """While open, it is known which segment a pipeline makes, and one that runs another transformer says so."""
    with told_segments(model), contextlib.nullcontext() if part else no_other(model, "say part={!r}"):
        yield


def transformer_of(model: Any, part: str = "") -> Any:
    """The transformer of a pipeline that is meant, or a bare one itself. Raises ValueError as `apply`."""
    if isinstance(model, nn.Module):
        return plain(model)
    there = [name for name in _PARTS if getattr(model, name, None) is not None]
    if not there:
        raise ValueError(f"{type(model).__name__} has no transformer: give a diffusers pipeline, or a transformer")
    if part and part not in there:
        raise ValueError(f"part is {' or '.join(map(repr, there))} here; got {part!r}")
    if not part and "transformer_2" in there[1:]:
        raise ValueError(
            "this pipeline has two experts, and a LoRA is of one of them: say part='transformer' (the noisy steps) or "
            "part='transformer_2', and apply two files one after the other"
        )
    return plain(getattr(model, part or there[0]))


class AppliedLoRA:
    """A LoRA that acts until `remove`; as a context manager it removes itself.

    Attributes:
        strength: how strongly it acts; at 0 the model is as it was, to the bit.
        matched, total: tensors that have a place here, of those in the file; `missing` names modules without one.
        base, extra: channels that the model has, and that the LoRA put behind them.
        condition: "id_map", "target_mask" or "".
    """

    def __init__(
        self,
        net: nn.Module,
        place: nn.Module,
        lora: AlignmentLoRA,
        modules: dict[str, nn.Module],
        missing: Sequence[str],
        channels: MaskChannels | None,
        strength: float,
        listening: contextlib.AbstractContextManager[None],
    ) -> None:
        self.strength, self.missing, self.active = float(strength), tuple(missing), True
        self.total = lora.tensors
        self.matched = self.total - sum(len(lora.factors[name].parts) for name in self.missing)
        self.extra = channels.extra if channels else 0
        self.base, self._channels = input_channels(net.config), channels
        self.condition = channels.condition if channels else ""
        self._net, self._spec, self._lora = net, backbone_of(net), lora
        self._ran: set[str] | None = set()
        self._segments = Segments(self._spec, net)
        self._modules = modules
        self._handles: list[Any] = []
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(listening)
        for name, module in modules.items():
            side = _Side(self, name, lora.factors[name])
            self._handles.append(module.register_forward_hook(hidden(side)))
            _taken[module] = _taken.get(module, 0) + 1
        factors = lora.factors.get(self._spec.input_projection)
        if lora.projection or factors is not None:
            wide = _Projection(self, place, lora.projection, factors)
            self._handles.append(place.register_forward_pre_hook(hidden(wide.narrow)))
            self._handles.append(place.register_forward_hook(hidden(wide.add)))
        if lora.info.image_attention == "off":
            self._handles += without_picture(net, lambda: self.acts)
        self._handles.append(net.register_forward_pre_hook(hidden(self._feed), with_kwargs=True))
        self._handles.append(net.register_forward_hook(hidden(self._check), always_call=False))
        if channels:
            _widened[net] = self

    def __enter__(self) -> AppliedLoRA:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __str__(self) -> str:
        scales = ", ".join(f"{scale:g}" for scale in self._lora.scales())
        lines = [f"{self.matched} of {self.total} tensors matched; scale {scales}"]
        if self.missing:
            lines.append(f"this model has no {', '.join(self.missing[:3])} ({len(self.missing)} modules)")
        if self.extra:
            what = {"target_mask": "the target mask", "id_map": "the ID map"}[self.condition]
            lines.append(f"{self.extra} channels behind the model's {self.base} read {what}")
        if self._lora.info.image_attention == "off":
            lines.append("cross-attention to the picture is off")
        return "\n".join(lines)

    @property
    def pictures(self) -> list[Tensor]:
        """What the extra channels of the last run were made of, one (rows, columns, 3) uint8 per tracks, as the model
        sees it; empty before the first forward and for a LoRA without extra channels."""
        return list(self._channels.pictures) if self._channels else []

    def remove(self) -> None:
        """Takes it off; the model is then as it was, to the bit. A second time does nothing."""
        self.active = False  # graphs that were compiled meanwhile go on calling the hooks
        for module in self._modules.values() if self._handles else ():
            _taken[module] -= 1
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._listening.close()
        if _widened.get(self._net) is self:
            del _widened[self._net]

    @property
    def acts(self) -> bool:
        """Whether it changes anything now."""
        return self.active and self.strength != 0.0

    def ran(self, name: str) -> None:
        """Called by each module's hook."""
        if self._ran is not None:
            self._ran.add(name)

    def _feed(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the transformer: the extra channels go behind those that the pipeline gives, and are zero
        in references in front of the clip."""
        if self._channels is None or not self.acts:
            return None
        given, laid = arguments(net, args, kwargs), LaidOut.of(self._spec, net, args, kwargs)
        latents: Tensor = given["hidden_states"]
        at = laid.channel_axis
        channels = latents.shape[at] / laid.cells
        if channels == self.base + self.extra:  # a call that is repeated with what it was given
            return None
        if channels != self.base:
            raise ValueError(
                f"the pipeline feeds {channels:g} channels to a transformer of {self.base}: the LoRA's "
                f"{self.extra} cannot go behind them"
            )
        clip = laid.latents(latents)
        front = clip_begins(self._spec, given, clip.shape[2])
        start = (self._segments.of(given, clip.shape[2] - front) or Segment()).start
        extra = self._channels.of(clip[:, :, front:], float(torch.as_tensor(given["timestep"]).max()), start)
        extra = nn.functional.pad(extra, (0, 0, 0, 0, front, 0))
        wide = torch.cat([latents, laid.back(extra, latents)], dim=at)
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": wide}
        return (wide, *args[1:]), kwargs

    def _check(self, net: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the transformer: says once which modules the LoRA's factors are for and never ran."""
        if not self.acts or self._ran is None:
            return
        idle, self._ran = sorted(set(self._modules) - self._ran), None
        if idle:
            logging.getLogger(__name__).warning(
                "MATRIX: the LoRA changes %s (%d modules), which this transformer has and did not run",
                idle[0], len(idle),
            )  # fmt: skip


class _Side:
    """Forward hook of a module: what low-rank factors add to its output."""

    def __init__(self, owner: AppliedLoRA, name: str, factors: Factors) -> None:
        self.owner, self.name, self.factors = owner, name, factors
        self._kept: tuple[Any, Tensor, Tensor] | None = None
        self._gain: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not self.owner.acts:
            return output
        self.owner.ran(self.name)
        down, up = self._at(args[0])
        side = nn.functional.linear(nn.functional.linear(args[0].to(down.dtype), down), up) * self.factors.scale()
        if self.factors.magnitude is not None:
            side = self._dora(module, output, side)
        return output + (side * self.owner.strength).to(output.dtype)

    def _dora(self, module: Any, output: Tensor, side: Tensor) -> Tensor:
        """What turns W x into m / ||V|| V x; the bias stays out of it."""
        if self._gain is None or self._gain[0].device != output.device:
            weight, bias = _own(module)
            gain = self.factors.gain(weight).to(output.device)
            self._gain = gain, None if bias is None else bias.to(output.device)
        gain, bias = self._gain[0].to(side.dtype), self._gain[1]
        plain = output.to(side.dtype) if bias is None else output.to(side.dtype) - bias.to(side.dtype)
        return (gain - 1) * plain + gain * side

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = x.dtype if x.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64) else torch.float32
        if self._kept is None or self._kept[0] != (x.device, dtype):
            made = (part.flatten(1).to(x.device, dtype) for part in (self.factors.down, self.factors.up))
            self._kept = ((x.device, dtype), *made)  # type: ignore[assignment]
        assert self._kept is not None
        return self._kept[1:]


class _Projection:
    """Hooks of the input projection: it sees its own channels, and what the LoRA makes of all of them is added."""

    def __init__(self, owner: AppliedLoRA, place: nn.Module, projection: Any, factors: Factors | None) -> None:
        self.owner, self.projection, self.factors = owner, projection, factors
        self.layer = _layer(place)
        self.linear = isinstance(self.layer, nn.Linear)
        self.own = self.layer.in_features if self.linear else self.layer.in_channels
        self._wide: Tensor | None = None
        self._kept: tuple[torch.device, Tensor, Tensor | None] | None = None

    def narrow(self, place: nn.Module, args: tuple[Any, ...]) -> Any:
        """Forward pre-hook: the model's own channels, which come first."""
        at = -1 if self.linear else 1
        self._wide = args[0]
        if args[0].shape[at] == self.own:
            return None
        return (args[0].narrow(at, 0, self.own), *args[1:])

    def add(self, place: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook."""
        x, self._wide = self._wide, None
        if not self.owner.acts or x is None:
            return output
        weight, bias = self._change(x.device)
        if self.linear:
            side = nn.functional.linear(x.float(), weight[:, : x.shape[-1]], bias)
        else:
            run = nn.functional.conv2d if weight.ndim == 4 else nn.functional.conv3d
            side = run(x.float(), weight[:, : x.shape[1]], bias, self.layer.stride, self.layer.padding)
        return output + (side * self.owner.strength).to(output.dtype)

    @torch.no_grad()
    def _change(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """What the LoRA adds to the weight, with zeros behind it, and to the bias; float32."""
        if self._kept is not None and self._kept[0] == device:
            return self._kept[1], self._kept[2]
        own, bias = _own(self.layer)
        given = self.projection.get("weight")
        if given is None:
            assert self.factors is not None
            weight = own.new_zeros(
                own.shape[0], self.factors.down.flatten(1).shape[1] // own[0, 0].numel(), *own.shape[2:]
            )
        else:
            weight = given.float().clone()
            weight[:, : own.shape[1]] -= own
        if self.factors is not None:
            change = self.factors.up.flatten(1).float() @ self.factors.down.flatten(1).float() * self.factors.scale()
            columns = change.shape[1] // weight[0, 0].numel()
            weight[:, :columns] += change.reshape(len(weight), columns, *weight.shape[2:])
        theirs = self.projection.get("bias")
        bias = None if theirs is None or bias is None else theirs.float() - bias
        self._kept = device, weight.to(device), None if bias is None else bias.to(device)
        return self._kept[1], self._kept[2]


# -- what fits --------------------------------------------------------------------------------------------------------


def _layer(place: nn.Module) -> Any:
    """The layer itself, where an adapter of another LoRA is around it."""
    return getattr(place, "base_layer", place)


def _cell(place: nn.Module) -> int:
    """Numbers per channel in a row of a convolution's weight."""
    return math.prod(place.kernel_size)  # type: ignore[arg-type]


def _columns(place: Any) -> int:
    """Numbers in a row of the projection's weight, also where its weight lies packed or elsewhere."""
    return int(place.in_features) if isinstance(place, nn.Linear) else int(place.in_channels) * _cell(place)


def _own(place: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as float32 on the CPU, also where they wait elsewhere for their turn."""
    from accelerate.utils import align_module_device

    with align_module_device(place):
        weight, bias = place.weight, place.bias
        if weight.is_meta:
            raise ValueError("the input projection's weight is not in memory: load the transformer whole")
        return weight.detach().float().cpu(), None if bias is None else bias.detach().float().cpu()


def _extra(net: Any, place: Any, lora: AlignmentLoRA, path: str) -> int:
    """Channels that the LoRA puts behind the model's. Raises ValueError where it is for another model."""
    channels, columns = input_channels(net.config), _columns(place)
    cell, rows = columns // channels, int(getattr(place, "out_features", 0) or place.out_channels)
    projection, factors = lora.projection.get("weight"), lora.factors.get(path)
    wants, height = channels, rows
    if projection is not None:
        inner = math.prod(projection.shape[2:]) if projection.ndim > 2 else 1
        wants, height = projection.shape[1] * inner // cell, projection.shape[0]
        fits = projection.ndim == place.weight.ndim and projection.shape[2:] == place.weight.shape[2:]
    else:
        fits = True
    if factors is not None:
        wants = max(wants, factors.down.flatten(1).shape[1] // cell)
        fits = fits and factors.up.shape[0] == rows
    if not fits or height != rows:
        shape = None if projection is None else list(projection.shape)
        raise ValueError(
            f"the LoRA's input projection is {shape}, the model's {list(place.weight.shape)}: they belong to models of "
            "another size"
        )
    if wants < channels:
        raise ValueError(
            f"the LoRA's input projection takes {wants} channels, the model {channels}: the LoRA was trained on "
            "another kind of this model (text-to-video against image-to-video?)"
        )
    if "bias" in lora.projection and place.bias is None:
        raise ValueError("the LoRA's input projection has a bias that this model has no place for")
    return wants - channels


def _modules(net: nn.Module, lora: AlignmentLoRA) -> tuple[dict[str, nn.Module], list[str]]:
    """Modules that the factors are for, but for the input projection, and names of those that are not there."""
    have, path = dict(net.named_modules()), backbone_of(net).input_projection
    found, missing = {}, []
    for name, factors in lora.factors.items():
        module: Any = have.get(name)
        if module is None:
            missing.append(name)
        elif name != path:
            here = int(module.out_features), int(module.in_features)
            theirs = int(factors.up.shape[0]), int(factors.down.flatten(1).shape[1])
            if theirs != here:
                raise ValueError(
                    f"{name} of the LoRA changes a {theirs[0]}x{theirs[1]} weight, and that of this model is "
                    f"{here[0]}x{here[1]}: it was trained on a model of another size"
                )
            if getattr(have[name.rpartition(".")[0].removesuffix(".to_out")], "fused_projections", False):
                raise ValueError("the model's projections are fused: call pipe.unfuse_qkv_projections() first")
            if factors.magnitude is not None:
                _check_dora(name, module, theirs)
            found[name] = module
    if lora.factors and not found and not lora.projection:
        raise ValueError(f"none of the LoRA's modules is in this model; it has no {', '.join(missing[:3])}")
    return found, missing


def _check_dora(name: str, module: Any, shape: tuple[int, int]) -> None:
    """Raises ValueError where a module's own weight cannot be read, or other LoRAs are in what it gives."""
    if hasattr(module, "base_layer"):
        raise ValueError(
            f"{name} has another LoRA of peft on it, and a DoRA goes by the model's own outputs: load the DoRA first, "
            "or fuse the other one (pipe.fuse_lora)"
        )
    if _taken.get(module):
        raise ValueError(f"{name} has another LoRA on it, and a DoRA goes by the model's own outputs: apply it first")
    weight = module.weight
    if not weight.is_floating_point() or tuple(weight.shape) != shape:
        raise ValueError(
            f"the weight of {name} lies packed ({weight.dtype}), and a DoRA needs the norms of the model's own: load "
            "the model unquantised, or merge the DoRA into it with peft"
        )
