"""Nodes that steer attention with mask tracks and bound words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io, ui

from ..matrix_lib.backbones import families
from ..matrix_lib.core.guidance.base import Guidance
from ..matrix_lib.core.guidance.gradient import GradientGuidance
from ..matrix_lib.core.guidance.instance_captions import InstanceCaptions
from ..matrix_lib.core.guidance.partition import Partition
from ..matrix_lib.core.guidance.perturbation import Perturbation
from ..matrix_lib.core.guidance.region_bias import RegionBias, parse_weights
from ..matrix_lib.core.guidance.schedule import Schedule, parse_points
from ..matrix_lib.core.guidance.timed_words import TimedWords
from ..matrix_lib.core.layers import Layers
from ..matrix_lib.hosts.comfy.model import backbone_of, sites_of
from ..matrix_lib.hosts.comfy.steer import steer
from .sockets import LayersSocket, ScheduleSocket, read_layers, warn_if_broken

_LAYERS_TIP = (
    "Which layers: 'all', 'dominant' (those that the MATRIX paper found for this model size: its words layers for "
    "words, its instance layers for tracks), or numbers and ranges such as '7, 11-13'."
)
_BRANCHES = {"with the prompt only": "cond", "with and without the prompt": "both"}
_MATCH = {"per channel": "channel", "all values together": "global", "off": None}
_NOTHING = 100.0  # logits, the most that is offered: what is taken then is all
_TARGETS = {"words (CMG)": "words", "video (CAG)": "tracks", "both": "both"}


@dataclass(frozen=True)
class _Mode:
    """One entry of the mode menu: its inputs, and what they mean."""

    inputs: Callable[[], list[Any]]
    make: Callable[[dict[str, Any], Layers, Schedule], Guidance]


def _logits(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def _layers(default: str) -> Any:
    return io.String.Input("layers", default=default, tooltip=_LAYERS_TIP)


def _branches(default: str, advanced: bool = True) -> Any:
    return io.Combo.Input(
        "predictions",
        options=list(_BRANCHES),
        default=default,
        advanced=advanced,
        tooltip="Which of the two predictions that CFG mixes is steered. The one without the prompt has no bound "
        "words, so only its attention between places of the video is.",
    )


def _bias_inputs() -> list[Any]:
    return [
        _logits(
            "words_up", 0.5, "Added to the attention of an instance's places to its own words (logits; 2 is 7 times)."
        ),
        _logits("words_down", 0.5, "Taken from the attention of all other places to those words (logits)."),
        _logits(
            "track_up", 0.25, "Added to the attention between places of one instance, over the whole clip (logits)."
        ),
        _logits(
            "track_down", 0.25, "Taken from the attention of an instance's places to the rest of the video (logits)."
        ),
        _layers("dominant"),
        io.Boolean.Input(
            "soft_edges",
            default=False,
            tooltip="Bias follows how much of each token the mask covers, instead of ending where half is covered.",
        ),
        io.String.Input(
            "weights",
            default="",
            multiline=True,
            advanced=True,
            tooltip="Factors for single instances, one 'NAME: factor' a line; the others have 1.",
        ),
        _branches("with the prompt only"),
    ]


def _bias(values: dict[str, Any], layers: Layers, schedule: Schedule) -> Guidance:
    amounts = {name: values[name] for name in ("words_up", "words_down", "track_up", "track_down")}
    weights, branches = parse_weights(values.get("weights") or ""), _BRANCHES[values["predictions"]]
    return RegionBias(
        **amounts, weights=weights, soft=values["soft_edges"], layers=layers, schedule=schedule, branches=branches
    )


def _partition_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "frozen_steps",
            default=4,
            min=0,
            max=1000,
            tooltip="How many steps, from the first, are masked. 4 in the paper; two thirds of all steps make mini "
            "follow, at CFG 1. 0 changes nothing.",
        ),
        io.Combo.Input(
            "normalisation",
            options=list(_MATCH),
            default="per channel",
            tooltip="Mask normalisation: gives the output of masked attention the distribution of the unmasked one, in "
            "every channel over the tokens, or over all values together.",
        ),
        io.Boolean.Input(
            "words",
            default=True,
            tooltip="An instance's places also look at their own words only, and the background at unbound words only.",
        ),
        _layers("all"),
        _branches("with and without the prompt"),
    ]


def _partition(values: dict[str, Any], layers: Layers, schedule: Schedule) -> Guidance:
    match, branches = _MATCH[values["normalisation"]], _BRANCHES[values["predictions"]]
    return Partition(values["frozen_steps"], match, values["words"], layers, schedule, branches)


def _perturbation_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "target",
            options=list(_TARGETS),
            default="both",
            tooltip="What the second prediction cannot see: words, other places of the video, or both.",
        ),
        io.Float.Input(
            "scale",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="How far the result moves away from the second prediction. 0 changes nothing and costs nothing.",
        ),
        io.Boolean.Input(
            "only_bound",
            default=False,
            tooltip="Hide only the bound words and the tracked places, instead of all text and all of the video. Needs "
            "tracks.",
        ),
        _layers("dominant"),
    ]


def _perturbation(values: dict[str, Any], layers: Layers, schedule: Schedule) -> Guidance:
    return Perturbation(_TARGETS[values["target"]], values["scale"], values["only_bound"], layers, schedule)


def _gradient_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "strength",
            default=0.1,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Size of one update of the latent, as a share of the noise in it.",
        ),
        io.Int.Input(
            "iterations",
            default=1,
            min=0,
            max=100,
            tooltip="Updates before each step. Each takes a forward and a backward pass of the model.",
        ),
        io.Float.Input(
            "grounding",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Weight of the SGA loss: words are looked at where their instance is.",
        ),
        io.Float.Input(
            "propagation",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Weight of the SPA loss: what an instance is made of in its first frame looks along its track.",
        ),
        io.Combo.Input(
            "maps",
            options=["probabilities", "logits"],
            default="probabilities",
            advanced=True,
            tooltip="What the losses compare with the masks: attention after the softmax, or before it.",
        ),
        _layers("dominant"),
        io.Boolean.Input(
            "save_memory",
            default=True,
            advanced=True,
            tooltip="Keeps the activations of one block at a time and computes blocks twice. Off: faster, and far more "
            "memory.",
        ),
    ]


def _gradient(values: dict[str, Any], layers: Layers, schedule: Schedule) -> GradientGuidance:
    amounts = (values["strength"], values["iterations"], values["grounding"], values["propagation"])
    return GradientGuidance(*amounts, values["maps"], values["save_memory"], layers, schedule)


def _timed_inputs() -> list[Any]:
    return [
        _logits(
            "time_down",
            10.0,
            "Taken from the attention to a phrase outside of its time (logits; 10 leaves next to nothing). Times are "
            "written behind the phrases in MATRIX Bind Prompt: waves @0-1.5s, hands over @2s-.",
        ),
        _logits("time_up", 0.0, "Added to the attention to a phrase within its time (logits)."),
        io.Float.Input(
            "fade",
            default=0.25,
            min=0.0,
            max=1000.0,
            step=0.05,
            tooltip="Seconds before and behind its time over which a phrase fades. 0: at once.",
        ),
        io.Float.Input(
            "frame_rate",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=1.0,
            tooltip="Frames per second that the clip is shown at. 0: those that the model makes, or that "
            "LTXVConditioning asks for.",
        ),
        _layers("all"),
    ]


def _timed(values: dict[str, Any], layers: Layers, schedule: Schedule) -> Guidance:
    return TimedWords(values["time_down"], values["time_up"], values["fade"], values["frame_rate"], layers, schedule)


def _caption_inputs() -> list[Any]:
    return [
        _logits(
            "captions_down",
            _NOTHING,
            "Taken from the attention to the caption of another instance (logits). 100: nothing of it is seen.",
        ),
        _logits("captions_up", 0.0, "Added to the attention of an instance to its own caption (logits)."),
        _layers("all"),
    ]


def _captions(values: dict[str, Any], layers: Layers, schedule: Schedule) -> Guidance:
    down = values["captions_down"]
    return InstanceCaptions(math.inf if down >= _NOTHING else down, values["captions_up"], layers, schedule)


MODES = {
    "region bias": _Mode(_bias_inputs, _bias),
    "masked attention (IVG-DA)": _Mode(_partition_inputs, _partition),
    "perturbation (CMG, CAG)": _Mode(_perturbation_inputs, _perturbation),
    "gradient (SGA, SPA)": _Mode(_gradient_inputs, _gradient),
    "timed words": _Mode(_timed_inputs, _timed),
    "instance captions": _Mode(_caption_inputs, _captions),
}
"""Ways of steering, in the order of the menu."""


def steered_layers(text: str, model: Any, found: Any = None) -> Layers:
    """The layers of a text field for this MODEL; those of an analysis where one is connected."""
    if found is not None:
        layers = Layers(tuple(found.v2t), tuple(found.v2v))
    elif text.strip().lower() == "dominant":
        choice = backbone_of(model).dominant(len({site.layer for site in sites_of(model)}))
        layers = Layers(choice.v2t, choice.v2v)
    else:
        layers = Layers.only(read_layers(text, model))
    return layers


class MatrixAttentionGuidance(io.ComfyNode):
    """A MODEL whose attention follows the tracks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixAttentionGuidance",
            display_name="MATRIX Steer Attention",
            category="MATRIX/guidance",
            description="Steers a video model with mask tracks and bound words, without training: instances attend to "
            "their own words and their own track, words act in their time, and captions in their instance. Any "
            "sampler; several of these nodes stack.",
            search_aliases=[
                "regional prompting",
                "attention guidance",
                "trajectory",
                "mask attention",
                "IVG-DA",
                "CMG",
                "CAG",
                "perturbed attention",
                "attend and excite",
                "latent optimisation",
                "prompt relay",
                "prompt travel",
                "timed prompts",
                "several events",
                "multi prompt",
                "caption per person",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"{families()} from any loader, with LoRAs or other patches if you like.",
                ),
                io.DynamicCombo.Input(
                    "mode",
                    options=[io.DynamicCombo.Option(name, mode.inputs()) for name, mode in MODES.items()],
                    tooltip="Region bias nudges attention; masked attention forbids for the first steps; perturbation "
                    "moves away from a prediction that cannot see; gradient moves the latent until attention fits; "
                    "timed words are looked at in their seconds of the clip (@0-1.5s in MATRIX Bind Prompt; no tracks "
                    "needed); captions of instances (MATRIX Instance Captions) are seen by their instance alone.",
                ),
                ScheduleSocket.Input(
                    "schedule",
                    optional=True,
                    tooltip="Strength over the steps, from MATRIX Schedule Curve. Without it: full strength all along.",
                ),
                LayersSocket.Input(
                    "found_layers",
                    optional=True,
                    tooltip="Layers from MATRIX Analyse Layers, in place of the layers field.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same MODEL, steered. Connect it to any sampler or guider.")],
        )

    @classmethod
    def execute(cls, model, mode, schedule=None, found_layers=None) -> io.NodeOutput:
        chosen = MODES[mode["mode"]]
        layers = steered_layers(mode.get("layers", "all"), model, found_layers)
        guidance = chosen.make(mode, layers, schedule or Schedule())
        warn_if_broken(model)
        return io.NodeOutput(steer(model, guidance))


