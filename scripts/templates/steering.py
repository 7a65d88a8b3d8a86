"""The workflows that steer with mask tracks, as drafts for `scripts.workflows`.

They run with mini and need no files: the first frame is two coloured squares on grey, which mini knows.

Positions are canvas pixels.
"""

from __future__ import annotations

from typing import Any

from ..draft import BLUE, GREEN, GREY, RED, Draft, Node
from .squares import FPS, FRAMES, HEIGHT, SIDE, STEPS, WIDTH, papers

__all__ = ["DRAFTS"]

CFG = 1.0
RED_AT, BLUE_AT = (18, 52), (84, 52)
PHRASES = """\
red square: the red square [subject]
blue square: the blue square [object]
joins = verb(red square -> blue square)"""
MASKS = """\
### Steer with masks
**Above:** mini makes a driving clip, *the blue square joins the red square*. Its colours become masks, two for every
frame, and *Mask Tracks* names them.

**Below:** another prompt, *the red square joins the blue square*, other noise, and those tracks. For two thirds of the
steps, places attend to their own instance alone, and an instance's words are turned down where it is not: against the
prompt. Bypass both (Ctrl+B) to see what the prompt alone does. Strong settings like these want a CFG of 1 to 2.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`), load a first frame, and connect
masks of your own clip to *Mask Tracks*: from SAM 3, from *MATRIX SAM 2 Tracks*, or drawn. Names join masks and words.

How far each way of steering follows, and what it costs: docs/guidance.md."""
DRAG = """\
### Cut and drag
*Box Tracks* moves two boxes: the red square in an arc up and to the right, the blue one down. *Cut And Drag* makes a
rough animation of it, cut out of the first frame. *Dual-Clock Denoising* holds the model to that: two thirds of the
steps inside the boxes, half of them everywhere else; then the model is free. The prompt says something else.

Nothing is trained, and no step takes longer. Bypass *Dual-Clock Denoising* (Ctrl+B) to see what the prompt alone does.

**Your own:** choose an image-to-video model (in `ComfyUI/models/diffusers` or `diffusion_models`), load a first frame,
and write boxes in pixels of that picture; or connect
masks of a clip, or an animation of your own to *VAE Encode*. Large models follow with much less: begin with *inside*
0.18 and *outside* 0.08.

How far this follows, beside the other ways: docs/guidance.md."""
BOXES = """\
### Steer with boxes
Two boxes per instance are enough: *Box Tracks* moves them evenly between the frames that you write (`name: frame: x0 y0
x1 y1; ...`). The prompt says that the red square joins the blue one; the boxes lead it slowly up instead. Slow tracks
are followed best: docs/guidance.md.

*Steer Attention* divides attention by the boxes for two thirds of the steps; that is what leads the square. *Intrinsic
Denoising* is there to try: a few small denoising steps before each step, which ask that what is inside of a box stays
alike. On mini it changes little at this strength, and harms at the paper's. Bypass one (Ctrl+B) to see what it does.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`), load a first frame, set the size in
*First Frame*, and write boxes in pixels of that picture."""


def _squares(d: Draft, x: int, y: int) -> Node:
    """Two squares on grey: the first frame."""
    ground, red, blue = papers(d, x, y)
    one = d.add("ImageCompositeMasked", (x + 360, y), (300, 160), "Red on grey", destination=ground[0], source=red[0])
    one.inputs.update(x=RED_AT[0], y=RED_AT[1], resize_source=False)
    two = d.add("ImageCompositeMasked", (x + 360, y + 210), (300, 160), "First frame", destination=one[0])
    two.inputs.update(source=blue[0], x=BLUE_AT[0], y=BLUE_AT[1], resize_source=False)
    return two


