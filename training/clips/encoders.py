"""What turns clips and prompts into what a model trains on: its video encoder, its text encoders, its tokenizer.

    model = ModelFiles("models/CogVideoX-5b-I2V", device, torch.bfloat16)     # reads configurations, opens no weights
    binding = model.bind(prompt, phrases)                                     # the tokenizer alone
    with model.open() as encoders:                                            # now the weights
        encoders.video(frames)["latents"]

F pixel frames, H x W pixels; T latent frames, h x w latents, C channels, always in the order (T, C, h, w); D text rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.core.words.phrases import PhraseSpec
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.latents import beside, encode_clip, masked, padded
from matrix_lib.hosts.diffusers.load import ModelSource, index_file
from matrix_lib.hosts.diffusers.model_shape import ModelShape
from matrix_lib.hosts.diffusers.prompts import bind_prompt

from .store import file_hash

__all__ = ["Encoders", "Model", "ModelFiles", "PipelineEncoders", "known_by"]

_SHORT = 1 << 20  # bytes of a file that is hashed whole
_LOOKS, _LOOK = 32, 1 << 14  # parts of a longer one that are hashed, and the bytes of each
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder", "connectors")


class Encoders(Protocol):
    """What is asked while a cache is filled. Everything comes back on the CPU."""

    def video(self, frames: Tensor) -> dict[str, Tensor]: ...

    def id_map(self, picture: Tensor, frames: int) -> Tensor: ...

    def text(self, prompt: str, first: Tensor) -> dict[str, Tensor]: ...


class Model(Protocol):
    """A model whose encoders are not open yet."""

    shape: ModelShape

    @property
    def video_id(self) -> str: ...

    @property
    def text_id(self) -> str: ...

    def bind(self, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase]) -> PromptBinding: ...

    def open(self) -> Any: ...


class PipelineEncoders:
    """The encoders of a diffusers pipeline that is in memory, of a family that is known (of Wan: 2.1 and 2.2), for
    text or an image to video. Latents are the mode of the VAE's distribution, so a clip has one encoding.

    Raises ValueError for pipelines of another kind.
    """

    def __init__(self, pipeline: Any, shape: ModelShape | None = None) -> None:
        self.pipeline = pipeline
        if shape is None:
            transformer = {**pipeline.transformer.config, "_class_name": type(pipeline.transformer).__name__}
            shape = ModelShape.of(type(pipeline).__name__, transformer, dict(pipeline.vae.config))
        self.shape = shape
        family(shape.family).check_trainable(pipeline.config)

    # --- who they are

    @cached_property
    def video_id(self) -> str:
        known = _modules_id(self.pipeline, family(self.shape.family).clip_encoders)
        return known + ("+words" if self.shape.image_words else "")

    @cached_property
    def text_id(self) -> str:
        return _modules_id(self.pipeline, _TEXT_ENCODERS)

    def bind(self, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase]) -> PromptBinding:
        options = family(self.shape.family).bind_options(self.shape.image)
        return bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=self.shape.text_rows, **options)

    @contextmanager
    def open(self) -> Iterator[PipelineEncoders]:
        """Itself: it is open already, and stays so."""
        yield self

    # --- what they make

    @torch.no_grad()
    def video(self, frames: Tensor) -> dict[str, Tensor]:
        """(F, H, W, 3) uint8 -> "latents" (T, C, h, w) as the transformer sees them, "image" (T, I, h, w), the channels
        of the first frame as the pipeline puts them beside the noisy latents, "image_rows" where it has any, and the
        family's own `beside_clip`."""
        shape = self.shape
        latents = self._lead(self._encode(frames))
        if shape.image == "replace":  # its VAE normalises over time: the first frame alone has latents of its own
            latents = torch.cat([self._encode(frames[:1]), latents[1:]])
        made = {"latents": latents, "image": latents.new_zeros(len(latents), 0, *latents.shape[2:])}
        if shape.image not in ("", "replace"):
            made["image"] = beside(self.pipeline, shape, frames[0], len(frames))
        if shape.image_words:
            made["image_rows"] = self._image_rows(frames[0])
        made |= family(shape.family).beside_clip(self.pipeline, len(frames))
        return {name: value.cpu().contiguous() for name, value in made.items()}

    @torch.no_grad()
    def id_map(self, picture: Tensor, frames: int) -> Tensor:
        """(T, E, h, w) of a palette picture (H, W, 3) uint8 of the first frame: encoded as the model's own first frame
        is, zeros (Wan: grey, with 4 mask channels) behind."""
        lay_out = masked if self.shape.spec.id_map == "masked" else padded
        return lay_out(self.pipeline, self.shape, picture, frames).cpu().contiguous()

    @torch.no_grad()
    def text(self, prompt: str, first: Tensor) -> dict[str, Tensor]:
        """ "rows" (D, width) of a prompt; HunyuanVideo's and Kandinsky 5's "mask" (D,) and "pooled" (P,), those of
        1.5 "glyphs" and "glyph_mask", too. `first` (H, W, 3) uint8 is the first frame, which HunyuanVideo's text
        encoder looks at."""
        shape = self.shape
        made = family(shape.family).text(self.pipeline, prompt, shape.text_rows, shape.image, first)
        return {name: value.cpu().contiguous() for name, value in made.items()}

    def _encode(self, frames: Tensor) -> Tensor:
        """(F, H, W, 3) uint8 -> (T, C, h, w) as the transformer sees them."""
        return encode_clip(self.pipeline, frames, self.shape.family).transpose(0, 1)

    def _lead(self, latents: Tensor) -> Tensor:
        """With copies of the first latent frame in front that fill the first temporal patch (CogVideoX 1.5)."""
        prefix_frames = -len(latents) % self.shape.patch[0]
        return torch.cat([latents[:1]] * prefix_frames + [latents])

    def _image_rows(self, picture: Tensor) -> Tensor:
        """(tokens, width): the first frame through the pipeline's image encoder."""
        if getattr(self.pipeline, "image_encoder", None) is None:
            raise ValueError(
                f"this {self.shape.spec.title} looks at the first frame, but it comes without image_encoder"
            )
        return family(self.shape.family).image_rows(self.pipeline, Image.fromarray(picture.cpu().numpy()))


