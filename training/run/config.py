"""Typed configurations of a training run, and overrides from the command line (`optim.lr=3e-4`)."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..clips.folder import FolderData

__all__ = ["AlignTask", "CodecTask", "Data", "DenoiseTask", "FitConfig", "Optim", "Run", "TuneTask", "override"]


@dataclass(frozen=True)
class Data:
    """Clips of the synthetic world, made while training runs; nothing is read from disk.

    Args:
        height, width, frames: of a clip, in pixels.
        split: of verb-object pairs, see `matrix_lib.mini.world`.
        distractors: share of clips with a look-alike, which no prompt can settle.
        often: names of verbs that come up twice as often.
        batch: clips per optimiser step and process.
        chunk: clips made at once; steps draw from the present chunk. A multiple of `batch`.
        reuse: passes over a chunk before it is replaced.
        workers: threads that make the next chunk meanwhile.
    """

    height: int = 128
    width: int = 128
    frames: int = 17
    split: str = "train"
    distractors: float = 0.15
    often: tuple[str, ...] = ()
    batch: int = 128
    chunk: int = 4096
    reuse: int = 1
    workers: int = 4

    def __post_init__(self) -> None:
        if min(self.batch, self.chunk, self.reuse) < 1 or self.chunk % self.batch:
            raise ValueError(
                f"data.chunk must be a multiple of data.batch and data.reuse at least 1; "
                f"got chunk {self.chunk}, batch {self.batch}, reuse {self.reuse}"
            )


@dataclass(frozen=True)
class Optim:
    """AdamW, or Muon for the matrices inside the blocks with AdamW for the rest.

    Args:
        lr: peak learning rate; linear warm-up over `warmup` steps, then linear decay to zero at the end.
        schedule: how the rate falls after the warm-up: "linear" or "cosine" to zero, or not at all ("constant").
        ema: decay of the averaged weights, which are the ones published; 0 publishes the last ones.
        clip: norm to which gradients are clipped.
        accumulate: forward and backward passes whose gradients make one step; the batch is as many times larger.
        eight_bit: AdamW keeps its moments in 8 bits (needs bitsandbytes).
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    ema: float = 0.998
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    accumulate: int = 1
    eight_bit: bool = False

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate is 1 or more; got {self.accumulate}")
        if self.eight_bit and self.name != "adamw":
            raise ValueError("optim.eight_bit is for AdamW: set optim.name=adamw")


@dataclass(frozen=True)
class Run:
    """How long, where, and how often to report and save.

    Args:
        out: folder for checkpoints and `metrics.csv`.
        precision: "no" or "bf16" (autocast).
        resume: continue from the newest checkpoint in `out` if there is one.
        deadline: seconds that the run may take, 0 for any number. The learning rate then falls with the time left
            where that is shorter than the steps left, so a run that is cut short is still a finished one (but two such
            runs differ: without a deadline a run depends on its configuration alone).
        keep: newest checkpoints that stay; older ones go.
        skip_steps: steps without a finite gradient that are passed over, in the whole run; one more stops it.
        tensorboard: write curves (and sample videos) for TensorBoard into `out`.
        bar: a progress bar with the parts of the loss and the time left, where a person looks at a terminal.
        sharding: "ddp" copies the network to each process, "fsdp2" splits it; matters where several processes train.
        preview_every, preview_clips, preview_steps, preview_cfg: every so many steps (0: never) that many clips of the
            data are sampled with so many steps and this guidance scale, as videos with their attention beside them.
    """

    steps: int = 1000
    seed: int = 0
    out: str = "runs/default"
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    resume: bool = True
    log_every: int = 20
    save_every: int = 1000
    deadline: float = 0.0
    keep: int = 2
    skip_steps: int = 3
    tensorboard: bool = True
    bar: bool = True
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    preview_every: int = 0
    preview_clips: int = 1
    preview_steps: int = 30
    preview_cfg: float = 6.0

    def __post_init__(self) -> None:
        if min(self.keep, self.steps, self.log_every, self.save_every, self.preview_steps) < 1:
            raise ValueError(
                "run.steps, run.log_every, run.save_every, run.keep and run.preview_steps are 1 or more; got "
                f"{self.steps}, {self.log_every}, {self.save_every}, {self.keep}, {self.preview_steps}"
            )


@dataclass(frozen=True)
class CodecTask:
    """Reconstruct clips.

    Args:
        base: width of the codec, see `CodecConfig`.
        crop: side of the square that is trained on; 0 for whole frames. Two thirds of the steps also see fewer frames.
        noise: added to the latents while training, as a share of their spread.
        foreground: extra weight of pixels inside an instance's mask.
    """

    base: int = 16
    crop: int = 0
    noise: float = 0.05
    foreground: float = 4.0


