"""Settings of what is trained, `task.name=value` on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from matrix_lib.core.layers import LayerDraw, LayerSet
from matrix_lib.core.losses.config import AlignmentConfig, MaskWeights, TargetAwareConfig, Timestep
from matrix_lib.hosts.diffusers.load import check_model

from ..clips.folder import FolderData
from .config import Data, check_shares
from .record import newest_run

__all__ = [
    "EXPERTS",
    "METHODS",
    "AlignTask",
    "AlignmentTask",
    "CodecTask",
    "DenoiseTask",
    "TaskSettings",
    "TuneTask",
    "UNetTask",
    "expert_note",
    "noted_expert",
]


class TaskSettings:
    """What every task says of itself. `tasks.registry` says who does it.

    Attributes:
        data_settings: the kind of `FitConfig.data` that it takes.
        own_formats: its network has number formats of its own, takes no autocast, and may be split over processes.
        splits_batch: a step sees the same clips under the same noise however its batch is split over processes and
            accumulation.
        may_change: settings under which a run can go on with another value (`run.change`): how it learns, not what its
            weights are.
        swap: blocks whose frozen weights wait in main memory, see `TuneTask`.
        gives_lora: what a finished run leaves is a LoRA.
    """

    data_settings: ClassVar[type] = Data
    own_formats: ClassVar[bool] = False
    splits_batch: ClassVar[bool] = False
    may_change: ClassVar[tuple[str, ...]] = ()
    swap: ClassVar[int] = 0
    gives_lora: ClassVar[bool] = False

    def pinned(self) -> Self:
        """With the very runs that folders of numbered runs mean today: a run goes on with what it began with."""
        return self


@dataclass(frozen=True)
class CodecTask(TaskSettings):
    """Reconstruct clips.

    Args:
        base: width of the codec, see `CodecConfig`.
        crop: side of the square that is trained on; 0 for whole frames. Two thirds of the steps also see fewer frames.
        noise: added to the latents while training, as a share of their spread.
        foreground: extra weight of pixels inside an instance's mask.
    """

    may_change = ("crop", "noise", "foreground")

    base: int = 16
    crop: int = 0
    noise: float = 0.05
    foreground: float = 4.0


@dataclass(frozen=True)
class DenoiseTask(TaskSettings):
    """Train text encoder and video transformer together to predict the velocity of noisy latents.

    Args:
        codec: folder of the codec's run (or a bundle) whose latents are used; "mini": the one of this package.
        text: folder of a bundle whose text encoder is used and stays as it is, or "mini"; empty: one is trained.
        layers, heads, time_dim: of the transformer; the head width is 64.
        text_layers, text_dim: of the text encoder (T5 architecture).
        text_length: rows of the conditioning, padding included.
        dropout: share of prompts replaced by the empty prompt.
        image_dropout: share of clips that are trained without their first frame, as samples of text alone are made.
        foreground: extra weight of tokens that an instance covers.
        change: extra weight of tokens that an instance has left or reached since the first frame.
        even: share of the timesteps that is drawn evenly.
        high_noise: the other timesteps are drawn with a density that grows as this power of t less one. What a prompt
            decides is decided where noise hides the paths, so those timesteps deserve more.
    """

    may_change = ("dropout", "image_dropout", "foreground", "change", "high_noise", "even")

    codec: str = "runs/codec"
    text: str = ""
    layers: int = 12
    heads: int = 4
    time_dim: int = 64
    text_layers: int = 2
    text_dim: int = 128
    text_length: int = 226
    dropout: float = 0.1
    image_dropout: float = 0.0
    foreground: float = 4.0
    change: float = 16.0
    high_noise: float = 8.0
    even: float = 0.25

    def __post_init__(self) -> None:
        check_shares(self, "dropout", "image_dropout")

    def pinned(self) -> Self:
        return self if self.codec == "mini" else replace(self, codec=str(newest_run(Path(self.codec))))


@dataclass(frozen=True)
class UNetTask(TaskSettings):
    """Train a small U-Net of ZeroScope's architecture to predict the velocity of noisy frames, from text alone.

    Args:
        codec, text: as in `DenoiseTask`; both stay as they are. The codec sees each frame by itself.
        channels: of each resolution; the last one has no attention.
        layers: of a resolution.
        head: size of an attention head.
        dropout, foreground, high_noise, even: as in `DenoiseTask`.
    """

    may_change = ("dropout", "foreground", "high_noise", "even")

    codec: str = "mini"
    text: str = "mini"
    channels: tuple[int, ...] = (96, 192, 192)
    layers: int = 2
    head: int = 32
    dropout: float = 0.1
    foreground: float = 4.0
    high_noise: float = 4.0
    even: float = 0.5

    def __post_init__(self) -> None:
        check_shares(self, "dropout")
        if len(self.channels) < 2 or any(width % self.head or width % 8 for width in self.channels):
            raise ValueError(
                f"task.channels are two or more multiples of task.head and of 8; got {self.channels} and {self.head}"
            )


METHODS: dict[str, dict[str, str]] = {
    "off": {},
    "sga": {"sga": "v2t"},
    "spa": {"spa": "v2v"},
    "both": {"sga": "v2t", "spa": "v2v"},
    "flow": {"flow": "v2v"},
    "sga_flow": {"sga": "v2t", "flow": "v2v"},
    "spa_flow": {"spa": "v2v", "flow": "v2v"},
    "all": {"sga": "v2t", "spa": "v2v", "flow": "v2v"},
    "tavid": {"target": "v2t"},
}
"""Names of `task.method`: the losses of the attention that each one has, with the setting that says their layers."""


@dataclass(frozen=True)
class AlignmentTask(TaskSettings):
    """Fine-tune LoRA factors (and a widened input projection) of a video transformer whose attention is to say who is
    who. Encoders are frozen; a mask decoder is trained along and not used afterwards.

    Its two kinds differ in their clips, and in names and defaults that people type and that files of runs hold.

    Args:
        method: which loss joins the diffusion loss: "off", MATRIX's "sga", "spa" or "both", Local Gram "flow", its
            mixes "sga_flow" and "spa_flow", "all" three, or "tavid".
        v2t, v2v: layers of the grounding (also of TAViD's) and of the propagation loss.
        lora_v2t, lora_v2v: layers whose q, k, v and output projections get factors; empty: v2t and v2v. They do not
            depend on the method, so that runs of several methods train the same weights.
        rank, alpha: of the factors.
        sga, spa, flow, tavid: weights of the losses. flow's layers are v2v.
        window: side in tokens of the window in which flow looks for a token in the next frame.
        flow_of: whose flow is taught: that of "attention" (q.k), or of the "values", which are its features.
        teacher: who teaches it: "masks" of the instances, the model's own clean "latents", or SAM 2's features: the
            file of a checkpoint.
        temperature: what cosines of features and of values are divided by.
        scores: what the maps are: "logits" or "probabilities", see `AlignmentConfig`.
        direction: whose attention the grounding and TAViD's loss read: the video's to the words ("v2t"), or the words'
            to the video ("t2v").
        decoder: width of the mask decoder, 0 compares maps and masks on the token grid.
        bce, dice, l2, entities, pos_weight: inside MATRIX's mask loss, see `MaskWeights`.
        joined_heads, average_layers: of the maps that MATRIX's losses read, see `AlignmentConfig`.
        timestep: how the time weighs the losses, see `timestep_weight`.
        weigh_diffusion: the time weighs the diffusion loss, too.
        dropout: share of prompts replaced by the empty prompt (such clips are not aligned).
        start: a LoRA to start from: a file of any format, a checkpoint or a run, of the same modules and rank.
        lora_dropout: share of what goes into the factors that is zero while they train.
        rslora: factors are scaled by alpha / sqrt(rank) instead of alpha / rank; files say the right scale.
        dora: the lengths of the weights' rows train beside the factors (DoRA).
    """

    gives_lora: ClassVar[bool] = True

    may_change = (
        "lora_dropout", "drop_condition", "sga", "spa", "flow", "window", "tavid", "timestep", "dropout", "bce", "dice",
        "l2", "entities", "pos_weight", "weigh_diffusion", "draw", "track", "times", "shift", "guidance",
        "checkpointing", "foreground", "change", "high_noise", "even", "temperature",
    )  # fmt: skip

    method: Literal["off", "sga", "spa", "both", "flow", "sga_flow", "spa_flow", "all", "tavid"] = "both"
    v2t: tuple[int, ...] = ()
    v2v: tuple[int, ...] = ()
    lora_v2t: tuple[int, ...] = ()
    lora_v2v: tuple[int, ...] = ()
    rank: int = 128
    alpha: float = 64.0
    sga: float = 0.01
    spa: float = 0.005
    flow: float = 0.02
    window: int = 5
    flow_of: Literal["attention", "values"] = "attention"
    teacher: str = "masks"
    temperature: float = 0.1
    tavid: float = 0.1
    scores: Literal["logits", "probabilities"] = "logits"
    direction: Literal["v2t", "t2v"] = "v2t"
    decoder: int = 64
    bce: float = 1.0
    dice: float = 1.0
    l2: float = 1.0
    entities: Literal["sum", "mean"] = "sum"
    pos_weight: Literal["own", "shared"] = "own"
    joined_heads: bool = False
    average_layers: bool = False
    timestep: Timestep = "uniform"
    weigh_diffusion: bool = False
    dropout: float = 0.1
    start: str = ""
    lora_dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        check_shares(self, "dropout")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"task.lora_dropout is from 0 to less than 1; got {self.lora_dropout:g}")
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"task.rank is 1 or more and task.alpha above 0; got {self.rank} and {self.alpha}")
        if "flow" not in self.losses and (self.teacher, self.flow_of) != ("masks", "attention"):
            raise ValueError(
                f"task.teacher and task.flow_of are about Local Gram Flow, and task.method={self.method} is without "
                "it; flow, sga_flow, spa_flow and all have it"
            )
        if not self.layers:  # type: ignore[attr-defined]
            self.check_layers()

    def check_layers(self) -> None:
        """Raises ValueError where nothing is trained, or a loss has no layers."""
        if not any(self.lora_layers):
            raise ValueError("no layer gets factors: set task.v2t or task.v2v, for example task.v2t=9,10")
        if empty := [f"task.{name}" for name in METHODS[self.method].values() if not getattr(self, name)]:
            raise ValueError(f"method {self.method!r} needs layers in {' and '.join(empty)}")

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses of the attention, as they stand in `metrics.csv`."""
        return tuple(METHODS[self.method])

    @property
    def decodes(self) -> bool:
        """Whether a decoder is trained along. TAViD compares on the token grid."""
        return self.decoder > 0 and ("sga" in self.losses or "spa" in self.losses)

    @property
    def lora_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Layers with factors, as sites of (V2T, V2V) maps."""
        if self.lora_v2t or self.lora_v2v:
            return self.lora_v2t, self.lora_v2v
        return self.v2t, self.v2v

    def matrix(self) -> AlignmentConfig:
        """MATRIX's losses, with a weight of 0 for one that is off."""
        return AlignmentConfig(
            sga=self.sga if "sga" in self.losses else 0.0,
            spa=self.spa if "spa" in self.losses else 0.0,
            flow=self.flow if "flow" in self.losses else 0.0,
            window=self.window,
            flow_of=self.flow_of,
            teacher="masks" if self.teacher == "masks" else "features",
            temperature=self.temperature,
            v2t=LayerDraw(self.v2t),
            v2v=LayerDraw(self.v2v),
            scores=self.scores,
            direction=self.direction,
            timestep=self.timestep,
            shift=self.shift,  # type: ignore[attr-defined]
            mask=MaskWeights(self.bce, self.dice, self.l2, entities=self.entities, pos_weight=self.pos_weight),
            joined_heads=self.joined_heads,
            average_layers=self.average_layers,
        )

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Of SGA and SPA those that the method has not, though their layers are known: held-out clips show them."""
        known = METHODS["both"].items()
        return tuple(name for name, layers in known if name not in self.losses and getattr(self, layers))

    def measured(self) -> AlignmentConfig:
        """MATRIX's losses with the weights of the settings for those of `unmeasured` alone."""
        sga, spa = (getattr(self, name) if name in self.unmeasured else 0.0 for name in METHODS["both"])
        return replace(self.matrix(), sga=sga, spa=spa, flow=0.0)

    def target_aware(self) -> TargetAwareConfig:
        """TAViD's loss."""
        return TargetAwareConfig(self.tavid, LayerDraw(self.v2t), direction=self.direction)


@dataclass(frozen=True)
class AlignTask(AlignmentTask):
    """Align the mini model on interaction clips of its own world.

    Args:
        bundle: folder of the mini model, a bundle or a run of `training.fit mini`; empty: the one of this package.
        condition: what the new input channels take: "id_map" (MATRIX), "target_mask" (TAViD), "source_target" (the
            agent's mask and the target's, which TAViD's authors leave open), or "none".
        look_alikes: share of training clips with somebody that looks just like a named instance.
        even_look_alikes: they are doubles of the recipient, and the first frame does not say which one is meant, see
            `WorldConfig`.
        clips_seed: which set of clips; runs of several seeds see the same set in another order, under other noise.
        trigger: captions have TAViD's word `target` before the thing that the target mask shows, and `source` before
            the agent where that has a mask, too.
        learn_trigger: what these words add to the text is learnt along.
        track: frames of TAViD's loss: the "first" latent frame as published, or "all".
        control: what shows that it is the alignment that helps: "blind" trains the decoder on maps that carry no
            gradient into the model, "wrong_masks" gives each clip the masks of another one with as many instances.
        mask_shift: pixels that the masks of the losses are off by at most, drawn for each instance and frame.
        mask_lost: share of the frames after the first in which an instance has no mask.
        mask_boxes: boxes in place of masks.
        foreground, change, high_noise, even: of the diffusion loss, see `DenoiseTask`.
    """

    # what a released model has settings for
    times: ClassVar[Literal["uniform"]] = "uniform"
    shift: ClassVar[float] = 1.0
    guidance: ClassVar[float] = 6.0
    weights: ClassVar[Literal["fp32"]] = "fp32"
    quantise: ClassVar[Literal["no"]] = "no"
    checkpointing: ClassVar[bool] = False
    image_attention: ClassVar[bool] = True
    layers: ClassVar[Literal[""]] = ""
    expert: ClassVar[Literal[""]] = ""

    control: Literal["none", "blind", "wrong_masks"] = "none"
    trigger: bool = False
    learn_trigger: bool = False
    track: Literal["first", "all"] = "first"
    v2t: tuple[int, ...] = (9, 10)
    v2v: tuple[int, ...] = (5,)
    rank: int = 32
    alpha: float = 32.0
    decoder: int = 32
    bundle: str = ""
    condition: Literal["none", "id_map", "target_mask", "source_target"] = "id_map"
    look_alikes: float = 0.3
    even_look_alikes: bool = False
    clips_seed: int = 0
    mask_shift: int = 0
    mask_lost: float = 0.0
    mask_boxes: bool = False
    foreground: float = 4.0
    change: float = 8.0
    high_noise: float = 6.0
    even: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "look_alikes", "mask_lost")
        if self.control == "wrong_masks" and self.teacher != "masks":
            raise ValueError("task.control=wrong_masks is about masks; task.teacher has a clip's own features")
        if self.learn_trigger and not self.trigger:
            raise ValueError("task.learn_trigger is about the words that task.trigger=true puts into captions")

    def target_aware(self) -> TargetAwareConfig:
        return replace(super().target_aware(), frames=self.track)

    def pinned(self) -> Self:
        return replace(self, bundle=str(newest_run(Path(self.bundle)))) if self.bundle else self

    @property
    def model(self) -> str:
        """Where the model is, as `TuneTask.model` says it."""
        return self.bundle or "mini"


