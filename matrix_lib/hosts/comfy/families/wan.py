"""What is particular to native Wan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor, nn

from ....backbones.wan import SPEC
from ....backbones.weight_names import VAES, Rules
from ....core.grid import Grid
from ..model import FRAME_RATE, diffusion_model
from ..warn import warn
from ..weights import Progress, read_json
from .base import Around, Family, FirstFrameInput, made_mask, no_image, t5_clip, writer_of
from .wan_parts import LAYOUTS, UNSEEN, frames_in_front

__all__ = ["FAMILY", "Wan"]

_SKYREELS_RATE = SPEC.class_fps["SkyReelsV2Transformer3DModel"]


class Wan(Family):
    """Wan 2.1 and 2.2, and what is built on its network: VACE, Animate, HuMo, S2V, SCAIL, WanDancer and others."""

    def check_folder(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Animate's, whose encoders of motion and faces lie in another form; and SkyReels V2's that ask for more than
        ComfyUI's Wan, for which it takes them, does."""
        if "Animate" in str(config.get("_class_name")):
            raise ValueError(
                f"{folder} holds a {config['_class_name']}, which is watched and steered in diffusers. In ComfyUI load "
                "Wan Animate's native file, from models/diffusion_models"
            )

        more = {"num_frame_per_block": 1, "inject_sample_info": False}
        if odd := [f"{name} {config[name]!r}" for name, usual in more.items() if config.get(name, usual) != usual]:
            raise ValueError(
                f"{folder} has {', '.join(odd)}: diffusion forcing, frames denoised block by block or told "
                "their rate, of which ComfyUI's Wan knows nothing. Take SkyReels V2 without it, or diffusers"
            )

    def adapt(self, model: Any, folder: Path, config: Mapping[str, Any], aside: Any) -> None:
        """Says so where a folder is one of SkyReels V2's for diffusion forcing."""
        index = folder / "model_index.json"
        pipeline = str(read_json(index).get("_class_name")) if index.is_file() else ""
        if "DiffusionForcing" in pipeline:
            warn(
                f"{folder.name} is made for {pipeline}: ComfyUI denoises all frames at once, as that does with "
                "ar_step=0, and makes no clip longer than it was trained on"
            )

    def adapt_file(self, model: Any, names: Iterable[str]) -> None:
        """SkyReels V2's for diffusion forcing, whose parts for its frame rate the host leaves out."""
        if any("fps_embedding." in name for name in names):
            model.model_options.setdefault("transformer_options", {})[FRAME_RATE] = _SKYREELS_RATE
            warn(
                "this file is SkyReels V2 for diffusion forcing (fps_embedding): ComfyUI takes it for Wan 2.1, leaves "
                f"that part out and denoises all frames at once. Seconds are counted at {_SKYREELS_RATE:g} frames per "
                "second"
            )

    def vae_rules(self, config: Mapping[str, Any]) -> Rules:
        """Two kinds: that of 2.1, and that of 2.2 5B."""
        return VAES["wan2.2"] if config.get("is_residual") else super().vae_rules(config)

    def latent_format(self, vae: Mapping[str, Any]) -> Any:
        """Means and deviations of the 16 channels, from the config."""
        if vae.get("latents_mean") is None or vae.get("z_dim", 16) != 16:
            return None
        latents = comfy.latent_formats.Wan21()
        for name in ("latents_mean", "latents_std"):
            setattr(latents, name, torch.tensor(vae[name], dtype=torch.float32).view(1, 16, 1, 1, 1))
        return latents

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """UMT5, with its tokenizer."""
        import comfy.text_encoders.wan as host

        def tokenizer() -> dict[str, Any]:
            return {"spiece_model": _spiece(folder)}

        return t5_clip(folder, "umt5xxl", host.te, host.WanT5Tokenizer, progress, tokenizer)

    def check(self, network: nn.Module) -> None:
        """Classes whose tokens are known, and whose attention can be seen."""
        if (writer := writer_of(network)) not in LAYOUTS:
            raise self.unfollowed(network, LAYOUTS, writer, UNSEEN.get(writer, ""))

    def frames_in_front(self, model: Any, conds: Iterable[Mapping[str, Any]], latent: tuple[int, int, int]) -> int:
        """Reference frames of VACE and Animate are frames of the latent itself."""
        return frames_in_front(writer_of(diffusion_model(model)), model, conds, latent)

    def frame_rate(self, given: Iterable[Mapping[str, Any]], usual: float | None) -> float | None:
        """WanDancer's, whose network is told one."""
        rates = {float(one["fps"]) for one in given if one.get("fps") is not None}
        return usual if not rates else rates.pop() if len(rates) == 1 else None

    def around(self, network: nn.Module, grid: Grid, given: Mapping[str, Any]) -> Around:
        """References, poses, subjects and earlier frames, before and behind the latent's tokens."""
        before, behind = LAYOUTS[writer_of(network)](network, given)
        return Around(before_clip=before, after_clip=behind)

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """I2V: the encoded clip of the first frame and grey, with its mask. The 5B model (48 channels) instead starts
        from a latent whose first frame is given."""
        extra = model.model.diffusion_model.patch_embedding.weight.shape[1] - empty.shape[1]
        if extra == 0 and empty.shape[1] == 48:
            mask = made_mask(empty).expand(empty.shape[0], -1, -1, -1, -1)
            frames = model.get_model_object("latent_format").process_out(empty)
            frames[:, :, :1] = vae.encode(first).to(frames)
            return {}, {"samples": frames, "noise_mask": mask}
        if extra < empty.shape[1] + 4:
            raise no_image(self.spec.title)
        clip = torch.full((length, *first.shape[1:]), 0.5, dtype=first.dtype, device=first.device)
        clip[:1] = first
        return {"concat_latent_image": vae.encode(clip), "concat_mask": made_mask(empty)}, {"samples": empty}


def _spiece(folder: Path) -> Tensor:
    """The bytes of UMT5's SentencePiece model, which the host reads from checkpoints only."""
    path = folder / "tokenizer" / "spiece.model"
    if not path.is_file():
        raise ValueError(f"{path} is missing: Wan's words need the tokenizer's SentencePiece file")
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


FAMILY = Wan(SPEC)
