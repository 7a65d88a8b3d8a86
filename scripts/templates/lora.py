"""The workflows with an alignment LoRA, as drafts for `scripts.workflows`.

Both run with mini and its example LoRAs and need no files: the first frame is three coloured squares on grey, two of
them alike. Everything but the mask is the same in both halves of a workflow: prompt, first frame, noise.

Positions are canvas pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..draft import BLUE, GREEN, GREY, RED, Draft, Node
from .squares import FPS, FRAMES, HEIGHT, SIDE, STEPS, WIDTH, papers

__all__ = ["DRAFTS", "EXAMPLES", "GAP", "Example"]

Place = tuple[int, int]
CFG, SEED = 3.0, 5
GAP = 8  # pixels between the two halves of the comparison


@dataclass(frozen=True)
class Example:
    """What a workflow shows. `twins` are the places (left, top) of the two squares that look alike, `other` that of the
    third; `asked` the lines of the boxes that name a twin, with {} for its box."""

    name: str
    lora: str
    kind: str
    prompt: str
    phrases: str
    twins: tuple[Place, Place]
    other: Place
    asked: str
    note: str
    strength: float = 1.0


MATRIX_NOTE = """\
### Who acts: an ID map for look-alikes
Two red squares look alike, so *the red square joins the blue square* does not say which of them moves. **Above**, the
boxes name the left one, **below**, the right one. Prompt, first frame and noise are the same.

*Mask Condition* paints the named instances of the first frame in their colours, which is MATRIX's ID map, and *Apply
LoRA* widens mini's input to read it. Bypass *Apply LoRA* (Ctrl+B): the words then decide alone, and both halves agree.

