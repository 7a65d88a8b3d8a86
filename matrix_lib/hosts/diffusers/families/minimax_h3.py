"""What is particular to MiniMax H3 in diffusers, whose modular pipelines pack the sequence themselves.

B batch, T latent frames, h x w latents, N video tokens, A tokens of sound, D text tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ....backbones.minimax_h3 import SPEC
from ..model_shape import patch_of
from .base import Family, Packed

__all__ = ["FAMILY", "MiniMaxH3"]

_STEPS = 1000.0  # a timestep of pure noise, as other families count; its own time is 0 there, and 1 without noise
_GIVEN = 0.999  # the time that its pipeline says first frames have
_CLIP_TAG, _SOUND_TAG, _SIDES = 0, 2, 2  # of tokens; sides of the sound
_SHIFTS = 12.0, 3.0  # of the noise levels of clip and sound
_PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation that its VAE takes pixels by


class MiniMaxH3(Family):
    """MiniMax H3. Words, given frames and references, sound, and the clip, all in one sequence of one row. What is
    called from here shows a first frame in tokens of its own, and has the sound of silence, or none: the folder says
    whether it holds the encoder of sounds."""

    clip_encoders = ("vae", "audio_vae")
    unread = ("transformer_ref", "audio_scheduler")

    def encoding_parts(self, kind: Any) -> set[str]:
        return {*self.clip_encoders, "text_encoder", "tokenizer", "processor", "scheduler"}

    def encoders(self, kind: Any, parts: Mapping[str, Any]) -> Any:
        from diffusers import ComponentsManager

        if "processor" not in parts:
            raise ValueError(
                f"this {self.spec.title} has no processor in its modular_model_index.json, and its text encoder looks "
                "at the first frame: fetch that folder, too"
            )
        pipe = kind(components_manager=ComponentsManager())
        pipe.update_components(**parts)
        return pipe

    def offload(self, pipe: Any, device: torch.device) -> None:
        pipe._components_manager.enable_auto_cpu_offload(device=device)

    @torch.no_grad()
    def beside_clip(self, pipe: Any, frames: int) -> dict[str, Tensor]:
        """ "sound" (A, C): silence as long as the clip, one side behind the other; nothing where the pipeline has no
        encoder of sounds."""
        codec = getattr(pipe, "audio_vae", None)
        if codec is None:
            return {}
        tokens = round(frames / self.spec.fps[""] * self.spec.sound_rate)
        wave = torch.zeros(_SIDES, 1, tokens * codec.hop_length, device=pipe._execution_device)
        latents = codec.encode(wave, return_dict=False)[0].mode().float()  # (sides, C, A of one)
        return {"sound": self.scaled(codec, latents).transpose(1, 2).flatten(0, 1)}

    @torch.no_grad()
    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """Also "tags" (D,): which rows are those of the picture (0), that stand in front of the words (1)."""
        from diffusers.modular_pipelines.minimax_h3.encoders import MiniMaxH3FL2VATextEncoderStep
        from diffusers.modular_pipelines.modular_pipeline import PipelineState

        seen = [Image.fromarray(first.cpu().numpy())]
        state = PipelineState(values={"prompt": prompt, "keyframes": seen})
        MiniMaxH3FL2VATextEncoderStep()(pipe, state)
        return {"rows": state.get("prompt_embeds")[0], "tags": state.get("text_token_tags").float()}

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(each, device=pixels.device).view(3, 1, 1, 1) for each in _PIXELS)
        return super().encode(vae, (pixels.float().add(1.0).div(2.0) - mean) / std)

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        made = super().decode(vae, latents).float()
        mean, std = (torch.tensor(each, device=made.device).view(3, 1, 1, 1) for each in _PIXELS)
        return (made * std + mean).clamp(0.0, 1.0) * 2.0 - 1.0

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _channels(vae, latents)
        return (latents - mean) / std

    def unscaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _channels(vae, latents)
        return latents * std + mean

    def packed(self, given: Mapping[str, Any]) -> Packed:
        """Pictures of the text encoder stand before the words, tagged as the clip's; the clip is what is behind the
        sound, where there is any."""
        text, tags, places = (given[name] for name in ("text_indices", "token_tags", "position_ids"))
        rows, whole, heard = len(text), len(tags), given["audio_indices"]
        begin = int(heard.max()) + 1 if len(heard) else rows
        frames, *sides = (len(places[begin:, axis].unique()) for axis in range(3))
        if not len(heard):  # a first frame has the place and the time of the clip's own
            begin = max(whole - frames * sides[0] * sides[1], rows)
        shown = (tags[:rows] == 0).nonzero()
        first = int(shown[-1]) + 1 if len(shown) else 0
        ordered = text.tolist() == list(range(rows)) and bool((places[begin:, 0].diff() >= 0).all())
        if not ordered or frames * sides[0] * sides[1] != whole - begin:
            raise ValueError(
                f"this sequence of {whole} tokens does not have {self.spec.title}'s words first and its clip behind "
                "the sound: it is open which tokens are which"
            )
        patch = self.spec.patch
        own = int((places[heard, 0] >= places[begin, 0]).sum())  # references lie before the clip
        latent = (frames, sides[0] * patch[1], sides[1] * patch[2])
        return Packed(latent, first, rows - first, begin - rows, own, patch)

    def time(self, given: Mapping[str, Any]) -> float:
        """That of the clip: 1 without noise."""
        return float(given["timestep"][given["timestep_indices"][-1]])

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
        """The sequence as the pipeline lays it out: words, the first frame where `hidden` has one behind the clip's own
        channels, silence where `text` has it, and the clip. The first frame is all but clean, and has none of the
        channels of a condition. Noise of first frame and silence follows from the noise level, which is another one at
        every step.

        Raises ValueError for clips of several noise levels, or of texts laid out otherwise, in one batch.
        """
        from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3PrepareLayoutStep as Layout
        from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3SetTimestepsStep as Times

        tags = text["tags"].long()
        if len(hidden) > 1 and bool((t != t[0]).any() or (tags != tags[0]).any()):
            raise ValueError(
                f"{self.spec.title}'s transformer lays out one sequence for its whole batch, with one noise level: "
                "train with data.batch=1, and optim.accumulate for more"
            )
        patch, own = patch_of(config), SPEC.latent_channels
        clip, seen, sound = hidden, None, text.get("sound")
        if shown := hidden.shape[2] - int(config.in_channels):
            seen = hidden[:, :1, own : own + shown]
            clip = torch.cat([hidden[:, :, :own], hidden[:, :, own + shown :]], dim=2)
        time, draw = 1.0 - float(t[0]) / _STEPS, torch.Generator().manual_seed(int(t[0].float().view(torch.int32)))
        latents = [clip.transpose(1, 2)]
        if seen is not None:
            first = clip.new_zeros(*clip[:, :1].shape)
            first[:, :, :shown] = torch.lerp(_noise(seen, draw), seen.float(), _GIVEN).to(first)
            latents.insert(0, first.transpose(1, 2))
        rows = [Packed(tuple(each.shape[2:]), patch=patch).tokens(each) for each in latents]
        heard = hidden.new_zeros(len(hidden), 0, int(config.audio_in_channels))
        if sound is not None:
            heard = torch.lerp(sound.float(), _noise(sound, draw), _sound_level(1.0 - time))
        anchors, size = ("first",) * (len(rows) - 1), (hidden.shape[1], *hidden.shape[3:])
        made = Layout.build_packed_sequence(
            tags[0].cpu(), *size, heard.shape[1] // _SIDES, patch, _SIDES, _SOUND_TAG, _CLIP_TAG, anchors
        )
        names = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
        places = dict(zip(names, made))
        times, which = Times.build_row_timesteps(
            places["video_indices"], places["audio_indices"], made[5], 0, len(tags[0]), time,
            1.0 - _sound_level(1.0 - time), max(time, _GIVEN), 1.0,
        )  # fmt: skip
        places |= {"timestep": times, "timestep_indices": which}
        return {name: value.to(hidden.device) for name, value in places.items()} | {
            "hidden_states": torch.cat(rows, dim=1),
            "audio_hidden_states": heard,
            "encoder_hidden_states": text["rows"].to(hidden.dtype),
            "return_dict": False,
        }

    def output(self, made: Tensor, like: Tensor) -> Tensor:
        """The way from clip to noise, as other families predict it."""
        size = like.shape[1], like.shape[3], like.shape[4]
        return -Packed(size, patch=self.spec.patch).clip(made).transpose(1, 2)


def _noise(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draw).to(like.device)


def _sound_level(sigma: float) -> float:
    """The noise level of the sound at one of the clip: both go by one schedule, each shifted in its own way."""
    clip, sound = _SHIFTS
    base = sigma / (clip - (clip - 1.0) * sigma)
    return sound * base / (1.0 + (sound - 1.0) * base)


def _channels(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    mean, std = (
        torch.as_tensor(each).view(shape).to(like) for each in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


FAMILY = MiniMaxH3(SPEC)
