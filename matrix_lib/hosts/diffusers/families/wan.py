"""What is particular to Wan in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ....backbones.wan import SPEC
from .base import Family

__all__ = ["FAMILY", "Wan"]


class Wan(Family):
    """Wan 2.1 and 2.2, VACE, Animate and SkyReels V2."""

    def check_sampled(self, pipeline: str) -> None:
        """Animate."""
        if "Animate" in pipeline:
            raise ValueError(
                f"{pipeline} makes clips of a picture, a pose video and a face video, which nothing here gives it. "
                "Load it with diffusers, and watch or steer it there (matrix_lib.watch, matrix_lib.steer)"
            )

    def check(self, given: Mapping[str, Any]) -> None:
        """Frames that have noise levels of their own."""
        if given.get("enable_diffusion_forcing"):
            raise ValueError(
                "diffusion forcing gives every frame a noise level of its own, so a run has no steps that could be "
                "watched or steered: use SkyReelsV2Pipeline or SkyReelsV2ImageToVideoPipeline"
            )

    def frames_in_front(self, given: Mapping[str, Any]) -> int:
        """References. Animate has one, in front of its poses and faces. In VACE nothing is to be made of them: their
        mask is 0, and so is what is behind it, other than in any frame of a video."""
        if given.get("pose_hidden_states") is not None:
            return 1
        control = given.get("control_hidden_states")
        if control is None:
            return 0
        empty = ~control[:, self.spec.latent_channels :].movedim(2, 0).flatten(1).any(1)
        return int(empty.to(torch.int64).cumprod(0).sum())

    def held(self, given: Mapping[str, Any]) -> Tensor | None:
        """Tokens of timestep 0, where each has its own (2.2 5B): the first frame of an image-to-video run."""
        times = torch.as_tensor(given.get("timestep", 0))
        if times.ndim < 2:
            return None
        batch, _, frames, height, width = given["hidden_states"].shape
        _, rows, columns = self.spec.patch
        clean = (times == 0).view(batch, 1, frames, height // rows, width // columns)
        return clean.repeat_interleave(rows, 3).repeat_interleave(columns, 4)

    def segment(self, given: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Animate's: poses, and which frames are given, the first ones from the second segment on."""
        pose, own = given.get("pose_hidden_states"), self.spec.latent_channels
        return () if pose is None else (pose[:1], given["hidden_states"][:1, own : own + self.spec.temporal_stride])

    def taken(self, given: Mapping[str, Any]) -> int:
        """Animate's first frames whose mask is 1; all others are 0 where a picture is animated."""
        own, stride = self.spec.latent_channels, self.spec.temporal_stride
        mask = given["hidden_states"][0, own : own + stride, 1:]  # (4, T, h, w), behind the reference
        frames = torch.cat([mask[:1, 0], mask[:, 1:].transpose(0, 1).flatten(0, 1)]).flatten(1)
        taken = int((frames == 1).all(1).to(torch.int64).cumprod(0).sum())
        if (frames[taken:] != 0).any() or taken == len(frames) or (taken and (taken - 1) % stride):
            raise ValueError(
                "Wan Animate has begun another segment, or another clip, in the mode that replaces a character. Its "
                "masks of the background hide there how many frames were taken from the segment before, so it is open "
                "which frames tracks and maps are of: in that mode give it videos of at most segment_frame_length "
                "frames, and for each clip open watch or steer anew"
            )
        return taken

    def check_trainable(self, index: Mapping[str, Any]) -> None:
        """VACE and Animate."""
        _, kind = index.get("transformer") or (None, None)  # (None, None) as well where it was not loaded
        for name, reads in (("VACE", "a control video"), ("Animate", "videos of poses and of a face")):
            if name in f"{kind} {index.get('_class_name')}":
                raise ValueError(f"Wan {name}, which reads {reads}, cannot be trained here: train Wan 2.1")

    def image_rows(self, pipe: Any, picture: Image.Image) -> Tensor:
        """(257, width): the first frame through CLIP."""
        return pipe.encode_image(picture, pipe._execution_device)[0]  # type: ignore[no-any-return]

    def text_trouble(self, transformer: Any) -> str:
        """Its attention to a picture counts on 512 rows of text."""
        if any(getattr(module, "add_k_proj", None) is not None for module in transformer.modules()):
            return (
                "diffusers takes the last 512 rows for the text and the rest for the picture (native ComfyUI does not)"
            )
        return super().text_trouble(transformer)

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        """By a mean and a deviation a channel."""
        mean, std = _channels(vae, latents)
        return (latents - mean) * (1.0 / std)

    def unscaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _channels(vae, latents)
        return latents * std + mean

    def inputs(
        self,
        config: Any,
        hidden: Tensor,
        t: Tensor,
        text: Mapping[str, Tensor],
        positions: Any = None,
        guidance: float = 1.0,
        given_frames: int = 0,
    ) -> dict[str, Any]:
        """The picture of 2.1's second cross-attention, where there is one; tokens of a first frame that is given (2.2
        5B) have the timestep of a clean clip."""
        given = super().inputs(config, hidden, t, text)
        if given_frames:
            time, rows, columns = config.patch_size
            noisy = hidden.new_ones(hidden.shape[1] // time, dtype=torch.float32)
            noisy[: given_frames // time] = 0.0
            cells = (hidden.shape[3] // rows) * (hidden.shape[4] // columns)
            given["timestep"] = t[:, None] * noisy.repeat_interleave(cells)
        if "image_rows" in text:
            given["encoder_hidden_states_image"] = text["image_rows"].to(hidden.dtype)
        return given


def _channels(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    mean, std = (torch.tensor(v).view(shape).to(like) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


FAMILY = Wan(SPEC)
