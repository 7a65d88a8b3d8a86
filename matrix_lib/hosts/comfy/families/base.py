"""What native ComfyUI asks of a family, and what several families answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import comfy.sd
import comfy.utils
import torch
from torch import Tensor, nn

from ....backbones import BackboneSpec
from ....backbones.weight_names import VAES, Rules, t5_to_native
from ....core.grid import Grid
from ..weights import Progress, check_names, read_json, read_weights, told

__all__ = [
    "Around",
    "Defect",
    "DynamicGuidance",
    "Family",
    "FirstFrameInput",
    "Variant",
    "made_mask",
    "no_image",
    "t5_clip",
    "writer_of",
]

Variant = Literal["auto", "2b", "5b"]
DynamicGuidance = Literal["off", "steps", "diffusers"]
FirstFrameInput = tuple[dict[str, Any], dict[str, Tensor]]
"""Keys for the conditioning, and the latent to sample from."""


_FORWARDS = (
    "forward",
    "_forward",
    "forward_orig",
    "_process_input",
)  # methods in which the host's networks lay out their tokens


@dataclass(frozen=True)
class Around:
    """How many tokens of an attention call are neither the prompt's nor the clip's, by where they stand."""

    before_text: int = 0
    after_text: int = 0
    before_clip: int = 0
    after_clip: int = 0


@dataclass(frozen=True)
class Defect:
    """One thing the host gets wrong: what a person reads, and how to mend a clone."""

    text: str
    mend: Callable[[Any], None]


class Family:
    """A family that the host runs as it was trained, without tokens of another kind beside text and clip.

    adds_in_place: its blocks add in place to what they have read, which a backward pass has to be kept from.
    reads_tokens: its input projection reads tokens (B, N, C) that the network has made of latents, by as many channels
    as it has itself: further ones (mask conditions) have to come in there.
    """

    adds_in_place: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    def __init__(self, spec: BackboneSpec) -> None:
        self.spec = spec

    # -- from a diffusers folder

    def check_folder(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Raises ValueError for a transformer, by its config, whose weights have no names on the host's side here."""

    def set_aside(self, state: dict[str, Tensor]) -> Any:
        """Takes out of `state` what the host has no place for; `adapt` gets it."""

    def adapt(self, model: Any, folder: Path, config: Mapping[str, Any], aside: Any) -> None:
        """Tells the fresh MODEL what the host does not read of its folder and of the transformer's config."""

    def adapt_file(self, model: Any, names: Iterable[str]) -> None:
        """Tells the fresh MODEL of a native file what the host does not read of it, by the names of its weights."""

    def vae_rules(self, config: Mapping[str, Any]) -> Rules:
        """Names of the weights of a VAE of this family's kind; () where both sides call them the same."""
        return VAES.get(self.spec.name, ())

    def latent_format(self, vae: Mapping[str, Any]) -> Any:
        """The latent scaling that a VAE with this config was made with, where it may not be the host's guess."""

    def weights_beside(self, folder: Path, config: Mapping[str, Any], progress: Progress | None) -> dict[str, Tensor]:
        """Weights by native names that lie in another part of a diffusers folder than the transformer's."""
        return {}

    def metadata(self, folder: Path, config: Mapping[str, Any]) -> dict[str, str] | None:
        """What the host reads in the header of a native file, made of a diffusers folder and its transformer's config;
        None where it reads nothing there."""
        return None

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """The CLIP of a diffusers folder. Raises ValueError where the host has none of this kind."""
        raise ValueError(f"the text encoder in {folder} has no place here: load {self.spec.title}'s CLIP beside it")

    def clip_channels(self, model: Any) -> int:
        """Of a clip's latent in this MODEL."""
        return int(model.get_model_object("latent_format").latent_channels)

    # -- what the host gets wrong

    def defects(self, model: Any, variant: Variant = "auto", first_frame: bool = True) -> list[Defect]:
        """What the host gets wrong about this MODEL; `first_frame`: also what only a given first frame meets."""
        return []

    def repair(self, model: Any, variant: Variant, dynamic_cfg: DynamicGuidance) -> tuple[Any, list[str]]:
        """(MODEL, what was mended). Where nothing is to do the MODEL itself comes back, else a clone."""
        found = self.defects(model, variant)
        if not found:
            return model, []
        clone = model.clone()
        for defect in found:
            defect.mend(clone)
        return clone, [defect.text for defect in found]

    # -- in a run

    def check(self, network: nn.Module) -> None:
        """Raises ValueError for a network whose tokens or attention cannot be followed, by its name.

        A class that writes no forward of its own lays its tokens out as its base does.
        """
        if (writer := writer_of(network)) not in self.spec.native.classes:
            raise self.unfollowed(network, self.spec.native.classes, writer)

    def unfollowed(self, network: nn.Module, known: Iterable[str], writer: str, why: str = "") -> ValueError:
        """The refusal of a network of this family whose forward is that of class `writer`."""
        name = type(network).__name__
        of = "" if writer == name else f" (its forward is that of {writer})"
        return ValueError(
            f"{name} is a {self.spec.title} network{of} whose attention cannot be followed: "
            f"{why or 'it is not known which of its tokens are the clip'}. Watching and steering attention works with "
            f"{', '.join(known)}."
        )

    def frames_in_front(self, model: Any, conds: Iterable[Mapping[str, Any]], latent: tuple[int, int, int]) -> int:
        """How many of the latent's own frames stand in front of the clip, and are cut off after sampling.

        Args:
            model: the host's BaseModel. conds: every conditioning of the run, with the keys that nodes set.
            latent: (T, H, W) that is sampled.

        Raises ValueError where the run does not tell.
        """
        return 0

    def frames_behind(self, given: Iterable[Mapping[str, Any]], latent: tuple[int, int, int]) -> int:
        """How many of the latent's own frames stand behind the clip and guide it.

        Args:
            given: every conditioning of the run, with the keys that nodes set; or what one forward is called with.
            latent: (T, H, W), these frames included.

        Raises ValueError where they do not agree.
        """
        return 0

    def frame_rate(self, given: Iterable[Mapping[str, Any]], usual: float | None) -> float | None:
        """Frames per second of a run's clip; None where its conditionings do not ask for the same.

        given: every conditioning of the run, with the keys that nodes set. usual: what the model makes.
        """
        return usual

    def left_out(self, given: Mapping[str, Any]) -> int:
        """How many tokens of frames behind the clip the network drops before its first block.

        given: what it is called with. Raises ValueError where tokens of the clip are dropped.
        """
        return 0

    def sound_in_front(self, given: Mapping[str, Any]) -> int:
        """Audio tokens of references in front of the sound that is made, of what the network is called with."""
        return 0

    def sound(self, given: Mapping[str, Any]) -> int:
        """Tokens of the sound that is made in front of the clip of a joint sequence, of what the network is called
        with."""
        return 0

    def text_rows(self, network: nn.Module, cond: Mapping[str, Any]) -> int:
        """How many text tokens the network makes of a conditioning; 0: one of each row."""
        return 0

    def text_tokens(self, rows: int, given: Mapping[str, Any]) -> int:
        """How many text tokens a joint sequence has of a conditioning of so many rows.

        given: what the network is called with beside latents, time and text.
        """
        return rows

    def around(self, network: nn.Module, grid: Grid, given: Mapping[str, Any]) -> Around:
        """Tokens that the network adds to those of prompt and latent.

        Args:
            grid: of the latent. given: what the network is called with beside latents, time and text.
        """
        return Around()

    def as_tokens(self, extra: Tensor) -> Tensor:
        """(B, N, C) of what goes behind the tokens of `reads_tokens`, (B, C, T, h, w)."""
        return extra.flatten(2).transpose(1, 2)

    def behind_tokens(self, own: Tensor, tokens: Tensor) -> Tensor:
        """What of `as_tokens` goes behind the tokens that the projection is given. Networks drop none but those of
        guides, which stand behind the clip and have no mask."""
        return own[:, : tokens.shape[1]]

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """A first frame as the family's image-to-video models expect it.

        Args:
            first: (1, H, W, 3) in [0, 1]. empty: (B, C, T, h, w), zeros. length: of the clip, in frames.

        Raises ValueError for a text-to-video model.
        """
        raise no_image(self.spec.title)

    def image_scale(self, model: Any) -> float:
        """By what latents of a picture are multiplied before the host scales them."""
        return 1.0


