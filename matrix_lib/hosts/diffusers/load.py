"""What model lies at a path, and how it is opened: mini, a bundle, or the folder of a diffusers pipeline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...backbones import REGISTRY, BackboneSpec, families, match
from ...core.grid import Grid
from ...core.words.binding import Phrase, PromptBinding
from ...core.words.phrases import PhraseSpec
from .. import bundle
from .attach import backbone_of
from .families import family
from .model_shape import ModelShape, patch_of
from .prompts import bind_prompt, template_of
from .tag_tokens import tag_tokens, with_tags

__all__ = ["Model", "ModelSource", "check_model", "index_file", "open_model"]


@dataclass
class Model:
    """A pipeline on its device; `size` is (frames, height, width) that it makes when nothing else is asked for."""

    pipeline: Any
    backbone: str
    size: tuple[int, int, int]
    text_rows: int | None = None

    @property
    def spec(self) -> BackboneSpec:
        """The facts of its family."""
        return REGISTRY[self.backbone]

    def bind(self, prompt: str, phrases: tuple[PhraseSpec, ...]) -> PromptBinding:
        return bind_prompt(self.pipeline, prompt, phrases, max_sequence_length=self.text_rows)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip of this many pixels."""
        config = self.pipeline.transformer.config
        spec, patch = backbone_of(self.pipeline.transformer), patch_of(config)
        stride = spec.stride(getattr(config, "out_channels", None))
        latent = ((frames - 1) // spec.temporal_stride + 1, height // stride, width // stride)
        return Grid.from_latent(latent, patch, spec.temporal_stride, stride)


def index_file(folder: Path) -> Path:
    """The file that says what the folder of a diffusers pipeline holds; it need not be there."""
    usual = folder / "model_index.json"
    modular = usual.with_name(f"modular_{usual.name}")
    return modular if modular.is_file() and not usual.is_file() else usual


def check_model(where: str) -> str:
    """The family of the model at `where` ("mini", a bundle's or a diffusers folder), without loading it.

    Raises ValueError where there is no model, none of a family that is known, or one whose clips diffusers makes with
    modular pipelines.
    """
    name = _family_of(where)
    REGISTRY[name].check_modular("scoring and making clips")
    return name


def _family_of(where: str) -> str:
    if (found := bundle.find(where)) is not None:
        bundle.load(found)
        return bundle.BACKBONE.name
    index = index_file(Path(where))
    if not index.is_file():
        raise ValueError(
            f"no model at {where!r}: give 'mini', or a folder of a diffusers pipeline (with model_index.json) of "
            f"{families()}"
        )
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        name = parts["transformer"][1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{index} does not say which transformer the model has ({error!r})") from None
    return match([str(name)], "diffusers").name


def open_model(where: str, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Model:
    """Loads a model onto its device. `offload` keeps its parts in main memory until they run.

    Raises ValueError where there is none, where diffusers cannot load it, and where it makes no clip of a prompt and a
    picture alone."""
    name = check_model(where)
    if (found := bundle.find(where)) is not None:
        model = _open_mini(bundle.load(found), dtype)
    else:
        family(name).check_sampled(str(_json(Path(where) / "model_index.json").get("_class_name")))
        pipeline = _load(where, dtype)
        name = backbone_of(pipeline.transformer).name
        model = Model(pipeline, name, family(name).usual_size(pipeline))
    model.pipeline.set_progress_bar_config(disable=True)
    if offload and device.type != "cpu":
        model.pipeline.enable_model_cpu_offload(device=device)
    else:
        model.pipeline.to(device)
    return model


def _load(where: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions call it dtype, older ones know only this
            return DiffusionPipeline.from_pretrained(where, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"diffusers cannot load the model at {where!r}: {error}") from error


def _open_mini(found: bundle.Bundle, dtype: torch.dtype) -> Model:
    from .mini import Sizes, build_pipeline

    sizes = Sizes(**found.sizes)
    codec, text, transformer = (found.weights(part) for part in ("codec", "text", "transformer"))
    pipeline = build_pipeline(sizes, codec, text, transformer, found.tokenizer, dtype)
    return Model(pipeline, bundle.BACKBONE.name, (sizes.frames, sizes.height, sizes.width), sizes.text_length)


class ModelSource:
    """A model on disk: "mini", a bundle's folder, or the folder of a diffusers pipeline. Reads configurations and the
    tokenizer; weights are read while `encoders` is entered, and let go of at its end.

    Args:
        tag_ids: `<idK>` tags are single tokens, see `tag_tokens`.

    Raises ValueError where there is no such model, or one that cannot be encoded for.

    Attributes:
        bundle: of the mini model, else None. index: what `index_file` of a pipeline says, else empty.
    """

    def __init__(self, where: str, tag_ids: bool = False) -> None:
        _family_of(where)
        self.where, self.tag_ids = where, tag_ids
        found = bundle.find(where)
        self.bundle = None if found is None else bundle.load(found)
        self.index: dict[str, Any] = {}
        if self.bundle is not None:
            self.shape = ModelShape.of_bundle(self.bundle)
            return
        self.index = _json(index_file(Path(where)))
        transformer, vae = (_json(Path(where) / part / "config.json") for part in ("transformer", "vae"))
        self.shape = ModelShape.of(str(self.index["_class_name"]), transformer, vae)
        family(self.shape.family).check_trainable(self.index)

    @cached_property
    def tokenizer(self) -> Any:
        """Raises ValueError where the folder has none, and for tags that its kind has no ids for."""
        return with_tags(self._tokenizer(), self.shape.spec) if self.tag_ids else self._tokenizer()

    def _tokenizer(self) -> Any:
        if self.bundle is not None:
            from .mini import make_tokenizer

            return make_tokenizer(self.bundle.tokenizer)
        import transformers

        folder = Path(self.where) / "tokenizer"
        if not folder.is_dir():
            raise ValueError(f"the model at {self.where!r} has no tokenizer: prompts cannot be bound to its text rows")
        kind = getattr(transformers, self.index.get("tokenizer", [None, ""])[1], transformers.AutoTokenizer)
        return kind.from_pretrained(str(folder), local_files_only=True)

    def bind(self, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase]) -> PromptBinding:
        """Binds phrases with the tokenizer alone. ValueError as `bind_prompt`."""
        shape = self.shape
        reads = shape.spec.text_encoder
        options: dict[str, Any] = {"family": reads, "max_sequence_length": shape.text_rows}
        options |= family(shape.family).bind_options(shape.image)
        if reads in ("llama", "qwen25", "qwen25_clip"):  # their chat template is the pipeline's
            import diffusers

            options["template"] = template_of(getattr(diffusers, str(self.index["_class_name"])))
        return bind_prompt(self.tokenizer, prompt, phrases, **options)

    @contextmanager
    def encoders(self, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Iterator[Any]:
        """The pipeline without its transformer (mini: with it), as long as the block lasts.

        `offload`: its parts wait in main memory for their turn.
        """
        if self.bundle is not None:
            with self._tagged(open_model(self.where, device, dtype).pipeline) as pipe:
                yield pipe
            return
        pipe = self._without_transformer(dtype)
        pipe.set_progress_bar_config(disable=True)
        if offload and device.type != "cpu":
            family(self.shape.family).offload(pipe, device)
        else:
            pipe.to(device)
        try:
            with self._tagged(pipe):
                yield pipe
        finally:
            del pipe
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _tagged(self, pipe: Any) -> AbstractContextManager[Any]:
        return tag_tokens(pipe) if self.tag_ids else nullcontext(pipe)

    def _without_transformer(self, dtype: torch.dtype) -> Any:
        """The pipeline of a folder without its transformers, which are most of it and of no use here. (Where they are
        optional to a pipeline, as Wan's are, diffusers loads them even when it is told not to.)"""
        import diffusers
        import transformers

        libraries = {"diffusers": diffusers, "transformers": transformers}
        parts: dict[str, Any] = {}
        of = family(self.shape.family)
        kind = getattr(diffusers, str(self.index["_class_name"]))
        wanted = of.encoding_parts(kind)
        for name, value in self.index.items():
            if name not in wanted or name.startswith("transformer"):
                continue
            library, class_name = value[:2] if isinstance(value, list) and len(value) in (2, 3) else (None, "")
            if library is None:
                parts[name] = None if isinstance(value, list) else value
                continue
            # a pipeline's own parts are named by its module: ["ltx2", "LTX2TextConnectors"]
            holder = libraries.get(library) or getattr(diffusers.pipelines, library, None)
            if not hasattr(holder, class_name):
                raise ValueError(f"the model's {name} is {library}.{class_name}, which is not installed here")
            parts[name] = self._part(name, library, getattr(holder, class_name), dtype)
        if missing := [name for name in ("vae", "text_encoder", "tokenizer", "scheduler") if name not in parts]:
            raise ValueError(f"the model at {self.where!r} has no {', '.join(missing)} in its model_index.json")
        return of.encoders(kind, parts)

    def _part(self, name: str, library: str, kind: Any, dtype: torch.dtype) -> Any:
        """One part from its folder, in the number format where it has weights."""
        import transformers

        options: dict[str, Any] = {"local_files_only": True}
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
            new = library == "transformers" and int(transformers.__version__.split(".")[0]) >= 5
            options["dtype" if new else "torch_dtype"] = dtype
        try:
            return kind.from_pretrained(str(Path(self.where) / name), **options)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the model at {self.where!r} has a {name} that cannot be loaded: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: the folder holds no whole diffusers pipeline")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
