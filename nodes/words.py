"""Words: which phrases of a prompt name which instance, and which are the verb."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..matrix_lib.backbones import families, text_lengths
from ..matrix_lib.draw.tokens import table_image, tokens_markdown
from ..matrix_lib.hosts.comfy.bound_clip import bound_clip, unbound, with_binding
from ..matrix_lib.hosts.comfy.prompts import bind_prompt, encode, reuse
from .sockets import BindingSocket, TracksSocket, start_frame

_FORMS = {
    "as written": "plain",
    "<idK> tags": "tags",
    "<idK> tags, MATRIX's token ids": "tag_ids",
    "target word (TAViD)": "target",
}
_LENGTHS = {"cut to the model's length": "cut", "keep every token": "keep"}

_EXAMPLE = "A man on a bicycle rides up behind the white van."
_PHRASES = "cyclist: a man on a bicycle\nvan: the white van\nrides up behind = verb(cyclist -> van)"


class MatrixBindPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixBindPrompt",
            display_name="MATRIX Bind Prompt",
            category="MATRIX/words",
            description=(
                "Encodes a prompt and remembers which of its words name which instance and which are the verb, down to "
                "the text tokens that the model's attention sees."
            ),
            search_aliases=[
                "phrases",
                "grounding",
                "token positions",
                "text encode",
                "instance words",
                "verb",
                "who does what",
                "interaction",
                "wan prompt",
                "MATRIX",
            ],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=f"Text encoder of {families()}.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default=_EXAMPLE,
                    tooltip="The prompt, with ComfyUI's weights and escapes if you like.",
                ),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default=_PHRASES,
                    tooltip=(
                        "One a line. NAME: words [role] for an instance, words = verb(NAME -> NAME) for a verb, words "
                        "alone to watch them. a | b for several phrases, #2 for the second occurrence, #all for every "
                        "one, 'picks ... up' for parted words, @0-1.5s or @2s- at the end for words in time."
                    ),
                ),
                io.Combo.Input(
                    "form",
                    options=list(_FORMS),
                    default="as written",
                    tooltip=(
                        "How the prompt is written out: as it is; with a tag before each instance, for weights that "
                        "MATRIX trained (as characters, or as the token ids of its training); or with the word target "
                        "before the object, for TAViD's weights."
                    ),
                ),
                io.Combo.Input(
                    "length",
                    options=list(_LENGTHS),
                    default="cut to the model's length",
                    advanced=True,
                    tooltip=(
                        f"A prompt longer than the model was trained with ({text_lengths()}) is cut "
                        "there, as diffusers does, or kept whole, as ComfyUI does by itself."
                    ),
                ),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Mask tracks of the instances, by the same names. They travel along in the conditioning.",
                ),
                BindingSocket.Input(
                    "binding",
                    optional=True,
                    tooltip=(
                        "A binding made before: its prompt and phrases are used instead of the boxes here. This text "
                        "encoder has to make the same tokens of it."
                    ),
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="HunyuanVideo I2V only: the LLaVA image embedding, whose tokens come before the words.",
                ),
                io.Int.Input(
                    "image_interleave",
                    default=2,
                    min=1,
                    max=512,
                    advanced=True,
                    tooltip="HunyuanVideo I2V only: keeps every n-th image token. Lower is more image.",
                ),
                start_frame(),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="MiniMax H3 with a first frame only: that frame, of the clip's size. Its text encoder "
                    "looks at it, and its rows come before the words.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="The encoded prompt, with binding and tracks on board."),
                BindingSocket.Output("binding", tooltip="What each phrase means, and which text tokens it has."),
                io.String.Output("table", tooltip="Phrases and tokens with their positions, as Markdown."),
                io.Image.Output(
                    "picture", tooltip="Every token with its position, phrases in their instances' colours."
                ),
                io.Clip.Output(
                    "bound_clip",
                    tooltip="The text encoder for a node that encodes this prompt itself (MiniMax H3 Image to Video, "
                    "Reference to Video): its conditioning carries binding and tracks.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        prompt,
        phrases,
        form,
        length,
        tracks=None,
        binding=None,
        clip_vision_output=None,
        image_interleave=2,
        start_frame=0,
        image=None,
    ) -> io.NodeOutput:
        options = {"overlong": _LENGTHS[length], "vision": clip_vision_output, "image_step": image_interleave}
        options["pictures"], clip = image, unbound(clip)
        if binding is None:
            read, binding = bind_prompt(clip, prompt, phrases, _FORMS[form], **options)
        else:
            prompt, (read, binding) = binding.prompt, reuse(clip, binding, _FORMS[form], **options)
        if tracks is not None:
            tracks = tracks.starting(start_frame)
            tracks = tracks.spelled(phrase.name for phrase in binding.instances)
            binding.check_tracks(tracks.names)
        conditioning = with_binding(encode(clip, read), binding, tracks)
        same = {"overlong": _LENGTHS[length], "tag_ids": _FORMS[form] == "tag_ids"}
        bound = bound_clip(clip, prompt, binding, tracks, **same)
        picture, table = table_image(binding, tracks), tokens_markdown(binding)
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | {"text": (table,)}
        return io.NodeOutput(conditioning, binding, table, picture, bound, ui=shown)


NODES: list[type[io.ComfyNode]] = [MatrixBindPrompt]