EXPERTS = {"high": "transformer", "low": "transformer_2"}
"""By which noise levels an expert has, the part of its pipeline that it is."""


def expert_note(expert: str) -> tuple[str, ...]:
    """What a LoRA file says of the expert that it was trained on; () of a model with one transformer."""
    return (f"of the expert of the {expert} noise levels ({EXPERTS[expert]})",) if expert else ()


def noted_expert(notes: Iterable[str]) -> str:
    """The expert that the notes of a LoRA file name; "" where they name none."""
    return next((expert for expert in EXPERTS if expert_note(expert)[0] in notes), "")


@dataclass(frozen=True)
class TuneTask(AlignmentTask):
    """Align a released video transformer on a folder of clips, whose `condition` says what the widened input projection
    reads.

    Args:
        model: folder of a diffusers pipeline (of a family that README's table has under LoRA training), a bundle of
            ours, or "mini".
        draw: of the v2t layers, how many of them TAViD's loss takes anew at each step; 0 takes all.
        track: frames of TAViD's loss: the "first" latent frame as published, or "all" that the tracks know.
        normalise: what TAViD's map is divided by, see `TargetAwareConfig`.
        times: how the noise level is drawn, "uniform" or "logit_normal" over the schedule.
        shift: of the noise levels of flow models (all but CogVideoX): s = shift u / (1 + (shift - 1) u).
        guidance: HunyuanVideo's guidance input; SkyReels I2V wants 1.
        weights: number format of the frozen weights; what is trained is in float32.
        quantise: frozen matrices of the blocks in fewer bits: "int8", "fp8", "nf4" (4 bits); layers with factors stay.
        checkpointing: blocks are computed again in the backward pass, which saves most of the memory.
        swap: of the last blocks, how many keep their frozen weights, and what went into them until the backward pass,
            in main memory, and fetch both when they run.
        foreground: extra weight of the diffusion loss where an instance's mask is; 0 weighs everything the same.
        drop_condition: share of clips that are trained with an empty ID map or target mask.
        image_attention: Wan 2.1 I2V's cross-attention to the picture runs; the code that MATRIX's authors released has
            it off, and a LoRA that was trained so says it.
        layers: layers.json of `training.analyse`, whose layers stand in place of v2t and v2v; of a model with two
            transformers those of `expert`.
        expert: of a model with two transformers (Wan 2.2 A14B) the one that is trained, at its own noise levels: that
            of the "high" ones, or of the "low" ones.
    """

    data_settings = FolderData
    own_formats = True
    splits_batch = True
    control: ClassVar[Literal["none"]] = "none"

    model: str = ""
    draw: int = 0
    track: Literal["first", "all"] = "first"
    normalise: Literal["none", "max", "sum"] = "max"
    times: Literal["uniform", "logit_normal"] = "uniform"
    shift: float = 1.0
    guidance: float = 6.0
    weights: Literal["bf16", "fp32"] = "bf16"
    quantise: Literal["no", "int8", "fp8", "nf4"] = "no"
    checkpointing: bool = True
    swap: int = 0  # type: ignore[misc]
    foreground: float = 0.0
    drop_condition: float = 0.0
    image_attention: bool = True
    layers: str = ""
    expert: Literal["", "high", "low"] = ""

    def pinned(self) -> Self:
        """With the numbers of the layers that `layers` names in its place: a run goes on without that file. Raises
        ValueError for one that is not there, is of another family, or does not know the expert."""
        if not self.layers:
            return self
        try:
            given = LayerSet.from_json(Path(self.layers).read_text(encoding="utf-8"))
            family = check_model(self.model)
            if given.backbone != family:
                raise ValueError(f"these layers are of {given.backbone}, and {self.model} is {family}")
            given = given.of_expert(EXPERTS[self.expert]) if self.expert else given
        except (OSError, ValueError) as error:
            raise ValueError(f"task.layers={self.layers}: {error}") from None
        return replace(self, layers="", v2t=tuple(sorted(given.v2t)), v2v=tuple(sorted(given.v2v)))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "drop_condition")
        if self.swap < 0:
            raise ValueError(f"task.swap is 0 or more; got {self.swap}")
        if self.swap and not self.checkpointing:
            raise ValueError("task.swap needs the blocks to run anew in the backward pass: set task.checkpointing=true")

    def target_aware(self) -> TargetAwareConfig:
        layers = LayerDraw(self.v2t, self.draw or None)
        return TargetAwareConfig(self.tavid, layers, self.track, self.normalise, self.direction)