def writer_of(network: nn.Module) -> str:
    """The name of the nearest class of a network that writes how its tokens are laid out."""
    return next(cls.__name__ for cls in type(network).__mro__ if any(name in vars(cls) for name in _FORWARDS))


def no_image(title: str) -> ValueError:
    return ValueError(
        f"this {title} is a text-to-video model: it has no input channels for a first frame. Load its image-to-video "
        "(I2V) checkpoint, or give the sampler an empty latent."
    )


def made_mask(empty: Tensor) -> Tensor:
    """(1, 1, T, H, W): 0 where the clip is given, that is in the first frame, and 1 where it is made."""
    mask = torch.ones(1, 1, *empty.shape[2:], device=empty.device)
    mask[:, :, :1] = 0.0
    return mask


def t5_clip(
    folder: Path,
    name: str,
    clip: Callable[..., Any],
    tokenizer: Any,
    progress: Progress | None,
    tokenizer_data: Callable[[], dict[str, Any]] = dict,
) -> Any:
    """The CLIP of a folder whose prompts one T5 or UMT5 reads, called `name` by the host.

    Args:
        clip: makes the host's text model from the data types that were found. tokenizer: the host's class.
        tokenizer_data: makes what that class needs of the folder.
    """
    from comfy.text_encoders.sd3_clip import t5_xxl_detect

    state = t5_to_native(read_weights(folder / "text_encoder", "model", progress=progress))
    with told(folder / "text_encoder"):
        config = read_json(folder / "text_encoder" / "config.json")
        sizes = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size", "relative_attention_num_buckets")
        made = comfy.sd.CLIP(
            SimpleNamespace(params={}, clip=clip(**t5_xxl_detect(state)), tokenizer=tokenizer),
            tokenizer_data=tokenizer_data(),
            parameters=comfy.utils.calculate_parameters(state),
            state_dict=[dict(state)],
            model_options={f"{name}_model_config": {size: config[size] for size in sizes if size in config}},
        )
        inner = getattr(made.cond_stage_model, name).transformer
        check_names(folder / "text_encoder", set(state), set(inner.state_dict()))
    return made
