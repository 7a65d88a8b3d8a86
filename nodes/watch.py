"""Nodes that record under any sampler, and hand out what was recorded."""

from __future__ import annotations

from comfy_api.latest import io

from ..matrix_lib.backbones import families
from ..matrix_lib.hosts.comfy.watching import RUNS, Watch, model_token
from ..matrix_lib.instrument.joining import segments
from ..matrix_lib.instrument.readings.ranking import describe
from ..matrix_lib.io.kept_runs import Kept
from .places import new_place
from .recording import points_problem, recorder_config, recording_inputs, storage_inputs
from .sockets import CaptureSocket, WatchSocket, warn_if_broken
from .viewer import end_live, live_feed, shown_in_viewer


class MatrixWatchAttention(io.ComfyNode):
    """A MODEL patch that records under any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixWatchAttention",
            display_name="MATRIX Watch Attention",
            category="MATRIX/capture",
            description="Patches a MODEL so that whatever sampler takes it (KSampler, KSamplerAdvanced, any other) "
            "records where the model looks. MATRIX Collect Capture behind the sampler hands it out. The latent is bit "
            "for bit what it would have been.",
            search_aliases=["capture attention", "KSampler", "KSamplerAdvanced", "Wan 2.2", "two experts"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"{families()}, from any loader.",
                ),
                *recording_inputs(),
                io.String.Input(
                    "expert",
                    default="",
                    tooltip="A name for this model where several take turns in one run, such as 'high noise' and 'low "
                    "noise' for Wan 2.2. Empty: they are numbered.",
                ),
                *storage_inputs(),
            ],
            outputs=[
                io.Model.Output(tooltip="The same MODEL, watched. Connect it to any sampler."),
                WatchSocket.Output(display_name="watch", tooltip="For MATRIX Collect Capture behind that sampler."),
            ],
        )

    @classmethod
    def validate_inputs(cls, points: str | None = None) -> bool | str:
        return points_problem(points)

    @classmethod
    def execute(
        cls, model, layers, step_bins, budget_mb, words, instances, expert="", storage="float16", keep_as="",
        words_look=False, sound=False, heads="", points="",
    ) -> io.NodeOutput:  # fmt: skip
        more = (words_look, sound, heads, points)
        config = recorder_config(model, layers, step_bins, budget_mb, words, instances, storage, *more)
        notes = tuple(warn_if_broken(model))
        keeper = None
        if keep_as.strip():
            new_place(keep_as)  # a name that cannot be is told now

            def keeper() -> Kept:
                return Kept(new_place(keep_as)[0])

        watch = Watch(config, expert.strip(), model_token(model), keeper, notes, live_feed)
        return io.NodeOutput(watch.attach(model), watch)


class MatrixCollectCapture(io.ComfyNode):
    """The capture of the run that made a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixCollectCapture",
            display_name="MATRIX Collect Capture",
            category="MATRIX/capture",
            description="Hands out what MATRIX Watch Attention recorded while this latent was sampled. Where the run "
            "went on from another watched one (two KSamplerAdvanced, Wan 2.2's two experts), both come as one capture. "
            "The viewer in the node shows it.",
            search_aliases=["capture attention", "attention maps", "get capture", "Wan 2.2"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="The LATENT of the sampler itself, or its clip alone: without sound, guide frames or "
                    "references.",
                ),
                WatchSocket.Input("watch", tooltip="Of the MATRIX Watch Attention whose MODEL that sampler took."),
            ],
            outputs=[
                CaptureSocket.Output(display_name="capture", tooltip="The maps, for MATRIX Preview Attention."),
                io.String.Output(display_name="report", tooltip="What was recorded, and anything to know about it."),
            ],
        )

    @classmethod
    def execute(cls, latent, watch) -> io.NodeOutput:
        capture = RUNS.capture(latent["samples"], watch.key)
        report = describe(capture)
        shown = shown_in_viewer(capture)
        end_live()
        return io.NodeOutput(capture, report, ui={"text": (report,)} | shown)


class MatrixJoinSegments(io.ComfyNode):
    """Captures of a clip's segments as one capture of the clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixJoinSegments",
            display_name="MATRIX Join Segments",
            category="MATRIX/capture",
            description="Joins captures of a long clip's segments (Wan Animate and others that continue a clip) into "
            "one capture of the clip. Frames that a segment takes over from the one before count once.",
            search_aliases=["long video", "continue motion", "extend video", "Wan Animate", "merge captures"],
            inputs=[
                io.Autogrow.Input(
                    "parts",
                    template=io.Autogrow.TemplatePrefix(
                        CaptureSocket.Input("capture", tooltip="The capture of one segment."),
                        prefix="capture",
                        min=2,
                        max=32,
                    ),
                    tooltip="The captures, in the order of the clip; a new socket appears as you connect them.",
                ),
                io.Int.Input(
                    "shared_frames",
                    default=5,
                    min=1,
                    max=100000,
                    tooltip="First frames of each later segment that are the last ones of the segment before: "
                    "trim_image of the node that continues the clip; 1 where a segment begins with the last frame of "
                    "the one before. MiniMax H3 takes 5: its frames go in rounds of 17.",
                ),
            ],
            outputs=[
                CaptureSocket.Output(display_name="capture", tooltip="The maps of the whole clip."),
                io.String.Output(display_name="report", tooltip="What it holds, and where the segments begin."),
            ],
        )

    @classmethod
    def execute(cls, parts, shared_frames=5) -> io.NodeOutput:
        capture = segments([part for part in parts.values() if part is not None], shared_frames)
        report = describe(capture)
        return io.NodeOutput(capture, report, ui={"text": (report,)} | shown_in_viewer(capture))


NODES: list[type[io.ComfyNode]] = [MatrixWatchAttention, MatrixCollectCapture, MatrixJoinSegments]