`mini_matrix.safetensors` comes with this pack; how it was trained is on *Apply LoRA*, and in docs/alignment-losses.md.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`) and a LoRA that was made for it (in
`ComfyUI/models/loras`); *Apply LoRA* says what it matched and what the prompt has
to look like (*form* in *Bind Prompt* writes it so). Load a first frame, and connect boxes or masks of every instance,
in the order of the LoRA's colours."""
TAVID_NOTE = """\
### To whom: a target mask for look-alikes
Two red squares look alike, so *the blue square lifts the red square* does not say which of them is lifted. **Above**,
the mask of the target is on the left one, **below**, on the right one. Prompt, first frame and noise are the same.

*Mask Condition* gives the model the target's mask in the first frame, as TAViD does, and *Apply LoRA* widens mini's
input by the one channel that reads it. Bypass *Apply LoRA* (Ctrl+B): the words then decide alone, and both halves
agree.

The strength of 1.6 is on purpose: at 1 this small LoRA decides for the right square and for both on the left.

`mini_tavid.safetensors` comes with this pack; how it was trained is on *Apply LoRA*, and in docs/alignment-losses.md.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`) and a LoRA that was made for it (in
`ComfyUI/models/loras`). TAViD's own weights want the word *target* before the
noun: set *form* in *Bind Prompt*. Load a first frame, and connect a box or a mask of the target alone."""
MATRIX = Example(
    name="02_matrix_lora",
    lora="mini_matrix.safetensors",
    kind="ID map",
    prompt="the red square joins the blue square",
    phrases="red square: the red square [subject]\nblue square: the blue square [object]\n"
    "joins = verb(red square -> blue square)",
    twins=((18, 22), (86, 22)),
    other=(52, 84),
    asked="red square (subject): 0: {twin}\nblue square (object): 0: {other}",
    note=MATRIX_NOTE,
)
TAVID = Example(
    name="03_target_aware",
    lora="mini_tavid.safetensors",
    kind="target mask",
    prompt="the blue square lifts the red square",
    phrases="blue square: the blue square [subject]\nred square: the red square [object]\n"
    "lifts = verb(blue square -> red square)",
    twins=((16, 90), (88, 90)),
    other=(52, 46),
    asked="red square (object): 0: {twin}",
    note=TAVID_NOTE,
    strength=1.6,
)
EXAMPLES = (MATRIX, TAVID)


def _box(at: Place) -> str:
    return f"{at[0]} {at[1]} {at[0] + SIDE} {at[1] + SIDE}"


def _first_frame(d: Draft, example: Example, x: int, y: int) -> Node:
    """Two red squares and a blue one on grey."""
    ground, red, blue = papers(d, x, y)
    frame, parts = ground, ((red, example.twins[0], "Red"), (red, example.twins[1], "The same red"))
    for row, (square, at, title) in enumerate((*parts, (blue, example.other, "First frame"))):
        frame = d.add("ImageCompositeMasked", (x + 360, y + 210 * row), (300, 160), title, destination=frame[0])
        frame.inputs.update(source=square[0], x=at[0], y=at[1], resize_source=False)
    return frame


def _draft(example: Example) -> Draft:
    """A first frame with two that look alike, and a clip for the mask of either, beside each other."""
    d = Draft(example.name)
    d.group("Model and LoRA", -20, -60, 360, 560, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    wide = d.add("MatrixApplyLoRA", (0, 250), (320, 220), model=model[0], lora=example.lora)
    wide.inputs["strength"] = example.strength
    d.note(example.note, (0, 540), (320, 700), "Read me first")

    d.group("First frame", 380, -60, 720, 660, GREEN)
    first = _first_frame(d, example, 400, 0)

    d.group("Words", 380, 640, 720, 600, RED)
    bound = d.add("MatrixBindPrompt", (400, 700), (340, 460), clip=model[1])
    bound.inputs.update(prompt=example.prompt, phrases=example.phrases, form="as written")
    nothing = d.add("CLIPTextEncode", (780, 700), (300, 120), "Negative prompt", clip=model[1], text="")

    d.group("The same for both", 1140, -60, 380, 1300, GREY)
    start = d.add("MatrixImageCondition", (1160, 0), (340, 260), model=wide[0], positive=bound[0], negative=nothing[0])
    start.inputs.update(vae=model[2], image=first[0], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    noise = d.add("RandomNoise", (1160, 310), (340, 90), noise_seed=SEED)
    sampler = d.add("KSamplerSelect", (1160, 450), (340, 60), sampler_name="euler")
    sigmas = d.add("BasicScheduler", (1160, 560), (340, 120), model=wide[0], scheduler="simple")
    sigmas.inputs.update(steps=STEPS, denoise=1.0)

    columns = []
    for row, (side, at) in enumerate(zip(("left", "right"), example.twins)):
        y = 660 * row
        d.group(f"The mask is on the {side} one", 1560, y - 60, 1500, 620, GREEN)
        tracks = d.add("MatrixBoxTracks", (1580, y), (340, 360), images=first[0], fps=FPS)
        tracks.inputs.update(boxes=example.asked.format(twin=_box(at), other=_box(example.other)), frames=FRAMES)
        tracks.inputs.update(width=WIDTH, height=HEIGHT, hold=True)
        mask = d.add("MatrixMaskCondition", (1960, y), (340, 500), model=wide[0], positive=start[0], negative=start[1])
        mask.inputs.update(tracks=tracks[0], latent=start[2], kind=example.kind, vae=model[2])
        guider = d.add("CFGGuider", (2340, y), (340, 110), model=wide[0], positive=mask[0], negative=mask[1], cfg=CFG)
        sample = d.add("SamplerCustomAdvanced", (2340, y + 170), (340, 140), noise=noise[0], guider=guider[0])
        sample.inputs.update(sampler=sampler[0], sigmas=sigmas[0], latent_image=start[2])
        frames = d.add("VAEDecode", (2340, y + 370), (340, 60), samples=sample[0], vae=model[2])
        column = d.add("ImageStitch", (2720, y), (320, 160), f"Mask and clip, {side}", image1=mask[2])
        column.inputs.update(image2=frames[0], direction="down", match_image_size=True, spacing_width=0)
        columns.append(column)

    d.group("Compare", 3100, -60, 760, 620, BLUE)
    both = d.add("ImageStitch", (3120, 0), (320, 160), "Left and right", image1=columns[0][0], image2=columns[1][0])
    both.inputs.update(direction="right", match_image_size=True, spacing_width=GAP, spacing_color="white")
    video = d.add("CreateVideo", (3120, 220), (320, 110), images=both[0], fps=FPS)
    saved = d.add("SaveVideo", (3480, 0), (360, 520), "Save comparison", video=video[0])
    saved.inputs.update(filename_prefix=f"matrix/{example.name[3:]}")
    return d


def matrix_lora() -> Draft:
    """02: a MATRIX LoRA, and the ID map that names one or the other of two look-alikes as the one who acts."""
    return _draft(MATRIX)


def target_aware() -> Draft:
    """03: a TAViD LoRA, and the mask that marks one or the other of two look-alikes as the target."""
    return _draft(TAVID)


DRAFTS = [matrix_lora, target_aware]
