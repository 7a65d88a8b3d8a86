"""Typed configurations of a training run, and overrides from the command line (`optim.lr=3e-4`)."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["AlignTask", "CodecTask", "Data", "DenoiseTask", "FitConfig", "Optim", "Run", "override"]


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
        ema: decay of the averaged weights, which are the ones published.
        clip: norm to which gradients are clipped.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    ema: float = 0.998


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
    v2t: tuple[int, ...] = (4, 11)
    v2v: tuple[int, ...] = (6,)
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
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"task.rank is 1 or more and task.alpha above 0; got {self.rank} and {self.alpha}")
        if not self.lora_layers[0] and not self.lora_layers[1]:
            raise ValueError("no layer gets factors: set task.v2t or task.v2v, for example task.v2t=4,11")
        needs = {"sga": ("v2t",), "spa": ("v2v",), "both": ("v2t", "v2v"), "tavid": ("v2t",)}.get(self.method, ())
        if empty := [name for name in needs if not getattr(self, name)]:
            raise ValueError(f"method {self.method!r} needs layers in {' and '.join(f'task.{name}' for name in empty)}")

    @property
    def lora_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Layers with factors, as sites of (V2T, V2V) maps."""
        if self.lora_v2t or self.lora_v2v:
            return self.lora_v2t, self.lora_v2v
        return self.v2t, self.v2v


@dataclass(frozen=True)
class FitConfig:
    task: CodecTask | DenoiseTask | AlignTask
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


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
    """`4,11` or nothing."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{whole} takes numbers with commas between them, such as 4,11; got {text!r}") from None
