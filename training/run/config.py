"""Typed configurations of a training run, and overrides from the command line (`optim.lr=3e-4`)."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Data", "FitConfig", "Optim", "Run", "Validation", "numbers", "override"]


@dataclass(frozen=True)
class Data:
    """Clips of the synthetic world, made while training runs; nothing is read from disk.

    Args:
        height, width, frames: of a clip, in pixels.
        split: of verb-object pairs, see `matrix_lib.mini.world`.
        distractors: share of clips with a look-alike, which no prompt can settle.
        often: names of verbs that come up twice as often.
        verbs: names of the verbs there are; empty: all.
        captions, caption_share: how much captions say, and in which share of the clips (`mini.captions.FORMS`).
        single: share of clips in which one thing moves and nothing interacts.
        most: things in a clip.
        unseen: names of verbs that never come up: training does not show them.
        pairs: share of the clips with an interaction of two in which two others have one of their own.
        size: of the things, as a share of their usual size.
        clutter: grey things on the background that nobody names.
        occlusion: share of clips in which bystanders may stand in the way.
        camera: half of the clips have a moving camera, and captions say so.
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
    verbs: tuple[str, ...] = ()
    captions: str = "full"
    caption_share: float = 1.0
    single: float = 0.15
    most: int = 5
    unseen: tuple[str, ...] = ()
    pairs: float = 0.0
    size: float = 1.0
    clutter: int = 0
    occlusion: float = 0.3
    camera: bool = False
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
        if self.workers < 1:
            raise ValueError(f"data.workers is 1 or more; got {self.workers}")


def check_shares(settings: Any, *names: str) -> None:
    """Raises ValueError where a setting of a task is no share."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"task.{name} is a share from 0 to 1; got {getattr(settings, name):g}")


@dataclass(frozen=True)
class Optim:
    """AdamW, or Muon for the matrices inside the blocks with AdamW for the rest.

    Args:
        name: "adamw" or "muon".
        lr: peak learning rate.
        warmup: steps over which the rate grows from zero to its peak.
        weight_decay: of matrices; vectors have none.
        beta2: decay of AdamW's second moment.
        schedule: how the rate falls after the warm-up: "linear" or "cosine" to zero, or not at all ("constant").
        ema: decay of the averaged weights, which are the ones published; 0 publishes the last ones.
        clip: norm to which gradients are clipped.
        accumulate: forward and backward passes whose gradients make one step; the batch is as many times larger.
        eight_bit: AdamW keeps its moments in 8 bits (needs bitsandbytes).
        lora_plus: the ups of LoRA factors learn at this many times the rate (LoRA+; its authors use 16).
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
    lora_plus: float = 1.0

    def __post_init__(self) -> None:
        if min(self.lr, self.warmup, self.weight_decay) < 0:
            raise ValueError(
                "optim.lr, optim.warmup and optim.weight_decay are 0 or more; got "
                f"{self.lr:g}, {self.warmup}, {self.weight_decay:g}"
            )
        if self.clip <= 0 or not 0 <= self.ema < 1:  # a negative clip trains upwards, 0 nothing
            raise ValueError(
                "optim.clip is above 0 (1e9 clips nothing), optim.ema from 0 to less than 1; got "
                f"{self.clip:g}, {self.ema:g}"
            )
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate is 1 or more; got {self.accumulate}")
        if self.eight_bit and self.name != "adamw":
            raise ValueError("optim.eight_bit is for AdamW: set optim.name=adamw")
        if self.lora_plus <= 0 or (self.lora_plus != 1 and self.name != "adamw"):
            raise ValueError(f"optim.lora_plus is above 0, and for AdamW (optim.name=adamw); got {self.lora_plus:g}")


