"""Settings of the alignment losses. [?] marks what the papers leave open and a setting decides here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..layers import LayerDraw

__all__ = ["AlignmentConfig", "Direction", "MaskWeights", "Scores", "TargetAwareConfig", "Timestep", "timestep_weight"]

_LEVELS = 1000  # of a flow schedule in training
Scores = Literal["probabilities", "logits"]
Timestep = Literal["uniform", "bell", "levels"]
Direction = Literal["v2t", "t2v"]
Normalise = Literal["none", "max", "sum"]


@dataclass(frozen=True)
class MaskWeights:
    """l(X, Y) = bce * BCE(X, Y) + dice * (1 - Dice(X, Y)) + l2 * ||X - Y||^2 (MATRIX; its weights are unpublished [?]).

    `max_pos_weight`: BCE weighs inside pixels by min(outside / inside, max_pos_weight), as the released code does.
    `entities`: losses of a clip's entities are added up, as the paper has it, or their "mean" is taken, as the released
    code does. `pos_weight`: outside / inside of each entity's "own" mask, or "shared": of all masks of a clip together,
    as in the released code.
    """

    bce: float = 1.0
    dice: float = 1.0
    l2: float = 1.0
    max_pos_weight: float = 10.0
    entities: Literal["sum", "mean"] = "sum"
    pos_weight: Literal["own", "shared"] = "own"

    def __post_init__(self) -> None:
        if min(self.bce, self.dice, self.l2) < 0 or self.max_pos_weight <= 0:
            raise ValueError(f"loss weights are 0 or more, max_pos_weight above 0; got {self}")


@dataclass(frozen=True)
class AlignmentConfig:
    """MATRIX's losses: L = L_DM + w(t) (sga * L_SGA + spa * L_SPA), and flow * L_flow beside them. Defaults are those
    of the released code and the layers of CogVideoX-5B-I2V.

    Args:
        sga, spa: weights of the grounding and the propagation loss; 0 switches one off.
        flow: weight of Local Gram Flow, see `core.losses.flow`. window: its side in tokens [?].
        flow_of: whose flow is taught, that of "attention" (q.k) or of the "values". temperature: what cosines of values
            and of a teacher's features are divided by [?].
        teacher: "masks" of the instances; or the "features" that come with the targets, of every token of the clip.
        v2t, v2v: layers of the grounding and of the propagation loss; flow reads those of propagation.
        scores: "logits" are scale * q.k averaged over heads, what the decoder was fed in MATRIX; "probabilities" come
            out of the softmax over the whole row.
        direction: "v2t" or, as in the paper's ablation, "t2v": text queries over video keys.
        timestep: see `timestep_weight`. shift: of the noise levels that are drawn, for the weight "levels".
        joined_heads: logits are q.k over all heads as one vector, divided by the root of its length, as in the released
            code: sqrt(heads) times the mean over heads.
        average_layers: the mean of the layers' maps is decoded, as in the released code, and not all of them side by
            side.
    """

    sga: float = 0.01
    spa: float = 0.005
    flow: float = 0.0
    window: int = 5
    flow_of: Literal["attention", "values"] = "attention"
    teacher: Literal["masks", "features"] = "masks"
    temperature: float = 0.1
    mask: MaskWeights = field(default_factory=MaskWeights)
    v2t: LayerDraw = field(default_factory=lambda: LayerDraw((7, 11)))
    v2v: LayerDraw = field(default_factory=lambda: LayerDraw((12,)))
    scores: Scores = "logits"
    direction: Direction = "v2t"
    timestep: Timestep = "uniform"
    shift: float = 1.0
    joined_heads: bool = False
    average_layers: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"a temperature is above 0; got {self.temperature:g}")
        if self.joined_heads and self.scores != "logits":
            raise ValueError("joined_heads is about logits: probabilities of heads have no joint dot product")


@dataclass(frozen=True)
class TargetAwareConfig:
    """TAViD: weight * E ||A - M||^2, A the V2T map of the target word, M its mask, over `layers`.

    Args:
        frames: "first" latent frame alone, as published, or "all" that the track knows.
        normalise: the paper does not say what A is divided by [?]: "max" brings its peak over the frames that count
            to 1, the mask's own value; "sum" brings both to a mass of 1; "none" leaves probabilities.
        direction: "v2t" as published, or "t2v": what the word attends to.
    """

    weight: float = 0.1
    layers: LayerDraw = field(default_factory=lambda: LayerDraw.stride(5, 24, 3))
    frames: Literal["first", "all"] = "first"
    normalise: Normalise = "max"
    direction: Direction = "v2t"


def timestep_weight(t: Tensor, kind: Timestep, shift: float = 1.0) -> Tensor:
    """(B,) weight of a loss at times t (B,) in [0, 1], 1 being pure noise.

    "uniform" is 1. "bell" follows exp(-2 (t - 1/2)^2), down to 0 at both ends and 1 on average: the weight that
    flow-matching trainers give to the middle of the schedule. "levels" is the same bell, 1 on average over the 1,000
    noise levels of a schedule with this `shift`: the weight of the trainer that MATRIX' released code uses, which
    multiplies the diffusion loss and both of its own.
    """
    if kind == "uniform":
        return torch.ones_like(t)
    if kind not in ("bell", "levels"):
        raise ValueError(f"a timestep weight is 'uniform', 'bell' or 'levels'; got {kind!r}")
    ends = math.exp(-0.5)
    mean = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5)) - ends
    if kind == "levels":
        drawn = [shift * i / (_LEVELS + (shift - 1) * i) for i in range(1, _LEVELS + 1)]
        mean = sum(math.exp(-2 * (level - 0.5) ** 2) - ends for level in drawn) / _LEVELS
    return (torch.exp(-2 * (t - 0.5) ** 2) - ends).clamp_min(0.0) / mean
