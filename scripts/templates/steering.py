"""The workflows that steer with mask tracks, as drafts for `scripts.workflows`.

They run with mini and need no files: the first frame is two coloured squares on grey, which mini knows.
"""

from __future__ import annotations

from typing import Any

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft, Node
from .squares import BLUE_AT, FPS, FRAMES, HEIGHT, RED_AT, SIDE, STEPS, WIDTH, still

__all__ = ["DRAFTS"]

CFG = 1.0
PHRASES = """\
red square: the red square [subject]
blue square: the blue square [object]
joins = verb(red square -> blue square)"""
MASKS = """\
### Steer with masks
**First**, mini makes a driving clip: *the red square moves up*. Its colours become masks, two for every frame, and
*Mask Tracks* names them.

**Then** another prompt, *the red square joins the blue square*, other noise, and those tracks. The red square goes up,
not to the blue one: for two thirds of the steps, places attend to their own instance alone, and an instance's words
are turned down where it is not. Bypass both *Steer Attention* (Ctrl+B) to see what the prompt alone does.

**Where it works:** slow paths that stay apart, masks rather than boxes, a CFG of 1 to 2. **Where it does not:** fast or
jumping paths, and two things that meet: one of them then often melts or is drawn twice. Measured on mini, fidelity to
the tracks is .80 of 1 for slow ones and .34 for fast ones; *07* has .99 and more for both.

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

Attention follows boxes less well than masks, and fast ones hardly: *00* and *07* follow nearly any box.

**Your own:** choose a model (in `ComfyUI/models/diffusers` or `diffusion_models`), load a first frame, set the size in
*First Frame*, and write boxes in pixels of that picture."""


