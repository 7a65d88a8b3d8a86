"""What configurations say of a model: sizes that it takes, how its first frame goes in, how many channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...backbones import REGISTRY, BackboneSpec, match
from ...backbones.spec import FirstFrame
from ...core.grid import Grid, clip_lengths
from ..bundle import BACKBONE, Bundle

__all__ = ["Condition", "ModelShape", "patch_of"]

Condition = Literal["none", "id_map", "target_mask", "source_target"]


@dataclass(frozen=True)
class ModelShape:
    """What its configurations say of a model.

    Args:
        family: of the backbones. image: how its first frame goes in, "" for not at all.
        patch: of the transformer, (time, rows, columns). channels: of a latent.
        fixed: (frames, height, width) where the model takes no other size.
        text_rows: `max_sequence_length` of the text.
        image_words: tokens of the first frame stand beside the text (Wan 2.1, HunyuanVideo 1.5).
    """

    family: str
    image: FirstFrame | Literal[""]
    patch: tuple[int, int, int]
    temporal_stride: int = 4
    spatial_stride: int = 8
    channels: int = 16
    fixed: tuple[int, int, int] | None = None
    text_rows: int = 226
    image_words: bool = False

    @classmethod
    def of(cls, pipeline: str, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> ModelShape:
        """From the class name of a pipeline and the configurations of its transformer and its VAE."""
        spec = match([str(transformer["_class_name"])], "diffusers")
        image: FirstFrame | Literal[""] = ""
        spec.check_settings(transformer)
        if re.search(spec.image_pipelines, pipeline):
            image = _first_frame(spec, pipeline, transformer.get("image_condition_type"))
            taken = transformer.get("in_channels")
            if image == "masked" and taken is not None and taken == transformer.get("out_channels"):
                image = "replace"  # it has no channels for a picture: Wan 2.2 5B
            made = transformer.get("out_channels")
            if image == "padded" and taken is not None and made is not None and taken < 2 * made:
                raise ValueError(
                    f"{pipeline} puts the first frame's latents beside the noisy ones, {2 * made} channels in all, and "
                    f"this {spec.title} takes {taken}: it is one for text, or its image_condition_type is lost"
                )
        fixed = None
        if transformer.get("use_learned_positional_embeddings"):
            sides = (transformer["sample_height"] * 8, transformer["sample_width"] * 8)
            fixed = (transformer["sample_frames"], *sides)
        channels = vae.get("z_dim") or vae.get("latent_channels") or spec.latent_channels
        width = transformer.get("image_dim") or transformer.get("image_embed_dim")
        words = bool(image) and spec.image_beside and width is not None
        strides = (spec.temporal_stride, spec.stride(channels))
        return cls(spec.name, image, patch_of(transformer), *strides, channels, fixed, spec.text_tokens, words)

    @classmethod
    def of_bundle(cls, found: Bundle) -> ModelShape:
        """Of the mini model."""
        sizes = found.sizes
        fixed = (sizes["frames"], sizes["height"], sizes["width"])
        image = BACKBONE.first_frame[""]
        return cls(BACKBONE.name, image, (1, 1, 1), 4, 8, sizes["latent"], fixed, sizes["text_length"])

    @property
    def spec(self) -> BackboneSpec:
        """The facts of its family."""
        return REGISTRY[self.family]

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a clip are a multiple of."""
        return self.spatial_stride * max(self.patch[1:])

    @property
    def image_channels(self) -> int:
        """Of the first frame."""
        return self._channels(self.image)

    def _channels(self, image: str) -> int:
        known = {"": 0, "replace": 0, "concat": self.channels + 1, **dict.fromkeys(("padded", "tokens"), self.channels)}
        return known.get(image, self.channels + self.temporal_stride)

    def extra_channels(self, condition: Condition) -> int:
        """Input channels that a condition adds: the target mask 1, masks of source and target 2, the ID map a latent's
        (Wan: and 4 of a mask).

        Raises ValueError for a condition of a family whose input cannot be widened.
        """
        if condition != "none":
            self.spec.check_widens()
        known = {"none": 0, "target_mask": 1, "source_target": 2, "id_map": self._channels(self.spec.id_map)}
        return known[condition]

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip of this many pixels."""
        strides = self.temporal_stride, self.spatial_stride
        return Grid.from_pixels(frames, height, width, self.patch, *strides, cycle=self.spec.cycle)

    def check_size(self, frames: int, height: int, width: int) -> None:
        """ValueError for a size that the model cannot take."""
        if self.fixed is not None and (frames, height, width) != self.fixed:
            raise ValueError(
                f"this model takes clips of {self.fixed[0]} frames of {self.fixed[1]}x{self.fixed[2]} pixels (height x "
                f"width) and no others; got {frames} of {height}x{width}: set data.frames, data.height and data.width"
            )
        step, least = clip_lengths(self.temporal_stride, self.spec.cycle)
        if height % self.multiple or width % self.multiple or (frames - least) % step:
            raise ValueError(
                f"this model takes {step} n + {least} frames, and sides that are multiples of "
                f"{self.multiple}; got {frames} frames of {height}x{width} (height x width)"
            )


def _first_frame(spec: BackboneSpec, pipeline: str, kind: str | None) -> FirstFrame:
    found = spec.first_frame.get(kind or "")
    if found is None:
        known = ", ".join(repr(each or None) for each in spec.first_frame) or "none"
        raise ValueError(
            f"{pipeline} shows its {spec.title} a first frame in a way that training and scoring do not know "
            f"(image_condition_type {kind!r} of its transformer; known: {known})"
        )
    return found


def patch_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Latent frames, rows and columns that make one token, of a transformer with this config."""
    size = config["patch_size"]
    if isinstance(size, int):
        return config.get("patch_size_t") or 1, size, size
    time, rows, columns = size
    return time, rows, columns
