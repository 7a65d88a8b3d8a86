"""The workflow to begin with, as a draft for `scripts.workflows`: ten nodes."""

from __future__ import annotations

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft
from .squares import FPS, FRAMES, HEIGHT, STEPS, WIDTH

__all__ = ["DRAFTS"]

# On the first frame of the example clip `push`: the circles lie in these boxes, the blue cross between them rests.
BOXES = """\
green circle: 0: 29 6 59 36; 16: 88 6 118 36
pink circle: 0: 70 47 100 77; 16: 40 86 70 116"""
SENTENCE = "the green circle moves right"
NOTE = """\
### Move two things with boxes
**Press Run.** A clip comes out in which the two circles go where their boxes go.

**Change it:** in *Where to*, click the last frame in the timeline (16) and drag a box to where its thing shall end. A
frame in between bends the path. The first box lies on the thing in the picture. *Space* plays a rough preview.
Anything without a box stays. The button with two arrows makes it large.

**How:** *Cut And Drag* moves the pieces of the picture as paper, and *Dual-Clock Denoising* holds the model to it for
two thirds of its steps. Then the model is free.

*mini*, the small model here, comes with the pack. It knows squares, circles, stars, crosses, triangles and diamonds in
eight colours, and sentences like *the red star pushes the blue square*.

**Your own picture and model:** put *Load Image* in place of *Picture*, open an image-to-video model in *Model*, set the
size in *First Frame*, and drag boxes around your own things. Large models follow with less: *inside* 0.18,
*outside* 0.08."""


def move_two_things() -> Draft:
    """00: a picture, two boxes and a sentence in; a clip in which two things follow their boxes out."""
    d = Draft("00_move_two_things")
    d.group("Start here", 0, GREY)
    d.note(NOTE, 700)
    d.group("Picture and model", 1, BLUE)
    picture = d.add("MatrixExampleClip", SHOWN + 85, "Picture", clip="push")
    model = d.add("MatrixLoadVideoDiT", 0, "Model", source="mini")

    d.group("What you say", 2, GREEN)
    boxes = d.add("MatrixBoxTracks", 220, "Where to: two boxes", boxes=BOXES, images=picture[1], frames=FRAMES)
    boxes.inputs.update(width=WIDTH, height=HEIGHT, fps=FPS, hold=True)
    words = d.add("CLIPTextEncode", 30, "One sentence", clip=model[1], text=SENTENCE)

    d.group("How it is done", 3, RED)
    rough = d.add("MatrixCutAndDrag", 0, image=picture[1], tracks=boxes[0], vae=model[2])
    held = d.add("MatrixDualClockDenoising", 0, model=model[0], reference=rough[1], tracks=boxes[0])
    held.inputs.update(inside=0.67, outside=0.5)
    first = d.add("MatrixImageCondition", 0, model=model[0], positive=words[0], negative=words[0], vae=model[2])
    first.inputs.update(image=picture[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)

    d.group("Your clip", 4, BLUE)
    sample = d.add("KSampler", 0, model=held[0], positive=first[0], negative=first[1], latent_image=first[2], seed=8)
    sample.inputs.update(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)
    frames = d.add("VAEDecode", 0, samples=sample[0], vae=model[2])
    shown = d.add("SaveAnimatedWEBP", 320, "Your clip", images=frames[0], filename_prefix="matrix/moved", fps=FPS)
    shown.inputs.update(lossless=False, quality=90, method="default")
    return d


DRAFTS = [move_two_things]
