"""Nodes that watch attention while the host samples."""

from __future__ import annotations

import copy

from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

from ..matrix_lib.backbones import REGISTRY, families
from ..matrix_lib.hosts.comfy.attach import attach
from ..matrix_lib.hosts.comfy.model import backbone_of
from ..matrix_lib.hosts.comfy.prompts import check_positives
from ..matrix_lib.hosts.comfy.run import RunInfo
from ..matrix_lib.hosts.comfy.watching import model_token, recorder_of
from ..matrix_lib.instrument.capture import MapKind
from ..matrix_lib.instrument.joining import check_next, extend
from ..matrix_lib.instrument.readings.ranking import describe
from ..matrix_lib.instrument.recorder import Recorder
from ..matrix_lib.instrument.session import Session
from ..matrix_lib.io.kept_runs import Kept
from .live import LivePanel
from .places import new_place
from .recording import LAYERS_TIP, points_problem, recorder_config, recording_inputs, storage_inputs
from .shown import saved_file
from .sockets import CaptureSocket, read_layers, warn_if_broken
from .viewer import end_live, live_feed, shown_in_viewer


class MatrixSampleAttention(io.ComfyNode):
    """SamplerCustomAdvanced that also returns what the model attended to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixSampleAttention",
            display_name="MATRIX Sample and Capture Attention",
            category="MATRIX/capture",
            description="Samples exactly as SamplerCustomAdvanced does, with any sampler, and records where the model "
            "looks: for every layer and step, from each place of the video to the words you bound, and from each "
            "instance's first-frame tokens to the whole clip. The latent is bit for bit what it would have been. The "
            "viewer in the node shows the maps as soon as the run ends.",
            search_aliases=[
                "attention map",
                "capture attention",
                "DAAM",
                "SamplerCustomAdvanced",
                "cross attention",
                *(spec.search_name for spec in REGISTRY.values()),
            ],
            inputs=[
                io.Noise.Input("noise", tooltip="As for SamplerCustomAdvanced."),
                io.Guider.Input(
                    "guider",
                    tooltip="A guider whose positive conditioning comes from MATRIX Bind Prompt (it carries the words "
                    "and, where connected, the mask tracks).",
                ),
                io.Sampler.Input("sampler", tooltip="Any of the host's samplers."),
                io.Sigmas.Input("sigmas", tooltip="Any of the host's schedulers."),
                io.Latent.Input("latent_image", tooltip="The empty or encoded video latent to start from."),
                *recording_inputs(),
                CaptureSocket.Input(
                    "previous",
                    optional=True,
                    tooltip="The capture of the steps before these, of another MODEL: Wan 2.2's high-noise expert in "
                    "front of its low-noise one. Both become one capture.",
                ),
                *storage_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="output", tooltip="The sampled latent."),
                io.Latent.Output(display_name="denoised_output", tooltip="The last estimate of the clean latent."),
                CaptureSocket.Output(display_name="capture", tooltip="The maps, for MATRIX Preview Attention."),
                io.String.Output(display_name="report", tooltip="What was recorded, and anything to know about it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, points: str | None = None) -> bool | str:
        return points_problem(points)

    @classmethod
    def execute(
        cls,
        noise,
        guider,
        sampler,
        sigmas,
        latent_image,
        layers,
        step_bins,
        budget_mb,
        words,
        instances,
        previous=None,
        storage="float16",
        keep_as="",
        words_look=False,
        sound=False,
        heads="",
        points="",
    ) -> io.NodeOutput:
        model = guider.model_patcher
        if len(sigmas) < 2:
            raise ValueError(f"there is no step to sample: the sigmas hold {len(sigmas)} values. Is denoise 0?")
        check_positives(backbone_of(model), guider.original_conds.get("positive") or [], words or words_look or sound)
        more = (words_look, sound, heads, points)
        config = recorder_config(model, layers, step_bins, budget_mb, words, instances, storage, *more)
        kept = Kept(new_place(keep_as)[0]) if keep_as.strip() else None
        recorders: list[Recorder] = []
        live = live_feed()

        def start(info: RunInfo) -> Session:
            recorder = recorder_of(config, info, model_token(model), kept, live)
            recorders.append(recorder)
            if previous is not None:
                bindings = [binding for binding, _ in info.given if binding is not None] * info.samples
                check_next(
                    previous, info.spec.name, info.grid, recorder.layers, bindings, config.heads, recorder.points
                )
            return Session([recorder])

        watched = copy.copy(guider)
        watched.model_patcher = attach(model, start)
        watched.model_options = watched.model_patcher.model_options
        output, denoised = SamplerCustomAdvanced.execute(noise, watched, sampler, sigmas, latent_image).result
        capture = recorders[-1].result()
        capture.meta["notes"] = [*warn_if_broken(model), *capture.meta["notes"]]
        if kept is not None:
            kept.finish(capture)
        if previous is not None:
            capture = extend(previous, capture)
        report = describe(capture)
        files = saved_file(kept.file) if kept is not None and kept.file is not None else {}
        shown = shown_in_viewer(capture)
        end_live()
        return io.NodeOutput(output, denoised, capture, report, ui={"text": (report,)} | files | shown)


class MatrixLivePreview(io.ComfyNode):
    """A MODEL patch that shows maps on the sampler while it works."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixLivePreview",
            display_name="MATRIX Live Attention Preview",
            category="MATRIX/capture",
            description="Patches a MODEL so that any sampler shows, after every step, where a few layers look for each "
            "bound word. Keeps nothing and changes nothing in the result.",
            search_aliases=["attention preview", "live attention", "watch attention"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"{families()}, from any loader.",
                ),
                io.String.Input(
                    "layers", default="", tooltip=LAYERS_TIP + " Empty: dominant layers if known, else three of them."
                ),
                io.Combo.Input(
                    "kind",
                    options=["words (video to text)", "instances over time (video to video)"],
                    tooltip="Words, or where each instance's first-frame tokens look (needs mask tracks).",
                ),
                io.Int.Input(
                    "frames", default=3, min=1, max=8, tooltip="Frames of the clip in each cell of the panel."
                ),
                io.Int.Input("width", default=768, min=256, max=2048, step=16, tooltip="Width of the panel in pixels."),
            ],
            outputs=[io.Model.Output(tooltip="The same MODEL, watched. Connect it to any sampler.")],
        )

    @classmethod
    def execute(cls, model, layers, kind, frames, width) -> io.NodeOutput:
        wanted: MapKind = "v2t" if kind.startswith("words") else "v2v"
        chosen = read_layers(layers or "some", model)
        warn_if_broken(model)

        def start(info: RunInfo) -> Session:
            return Session([LivePanel(info, chosen, wanted, frames, width)])

        return io.NodeOutput(attach(model, start))


NODES = [MatrixSampleAttention, MatrixLivePreview]
