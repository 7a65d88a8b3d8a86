"""A node that tries several seeds for a few steps, and samples on with those that look as if they will work."""

from __future__ import annotations

import copy
import json
from typing import Any

from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

from ..matrix_lib.hosts.comfy.attach import attach
from ..matrix_lib.hosts.comfy.clip_latent import first_latent, side_by_side
from ..matrix_lib.hosts.comfy.model import backbone_of, sites_of
from ..matrix_lib.hosts.comfy.prompts import check_positives
from ..matrix_lib.hosts.comfy.run import RunInfo
from ..matrix_lib.hosts.comfy.seeds import Begun, begin, go_on
from ..matrix_lib.hosts.comfy.watching import model_token, recorder_of
from ..matrix_lib.instrument.capture import Capture
from ..matrix_lib.instrument.kinds import layers_of
from ..matrix_lib.instrument.readings.seed_rule import (
    LABEL_FREE,
    SeedRule,
    Tried,
    chosen_seeds,
    paying,
    seeds_report,
    tried,
)
from ..matrix_lib.instrument.recorder import Recorder
from ..matrix_lib.instrument.session import Session
from .recording import LAYERS_TIP, recorder_config
from .sockets import CaptureSocket, ticker, warn_if_broken

_LAST = 0xFFFFFFFFFFFFFFFF


