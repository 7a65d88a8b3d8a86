"""The extra channels that a widened LoRA reads, for each forward of a diffusers transformer.

B batch rows, E extra channels, T latent frames, h x w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.lora import AlignmentLoRA
from ...core.grid import Fit, Framing, Grid
from ...core.tracks import conditions
from ...core.tracks.tracks import MaskTracks
from .attach import backbone_of
from .batches import Branch, Forward, batches_of, part_of
from .framing import tell_unknown
from .laid_out import Segment
from .latents import masked, padded
from .model_shape import Condition, ModelShape, patch_of

__all__ = ["MaskChannels", "condition_of"]


def condition_of(lora: AlignmentLoRA, extra: int) -> Condition:
    """What `extra` channels of a LoRA take, as its file says; else one is a target mask, and more are an ID map.

    Raises ValueError for masks of source and target, which no pipeline is fed with."""
    said = lora.info.condition
    if said == "source_target":
        raise ValueError(
            "this LoRA reads masks of source and target, a research setting of mini: merge it (merge_lora) and give "
            "the masks to hosts.diffusers.mini.sample as `extra`"
        )
    if said in ("id_map", "target_mask"):
        return said  # type: ignore[return-value]
    return "target_mask" if extra == 1 else "id_map"


class MaskChannels:
    """Makes the ID map or the target mask of tracks, once for each size of latents that a pipeline asks for.

    Args:
        model: a pipeline, whose VAE encodes the ID map, or a bare transformer. net: the transformer itself.
        tracks: of the clip, or one per prompt. target: see `find_targets`. fit: as in `watch`. grey: see
            `core.tracks.conditions.target_mask`, of every prompt.

    Raises ValueError where something is missing: tracks, the target, colours, a VAE.
    """

    def __init__(
        self,
        model: Any,
        net: nn.Module,
        lora: AlignmentLoRA,
        extra: int,
        tracks: MaskTracks | Sequence[MaskTracks] | None,
        target: str = "",
        branches: Sequence[Branch] | None = None,
        fit: Fit | None = None,
        grey: Tensor | None = None,
    ) -> None:
        self.spec, self.extra = backbone_of(net), extra
        self.condition = condition_of(lora, extra)
        given = [tracks] if isinstance(tracks, MaskTracks) else list(tracks or ())
        if not given:
            said = {"target_mask": "the mask of its target", "id_map": "the ID map of the instances"}[self.condition]
            raise ValueError(f"this LoRA reads {said} in the first frame: pass `tracks`")
        self.shape = _shape(model, net)
        self._pipe = model if getattr(model, "vae", None) is not None else None
        if self.condition == "id_map":
            given = [conditions.coloured(each, lora.info.palette) for each in given]
            if self._pipe is None:
                raise ValueError(
                    f"the ID map is encoded by the model's VAE, and {type(model).__name__} has none: pass a whole "
                    "pipeline"
                )
        if grey is not None and self.condition != "target_mask":
            raise ValueError("a grey mask is a target mask (TAViD), and this LoRA reads the ID map: leave `mask` out")
        self.grey = grey
        self.targets = [conditions.find_targets(each, target) for each in given if self.condition == "target_mask"]
        if (due := self.shape.extra_channels(self.condition)) != extra:
            raise ValueError(
                f"the LoRA widens the input by {extra} channels, and {self.condition.replace('_', ' ')}s of this model "
                f"have {due}: it was trained on another model"
            )
        self.batches = batches_of(model, None, given, None, branches, fit)
        self.tracks = [each for each in self.batches.tracks if each is not None]
        self._asked = None if fit else model
        self.pictures: list[Tensor] = []
        self._made: tuple[tuple[int, ...], Tensor] | None = None

    def of(self, hidden: Tensor, timestep: float, start: int = 0) -> Tensor:
        """(B, E, T, h, w) beside latents (B, C, T, h, w), in their dtype and on their device.

        start: the pixel frame of the clip that these latents begin with. Raises ValueError where no tracks are of it.
        """
        latent = tuple(hidden.shape[2:])
        if self._made is None or self._made[0] != (*latent, start):
            made = torch.stack([self._one(place, latent, start) for place in range(len(self.tracks))])
            self._made = (*latent, start), made.to(hidden)
        made = self._made[1].to(hidden)
        if len(made) == 1:
            return made.expand(len(hidden), -1, -1, -1, -1)
        grid = Grid.from_latent(latent, self.shape.patch, self.shape.temporal_stride, self.shape.spatial_stride)
        forward = Forward(grid, 0, len(hidden), timestep)
        self.batches.begin(forward)
        return made[[row.key[0] for row in forward.rows]]  # type: ignore[index]

    def _one(self, place: int, latent: tuple[int, int, int], start: int) -> Tensor:
        """(E, T, h, w) float32 of one prompt's tracks; keeps the picture that it was made of."""
        whole, stride = self.tracks[place], self.shape.spatial_stride
        tracks = part_of(whole, Segment(start))
        if tracks is None:
            raise ValueError(
                f"a further segment of the clip begins with frame {start}, whose masks this LoRA reads, and the tracks "
                f"have {whole.frames} frames: give it tracks of the whole clip"
            )
        grey = self._grey(start)
        size = latent[1] * stride, latent[2] * stride
        if self._asked is not None:
            tell_unknown(self._asked, tracks, size)
        framing = Framing((tracks.height, tracks.width), size, tracks.fit)
        del self.pictures[place:]
        if self.condition == "target_mask":
            channels, seen = conditions.target_mask(tracks, self.targets[place], latent, framing, grey)
            self.pictures.append(seen.mul(255).to(torch.uint8)[..., None].expand(-1, -1, 3))
            return channels
        self.pictures.append(tracks.id_map(0, framing))
        lay_out = masked if self.spec.id_map == "masked" else padded
        strides = self.shape.temporal_stride, stride, self.spec.cycle
        frames = Grid.of_elements(latent, strides).pixel_frames
        return lay_out(self._pipe, self.shape, self.pictures[-1], frames).transpose(0, 1).float().cpu()

    def _grey(self, start: int) -> Tensor | None:
        """(rows, columns) of the frame that a segment begins with."""
        if self.grey is None or (self.grey.ndim == 2 and not start):
            return self.grey
        frames = len(self.grey) if self.grey.ndim == 3 else 1
        if start >= frames:
            raise ValueError(
                f"a further segment of the clip begins with frame {start}, and `mask` has {frames}: give grey masks "
                "(frames, rows, columns) of the whole clip"
            )
        return self.grey[start]


def _shape(model: Any, net: nn.Module) -> ModelShape:
    """Patch, strides and latent channels of a pipeline or a bare transformer."""
    spec, config = backbone_of(net), net.config
    strides = [
        int(getattr(model, f"vae_scale_factor_{name}", None) or own)
        for name, own in (("temporal", spec.temporal_stride), ("spatial", spec.stride(config.get("out_channels"))))
    ]
    channels = int(getattr(config, "out_channels", None) or 16)
    return replace(ModelShape(spec.name, "", patch_of(config), *strides), channels=channels)  # type: ignore[arg-type]
