"""The workflows that score a clip, as drafts for `scripts.workflows`: by mini's exact judge, and by tracks."""

from __future__ import annotations

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft
from .squares import FPS, FRAMES, HEIGHT, STEPS, WIDTH, still
from .watch import PUSH

__all__ = ["DRAFTS"]

NOTE = """\
### Did it show what was asked for?
**Press Run.** mini makes a clip of a picture and a sentence. A judge answers ten questions about it: does the
interaction happen, in the right order (KISA), between whom it should (SGI), and is everybody still there (SPI)? IF is
what these come to. Beside it stands the real clip, which has 1.

**Look:** the pictures under *Evaluate* are what the judge saw, each instance in a box of its colour. The table has
every answer, what is missing, and the means of all clips that were judged into the same *folder*.

The judge here is the exact one of mini's own world: it knows the truth.

**Your own clips:** connect tracks of the clip (*SAM 2 Tracks*, or SAM 3 through *Mask Tracks*), write who there is and
who does what into *entry*, as in *Bind Prompt*, and choose another *judge*:

- *text model*: Qwen3-VL, Qwen3.5 or Gemma from *Load CLIP*, as *Generate Text* takes them. Nothing leaves this machine.
- *service*: an OpenAI-compatible address. The table first says what would be sent, and sends it when *send* is on.
- *files*: another program, or a person, answers `requests.jsonl` in the folder. Run again afterwards.

A call that failed is missing, by name: never a 0, never a 1."""
FOLDERS = ("matrix/judge/mini", "matrix/judge/real")


def judge() -> Draft:
    """09: a clip that mini makes, and the real one, before the exact judge."""
    d = Draft("09_judge")
    d.group("Start here", 0, GREY)
    d.note(NOTE, 760)
    d.group("Picture and model", 1, BLUE)
    clip = d.add("MatrixExampleClip", SHOWN, "Picture, and the real clip", clip=PUSH.clip)
    model = d.add("MatrixLoadVideoDiT", 0, "Model", source="mini")
    d.group("What is asked for", 1, GREEN)
    words = d.add("CLIPTextEncode", 30, "One sentence", clip=model[1], text=PUSH.prompt)
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")

    d.group("A clip", 2, RED)
    first = d.add("MatrixImageCondition", 0, model=model[0], positive=words[0], negative=nothing[0], vae=model[2])
    first.inputs.update(image=clip[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    sample = d.add("KSampler", 0, model=model[0], positive=first[0], negative=first[1], latent_image=first[2], seed=7)
    sample.inputs.update(steps=STEPS, cfg=4.0, sampler_name="euler", scheduler="simple", denoise=1.0)
    made = d.add("VAEDecode", 0, samples=sample[0], vae=model[2])
    real = d.add("GetVideoComponents", 0, video=clip[0])

    for place, (title, frames, folder) in enumerate(zip(("What mini made", "The real clip"), (made, real), FOLDERS)):
        d.group(title, 3 + place, BLUE)
        asked = d.add("MatrixEvaluate", SHOWN, title, frames=frames[0], entry="", folder=folder, measure="fidelity")
        asked.inputs.update({"judge": "mini world", "judge.shows": PUSH.clip})
        asked.inputs.update(stride=4, repeats=1, ask_for_new=True)
        d.add("PreviewAny", 0, "IF", source=asked[3])
    return d


SCORED = """\
### Does it follow? Scored by tracks
**Press Run.** Boxes say where two squares go, and mini makes a clip, held to them as in *07*. *Score Tracks* lays masks
of that clip over the boxes: IoU of masks and boxes, HOTA, who is gone, doubled or swapped, who touched whom.

**Look** at the overlay first: lines are what was found, dashes what was asked for. Whoever finds masks is the judge.
Here colours do, for mini's squares are red and blue. On your own clip put *SAM 2 Tracks*, or SAM 3, in place of
*Its masks*, with the names of the boxes.

**Benchmarks:** `python -m training.score_benchmark tracks FOLDER INPUT` writes the masks of a MagicBench folder, or
squares on MotiBench's paths, as tracks; *Load Tracks* opens them in place of *Box Tracks*. What *Save Tracks* keeps, as
`VIDEOS/ID.tracks.safetensors`, is what `... magicbench FOLDER VIDEOS` reads for its table.
Others: docs/track-scores.md."""
PATHS = """\
red square (subject): 0: 18 52 42 76; 5: 24 34 48 58; 11: 42 18 66 42; 16: 62 16 86 40
blue square (object): 0: 84 52 108 76; 16: 80 80 104 104"""


def score_tracks() -> Draft:
    """15: a picture and boxes in; how well the clip follows them out, with its tracks for a benchmark's table."""
    d = Draft("15_score_tracks")
    d.group("Start here", 0, GREY)
    d.note(SCORED, 760)
    d.group("Picture and model", 1, BLUE)
    first = still(d, "two-squares")
    model = d.add("MatrixLoadVideoDiT", 0, "Model", source="mini")
    d.group("What is asked for", 2, GREEN)
    given = d.add("MatrixBoxTracks", 140, "Where to", boxes=PATHS, images=first, frames=FRAMES)
    given.inputs.update(width=WIDTH, height=HEIGHT, fps=FPS, hold=True)
    words = d.add("CLIPTextEncode", 20, "Prompt", clip=model[1], text="the red square moves up")

    d.group("A clip that follows", 3, RED)
    rough = d.add("MatrixCutAndDrag", 0, image=first, tracks=given[0], vae=model[2])
    held = d.add("MatrixDualClockDenoising", 0, model=model[0], reference=rough[1], tracks=given[0])
    held.inputs.update(inside=0.67, outside=0.5)
    start = d.add("MatrixImageCondition", 0, model=model[0], positive=words[0], negative=words[0], vae=model[2])
    start.inputs.update(image=first, width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    sample = d.add("KSampler", 0, model=held[0], positive=start[0], negative=start[1], latent_image=start[2], seed=8)
    sample.inputs.update(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)
    frames = d.add("VAEDecode", 0, samples=sample[0], vae=model[2])

    d.group("Its masks", 4, GREEN)
    seen = d.add("MatrixMaskTracks", names="red square\nblue square", images=frames[0], fps=FPS)
    for place, channel in enumerate(("red", "blue")):
        lit = d.add("ImageToMask", 0, f"How {channel}", image=frames[0], channel=channel)
        seen.inputs[f"masks.mask{place}"] = d.add("ThresholdMask", mask=lit[0], value=0.55)[0]
    d.group("How well it follows", 5, BLUE)
    scored = d.add("MatrixScoreTracks", SHOWN + 200, given=given[0], seen=seen[0], frames=frames[0], measure="box_iou")
    shown = d.add("SaveAnimatedWEBP", 250, "Tracks over the clip", images=scored[0], filename_prefix="matrix/scored")
    shown.inputs.update(lossless=False, quality=90, method="default", fps=FPS)
    d.group("Keep", 4, BLUE)
    d.add("MatrixSaveTracks", 80, "What was found", tracks=seen[0], filename_prefix="matrix/found")
    return d


DRAFTS = [judge, score_tracks]