def _easing() -> Any:
    return io.Combo.Input(
        "easing",
        options=["linear", "smooth", "step"],
        default="linear",
        tooltip="How it goes from one value to the next: evenly, gently at both ends, or at once.",
    )


def _value(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.05, tooltip=tooltip)


_SHAPES: dict[str, tuple[Callable[[], list[Any]], Callable[[dict[str, Any]], tuple[tuple[float, float], ...]]]] = {
    "constant": (
        lambda: [_value("strength", 1.0, "The strength of every step in the range.")],
        lambda values: ((0.0, values["strength"]),),
    ),
    "ramp": (
        lambda: [
            _value("first", 1.0, "Strength where the range starts."),
            _value("last", 0.0, "Strength where the range ends."),
            _easing(),
        ],
        lambda values: tuple({values["start"]: values["first"], values["end"]: values["last"]}.items()),
    ),
    "key points": (
        lambda: [
            io.String.Input(
                "points",
                default="0: 1, 0.5: 0.5, 1: 0",
                multiline=True,
                tooltip="'position: strength' pairs; positions ascend from 0 (first step) to 1 (last step).",
            ),
            _easing(),
        ],
        lambda values: parse_points(values["points"]),
    ),
}


class MatrixScheduleCurve(io.ComfyNode):
    """Strength over the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixScheduleCurve",
            display_name="MATRIX Schedule Curve",
            category="MATRIX/guidance",
            description="A curve over the sampling steps that scales how strongly MATRIX Steer Attention acts: one "
            "value, a ramp, or key points, in a range of the run.",
            search_aliases=["strength schedule", "start percent", "end percent", "keyframes", "easing"],
            inputs=[
                io.DynamicCombo.Input(
                    "shape",
                    options=[io.DynamicCombo.Option(name, inputs()) for name, (inputs, _) in _SHAPES.items()],
                    tooltip="One value, from one value to another, or a list of key points.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the range starts: 0 the first step, 1 the last. Before it the strength is 0.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the range ends. After it the strength is 0.",
                ),
            ],
            outputs=[
                ScheduleSocket.Output(display_name="schedule", tooltip="For MATRIX Steer Attention."),
            ],
        )

    @classmethod
    def execute(cls, shape, start, end) -> io.NodeOutput:
        points = _SHAPES[shape["shape"]][1]({**shape, "start": start, "end": end})
        schedule = Schedule(points, shape.get("easing", "linear"), start, end)
        steps = 11
        shown = ", ".join(f"{100 * i // (steps - 1)} %: {schedule.at(i, steps):.2f}" for i in range(steps))
        return io.NodeOutput(schedule, ui=ui.PreviewText(shown))


NODES = [MatrixAttentionGuidance, MatrixScheduleCurve]
