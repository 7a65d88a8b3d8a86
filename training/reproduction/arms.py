"""Arms: ways to fine-tune a base, that differ in one thing each.

Everything else is the same in all arms of a claim: the clips, the LoRA on every layer, the rate, and per seed the first
factors, the order of the clips and the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..run.config import Data, FitConfig, Optim, Run, override
from ..run.task_settings import AlignTask
from .layers import choose
from .scale import Scale

__all__ = ["ALIGNMENT", "DRAWN", "EVEN", "LAYERS", "TARGET", "Arm", "arm_config", "named_arm"]

LAYERS = (1, 3, 5, 7, 9, 11)  # that are trained on one at a time
DRAWN = tuple(f"10x random {draw} of the base" for draw in range(4))
_SGA, _SPA = 0.01, 0.005  # weights of the code that MATRIX's authors released


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        factor: of the weights that the authors' code has. layers: which ones the losses read, see `layers.choose`.
        settings: of `AlignTask`. clips: how many, 0 for the scale's number.
    """

    name: str
    factor: float = 1.0
    layers: str = "dominant"
    settings: Mapping[str, Any] = field(default_factory=dict)
    clips: int = 0


def _both(name: str, factor: float, layers: str = "dominant", **settings: Any) -> Arm:
    return Arm(name, factor, layers, {"method": "both", **settings})


_FLOW = {"flow": 0.1}
ALIGNMENT = (
    Arm("off", settings={"method": "off"}),
    _both("10x", 10.0),
    _both("10x blind", 10.0, control="blind"),
    _both("10x wrong masks", 10.0, control="wrong_masks"),
    _both("30x", 30.0),
    _both("10x lowest", 10.0, "lowest"),
    _both("10x random 0", 10.0, "random 0"),
    _both("10x random 1", 10.0, "random 1"),
    _both("1x", 1.0),
    _both("10x random 2", 10.0, "random 2"),
    _both("10x random 3", 10.0, "random 3"),
    _both("100x", 100.0),
    _both("100x blind", 100.0, control="blind"),
    _both("10x all", 10.0, "all"),
    Arm("sga 10x", 10.0, settings={"method": "sga"}),
    Arm("spa 10x", 10.0, settings={"method": "spa"}),
    _both("10x no decoder", 10.0, decoder=0),
    _both("10x probabilities", 10.0, scores="probabilities"),
    Arm("flow", settings={"method": "flow", **_FLOW}),
    Arm("10x with flow", 10.0, settings={"method": "all", **_FLOW}),
    Arm("flow by latents", settings={"method": "flow", **_FLOW, "teacher": "latents"}),
    Arm("flow of values", settings={"method": "flow", **_FLOW, "flow_of": "values"}),
    Arm("10x with flow of values", 10.0, settings={"method": "all", **_FLOW, "flow_of": "values"}),
    Arm("10x with features", 10.0, settings={"method": "all", **_FLOW, "flow_of": "values", "teacher": "latents"}),
    Arm("sga 10x with flow", 10.0, settings={"method": "sga_flow", **_FLOW}),
    Arm("spa 10x with flow", 10.0, settings={"method": "spa_flow", **_FLOW}),
    Arm("off other clips", settings={"method": "off", "clips_seed": 1}),
    _both("10x other clips", 10.0, clips_seed=1),
    _both("10x t2v", 10.0, direction="t2v"),
    _both("10x no decoder, probabilities", 10.0, decoder=0, scores="probabilities"),
    Arm("id map", settings={"method": "off", "condition": "id_map"}),
    _both("10x id map", 10.0, condition="id_map"),
    *(_both(f"10x layer {at}", 10.0, f"layer {at}") for at in LAYERS),
    *(_both(name, 10.0, name.removeprefix("10x ")) for name in DRAWN),
    _both("10x noisy masks", 10.0, mask_shift=4, mask_lost=0.25),
    _both("10x boxes for masks", 10.0, mask_boxes=True),
)
"""In the order of how much they decide."""

