"""Nodes that say which layers matter."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..matrix_lib.draw.capture import Choice, attention_chart, to_image
from ..matrix_lib.instrument.capture import MapKind
from ..matrix_lib.instrument.readings.ranking import expert_tables, layer_table, rank_layers
from .sockets import CaptureSocket, LayersSocket, TracksSocket


class MatrixAnalyseLayers(io.ComfyNode):
    """Capture and tracks to a table, a chart, and the layers that attend to the masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixAnalyseLayers",
            display_name="MATRIX Analyse Layers",
            category="MATRIX/capture",
            description="Scores every layer of a capture by how much of its attention lies on the masks of the "
            "instances (AAS), against chance, and names the best layers of each kind.",
            search_aliases=[
                "AAS",
                "attention alignment",
                "dominant layers",
                "which layers",
                "layer analysis",
                "interaction",
            ],
            is_output_node=True,
            inputs=[
                CaptureSocket.Input("capture", tooltip="What a sampler recorded, or a capture from a file."),
                TracksSocket.Input("tracks", tooltip="Mask tracks of the instances, by the names that were bound."),
                io.Int.Input(
                    "keep", default=3, min=1, max=64, tooltip="How many layers of each kind to name, the best first."
                ),
                io.Int.Input(
                    "prompt",
                    default=0,
                    min=0,
                    max=1023,
                    advanced=True,
                    tooltip="Which prompt and sample of the capture, 0 the first.",
                ),
                io.String.Input(
                    "expert",
                    default="all",
                    optional=True,
                    advanced=True,
                    tooltip="Where several models took turns (Wan 2.2's experts): whose steps to look at, by name as "
                    "the report of the capture has it: 'expert 1'. 'all': all steps, and each expert's table below.",
                ),
                io.Boolean.Input(
                    "without_sinks",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Leave attention sinks (places that everybody looks at) out of table and ranking; the "
                    "report names them. Charts are of all places.",
                ),
            ],
            outputs=[
                LayersSocket.Output(display_name="layers", tooltip="The best layers, for nodes that take layers."),
                io.String.Output(display_name="text", tooltip="The same as text, for any 'layers' field: '7, 11, 12'."),
                io.String.Output(display_name="report", tooltip="Every layer's score beside chance, as Markdown."),
                io.Image.Output(
                    display_name="words_chart", tooltip="Video to text: layers by steps, and each layer's share."
                ),
                io.Image.Output(
                    display_name="instances_chart",
                    tooltip="Video to video, likewise. A capture of one kind fills both outputs with it.",
                ),
            ],
        )

    @classmethod
    def execute(cls, capture, tracks, keep, prompt, expert="all", without_sinks=False) -> io.NodeOutput:
        everyone = expert.strip().lower() in ("", "all")
        capture = capture if everyone else capture.of_expert(expert)
        layers = rank_layers(capture, tracks, keep, prompt, without_sinks)
        tables = [
            layer_table(capture, tracks, layers, prompt, without_sinks),
            expert_tables(capture, tracks, keep, prompt, without_sinks),
        ]
        report = "\n\n".join(table for table in tables if table)
        kinds: list[MapKind] = [kind for kind in ("v2t", "v2v") if kind in layers.scores]
        pictures = [attention_chart(capture, Choice(kind=kind, stream=prompt), tracks) for kind in kinds]
        charts = [to_image([picture], 1) for picture in pictures]
        shown = ui.PreviewImage(charts[0], cls=cls).as_dict() | {"text": (report,)}
        return io.NodeOutput(layers, layers.text, report, charts[0], charts[-1], ui=shown)


NODES: list[type[io.ComfyNode]] = [MatrixAnalyseLayers]
