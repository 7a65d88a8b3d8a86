"""What is asked of a family in diffusers, and what most of them answer alike.

B batch, F pixel frames, T latent frames, C channels, h x w latents, D text tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ....backbones import BackboneSpec
from ...modules import text_trouble

__all__ = ["Family", "Packed"]

_SOME_FRAMES = 121  # LTX-2's, whose pipeline may leave it to the model


class Packed(NamedTuple):
    """A joint sequence: (T, h, w) of the clip's latent, the prompt's rows [first, first + text), how many tokens stand
    between them and the clip, and how many of these, the last ones, are the sound that is made. The transformer takes
    and gives latents as tokens (B, N, C times a patch), those of the clip last."""

    latent: tuple[int, int, int]
    first: int = 0
    text: int = 0
    between: int = 0
    sound: int = 0
    patch: tuple[int, int, int] = (1, 2, 2)

    @property
    def cells(self) -> int:
        """Numbers per channel in a token."""
        return math.prod(self.patch)

    def clip(self, tokens: Tensor) -> Tensor:
        """(B, C, T, h, w) in tokens."""
        frames, rows, columns = (size // step for size, step in zip(self.latent, self.patch))
        own = tokens[:, tokens.shape[1] - frames * rows * columns :]
        cells = own.unflatten(1, (frames, rows, columns)).unflatten(-1, (-1, *self.patch))
        return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def tokens(self, clip: Tensor) -> Tensor:
        """(B, N, C times a patch) of (B, C, T, h, w)."""
        for axis, step in zip((2, 4, 6), self.patch):
            clip = clip.unflatten(axis, (-1, step))
        return clip.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


class Family:
    """A family whose VAE scales by one factor and whose transformer takes latents, a timestep and text tokens.

    clip_encoders: parts that what is known of a clip comes from, beside its text. unread: parts that nobody opens here.
    """

    clip_encoders: ClassVar[tuple[str, ...]] = ("vae",)
    unread: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: BackboneSpec) -> None:
        self.spec = spec

    def usual_size(self, pipe: Any) -> tuple[int, int, int]:
        """(frames, height, width) that a pipeline makes when nothing else is asked for."""
        given = inspect.signature(pipe.__call__).parameters
        config, stride = pipe.transformer.config, 8
        height = given["height"].default or config.sample_height * stride
        width = given["width"].default or config.sample_width * stride
        frames = config.get("sample_frames") or given["num_frames"].default or _SOME_FRAMES
        return int(frames), int(height), int(width)

    # -- words

    def bind_options(self, image: str) -> dict[str, int]:
        """Options of `bind_prompt` for models that take a first frame in the way `image` ("" for none)."""
        return {}

    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """ "rows" (D, width) of a prompt in `tokens` text tokens, and what else of it the transformer is called with.
        `first` (H, W, 3) uint8 is the first frame, where the text encoder looks at it."""
        try:
            rows = pipe.encode_prompt(
                prompt=prompt,
                do_classifier_free_guidance=False,
                device=pipe._execution_device,
                max_sequence_length=tokens,
            )[0]
        except NameError as error:  # diffusers' Wan image-to-video pipeline takes it for granted
            raise ValueError(f"{type(pipe).__name__} needs {error.name}: pip install {error.name}") from None
        return {"rows": rows[0]}

    def text_trouble(self, transformer: Any) -> str:
        """Why rows of a text longer than usual cannot be kept apart in this transformer, as a clause; "" where they
        can."""
        return text_trouble(transformer, self.spec, "diffusers")

    def image_rows(self, pipe: Any, picture: Image.Image) -> Tensor:
        """(tokens, width) of a first frame that some models attend to beside the text."""
        raise ValueError(f"{self.spec.title} attends to no picture beside the text")

    # -- latents

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        """(1, 3, F, H, W) in [-1, 1] -> (1, C, T, h, w) as the VAE gives them, the mode of its distribution."""
        return vae.encode(pixels).latent_dist.mode()

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        """Latents (B, C, ...) of a VAE as the transformer sees them."""
        return latents * vae.config.scaling_factor

    def unscaled(self, vae: Any, latents: Tensor) -> Tensor:
        """The way back, to what the VAE decodes."""
        return latents / vae.config.scaling_factor

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """(1, C, T, h, w) of `unscaled` -> (1, 3, F, H, W) in [-1, 1]."""
        return vae.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]

    def scaled_image(self, vae: Any, latents: Tensor) -> Tensor:
        """`scaled` of a picture that stands beside the noisy latents."""
        return self.scaled(vae, latents)

    def started(self, pipe: Any, noisy: Tensor, first: Callable[[], Tensor]) -> Tensor:
        """What a pipeline takes as `latents` to begin from, where these are the noisy ones of a clip; `first` gives the
        clean ones of its first frame alone."""
        return noisy

    # -- the transformer

    def size(self, given: Mapping[str, Any]) -> tuple[int, int, int]:
        """(T, h, w) of latents that the transformer takes as tokens, of what it is called with.

        Raises ValueError where that does not tell.
        """
        raise ValueError(f"{self.spec.title} takes latents with their axes, not as tokens")

    def packed(self, given: Mapping[str, Any]) -> Packed | None:
        """How a pipeline that makes the joint sequence itself has laid it out, of what the transformer is called with;
        None where the transformer makes it.

        Raises ValueError where it cannot be followed.
        """
        return None

    def rate(self, given: Mapping[str, Any]) -> float | None:
        """Frames per second that the transformer is told, of what it is called with; None where it is not."""
        return None

    def time(self, given: Mapping[str, Any]) -> float:
        """The timestep of a call, as its scheduler counts; of frames that have their own (those that are given) the
        noisiest."""
        return float(torch.as_tensor(given["timestep"]).max())

    def held(self, given: Mapping[str, Any]) -> Tensor | None:
        """Where (B, 1, T, h, w) the transformer is fed clean latents in the place of the scheduler's sample, of what it
        is called with; None: nowhere."""
        return None

    def skipped(self, given: Mapping[str, Any]) -> frozenset[int]:
        """Layers whose attention to the video a call leaves out, of what the transformer is called with."""
        return frozenset()

    def check(self, given: Mapping[str, Any]) -> None:
        """Raises ValueError where it cannot be followed which tokens are the clip, or how noisy they are, of what the
        transformer is called with."""

    def frames_in_front(self, given: Mapping[str, Any]) -> int:
        """How many of the latent's own frames stand in front of the clip, and are cut off after sampling, of what the
        transformer is called with."""
        return 0

    def segment(self, given: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What differs between the segments of a long clip, which its pipeline samples one after the other, of what the
        transformer is called with; () where it samples no segments."""
        return ()

    def taken(self, given: Mapping[str, Any]) -> int:
        """How many pixel frames at the start of a further segment the one before has made; 0 where there was none.

        Raises ValueError where what the transformer is called with does not tell.
        """
        return 0

    def check_sampled(self, pipeline: str) -> None:
        """Raises ValueError for a class of pipelines, by name, that makes no clip of a prompt and a picture alone."""

    def check_trainable(self, index: Mapping[str, Any]) -> None:
        """Raises ValueError for a pipeline, by its `model_index.json`, whose inputs nobody has written down here."""

    def parts_beside(self) -> dict[str, Any]:
        """Parts that its pipelines must be given to be made, and that encoding clips and prompts has no use for."""
        return {}

    def encoding_parts(self, kind: Any) -> set[str]:
        """Names of what a class of pipelines is made of where it encodes clips and prompts, and its settings."""
        return {*inspect.signature(kind.__init__).parameters} - {*self.parts_beside()}

    def encoders(self, kind: Any, parts: Mapping[str, Any]) -> Any:
        """A pipeline of a class without its transformers, of `encoding_parts`."""
        return kind(**parts, **self.parts_beside(), transformer=None)

    def offload(self, pipe: Any, device: torch.device) -> None:
        """Parts of a pipeline wait in main memory until they run."""
        pipe.enable_model_cpu_offload(device=device)

    def beside_clip(self, pipe: Any, frames: int) -> dict[str, Tensor]:
        """What the transformer is called with for a clip of so many pixel frames beside `text`, whatever it shows."""
        return {}

    def text_starts(self, given: Mapping[str, Any]) -> tuple[int, ...]:
        """For each row of the batch how many tokens stand between the clip and the prompt behind it in a joint
        sequence, of what the transformer is called with; () for none.

        Raises ValueError where the prompt's tokens do not stand side by side.
        """
        return ()

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """The mask of a joint attention as observers and edits take it, where it can be smaller than the family's own
        without any token of the clip or of the words seeing another."""
        return mask

    def positions(self, transformer: Any, shape: tuple[int, ...], device: torch.device) -> Any:
        """Positions that the pipeline makes for latents (B, T, C, h, w); None where the transformer makes its own."""
        return None

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
        """What the transformer is called with.

        Args:
            config: the transformer's. hidden: (B, T, channels, h, w), everything side by side.
            text: batches of what `text` gives, and "image_rows" (B, tokens, width) where a picture is attended to.
            positions: of `positions`. guidance: for families whose guidance is an input.
            given_frames: latent frames at the start that are given, without noise.
        """
        return {
            "hidden_states": self._laid(hidden),
            "timestep": t,
            "encoder_hidden_states": text["rows"].to(hidden.dtype),
            "return_dict": False,
        }

    def output(self, made: Tensor, like: Tensor) -> Tensor:
        """The transformer's output as (B, T, C, h, w), of inputs `like` (B, T, channels, h, w)."""
        if self.spec.channels_last:
            return made.movedim(-1, 2)
        return made if self.spec.frames_first else made.transpose(1, 2)

    def _laid(self, hidden: Tensor) -> Tensor:
        """(B, T, channels, h, w) with its axes as the transformer has them."""
        if self.spec.channels_last:
            return hidden.movedim(2, -1).contiguous()
        return hidden if self.spec.frames_first else hidden.transpose(1, 2)