_MASKED = {"condition": "target_mask", "look_alikes": 1.0, "trigger": True}
_TAVID = {**_MASKED, "method": "tavid", "tavid": 10.0}
_TWO = {"condition": "source_target"}
TARGET = (
    Arm("lambda 0", settings={**_MASKED, "method": "off"}),
    Arm("lambda .1", settings={**_MASKED, "method": "tavid", "tavid": 0.1}),
    Arm("lambda 1", settings={**_MASKED, "method": "tavid", "tavid": 1.0}),
    Arm("lambda 10", settings={**_MASKED, "method": "tavid", "tavid": 10.0}),
    Arm("no mask", settings={**_MASKED, "condition": "none", "method": "off"}),
    Arm("lambda 1 lowest", 1.0, "lowest", {**_MASKED, "method": "tavid", "tavid": 1.0}),
    Arm("lambda 10 lowest", 1.0, "lowest", _TAVID),
    Arm("lambda 0 learnt trigger", settings={**_MASKED, "method": "off", "learn_trigger": True}),
    Arm("lambda 10 learnt trigger", settings={**_TAVID, "learn_trigger": True}),
    Arm("lambda 10 t2v", settings={**_TAVID, "direction": "t2v"}),
    Arm("lambda 10 whole track", settings={**_TAVID, "track": "all"}),
    Arm("lambda 0 two masks", settings={**_MASKED, **_TWO, "method": "off"}),
    Arm("lambda 10 two masks", settings={**_TAVID, **_TWO}),
    Arm("lambda 10 wrong masks", settings={**_TAVID, "control": "wrong_masks"}),
)
EVEN = tuple(replace(arm, settings={**arm.settings, "even_look_alikes": True}) for arm in TARGET)
"""The same on look-alikes of which the first frame does not say which one is meant."""


def named_arm(arms: tuple[Arm, ...], name: str) -> Arm:
    """The arm of this name; "NAME nCLIPS" is the same on another number of clips. ValueError where there is none."""
    plain, _, count = name.rpartition(" n")
    known = {arm.name: arm for arm in arms}
    if name in known:
        return known[name]
    if plain in known and count.isdecimal():
        return replace(known[plain], name=name, clips=int(count))
    raise ValueError(f"there is no arm {name!r}; there are {', '.join(known)}")


def arm_config(
    arm: Arm,
    seed: int,
    bundle: Path,
    analysis: Mapping[str, Any],
    scale: Scale,
    out: Path,
    world: Mapping[str, Any] = MappingProxyType({}),
    home: int = 0,
) -> FitConfig:
    """The whole configuration of an arm's run. world: of `Data`, what the clips of its group have. home: seed of the
    base, for layers that are drawn for each base."""
    clips = arm.clips or scale.clips
    settings: dict[str, Any] = {
        **choose(analysis, arm.layers, home),
        "lora_v2t": tuple(range(scale.layers)),
        "sga": _SGA * arm.factor,
        "spa": _SPA * arm.factor,
        "change": 16.0,
        "high_noise": 8.0,
        "condition": "none",
        "look_alikes": 0.0,
        **arm.settings,
    }
    task = AlignTask(bundle=str(bundle), **settings)
    batch = min(32, clips)
    every = min(scale.checkpoints)
    config = FitConfig(
        task=task,
        data=Data(batch=batch, chunk=clips // batch * batch, workers=6, **world),
        optim=Optim(lr=1e-3, warmup=20, weight_decay=0.0, ema=0.98, schedule="constant"),
        run=Run(
            steps=scale.steps,
            seed=seed,
            out=str(out),
            precision="bf16",
            log_every=max(1, scale.steps // 20),
            save_every=every,
            tensorboard=False,
            bar=False,
        ),
    )
    return override(config, scale.arm)
