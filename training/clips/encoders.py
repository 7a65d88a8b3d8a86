"""What turns clips and prompts into what a model trains on: its video encoder, its text encoders, its tokenizer.

    model = ModelFiles("models/CogVideoX-5b-I2V", device, torch.bfloat16)     # reads configurations, opens no weights
    binding = model.bind(prompt, phrases)                                     # the tokenizer alone
    with model.open() as encoders:                                            # now the weights
        encoders.video(frames)["latents"]

F pixel frames, H x W pixels; T latent frames, h x w latents, C channels, always in the order (T, C, h, w); D text rows.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.core.words.phrases import PhraseSpec
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.latents import scaled
from matrix_lib.hosts.diffusers.load import check_model, open_model
from matrix_lib.hosts.diffusers.prompts import bind_prompt

from .model_shape import ModelShape
from .store import file_hash

__all__ = ["Encoders", "Model", "ModelFiles", "PipelineEncoders"]

_TOKENIZER = {"cogvideox": "t5", "wan": "umt5", "hunyuan_video": "llama"}
_ENCODERS = ("vae", "text_encoder", "text_encoder_2", "image_encoder")
_WORDS = ("tokenizer", "tokenizer_2", "image_processor", "feature_extractor")


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
    """The encoders of a diffusers pipeline that is in memory: CogVideoX, Wan 2.1 and 2.2 A14B, HunyuanVideo, each for
    text or an image to video. Latents are the mode of the VAE's distribution, so a clip has one encoding.

    Raises ValueError for pipelines of another kind.
    """

    def __init__(self, pipeline: Any, shape: ModelShape | None = None) -> None:
        self.pipeline = pipeline
        if shape is None:
            transformer = {**pipeline.transformer.config, "_class_name": type(pipeline.transformer).__name__}
            shape = ModelShape.of(type(pipeline).__name__, transformer, dict(pipeline.vae.config))
        self.shape = shape
        if getattr(pipeline.config, "expand_timesteps", False):
            raise ValueError("Wan 2.2 5B, whose first frame goes in by its timestep, cannot be trained here yet")

    # --- who they are

    @cached_property
    def video_id(self) -> str:
        return _modules_id(self.pipeline, ("vae",)) + ("+words" if self.shape.image_words else "")

    @cached_property
    def text_id(self) -> str:
        return _modules_id(self.pipeline, _ENCODERS[1:])

    def bind(self, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase]) -> PromptBinding:
        rows = self.shape.text_rows
        return bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=rows, **_interleave(self.shape))

    @contextmanager
    def open(self) -> Iterator[PipelineEncoders]:
        """Itself: it is open already, and stays so."""
        yield self

    # --- what they make

    @torch.no_grad()
    def video(self, frames: Tensor) -> dict[str, Tensor]:
        """(F, H, W, 3) uint8 -> "latents" (T, C, h, w) as the transformer sees them, "image" (T, I, h, w), the channels
        of the first frame as the pipeline puts them beside the noisy latents, and "image_rows" where it has any."""
        shape = self.shape
        latents = self._lead(self._scaled(self._encode(frames)))
        if shape.image == "replace":  # its VAE normalises over time: the first frame alone has latents of its own
            latents = torch.cat([self._scaled(self._encode(frames[:1])), latents[1:]])
        made = {"latents": latents, "image": latents.new_zeros(len(latents), 0, *latents.shape[2:])}
        if shape.image not in ("", "replace"):
            made["image"] = self._beside(frames[0], len(frames))
        if shape.image_words:
            made["image_rows"] = self._image_rows(frames[0])
        return {name: value.cpu().contiguous() for name, value in made.items()}

    @torch.no_grad()
    def id_map(self, picture: Tensor, frames: int) -> Tensor:
        """(T, E, h, w) of a palette picture (H, W, 3) uint8 of the first frame: encoded as the model's own first frame
        is, zeros (Wan: grey, with 4 mask channels) behind."""
        made = self._masked(picture, frames) if self.shape.family == "wan" else self._padded(picture, frames)
        return made.cpu().contiguous()

    @torch.no_grad()
    def text(self, prompt: str, first: Tensor) -> dict[str, Tensor]:
        """ "rows" (D, width) of a prompt; HunyuanVideo's "mask" (D,) and "pooled" (P,), too. `first` (H, W, 3) uint8 is
        the first frame, which HunyuanVideo's text encoder looks at."""
        pipe = self.pipeline
        given: dict[str, Any] = {"device": pipe._execution_device, "max_sequence_length": self.shape.text_rows}
        if self.shape.family != "hunyuan_video":
            try:
                rows = pipe.encode_prompt(prompt=prompt, do_classifier_free_guidance=False, **given)[0]
            except NameError as error:  # diffusers' Wan image-to-video pipeline takes it for granted
                raise ValueError(f"{type(pipe).__name__} needs {error.name}: pip install {error.name}") from None
            return {"rows": rows[0].cpu().contiguous()}
        if self.shape.image:
            given |= {"image": _picture(first), "image_embed_interleave": _interleave(self.shape)["image_step"]}
        rows, pooled, mask = pipe.encode_prompt(prompt=prompt, **given)
        made = {"rows": rows[0], "mask": mask[0].float(), "pooled": pooled[0]}
        return {name: value.cpu().contiguous() for name, value in made.items()}

    def _encode(self, frames: Tensor) -> Tensor:
        """(F, H, W, 3) uint8 -> (1, C, T, h, w), as the VAE gives them."""
        vae = self.pipeline.vae
        pixels = frames.permute(3, 0, 1, 2)[None].to(self.pipeline._execution_device, vae.dtype).div(127.5).sub(1.0)
        return vae.encode(pixels).latent_dist.mode()

    def _scaled(self, latents: Tensor, image: bool = False) -> Tensor:
        """(1, C, T, h, w) of a VAE -> (T, C, h, w) as its transformer sees them."""
        vae = self.pipeline.vae
        if image and self.shape.inverted:
            return (latents / vae.config.scaling_factor)[0].transpose(0, 1)
        return scaled(vae, latents, self.shape.family)[0].transpose(0, 1)

    def _lead(self, latents: Tensor) -> Tensor:
        """With copies of the first latent frame in front that fill the first temporal patch (CogVideoX 1.5)."""
        lead = -len(latents) % self.shape.patch[0]
        return torch.cat([latents[:1]] * lead + [latents])

    def _padded(self, picture: Tensor, frames: int) -> Tensor:
        """(T, C, h, w): one picture's latents, then zeros. CogVideoX 1.5 has it in its first latent frame alone, which
        is one of its lead."""
        first = self._scaled(self._encode(picture[None]), image=True)
        latent_frames = (frames - 1) // self.shape.temporal_stride + 1
        later = latent_frames + -latent_frames % self.shape.patch[0] - 1
        return torch.cat([first, first.new_zeros(later, *first.shape[1:])])

    def _beside(self, picture: Tensor, frames: int) -> Tensor:
        """(T, I, h, w): a first frame as the family's image-to-video pipeline shows it to its transformer."""
        if self.shape.image == "padded":
            return self._padded(picture, frames)
        if self.shape.image == "concat":
            latents = self._padded(picture, frames)
            known = latents.new_zeros(len(latents), 1, *latents.shape[2:])
            known[0] = 1.0
            return torch.cat([latents, known], dim=1)
        return self._masked(picture, frames)

    def _masked(self, picture: Tensor, frames: int) -> Tensor:
        """Wan's (T, 4 + C, h, w): which latent frames are given, and latents of a clip that goes on in grey, the middle
        of the range of its pixels, which no byte is."""
        vae = self.pipeline.vae
        first = picture.permute(2, 0, 1)[:, None].to(self.pipeline._execution_device, vae.dtype).div(127.5).sub(1.0)
        clip = torch.cat([first, first.new_zeros(3, frames - 1, *first.shape[2:])], dim=1)
        latents = self._scaled(vae.encode(clip[None]).latent_dist.mode())
        known = latents.new_zeros(len(latents), self.shape.temporal_stride, *latents.shape[2:])
        known[0] = 1.0
        return torch.cat([known, latents], dim=1)

    def _image_rows(self, picture: Tensor) -> Tensor:
        """(257, width): the first frame through CLIP, as Wan's pipeline asks for it."""
        if getattr(self.pipeline, "image_encoder", None) is None:
            raise ValueError("this Wan model looks at the first frame through CLIP, but it comes without image_encoder")
        return self.pipeline.encode_image(_picture(picture), self.pipeline._execution_device)[0]


