"""What the data has to know about a model: sizes that it takes, how its first frame goes in, how many channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from matrix_lib.backbones import match
from matrix_lib.core.grid import Grid

__all__ = ["Condition", "ModelShape"]

Condition = Literal["none", "id_map", "target_mask"]
_TEXT_ROWS = {"cogvideox": 226, "wan": 512, "hunyuan_video": 256}  # as the pipelines' __call__ has them


@dataclass(frozen=True)
class ModelShape:
    """What the data has to know about a model.

    Args:
        family: of the backbones. image: how its first frame goes in: "" not at all, "padded" (CogVideoX: latents, then
            zeros), "masked" (Wan: 4 mask channels and latents of a clip that goes on in grey), "concat" (HunyuanVideo:
            latents, then zeros, and 1 mask channel), "replace" (HunyuanVideo: it is the first latent frame itself).
        patch: of the transformer, (time, rows, columns). channels: of a latent.
        fixed: (frames, height, width) where the model takes no other size.
        text_rows: `max_sequence_length` of the text.
        inverted: CogVideoX 1.5 divides its first frame's latents by the scale.
        image_words: Wan 2.1 looks at the first frame through CLIP, too.
    """

    family: str
    image: Literal["", "padded", "masked", "concat", "replace"]
    patch: tuple[int, int, int]
    temporal_stride: int = 4
    spatial_stride: int = 8
    channels: int = 16
    fixed: tuple[int, int, int] | None = None
    text_rows: int = 226
    inverted: bool = False
    image_words: bool = False

    @classmethod
    def of(cls, pipeline: str, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> ModelShape:
        """From the class name of a pipeline and the configurations of its transformer and its VAE."""
        family = match([str(transformer["_class_name"])], "diffusers").name
        size = transformer["patch_size"]
        time = transformer.get("patch_size_t") or 1
        patch = (time, size, size) if isinstance(size, int) else tuple(size)
        image = _image_kind(family, "ImageToVideo" in pipeline, transformer)
        fixed = None
        if transformer.get("use_learned_positional_embeddings"):
            sides = (transformer["sample_height"] * 8, transformer["sample_width"] * 8)
            fixed = (transformer["sample_frames"], *sides)
        channels = vae.get("z_dim") or vae.get("latent_channels") or 16
        inverted = bool(vae.get("invert_scale_latents"))
        words = image == "masked" and transformer.get("image_dim") is not None
        return cls(family, image, patch, 4, 8, channels, fixed, _TEXT_ROWS[family], inverted, words)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a clip are a multiple of."""
        return self.spatial_stride * max(self.patch[1:])

    @property
    def image_channels(self) -> int:
        return {"": 0, "replace": 0, "padded": self.channels, "concat": self.channels + 1}.get(
            self.image, self.channels + self.temporal_stride
        )

    def extra_channels(self, condition: Condition) -> int:
        """Input channels that a condition adds: the target mask 1, the ID map a latent's (Wan: and 4 of a mask)."""
        own = self.channels + (self.temporal_stride if self.family == "wan" else 0)
        return {"none": 0, "target_mask": 1, "id_map": own}[condition]

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip of this many pixels."""
        return Grid.from_pixels(frames, height, width, self.patch, self.temporal_stride, self.spatial_stride)

    def check_size(self, frames: int, height: int, width: int) -> None:
        """ValueError for a size that the model cannot take."""
        if self.fixed is not None and (frames, height, width) != self.fixed:
            raise ValueError(
                f"this model takes clips of {self.fixed[0]} frames of {self.fixed[1]}x{self.fixed[2]} pixels (height x "
                f"width) and no others; got {frames} of {height}x{width}: set data.frames, data.height and data.width"
            )
        if height % self.multiple or width % self.multiple or (frames - 1) % self.temporal_stride:
            raise ValueError(
                f"this model takes {self.temporal_stride} n + 1 frames, and sides that are multiples of "
                f"{self.multiple}; got {frames} frames of {height}x{width} (height x width)"
            )


def _image_kind(family: str, image: bool, transformer: Mapping[str, Any]) -> str:
    if not image:
        return ""
    if family == "hunyuan_video":
        return {"latent_concat": "concat", "token_replace": "replace"}[transformer["image_condition_type"]]
    return {"cogvideox": "padded", "wan": "masked"}[family]