@dataclass(frozen=True)
class DenoiseTask:
    """Train text encoder and video transformer together to predict the velocity of noisy latents.

    Args:
        codec: folder of the codec's run (or a bundle) whose latents are used.
        layers, heads, time_dim: of the transformer; the head width is 64.
        text_layers, text_dim: of the text encoder (T5 architecture).
        text_length: rows of the conditioning, padding included.
        dropout: share of prompts replaced by the empty prompt.
        foreground: extra weight of tokens that an instance covers.
        change: extra weight of tokens that an instance has left or reached since the first frame.
        high_noise: a share `1 - even` of the timesteps is drawn with a density that grows as this power of t less one,
            the rest evenly. What a prompt decides is decided where noise hides the paths, so those timesteps deserve
            more.
    """

    codec: str = "runs/codec"
    layers: int = 12
    heads: int = 4
    time_dim: int = 64
    text_layers: int = 2
    text_dim: int = 128
    text_length: int = 226
    dropout: float = 0.1
    foreground: float = 4.0
    change: float = 16.0
    high_noise: float = 8.0
    even: float = 0.25


@dataclass(frozen=True)
class AlignTask:
    """Fine-tune LoRA factors (and a widened input projection) of a video transformer whose attention is to say who is
    who. Text encoder and codec are frozen; a mask decoder is trained along and not used afterwards.

    Args:
        bundle: folder of the mini model, a bundle or a run of `training.fit mini`; empty: the one of this package.
        method: which loss joins the diffusion loss: "off", MATRIX's "sga", "spa" or "both", or "tavid".
        v2t, v2v: layers of the grounding (also of TAViD's) and of the propagation loss.
        lora_v2t, lora_v2v: layers whose q, k, v and output projections get factors; empty: v2t and v2v. They do not
            depend on the method, so that runs of several methods train the same weights.
        rank, alpha: of the factors.
        condition: what the new input channels take: "id_map" (MATRIX), "target_mask" (TAViD), or "none".
        sga, spa, tavid: weights of the losses.
        scores: what the maps are: "logits" or "probabilities", see `AlignmentConfig`.
        decoder: width of the mask decoder, 0 compares maps and masks on the token grid.
        timestep: how the time weighs the losses, see `timestep_weight`.
        look_alikes: share of training clips with somebody that looks just like a named instance.
        clips_seed: which set of clips; runs of several seeds see the same set in another order, under other noise.
        dropout, foreground, change, high_noise, even: of the diffusion loss, see `DenoiseTask`.
    """

    bundle: str = ""
    method: Literal["off", "sga", "spa", "both", "tavid"] = "both"
    v2t: tuple[int, ...] = (9, 10)
    v2v: tuple[int, ...] = (5,)
    lora_v2t: tuple[int, ...] = ()
    lora_v2v: tuple[int, ...] = ()
    rank: int = 32
    alpha: float = 32.0
    condition: Literal["none", "id_map", "target_mask"] = "id_map"
    sga: float = 0.01
    spa: float = 0.005
    tavid: float = 0.1
    scores: Literal["logits", "probabilities"] = "logits"
    decoder: int = 32
    timestep: Literal["uniform", "bell"] = "uniform"
    look_alikes: float = 0.3
    clips_seed: int = 0
    dropout: float = 0.1
    foreground: float = 4.0
    change: float = 8.0
    high_noise: float = 6.0
    even: float = 0.25

    def __post_init__(self) -> None:
        _check_layers(self)

    @property
    def lora_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Layers with factors, as sites of (V2T, V2V) maps."""
        return _lora_layers(self)


def _check_layers(task: AlignTask | TuneTask) -> None:
    if task.rank < 1 or task.alpha <= 0:
        raise ValueError(f"task.rank is 1 or more and task.alpha above 0; got {task.rank} and {task.alpha}")
    if not task.lora_layers[0] and not task.lora_layers[1]:
        raise ValueError("no layer gets factors: set task.v2t or task.v2v, for example task.v2t=9,10")
    needs = {"sga": ("v2t",), "spa": ("v2v",), "both": ("v2t", "v2v"), "tavid": ("v2t",)}.get(task.method, ())
    if empty := [name for name in needs if not getattr(task, name)]:
        raise ValueError(f"method {task.method!r} needs layers in {' and '.join(f'task.{name}' for name in empty)}")


def _lora_layers(task: AlignTask | TuneTask) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if task.lora_v2t or task.lora_v2v:
        return task.lora_v2t, task.lora_v2v
    return task.v2t, task.v2v


@dataclass(frozen=True)
class TuneTask:
    """Fine-tune a released video transformer on a folder of clips: MATRIX or TAViD. Needs `FolderData`, whose
    `condition` says what the widened input projection reads.

    Args:
        model: folder of a diffusers pipeline (CogVideoX, Wan 2.1, HunyuanVideo), a bundle of ours, or "mini".
        method, v2t, v2v, lora_v2t, lora_v2v, rank, alpha, sga, spa, tavid, scores, timestep: see `AlignTask`.
        decoder: width of the mask decoder, 0 compares maps and masks on the token grid.
        bce, dice, l2: weights inside MATRIX's mask loss, see `MaskWeights`.
        draw: of the v2t layers, how many of them TAViD's loss takes anew at each step; 0 takes all.
        track: frames of TAViD's loss: the "first" latent frame as published, or "all" that the tracks know.
        normalise: what TAViD's map is divided by, see `TargetAwareConfig`.
        dropout: share of prompts replaced by the empty prompt (such clips are not aligned).
        times: how the noise level is drawn, "uniform" or "logit_normal" over the schedule.
        shift: of the noise levels of flow models (Wan, HunyuanVideo): s = shift u / (1 + (shift - 1) u).
        guidance: HunyuanVideo's guidance input.
        weights: number format of the frozen weights; what is trained is in float32.
        quantise: frozen matrices of the blocks in fewer bits: "int8", "fp8", "nf4" (4 bits); layers with factors stay.
        checkpointing: blocks are computed again in the backward pass, which saves most of the memory.
    """

    model: str = ""
    method: Literal["off", "sga", "spa", "both", "tavid"] = "both"
    v2t: tuple[int, ...] = ()
    v2v: tuple[int, ...] = ()
    lora_v2t: tuple[int, ...] = ()
    lora_v2v: tuple[int, ...] = ()
    rank: int = 128
    alpha: float = 64.0
    sga: float = 0.01
    spa: float = 0.005
    tavid: float = 0.1
    scores: Literal["logits", "probabilities"] = "logits"
    decoder: int = 64
    timestep: Literal["uniform", "bell"] = "uniform"
    bce: float = 1.0
    dice: float = 1.0
    l2: float = 1.0
    draw: int = 0
    track: Literal["first", "all"] = "first"
    normalise: Literal["none", "max", "sum"] = "max"
    dropout: float = 0.1
    times: Literal["uniform", "logit_normal"] = "uniform"
    shift: float = 1.0
    guidance: float = 6.0
    weights: Literal["bf16", "fp32"] = "bf16"
    quantise: Literal["no", "int8", "fp8", "nf4"] = "no"
    checkpointing: bool = True

    def __post_init__(self) -> None:
        _check_layers(self)

    @property
    def lora_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Layers with factors, as sites of (V2T, V2V) maps."""
        return _lora_layers(self)


