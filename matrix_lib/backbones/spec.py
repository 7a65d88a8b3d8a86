"""What each model family looks like: data only. A family file exports one `BackboneSpec`; `REGISTRY` lists them.

Every fact of a family stands here once; nothing here touches a model. What of it needs code is in the one file that
each host has for a family (`hosts/comfy/families/`, `hosts/diffusers/families/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..core.grid import Fit
from ..core.sites import SiteKind

__all__ = [
    "BackboneSpec",
    "Blocks",
    "FirstFrame",
    "LayerChoice",
    "Stack",
    "TextEncoder",
    "TokenSize",
    "input_channels",
]

TextEncoder = Literal["t5", "umt5", "llama", "clip", "gemma3", "qwen25", "qwen25_clip", "qwen3vl"]
FirstFrame = Literal["padded", "masked", "concat", "replace", "tokens"]
"""How a picture goes in as the first frame: its latents, then zeros; latents of a clip that goes on in grey behind a
mask of as many channels as a latent frame has pixel frames; latents, then zeros, and one mask channel; as the first
latent frame itself; or as tokens beside the clip's."""


class TokenSize(NamedTuple):
    """What one token covers: latents (time, rows, columns), pixel frames a latent frame, pixels a latent element.
    cycle: as in `Grid`."""

    patch: tuple[int, int, int] = (1, 2, 2)
    temporal_stride: int = 4
    spatial_stride: int = 8
    cycle: int = 0


@dataclass(frozen=True)
class Stack:
    """A run of equal blocks in a module tree: `path` holds `{}` for the index; `kind` is what attends there;
    `sound_sides` as in `AttentionSite`."""

    path: str
    kind: SiteKind
    sound_sides: int = 0


@dataclass(frozen=True)
class Blocks:
    """How one host's module tree names a family's attention.

    Args:
        classes: class names that identify the model (anywhere in the class's bases).
        stacks: lists of stacks; those in one inner tuple share their layer numbers (Wan's self and cross attention),
            each next tuple goes on counting after the one before (HunyuanVideo's single blocks). None for a U-Net,
            whose host walks its tree.
        text_first: whether text comes before video in a joint sequence. text_cropped: it is there without the padding
            behind its words. row_by_row: each row of a batch is an attention call of its own, in their order.
        split_queries: self-attention may come in several calls, whose queries are the clip's, then those of guides.
        text_way: pattern that names of modules begin with which the text goes through before the blocks; "": none.
        settings: what configs of its models say where other models are of the same class, by name all that is theirs.
    """

    classes: tuple[str, ...]
    stacks: tuple[tuple[Stack, ...], ...]
    text_first: bool = True
    text_cropped: bool = False
    row_by_row: bool = False
    split_queries: bool = False
    text_way: str = ""
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def lists(self) -> tuple[str, ...]:
        """Paths of the lists of blocks, in the order in which they run, for example ("transformer_blocks",)."""
        return tuple(dict.fromkeys(stack.path.partition(".{}")[0] for group in self.stacks for stack in group))