def _sampled(d: Draft, model: Node, steered: Node, words: tuple[Any, Any], first: Any, seed: int) -> Node:
    """The first frame and a prompt in, decoded frames out."""
    start = d.add("MatrixImageCondition", model=model[0], positive=words[0], negative=words[1])
    start.inputs.update(vae=model[2], image=first, width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    sample = d.add("KSampler", model=steered[0], positive=start[0], negative=start[1], latent_image=start[2], seed=seed)
    sample.inputs.update(steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0)
    return d.add("VAEDecode", samples=sample[0], vae=model[2])


def _divided(d: Draft, model: Node) -> Node:
    """Attention divided by the tracks for two thirds of the steps: what docs/guidance.md found to make mini follow."""
    found = d.add("MatrixAttentionGuidance", model=model[0], mode="masked attention (IVG-DA)")
    found.inputs.update({"mode.frozen_steps": 16, "mode.normalisation": "off", "mode.words": False})
    return found


def _shown(d: Draft, column: int, frames: Node, tracks: Node, name: str) -> None:
    """What came out, in `column`, and the tracks over it in the next one."""
    d.group("Your clip", column, BLUE)
    video = d.add("CreateVideo", images=frames[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save video", video=video[0], filename_prefix=f"matrix/{name}")
    d.group("Does it follow?", column + 1, BLUE)
    over = d.add("MatrixPreviewTracks", SHOWN, "Tracks over the result", tracks=tracks[0], images=frames[0])
    over.inputs.update(width=WIDTH, height=HEIGHT, length=FRAMES, model="mini", show="every frame", strength=0.0)
    drawn = d.add("CreateVideo", images=over[0], fps=FPS)
    saved = d.add("SaveVideo", SHOWN, "Save with tracks", video=drawn[0])
    saved.inputs.update(filename_prefix=f"matrix/{name}_tracks")


def steer_with_masks() -> Draft:
    """04: masks of a driving clip and another prompt in; a clip that follows the masks out."""
    d = Draft("04_steer_with_masks")
    d.group("Start here", 0, GREY)
    d.note(MASKS, 1060)

    d.group("Picture and model", 1, BLUE)
    first = still(d, "two-squares")
    model = d.add("MatrixLoadVideoDiT", source="mini")
    d.group("Driving words", 1, RED)
    said = d.add("CLIPTextEncode", 0, "Driving prompt", clip=model[1], text="the red square moves up")
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")

    d.group("A driving clip", 2)
    driving = _sampled(d, model, model, (said[0], nothing[0]), first, seed=3)

    d.group("Its masks", 2, GREEN)
    masks = {}
    for channel in ("red", "blue"):
        seen = d.add("ImageToMask", 0, f"How {channel}", image=driving[0], channel=channel)
        masks[channel] = d.add("ThresholdMask", mask=seen[0], value=0.55)
    d.group("Who is where", 3, GREEN)
    tracks = d.add("MatrixMaskTracks", names="red square (subject)\nblue square (object)")
    tracks.inputs.update({"masks.mask0": masks["red"][0], "masks.mask1": masks["blue"][0]})
    tracks.inputs.update(images=driving[0], fps=FPS)
    over = d.add("MatrixPreviewTracks", SHOWN, "Masks of the driving clip", tracks=tracks[0], images=driving[0])
    over.inputs.update(width=WIDTH, height=HEIGHT, length=FRAMES, model="mini")

    d.group("Other words, and steering", 4, RED)
    bound = d.add("MatrixBindPrompt", SHOWN, clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt="the red square joins the blue square", phrases=PHRASES, form="as written")
    divided = _divided(d, model)
    steered = d.add("MatrixAttentionGuidance", model=divided[0], mode="region bias")
    steered.inputs.update({"mode.words_up": 0.0, "mode.words_down": 2.0, "mode.track_up": 0.0, "mode.track_down": 0.0})
    steered.inputs["mode.layers"] = "all"

    d.group("The same first frame, other words", 5)
    decoded = _sampled(d, model, steered, (bound[0], nothing[0]), first, seed=5)
    _shown(d, 5, decoded, tracks, "steered")
    return d


def box_trajectory() -> Draft:
    """05: a few boxes, a prompt and a first frame in; a clip that follows the boxes out."""
    d = Draft("05_box_trajectory")
    d.group("Start here", 0, GREY)
    d.note(BOXES, 900)

    d.group("Picture and model", 1, BLUE)
    first = still(d, "two-squares")
    model = d.add("MatrixLoadVideoDiT", source="mini")
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")

    d.group("Where to, and in which words", 2, GREEN)
    tracks = d.add("MatrixBoxTracks", 120, images=first, fps=FPS, boxes=_boxes())
    tracks.inputs.update(frames=FRAMES, width=WIDTH, height=HEIGHT, hold=True)
    bound = d.add("MatrixBindPrompt", SHOWN, clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt="the red square joins the blue square", phrases=PHRASES, form="as written")

    d.group("Steer", 3, RED)
    divided = _divided(d, model)
    moved = d.add("MatrixIntrinsicDenoising", model=divided[0], iterations=2)
    moved.inputs.update({"scale": "share of the score", "scale.share": 0.2})

    d.group("Sample", 4)
    decoded = _sampled(d, model, moved, (bound[0], nothing[0]), first, seed=8)
    _shown(d, 4, decoded, tracks, "boxes")
    return d


def cut_and_drag() -> Draft:
    """07: a few boxes and a first frame in; a clip that follows an animation made of them out."""
    d = Draft("07_cut_and_drag")
    d.group("Start here", 0, GREY)
    d.note(DRAG, 900)

    d.group("Picture and model", 1, BLUE)
    first = still(d, "two-squares")
    model = d.add("MatrixLoadVideoDiT", source="mini")

    d.group("Where to, and in which words", 2, GREEN)
    arc = {0: RED_AT, 5: (24, 34), 11: (42, 18), 16: (62, 16)}
    boxes = _line("red square (subject)", arc) + "\n" + _line("blue square (object)", {0: BLUE_AT, 16: (80, 80)})
    tracks = d.add("MatrixBoxTracks", 140, images=first, fps=FPS, boxes=boxes)
    tracks.inputs.update(frames=FRAMES, width=WIDTH, height=HEIGHT, hold=True)
    said = d.add("CLIPTextEncode", 20, "Prompt", clip=model[1], text="the red square joins the blue square")
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")

    d.group("The rough animation", 3, GREEN)
    rough = d.add("MatrixCutAndDrag", image=first, tracks=tracks[0])
    latent = d.add("VAEEncode", pixels=rough[0], vae=model[2])
    sketch = d.add("CreateVideo", images=rough[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save sketch", video=sketch[0], filename_prefix="matrix/dragged_sketch")

    d.group("Hold to it", 3, RED)
    held = d.add("MatrixDualClockDenoising", model=model[0], reference=latent[0])
    held.inputs.update(inside=0.67, outside=0.5, tracks=tracks[0])

    d.group("Sample", 4)
    decoded = _sampled(d, model, held, (said[0], nothing[0]), first, seed=8)
    _shown(d, 4, decoded, tracks, "dragged")
    return d


def _boxes() -> str:
    """The red square slowly up, away from the blue one, which stays."""
    moving = _line("red square (subject)", {0: RED_AT, 8: (22, 34), 16: (30, 18)})
    return moving + "\n" + _line("blue square (object)", {0: BLUE_AT})


def _line(name: str, keys: dict[int, tuple[int, int]]) -> str:
    """A line of key-framed boxes of a square's size."""
    return f"{name}: " + "; ".join(f"{at}: {x} {y} {x + SIDE} {y + SIDE}" for at, (x, y) in keys.items())


DRAFTS = [steer_with_masks, box_trajectory, cut_and_drag]