@dataclass(frozen=True)
class Run:
    """How long, where, and how often to report and save.

    Args:
        steps: of the optimiser, in the whole run.
        seed: of everything that is drawn.
        out: folder for checkpoints, `metrics.csv` and `config.json`. Where it is not given, every run gets a numbered
            folder of its own in the preset's (`runs/align/0001`).
        numbered: `out` holds numbered runs; the run gets the next number, or goes on with one of the same settings.
        precision: "no" or "bf16" (autocast).
        compile: compile the network, or the parts of it that gain from it.
        resume: continue from the newest checkpoint in `out`, if there is one and it is of the same settings and data;
            false is the same as `again`.
        again: start anew; what `out` holds moves to `out/replaced-N`.
        change: continue although settings or data differ; the new ones count from there on.
        log_every: steps between two rows of `metrics.csv`, which hold means.
        save_every: steps between two checkpoints.
        deadline: seconds that the run may take, 0 for any number. The learning rate then falls with the time left
            where that is shorter than the steps left, so a run that is cut short is still a finished one (but two such
            runs differ: without a deadline a run depends on its configuration alone).
        keep: newest checkpoints that stay; of older ones their LoRA stays.
        skip_steps: steps without a finite gradient that are passed over, in the whole run; one more stops it.
        tensorboard: write curves (and sample videos) for TensorBoard into `out`.
        wandb: project of Weights & Biases that gets the same curves; empty: none.
        push_to: where a finished run's LoRA goes, with a model card: a folder, or `hub:USER/NAME`, a repository on the
            Hugging Face hub, which is private where it is new; empty: nowhere.
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
    wandb: str = ""
    push_to: str = ""
    numbered: bool = False
    again: bool = False
    change: bool = False

    def __post_init__(self) -> None:
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"run.seed is a number of 64 bits; got {self.seed}")
        if min(self.keep, self.steps, self.log_every, self.save_every, self.preview_steps) < 1:
            raise ValueError(
                "run.steps, run.log_every, run.save_every, run.keep and run.preview_steps are 1 or more; got "
                f"{self.steps}, {self.log_every}, {self.save_every}, {self.keep}, {self.preview_steps}"
            )


@dataclass(frozen=True)
class Validation:
    """Clips of a folder that are held out, what is measured on them, and which checkpoint is the best.

    Args:
        share: of the clips that is held out, chosen by their names: the same ones in every run.
        clips: names of clips to hold out, with commas between them, or a text file with one a line.
        every: steps between two measurements; 0 measures at every checkpoint.
        most: held-out samples that are measured, 0 for all.
        levels: noise levels that each is measured at, spread over the schedule; level and noise are always the same.
        prompts: a text file with lines `CLIP: PROMPT`; previews show a held-out clip's first frame with these words,
            too.
        best: figure by which the best checkpoint is kept, beside the newest ones: a column of `metrics.csv`, or
            `validation.NAME` with one of `validation.csv`; empty: none.
        best_is: whether the best value is the lowest or the highest.
    """

    share: float = 0.0
    clips: str = ""
    every: int = 0
    most: int = 0
    levels: int = 4
    prompts: str = ""
    best: str = ""
    best_is: Literal["lowest", "highest"] = "lowest"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or min(self.every, self.most) < 0 or self.levels < 1:
            raise ValueError(
                "validation.share is from 0 to less than 1, validation.every and validation.most 0 or more, "
                f"validation.levels 1 or more; got {self.share:g}, {self.every}, {self.most}, {self.levels}"
            )
        if self.share and self.clips:
            raise ValueError("hold out a share of the clips (validation.share), or some by name (validation.clips)")
        if (self.prompts or self.best.startswith("validation.")) and not self.holds:
            raise ValueError(
                "validation.prompts and validation.best=validation.* need held-out clips: validation.share"
            )

    @property
    def holds(self) -> bool:
        """Whether any clip is held out."""
        return bool(self.share or self.clips)


@dataclass(frozen=True)
class FitConfig:
    """A whole run. `task` is a `task_settings.TaskSettings`, and `data` of the kind that it takes."""

    task: Any
    data: Any = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        if self.validation.holds and not hasattr(self.data, "folder"):
            raise ValueError("validation.share and validation.clips hold out clips of a folder; this run makes its own")
        if (wanted := self.task.data_settings) is not type(self.data):
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
        return numbers(text, whole)
    if origin in (typing.Union, types.UnionType):
        raise ValueError(f"{whole} cannot be set from the command line")
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"{whole} is true or false; got {text!r}")
        return text.lower() in ("true", "1", "yes")
    try:
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{whole} takes {kind.__name__}; got {text!r}") from error
    return value


def numbers(text: str, whole: str) -> tuple[int, ...]:
    """`9,10` or nothing."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{whole} takes numbers with commas between them, such as 9,10; got {text!r}") from None