def _sampled(
    d: Draft, x: int, y: int, model: Node, steered: Node, words: tuple[Any, Any], first: Node, seed: int
) -> Node:
    """The first frame and a prompt in, decoded frames out. 740 wide, 640 high."""
    start = d.add("MatrixImageCondition", (x, y), (340, 260), model=model[0], positive=words[0], negative=words[1])
    start.inputs.update(vae=model[2], image=first[0], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    noise = d.add("RandomNoise", (x, y + 310), (340, 90), noise_seed=seed)
    guider = d.add(
        "CFGGuider", (x, y + 440), (340, 110), model=steered[0], positive=start[0], negative=start[1], cfg=CFG
    )
    sampler = d.add("KSamplerSelect", (x + 380, y), (340, 60), sampler_name="euler")
    sigmas = d.add("BasicScheduler", (x + 380, y + 110), (340, 120), model=steered[0], scheduler="simple")
    sigmas.inputs.update(steps=STEPS, denoise=1.0)
    sample = d.add("SamplerCustomAdvanced", (x + 380, y + 280), (340, 140), noise=noise[0], guider=guider[0])
    sample.inputs.update(sampler=sampler[0], sigmas=sigmas[0], latent_image=start[2])
    return d.add("VAEDecode", (x + 380, y + 470), (340, 60), samples=sample[0], vae=model[2])


def _divided(d: Draft, x: int, y: int, model: Node) -> Node:
    """Attention divided by the tracks for two thirds of the steps: what docs/guidance.md found to make mini follow."""
    found = d.add("MatrixAttentionGuidance", (x, y), (300, 360), model=model[0], mode="masked attention (IVG-DA)")
    found.inputs.update({"mode.frozen_steps": 16, "mode.normalisation": "off", "mode.words": False})
    return found


def _shown(d: Draft, x: int, y: int, frames: Node, tracks: Node, name: str) -> None:
    """What came out, and the tracks over it."""
    over = d.add(
        "MatrixPreviewTracks", (x, y), (340, 430), "Tracks over the result", tracks=tracks[0], images=frames[0]
    )
    over.inputs.update(width=WIDTH, height=HEIGHT, length=FRAMES, model="mini", show="every frame", strength=0.0)
    drawn = d.add("CreateVideo", (x + 380, y), (340, 110), images=over[0], fps=FPS)
    saved = d.add("SaveVideo", (x + 380, y + 160), (340, 380), "Save with tracks", video=drawn[0])
    saved.inputs.update(filename_prefix=f"matrix/{name}_tracks")
    video = d.add("CreateVideo", (x + 760, y), (340, 110), images=frames[0], fps=FPS)
    d.add("SaveVideo", (x + 760, y + 160), (340, 380), "Save video", video=video[0], filename_prefix=f"matrix/{name}")


def steer_with_masks() -> Draft:
    """04: masks of a driving clip and another prompt in; a clip that follows the masks out."""
    d = Draft("04_steer_with_masks")
    d.group("Model", -20, -60, 360, 280, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    d.note(MASKS, (0, 260), (320, 560), "Read me first")

    d.group("First frame", 380, -60, 720, 660, GREEN)
    first = _squares(d, 400, 0)

    d.group("A driving clip", 1140, -60, 1140, 660, GREY)
    said = d.add("CLIPTextEncode", (1160, 0), (340, 140), "Driving prompt", clip=model[1])
    said.inputs.update(text="the blue square joins the red square")
    nothing = d.add("CLIPTextEncode", (1160, 190), (340, 120), "Negative prompt", clip=model[1], text="")
    driving = _sampled(d, 1540, 0, model, model, (said[0], nothing[0]), first, seed=3)

    d.group("Its masks", 2320, -60, 1140, 660, GREEN)
    masks = {}
    for row, channel in enumerate(("red", "blue")):
        seen = d.add("ImageToMask", (2340, 210 * row), (300, 90), f"How {channel}", image=driving[0], channel=channel)
        masks[channel] = d.add("ThresholdMask", (2340, 210 * row + 120), (300, 60), mask=seen[0], value=0.55)
    tracks = d.add("MatrixMaskTracks", (2680, 0), (340, 320), names="red square (subject)\nblue square (object)")
    tracks.inputs.update({"masks.mask0": masks["red"][0], "masks.mask1": masks["blue"][0]})
    tracks.inputs.update(images=driving[0], fps=FPS)
    over = d.add("MatrixPreviewTracks", (3060, 0), (380, 430), "Masks of the driving clip", tracks=tracks[0])
    over.inputs.update(images=driving[0], width=WIDTH, height=HEIGHT, length=FRAMES, model="mini")

    d.group("Words and steering", 380, 660, 720, 960, RED)
    bound = d.add("MatrixBindPrompt", (400, 720), (340, 460), clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt="the red square joins the blue square", phrases=PHRASES, form="as written")
    divided = _divided(d, 780, 720, model)
    steered = d.add("MatrixAttentionGuidance", (780, 1140), (300, 420), model=divided[0], mode="region bias")
    steered.inputs.update({"mode.words_up": 0.0, "mode.words_down": 2.0, "mode.track_up": 0.0, "mode.track_down": 0.0})
    steered.inputs["mode.layers"] = "all"

    d.group("The same first frame, other words", 1140, 660, 1140, 660, GREY)
    decoded = _sampled(d, 1540, 720, model, steered, (bound[0], nothing[0]), first, seed=8)
    d.group("Look", 2320, 660, 1140, 660, BLUE)
    _shown(d, 2340, 720, decoded, tracks, "steered")
    return d


def box_trajectory() -> Draft:
    """05: a few boxes, a prompt and a first frame in; a clip that follows the boxes out."""
    d = Draft("05_box_trajectory")
    d.group("Model", -20, -60, 360, 280, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    d.note(BOXES, (0, 260), (320, 520), "Read me first")

    d.group("First frame", 380, -60, 720, 660, GREEN)
    first = _squares(d, 400, 0)

    d.group("Where to, and in which words", 1140, -60, 760, 660, GREEN)
    tracks = d.add("MatrixBoxTracks", (1160, 0), (340, 360), images=first[0], fps=FPS, boxes=_boxes())
    tracks.inputs.update(frames=FRAMES, width=WIDTH, height=HEIGHT, hold=True)
    bound = d.add("MatrixBindPrompt", (1540, 0), (340, 460), clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt="the red square joins the blue square", phrases=PHRASES, form="as written")
    nothing = d.add("CLIPTextEncode", (1540, 510), (340, 80), "Negative prompt", clip=model[1], text="")

    d.group("Steer", 1940, -60, 360, 960, RED)
    divided = _divided(d, 1960, 0, model)
    moved = d.add("MatrixIntrinsicDenoising", (1960, 400), (320, 440), model=divided[0], iterations=2)
    moved.inputs.update({"scale": "share of the score", "scale.share": 0.2})

    d.group("Sample", 2340, -60, 760, 660, GREY)
    decoded = _sampled(d, 2360, 0, model, moved, (bound[0], nothing[0]), first, seed=8)
    d.group("Look", 3140, -60, 1140, 660, BLUE)
    _shown(d, 3160, 0, decoded, tracks, "boxes")
    return d


def cut_and_drag() -> Draft:
    """07: a few boxes and a first frame in; a clip that follows an animation made of them out."""
    d = Draft("07_cut_and_drag")
    d.group("Model", -20, -60, 360, 280, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    d.note(DRAG, (0, 260), (320, 620), "Read me first")

    d.group("First frame", 380, -60, 720, 660, GREEN)
    first = _squares(d, 400, 0)

    d.group("Where to, and in which words", 1140, -60, 760, 660, GREEN)
    arc = {0: RED_AT, 5: (24, 34), 11: (42, 18), 16: (62, 16)}
    boxes = _line("red square (subject)", arc) + "\n" + _line("blue square (object)", {0: BLUE_AT, 16: (80, 80)})
    tracks = d.add("MatrixBoxTracks", (1160, 0), (340, 360), images=first[0], fps=FPS, boxes=boxes)
    tracks.inputs.update(frames=FRAMES, width=WIDTH, height=HEIGHT, hold=True)
    said = d.add("CLIPTextEncode", (1540, 0), (340, 140), "Prompt", clip=model[1])
    said.inputs.update(text="the red square joins the blue square")
    nothing = d.add("CLIPTextEncode", (1540, 190), (340, 120), "Negative prompt", clip=model[1], text="")

    d.group("The rough animation", 1940, -60, 740, 660, GREEN)
    rough = d.add("MatrixCutAndDrag", (1960, 0), (320, 80), image=first[0], tracks=tracks[0])
    sketch = d.add("CreateVideo", (2320, 0), (340, 110), images=rough[0], fps=FPS)
    d.add("SaveVideo", (2320, 160), (340, 380), "Save sketch", video=sketch[0], filename_prefix="matrix/dragged_sketch")
    latent = d.add("VAEEncode", (1960, 130), (320, 60), pixels=rough[0], vae=model[2])

    d.group("Hold to it", 1940, 660, 360, 320, RED)
    held = d.add("MatrixDualClockDenoising", (1960, 720), (320, 220), model=model[0], reference=latent[0])
    held.inputs.update(inside=0.67, outside=0.5, tracks=tracks[0])

    d.group("Sample", 2720, -60, 760, 660, GREY)
    decoded = _sampled(d, 2740, 0, model, held, (said[0], nothing[0]), first, seed=8)
    d.group("Look", 3520, -60, 1140, 660, BLUE)
    _shown(d, 3540, 0, decoded, tracks, "dragged")
    return d


def _boxes() -> str:
    """The red square slowly up, away from the blue one, which stays."""
    moving = _line("red square (subject)", {0: RED_AT, 8: (22, 34), 16: (30, 18)})
    return moving + "\n" + _line("blue square (object)", {0: BLUE_AT})


def _line(name: str, keys: dict[int, tuple[int, int]]) -> str:
    """A line of key-framed boxes of a square's size."""
    return f"{name}: " + "; ".join(f"{at}: {x} {y} {x + SIDE} {y + SIDE}" for at, (x, y) in keys.items())


DRAFTS = [steer_with_masks, box_trajectory, cut_and_drag]