@dataclass(frozen=True)
class FitConfig:
    task: CodecTask | DenoiseTask | AlignTask | TuneTask
    data: Any = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        wanted = FolderData if isinstance(self.task, TuneTask) else Data
        if not isinstance(self.data, wanted):
            raise ValueError(f"{type(self.task).__name__} takes {wanted.__name__}, not {type(self.data).__name__}")


def override(config: Any, assignments: Iterable[str]) -> Any:
    """Returns `config` with `path.to.field=value` applied; values are parsed by the field's type."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"an override looks like optim.lr=3e-4; got {assignment!r}")
        config = _set(config, path.split("."), text, path)
    return config


def _set(config: Any, path: list[str], text: str, whole: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)]
    if path[0] not in names:
        raise ValueError(f"no setting {whole!r}: {type(config).__name__} has {', '.join(names)}")
    current = getattr(config, path[0])
    if dataclasses.is_dataclass(current):
        if len(path) == 1:
            inner = ", ".join(f.name for f in dataclasses.fields(current))
            raise ValueError(f"{whole!r} is a group of settings: {inner}")
        return dataclasses.replace(config, **{path[0]: _set(current, path[1:], text, whole)})
    if len(path) > 1:
        raise ValueError(f"{'.'.join(path[:1])!r} in {whole!r} is a value, not a group of settings")
    kind = typing.get_type_hints(type(config))[path[0]]
    return dataclasses.replace(config, **{path[0]: _parse(text, kind, whole)})


def _parse(text: str, kind: Any, whole: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"{whole} is one of {', '.join(map(str, typing.get_args(kind)))}; got {text!r}")
        return text
    if origin is tuple:
        return _numbers(text, whole)
    if origin in (typing.Union, types.UnionType):
        raise ValueError(f"{whole} cannot be set from the command line")
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"{whole} is true or false; got {text!r}")
        return text.lower() in ("true", "1", "yes")
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{whole} takes {kind.__name__}; got {text!r}") from error


def _numbers(text: str, whole: str) -> tuple[int, ...]:
    """`9,10` or nothing."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{whole} takes numbers with commas between them, such as 9,10; got {text!r}") from None
