"""Captions of instances: each person's own words, in that person's own place."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..matrix_lib.core.words.captions import parse_captions
from ..matrix_lib.draw.tokens import table_image, tokens_markdown
from ..matrix_lib.hosts.comfy.captions import add_captions
from .sockets import BindingSocket

_CAPTIONS = "left: a man in a red shirt waves\nright: a woman in a blue dress sits down"


class MatrixInstanceCaptions(io.ComfyNode):
    """A CONDITIONING with a caption for each instance behind the shared prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixInstanceCaptions",
            display_name="MATRIX Instance Captions",
            category="MATRIX/words",
            description=(
                "Gives each instance a caption of its own, encoded apart, beside the prompt that all share. With "
                "MATRIX Steer Attention, mode 'instance captions', each caption is seen where its instance's mask "
                "track is, and nowhere else."
            ),
            search_aliases=[
                "regional prompting",
                "caption per person",
                "multi prompt",
                "attribute binding",
                "area conditioning",
                "conditioning concat",
                "several people",
            ],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="Text encoder of CogVideoX, Wan, LTX-Video or Cosmos Predict 2, the one of the prompt.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What all instances share, from MATRIX Bind Prompt, with mask tracks of the instances.",
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    dynamic_prompts=True,
                    default=_CAPTIONS,
                    tooltip=(
                        "NAME: caption, one a line; the names are those of the mask tracks. What an instance is and "
                        "does, as a whole sentence. ComfyUI's weights work; a line that begins with # says nothing."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", tooltip="Prompt and captions. The MODEL needs MATRIX Steer Attention, too."
                ),
                BindingSocket.Output("binding", tooltip="Which text tokens are whose caption."),
                io.String.Output("table", tooltip="Phrases and tokens with their positions, as Markdown."),
                io.Image.Output("picture", tooltip="Every token with its position."),
            ],
        )

    @classmethod
    def execute(cls, clip, conditioning, captions) -> io.NodeOutput:
        made, binding = add_captions(clip, conditioning, parse_captions(captions))
        table, picture = tokens_markdown(binding), table_image(binding, made[0][1]["matrix_tracks"])
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | {"text": (table,)}
        return io.NodeOutput(made, binding, table, picture, ui=shown)


NODES: list[type[io.ComfyNode]] = [MatrixInstanceCaptions]