class MatrixPickSeeds(io.ComfyNode):
    """Several seeds for a few steps; the promising ones to the end."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixPickSeeds",
            display_name="MATRIX Pick Seeds",
            category="MATRIX/capture",
            description="Samples several seeds for a few steps, looks at their attention, and goes on with those that "
            "look as if they will work, from where they are. A seed that is continued comes out bit for bit as if it "
            "had been sampled alone.",
            search_aliases=[
                "best of n",
                "seed search",
                "early stopping",
                "which seed",
                "reject seeds",
                "SamplerCustom",
            ],
            is_output_node=True,
            inputs=[
                io.Guider.Input(
                    "guider",
                    tooltip="A guider whose positive conditioning comes from MATRIX Bind Prompt (it carries the words "
                    "and, where connected, the mask tracks).",
                ),
                io.Sampler.Input("sampler", tooltip="Any of the host's samplers whose noise follows from the seed."),
                io.Sigmas.Input("sigmas", tooltip="Any of the host's schedulers: all steps of the run."),
                io.Latent.Input("latent_image", tooltip="The empty or encoded video latent to start from: one clip."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=_LAST,
                    control_after_generate=True,
                    tooltip="The first seed; the others follow it one by one.",
                ),
                io.Int.Input("count", default=8, min=2, max=256, tooltip="How many seeds are tried."),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=0,
                    max=256,
                    tooltip="How many of them are sampled to the end. 0: as many as pay: most successes for the steps "
                    "are then to be expected (a fitted rule alone can tell).",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Steps that every seed is tried for; 0: as many as the rule was made for.",
                ),
                io.String.Input(
                    "layers",
                    default="all",
                    tooltip=LAYERS_TIP + " A rule that names its layers has to find them among these.",
                ),
                io.String.Input(
                    "rule",
                    default="",
                    multiline=True,
                    tooltip="The seed rule that python -m training.analyse wrote, as its JSON text. Empty: the rule "
                    "without labels, which asks for bound words, no swap, no double, no sink, and that who acts moves "
                    "first.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latents", tooltip="The clips that were kept, the best first."),
                io.Int.Output(display_name="best_seed", tooltip="The seed of the first."),
                io.String.Output(display_name="report", tooltip="Every seed with its score, and what it all cost."),
                CaptureSocket.Output(display_name="capture", tooltip="What the best seed's first steps attended to."),
                io.String.Output(display_name="scores", tooltip="Every seed's score and features as JSON."),
            ],
        )

    @classmethod
    def validate_inputs(cls, rule: str | None = None) -> bool | str:
        try:
            return bool(not (rule or "").strip() or SeedRule.from_json(str(rule)))
        except ValueError as error:
            return str(error)

    @classmethod
    def execute(cls, guider, sampler, sigmas, latent_image, seed, count, keep, steps, layers, rule) -> io.NodeOutput:
        how = SeedRule.from_json(rule) if rule.strip() else LABEL_FREE
        taken = steps or how.steps
        if not keep and not how.fitted:
            raise ValueError(
                "keep 0 keeps as many seeds as pay, and that takes the probabilities of a fitted rule: give one, or a "
                "number to keep"
            )
        if keep > count:
            raise ValueError(f"{keep} of {count} seeds cannot be kept: try more, or keep fewer")
        if (clips := len(first_latent(latent_image["samples"]))) != 1:
            raise ValueError(f"seeds are picked for one clip, and the latent holds {clips}: set batch_size 1")
        if seed + count - 1 > _LAST:
            raise ValueError(f"{count} seeds from {seed} on go beyond the last, {_LAST}: begin with a smaller one")
        step = ticker(count + (keep or count))

        def sampled(number: int, own: Any) -> Any:
            return SamplerCustomAdvanced.execute(Noise_RandomNoise(number), own, sampler, sigmas, latent_image).result

        runs: list[Tried] = []
        begun: dict[int, Begun] = {}
        shown: Capture | None = None
        calls = 0
        for number in range(seed, seed + count):
            capture, tracks, begun[number] = _begun(number, guider, sigmas, taken, layers, how, sampled)
            runs.append(tried(number, capture, how, tracks))
            calls += begun[number].calls
            if keep:  # what others predicted is not needed any more, and takes the memory of their latents
                begun = {each.seed: begun[each.seed] for each in chosen_seeds(runs, keep)}
            if chosen_seeds(runs, 1)[0] is runs[-1]:  # the best so far: maps of all seeds would fill the memory
                shown = capture
            step()
        told = [each.probability for each in runs if each.probability is not None]
        kept = chosen_seeds(runs, keep or paying(told, taken, len(sigmas) - 1))
        made = []
        for each in kept:
            result, further = go_on(lambda own, n=each.seed: sampled(n, own), guider, begun[each.seed])
            made.append(result[0])
            calls += further
            step()
        report = seeds_report(runs, kept, how, taken, len(sigmas) - 1, calls)
        report = "\n".join([report, *(f"! {text}" for text in warn_if_broken(guider.model_patcher))])
        latents = {**made[0], "samples": side_by_side([latent["samples"] for latent in made])}
        scores = json.dumps([run.as_json() for run in runs])
        return io.NodeOutput(latents, kept[0].seed, report, shown, scores, ui={"text": (report,)})


def _begun(
    seed: int, guider: Any, sigmas: Any, steps: int, layers: str, rule: SeedRule, sampled: Any
) -> tuple[Capture, Any, Begun]:
    """The first steps of one seed: what they attended to, the tracks that came along, and the run to go on with."""
    model = guider.model_patcher
    spec, config = backbone_of(model), recorder_config(model, layers, 0, 1024.0, True, True)
    check_positives(spec, guider.original_conds.get("positive") or [], True)
    rule.check_model(spec.name, *(layers_of(kind, sites_of(model), config.layers) for kind in ("v2t", "v2v")))
    recorders: list[Recorder] = []

    def start(info: RunInfo) -> Session:
        recorders.append(recorder_of(config, info, model_token(model)))
        return Session([recorders[-1]])

    watched = copy.copy(guider)
    watched.model_patcher = attach(model, start)
    watched.model_options = watched.model_patcher.model_options
    begun = begin(lambda own: sampled(seed, own), watched, sigmas, steps)
    capture = recorders[-1].result()
    return capture.take(range(steps)), recorders[-1].tracks, begun


NODES: list[type[io.ComfyNode]] = [MatrixPickSeeds]