class ModelFiles(ModelSource):
    """A model on disk, and what tells the latents and the text that it makes from those of another.

    Args:
        device, dtype: that the encoders run on and in. offload: they wait in main memory for their turn.
        tag_ids: `<idK>` tags are single tokens.

    `hash_file` may be replaced by one that remembers (`store.Store.file_hash`): weights are many gigabytes.

    Raises ValueError where there is no such model.
    """

    def __init__(
        self,
        where: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
        tag_ids: bool = False,
    ) -> None:
        super().__init__(where, tag_ids)
        self.device, self.dtype, self.offload = torch.device(device), dtype, offload
        self.hash_file: Any = file_hash

    @cached_property
    def video_id(self) -> str:
        looks = ("image_encoder", "image_processor", "feature_extractor")
        return self._files_id(*family(self.shape.family).clip_encoders, *(looks if self.shape.image_words else ()))

    @cached_property
    def text_id(self) -> str:
        parts = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "connectors", "processor")
        known = self._files_id(*parts)
        return f"{known}+tags" if self.tag_ids else known

    def fingerprint(self) -> dict[str, str]:
        """What tells the model from another one of the same name: by file of its transformers (Wan 2.2 A14B has two)
        the size and a hash of parts spread over it, of short files (configurations, a bundle's manifest) a hash of the
        content. Weights of many gigabytes are not read whole for it."""
        root = self.bundle.folder if self.bundle else Path(self.where)
        parts = [root / part for part in ("transformer", "transformer_2") if (root / part).is_dir()]
        files = [index_file(root), *(path for part in parts for path in part.iterdir())]
        found = sorted(path for path in ([root / "bundle.json"] if self.bundle else files) if path.is_file())
        return {path.relative_to(root).as_posix(): known_by(path) for path in found}

    def _files_id(self, *parts: str) -> str:
        """A hash over the files of some parts, and the number format that they run in."""
        if self.bundle:
            names = [name for part in ("codec", "text", "tokenizer") for name in self.bundle.files[part]]
            files = [self.bundle.folder / name for name in names]
        else:
            root = Path(self.where)
            files = [p for part in parts for p in sorted((root / part).rglob("*")) if p.is_file()]
        said = [[path.name, self.hash_file(path)] for path in files]
        return _digest([said, str(self.dtype), self.shape.family])

    @contextmanager
    def open(self) -> Iterator[PipelineEncoders]:
        """The encoders, as long as the block lasts."""
        with self.encoders(self.device, self.dtype, self.offload) as pipe:
            yield PipelineEncoders(pipe, self.shape)


def known_by(path: Path) -> str:
    """What tells a file from others: of a short one a hash, else its size and a hash of parts spread over it."""
    size = path.stat().st_size
    if size <= _SHORT:
        return file_hash(path)[:16]
    state = hashlib.sha256()
    with path.open("rb") as file:
        for place in range(_LOOKS):
            file.seek((size - _LOOK) * place // (_LOOKS - 1))
            state.update(file.read(_LOOK))
    return f"{size} bytes, {state.hexdigest()[:16]}"


def _modules_id(pipeline: Any, names: Iterable[str]) -> str:
    """A hash over the weights and configurations of modules in memory."""
    state = hashlib.sha256()
    for name in names:
        module = getattr(pipeline, name, None)
        if module is None:
            continue
        state.update(f"{name} {type(module).__name__} {module.dtype} {module.config}".encode())
        for key, value in module.state_dict().items():
            state.update(key.encode())
            state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