@dataclass(frozen=True)
class LayerChoice:
    """Interaction-dominant layers of one published model size.

    layers: depth of the network they belong to; a model of another depth has no default.
    """

    layers: int
    v2t: tuple[int, ...]
    v2v: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class BackboneSpec:
    """One family.

    Args:
        kin: what people call it and its relatives together; "": title. versions: those that are known, by number.
        native, diffusers: its attention in each host. modular: diffusers has modular pipelines alone for it, whose
            attention is reached and trained; why what needs another pipeline is refused, as a clause. pipelines:
            pattern that names of its diffusers pipelines match; image_pipelines: one that is found in those of them
            that take a first frame. one_clip: its transformer takes one clip at a time.
        patch, temporal_stride, spatial_stride: the usual ones; hosts read the real patch off the model. cycle: as in
            `Grid`.
        variants: published models of another size, by name. channel_strides: pixels a latent element of models whose
            latents have so many channels, where that is not `spatial_stride`.
        fps: frames per second of its clips, of the usual model under "" and of a variant under its name; empty where
            nobody says. class_fps: of models whose networks have a class of their own, in either host, by its name.
            option_fps: in ComfyUI of a MODEL that carries this transformer option. doubted_fps: by native class,
            which models of another rate are taken for it, as a clause.
        text_encoder: the one that makes the text tokens. text_encoder_titles: all of them, for people. clip_loader:
            ComfyUI's node for them, and its type.
        text_tokens: how many it was trained with (`max_sequence_length` of its pipelines).
        text_mixed: what in the network mixes the rows of its text before its blocks do, which can be steered; "":
            nothing.
        text_sees_image: of its image-to-video models those whose text encoder looks at the first frame, by how that
            goes in.
        image_beside: some of its models attend to tokens of a picture beside the text. image_values: of an attention to
            the picture, the module that makes its values, natively and in diffusers; () where it has none of its own.
        first_frame: how its image-to-video models take a first frame, by the transformer's `image_condition_type`
            ("" where it has none). id_map: how an ID map goes in.
        picture_fit: how its diffusers pipelines bring a picture of another shape to the clip's, where their processor,
            asked alone, says another thing; None: it tells.
        flow: it predicts noise minus latents of straight paths; else velocities of a DDPM schedule.
        adds_noise: diffusers steps x0 + sigma e, shows the transformer that times 1 / (1 + sigma), at the time
            sigma / (1 + sigma) in the format of its weights, and gives its scheduler (x - x0) / sigma.
        guidance_input: guidance is an input of the model, not a second prediction.
        frames_first: diffusers has its latents as (B, T, C, H, W). channels_last: as (B, T, H, W, C). flat: as tokens
            (B, T*H*W, C), with their numbers beside them.
        latent_channels: of a latent. room_for_image: input channels beside them that its text-to-video models have,
            too, and leave empty. sound_rate: audio tokens a second, of models that make sound beside the clip.
        input_projection: diffusers module that turns latents into tokens. narrow: why further channels have no place
            behind its own, as a clause; "": they have. qkvo: an attention's projections in diffusers, q, k, v and the
            one behind it.
        native_channels: input channels that native ComfyUI reads rightly: T2V, I2V, and what else is published in
            diffusers' format. head_size: by which it counts heads; 0: it is told.
        heads_interleaved: LoRAs in DiffSynth's format have the rows of q, k and v head by head, as its first weights.
        widths: of the video tokens of its published models, where its modules have names that another family has, too.
            text_width: of the words that attention to them reads; 0: that of the video tokens. depths: how many blocks
            they have, where another family is as wide.
        vae: diffusers class; vae_limits: settings that native ComfyUI's VAE of this kind is made for.
        choices: published interaction-dominant layers.
    """

    name: str
    title: str
    native: Blocks
    diffusers: Blocks
    pipelines: str
    text_encoder: TextEncoder
    text_encoder_titles: tuple[str, ...]
    text_tokens: int
    flow: bool
    clip_loader: str = ""
    kin: str = ""
    versions: str = ""
    image_pipelines: str = "ImageToVideo|I2V"
    modular: str = ""
    one_clip: bool = False
    adds_noise: bool = False
    first_frame: Mapping[str, FirstFrame] = field(default_factory=dict)
    id_map: FirstFrame = "padded"
    picture_fit: Fit | None = None
    patch: tuple[int, int, int] = (1, 2, 2)
    temporal_stride: int = 4
    spatial_stride: int = 8
    cycle: int = 0
    variants: Mapping[str, TokenSize] = field(default_factory=dict)
    channel_strides: Mapping[int, int] = field(default_factory=dict)
    fps: Mapping[str, float] = field(default_factory=dict)
    class_fps: Mapping[str, float] = field(default_factory=dict)
    option_fps: Mapping[str, float] = field(default_factory=dict)
    doubted_fps: Mapping[str, str] = field(default_factory=dict)
    text_mixed: str = ""
    text_sees_image: tuple[FirstFrame, ...] = ()
    image_beside: bool = False
    image_values: tuple[str, ...] = ()
    guidance_input: bool = False
    frames_first: bool = False
    channels_last: bool = False
    flat: bool = False
    latent_channels: int = 16
    room_for_image: int = 0
    sound_rate: float = 0.0
    input_projection: str = ""
    narrow: str = ""
    qkvo: tuple[str, str, str, str] = ("to_q", "to_k", "to_v", "to_out.0")
    native_channels: tuple[int, ...] = ()
    head_size: int = 0
    heads_interleaved: bool = False
    widths: tuple[int, ...] = ()
    text_width: int = 0
    depths: tuple[int, ...] = ()
    vae: str = ""
    vae_limits: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[LayerChoice, ...] = ()

    @property
    def search_name(self) -> str:
        """Its name as people type it to look for it."""
        return self.name.replace("_", " ")

    @property
    def token_size(self) -> TokenSize:
        """The usual one."""
        return TokenSize(self.patch, self.temporal_stride, self.spatial_stride, self.cycle)

    def stride(self, channels: int | None) -> int:
        """Pixels a latent element of models whose latents have so many channels; None: nobody says."""
        return self.spatial_stride if channels is None else self.channel_strides.get(channels, self.spatial_stride)

    def rate(self, patch: tuple[int, int, int], spatial_stride: int, network: object = None) -> float | None:
        """Frames per second that a model of this token size makes, around this network; None where nobody says."""
        for cls in type(network).__mro__:
            if cls.__name__ in self.class_fps:
                return self.class_fps[cls.__name__]
        size = TokenSize(patch, self.temporal_stride, spatial_stride, self.cycle)
        variant = next((name for name, other in self.variants.items() if other == size), "")
        return self.fps.get(variant)

    def check_widens(self) -> None:
        """Raises ValueError for a family whose input takes no mask condition."""
        if self.narrow:
            raise ValueError(
                f"the input of {self.title} cannot be widened: {self.narrow}. Use a LoRA, or train one, without a mask "
                "condition (data.condition=none)"
            )

    def check_modular(self, what: str) -> None:
        """Raises ValueError for a family whose pipelines are modular. what: what needs another one, as a clause."""
        if self.modular:
            raise ValueError(
                f"diffusers has modular pipelines alone for {self.title}, and {what} needs one of the usual kind: "
                f"{self.modular}. Attention is watched and edited there, and LoRAs are trained and applied. For the "
                f"rest use {self.title} in ComfyUI"
            )

    def check_settings(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError for the config of a diffusers transformer of its class that is another model's."""
        for name, known in self.diffusers.settings.items():
            if name in config and config[name] not in known:
                raise ValueError(
                    f"this {self.diffusers.classes[0]} is not one of {self.title}: its config says {name}="
                    f"{config[name]!r}, where {self.title} has {' or '.join(map(repr, known))}. It makes pictures, or "
                    "is of another generation, whose tokens are not known here"
                )

    def blocks(self, host: Literal["native", "diffusers"]) -> Blocks:
        return self.native if host == "native" else self.diffusers

    def dominant(self, layers: int) -> LayerChoice:
        """The published layers of a model with `layers` blocks. Raises ValueError where none are published."""
        for choice in self.choices:
            if choice.layers == layers:
                return choice
        known = ", ".join(str(choice.layers) for choice in self.choices) or "none"
        raise ValueError(
            f"no interaction-dominant layers are published for a {self.title} with {layers} blocks (known depths: "
            f"{known}). Name the layers yourself, or find them with the layer analysis."
        )


def input_channels(config: Mapping[str, Any]) -> int:
    """Channels that a diffusers transformer with this config takes: of latents, and what stands beside them."""
    if (latent := config.get("in_visual_dim")) is None:
        return int(config["in_channels"])
    return 2 * int(latent) + 1 if config.get("visual_cond") else int(latent)
