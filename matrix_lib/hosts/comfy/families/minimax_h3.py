"""What is particular to native MiniMax H3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from comfy.ldm.common_dit import pad_to_patch_size
from comfy.ldm.minimax.model import PackedLayout, patchify_video
from comfy.nested_tensor import NestedTensor
from torch import Tensor, nn

from ....backbones.minimax_h3 import SPEC
from ....core.grid import Grid
from ..weights import Progress
from .base import Around, Family, FirstFrameInput

__all__ = ["FAMILY", "MiniMaxH3"]

_SOUND = (32, 2, 40.0)  # channels, sides, latent frames a second, as the host's own nodes make it


class MiniMaxH3(Family):
    """MiniMax H3, for words, given frames or references. Between the words and the clip stand whatever is given, and
    the sound. One clip at a time."""

    adds_in_place = True
    reads_tokens = True

    def weights_beside(self, folder: Path, config: Mapping[str, Any], progress: Progress | None) -> dict[str, Tensor]:
        """Frequencies of positions, which diffusers makes anew each time."""
        count, theta = int(config.get("rope_freq_dim", 16)), float(config.get("rope_theta", 10000.0))
        return {"rope.inv_freq": theta ** -(torch.arange(count, dtype=torch.float32) / count)}

    def clip_channels(self, model: Any) -> int:
        """Those of the clip: the host's latent format counts those of the sound, which has more."""
        return self.spec.latent_channels

    def around(self, network: nn.Module, grid: Grid, given: Mapping[str, Any]) -> Around:
        """As the host's own layout counts its segments. Where the run brings none of this size (a part of the clip is
        shown), the network makes one anew, and so it is made here."""
        shapes: Any = given.get("latent_shapes") or ()
        payload: Mapping[str, Any] = given.get("minimax_payload") or {}
        if len(shapes) < 2:
            return Around()
        size = (grid.frames, grid.height * grid.patch[1], grid.width * grid.patch[2], int(shapes[1][-1]))
        layout = payload.get("layout")
        if layout is None or tuple(layout.signature[1:]) != size:
            asked = {name: payload.get(name) for name in ("keyframes", "refs", "frame_count")}
            layout = PackedLayout(0, *size, **asked)
        kinds = [kind for *_, kind in layout.segments]
        if kinds[0] != "text" or kinds[-1] != "video" or {"text", "video"} & {*kinds[1:-1]}:
            raise ValueError(
                f"{self.spec.title}'s tokens are laid out as {', '.join(kinds)}, where words first and the clip last "
                "are due: this version of ComfyUI lays them out in a way that is not known here"
            )
        return Around(before_clip=sum(stop - start for start, stop, _ in layout.segments[1:-1]))

    def sound(self, given: Mapping[str, Any]) -> int:
        shapes: Any = given.get("latent_shapes") or ()
        return _SOUND[1] * int(shapes[1][-1]) if len(shapes) > 1 else 0

    def as_tokens(self, extra: Tensor) -> Tensor:
        """A patch in each."""
        patch = self.spec.patch
        rows = patchify_video(pad_to_patch_size(extra, patch), patch)
        return rows.unflatten(0, (len(extra), -1))  # type: ignore[no-any-return]

    def behind_tokens(self, own: Tensor, tokens: Tensor) -> Tensor:
        """Given frames and references stand in front of the clip, and have no mask."""
        return torch.nn.functional.pad(own[0], (0, 0, len(tokens) - own.shape[1], 0))

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """Tokens of its own in front of the sound, at the clip's first moment, and a latent of clip and sound."""
        if len(empty) > 1:
            raise ValueError(f"{self.spec.title} makes one clip at a time; got batch_size {len(empty)}")
        channels, sides, rate = _SOUND
        sound = empty.new_zeros(1, channels, sides, round(length / self.spec.fps[""] * rate))
        frames = [{"resolved_frame_index": 0, "latent": vae.encode(first)}]
        values = {"minimax_keyframes": frames, "minimax_frame_count": length}
        return values, {"samples": NestedTensor((empty, sound))}


FAMILY = MiniMaxH3(SPEC)
