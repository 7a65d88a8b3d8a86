"""The workflows with an alignment LoRA, as drafts for `scripts.workflows`.

Both run with mini and its example LoRAs and need no files: the first frame is three coloured squares on grey, two of
them alike. Everything but the mask is the same in both halves of a workflow: prompt, first frame, noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft
from .squares import FPS, FRAMES, HEIGHT, LOOK_ALIKES, SIDE, STEPS, WIDTH, still

__all__ = ["DRAFTS", "EXAMPLES", "GAP", "Example"]

Place = tuple[int, int]
CFG, SEED = 3.0, 5
GAP = 8  # pixels between the two halves of the comparison


@dataclass(frozen=True)
class Example:
    """What a workflow shows. `picture` is its first frame, one of LOOK_ALIKES; `asked` the lines of the boxes that name
    a twin, with {} for its box."""

    name: str
    lora: str
    kind: str
    prompt: str
    phrases: str
    picture: str
    asked: str
    note: str
    strength: float = 1.0

    @property
    def twins(self) -> tuple[Place, Place]:
        """Left and top of the two squares that look alike."""
        return LOOK_ALIKES[self.picture][:2]

    @property
    def other(self) -> Place:
        """Left and top of the third."""
        return LOOK_ALIKES[self.picture][2]


MATRIX_NOTE = """\
### Who acts: an ID map for look-alikes
Two red squares look alike, so *the red square joins the blue square* does not say which of them moves. In
*Left* the boxes name the left one, in *Right* the right one. Prompt, first frame and noise are the same.

*Mask Condition* paints the named instances of the first frame in their colours, which is MATRIX's ID map, and *Apply
LoRA* widens mini's input to read it. Bypass *Apply LoRA* (Ctrl+B): the words then decide alone, and both halves agree.

`mini_matrix.safetensors` comes with this pack; how it was trained is on *Apply LoRA*, and in docs/alignment-losses.md.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`) and a LoRA that was made for it (in
`ComfyUI/models/loras`); *Apply LoRA* says what it matched and what the prompt has
to look like (*form* in *Bind Prompt* writes it so). Load a first frame, and connect boxes or masks of every instance,
in the order of the LoRA's colours."""
TAVID_NOTE = """\
### To whom: a target mask for look-alikes
Two red squares look alike, so *the blue square lifts the red square* does not say which of them is lifted. In
*Left* the mask of the target is on the left one, in *Right* on the right one. Prompt, first frame and noise are the
same.

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
    picture="look-alikes-above",
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
    picture="look-alikes-below",
    asked="red square (object): 0: {twin}",
    note=TAVID_NOTE,
    strength=1.6,
)
EXAMPLES = (MATRIX, TAVID)


def _box(at: Place) -> str:
    return f"{at[0]} {at[1]} {at[0] + SIDE} {at[1] + SIDE}"


def _draft(example: Example) -> Draft:
    """A first frame with two that look alike, and a clip for the mask of either, beside each other."""
    d = Draft(example.name)
    d.group("Start here", 0, GREY)
    d.note(example.note, 1060)

    d.group("Picture, model and LoRA", 1, BLUE)
    first = still(d, example.picture)
    model = d.add("MatrixLoadVideoDiT", source="mini")
    wide = d.add("MatrixApplyLoRA", model=model[0], lora=example.lora)
    wide.inputs["strength"] = example.strength

    d.group("Words", 2, RED)
    bound = d.add("MatrixBindPrompt", SHOWN, clip=model[1])
    bound.inputs.update(prompt=example.prompt, phrases=example.phrases, form="as written")
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")

    d.group("The same for both", 3)
    start = d.add("MatrixImageCondition", model=wide[0], positive=bound[0], negative=nothing[0])
    start.inputs.update(vae=model[2], image=first, width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    noise = d.add("RandomNoise", noise_seed=SEED)
    sampler = d.add("KSamplerSelect", sampler_name="euler")
    sigmas = d.add("BasicScheduler", model=wide[0], scheduler="simple")
    sigmas.inputs.update(steps=STEPS, denoise=1.0)

    columns = []
    for row, (side, at) in enumerate(zip(("left", "right"), example.twins)):
        d.group(f"{side.capitalize()}: the mask is on the {side} one", 4 + row, GREEN, 16)
        tracks = d.add("MatrixBoxTracks", images=first, fps=FPS)
        tracks.inputs.update(boxes=example.asked.format(twin=_box(at), other=_box(example.other)), frames=FRAMES)
        tracks.inputs.update(width=WIDTH, height=HEIGHT, hold=True)
        mask = d.add("MatrixMaskCondition", SHOWN, model=wide[0], positive=start[0], negative=start[1])
        mask.inputs.update(tracks=tracks[0], latent=start[2], kind=example.kind, vae=model[2])
        guider = d.add("CFGGuider", model=wide[0], positive=mask[0], negative=mask[1], cfg=CFG)
        sample = d.add("SamplerCustomAdvanced", noise=noise[0], guider=guider[0])
        sample.inputs.update(sampler=sampler[0], sigmas=sigmas[0], latent_image=start[2])
        columns.append((mask, sample))

    d.group("Compare", 6, BLUE)
    stacked = []
    for side, (mask, sample) in zip(("left", "right"), columns):
        frames = d.add("VAEDecode", samples=sample[0], vae=model[2])
        column = d.add("ImageStitch", 0, f"Mask and clip, {side}", image1=mask[2])
        column.inputs.update(image2=frames[0], direction="down", match_image_size=True, spacing_width=0)
        stacked.append(column)
    both = d.add("ImageStitch", 0, "Left and right", image1=stacked[0][0], image2=stacked[1][0])
    both.inputs.update(direction="right", match_image_size=True, spacing_width=GAP, spacing_color="white")
    video = d.add("CreateVideo", images=both[0], fps=FPS)
    saved = d.add("SaveVideo", 300, "Save comparison", video=video[0])
    saved.inputs.update(filename_prefix=f"matrix/{example.name[3:]}")
    return d


def matrix_lora() -> Draft:
    """02: a MATRIX LoRA, and the ID map that names one or the other of two look-alikes as the one who acts."""
    return _draft(MATRIX)


def target_aware() -> Draft:
    """03: a TAViD LoRA, and the mask that marks one or the other of two look-alikes as the target."""
    return _draft(TAVID)


DRAFTS = [matrix_lora, target_aware]