class ModelFiles:
    """A model on disk: "mini", a bundle's folder, or the folder of a diffusers pipeline. Its weights are read while
    `open()` is entered, and let go of at its end.

    Args:
        device, dtype: that the encoders run on and in. offload: they wait in main memory for their turn.

    `hash_file` may be replaced by one that remembers (`store.Store.file_hash`): weights are many gigabytes.

    Raises ValueError where there is no such model.
    """

    def __init__(
        self,
        where: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
    ) -> None:
        self.where, self.device, self.dtype = where, torch.device(device), dtype
        self.offload = offload and self.device.type != "cpu"
        self.hash_file: Any = file_hash
        check_model(where)
        self.bundle = None
        if where == "mini" or (Path(where) / bundle.MANIFEST).is_file():
            self.bundle = bundle.load(None if where == "mini" else where)
        self.shape = self._mini_shape() if self.bundle else self._shape()

    def _mini_shape(self) -> ModelShape:
        assert self.bundle is not None
        sizes = self.bundle.sizes
        fixed = (sizes["frames"], sizes["height"], sizes["width"])
        return ModelShape("cogvideox", "padded", (1, 1, 1), 4, 8, sizes["latent"], fixed, sizes["text_length"])

    def _shape(self) -> ModelShape:
        self.index = _json(Path(self.where) / "model_index.json")
        transformer, vae = (_json(Path(self.where) / part / "config.json") for part in ("transformer", "vae"))
        if self.index.get("expand_timesteps"):
            raise ValueError("Wan 2.2 5B, whose first frame goes in by its timestep, cannot be trained here yet")
        return ModelShape.of(str(self.index["_class_name"]), transformer, vae)

    @cached_property
    def video_id(self) -> str:
        return self._files_id("vae", *(("image_encoder", "image_processor") if self.shape.image_words else ()))

    @cached_property
    def text_id(self) -> str:
        return self._files_id("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

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

    @cached_property
    def _tokenizer(self) -> Any:
        if self.bundle:
            from matrix_lib.hosts.diffusers.mini import make_tokenizer

            return make_tokenizer(self.bundle.tokenizer)
        import transformers

        folder = Path(self.where) / "tokenizer"
        if not folder.is_dir():
            raise ValueError(f"the model at {self.where!r} has no tokenizer: prompts cannot be bound to its text rows")
        kind = getattr(transformers, self.index.get("tokenizer", [None, ""])[1], transformers.AutoTokenizer)
        return kind.from_pretrained(str(folder), local_files_only=True)

    def bind(self, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase]) -> PromptBinding:
        """Binds phrases with the tokenizer alone. ValueError as `bind_prompt`."""
        family = _TOKENIZER[self.shape.family]
        options: dict[str, Any] = {"family": family, "max_sequence_length": self.shape.text_rows}
        options |= _interleave(self.shape)
        if family == "llama":
            import diffusers

            pipeline = getattr(diffusers, str(self.index["_class_name"]))
            options["template"] = vars(sys.modules[pipeline.__module__])["DEFAULT_PROMPT_TEMPLATE"]
        return bind_prompt(self._tokenizer, prompt, phrases, **options)

    @contextmanager
    def open(self) -> Iterator[PipelineEncoders]:
        """The encoders, as long as the block lasts."""
        if self.bundle:
            model = open_model(self.where, self.device, self.dtype)
            yield PipelineEncoders(model.pipeline, self.shape)
            return
        pipe = self._without_transformer()
        pipe.set_progress_bar_config(disable=True)
        if self.offload:
            pipe.enable_model_cpu_offload(device=self.device)
        else:
            pipe.to(self.device)
        try:
            yield PipelineEncoders(pipe, self.shape)
        finally:
            del pipe
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _without_transformer(self) -> Any:
        """The pipeline of a folder without its transformers, which are most of it and of no use here. (Where they are
        optional to a pipeline, as Wan's are, diffusers loads them even when it is told not to.)"""
        import diffusers
        import transformers

        libraries = {"diffusers": diffusers, "transformers": transformers}
        parts: dict[str, Any] = {}
        kind = getattr(diffusers, str(self.index["_class_name"]))
        wanted = set(inspect.signature(kind.__init__).parameters)
        for name, value in self.index.items():
            if name not in wanted or name.startswith("transformer"):
                continue
            library, class_name = value if isinstance(value, list) and len(value) == 2 else (None, "")
            if library is None:
                parts[name] = None if isinstance(value, list) else value
            elif library not in libraries or not hasattr(libraries[library], class_name):
                raise ValueError(f"the model's {name} is {library}.{class_name}, which is not installed here")
            else:
                parts[name] = self._part(name, library, getattr(libraries[library], class_name))
        if missing := [name for name in ("vae", "text_encoder", "tokenizer", "scheduler") if name not in parts]:
            raise ValueError(f"the model at {self.where!r} has no {', '.join(missing)} in its model_index.json")
        return kind(**parts, transformer=None)

    def _part(self, name: str, library: str, kind: Any) -> Any:
        """One part from its folder, in the number format where it has weights."""
        import transformers

        options: dict[str, Any] = {"local_files_only": True}
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
            new = library == "transformers" and int(transformers.__version__.split(".")[0]) >= 5
            options["dtype" if new else "torch_dtype"] = self.dtype
        try:
            return kind.from_pretrained(str(Path(self.where) / name), **options)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the model at {self.where!r} has a {name} that cannot be loaded: {error}") from error


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


def _interleave(shape: ModelShape) -> dict[str, int]:
    """Every how many image tokens HunyuanVideo's text keeps, as its pipeline has it."""
    if shape.image not in ("concat", "replace"):
        return {}
    return {"image_step": 2 if shape.image == "concat" else 4}


def _picture(frame: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(frame.cpu().numpy())


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: the folder holds no whole diffusers pipeline")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
