"""The workflows that score a clip, as drafts for `scripts.workflows`: by mini's exact judge, and by tracks."""

from __future__ import annotations

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft
from .squares import FPS, FRAMES, HEIGHT, STEPS, WIDTH
from .start import BOXES
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
**Press Run.** Two boxes say where two circles go, as in *00*, and mini makes the clip, watched. *Read Capture* makes
masks of the two phrases, without a segmenter. *Score Tracks* lays them over the boxes: IoU of boxes and masks, HOTA,
who is gone, doubled, swapped or touched.

**Look** at the overlay first: lines are what was found, dashes what was asked for. Whoever finds masks is the judge.
Masks of words are coarse (8 pixels here), so an IoU of half is much. For numbers that you report, put *SAM 2 Tracks*
on the decoded clip in place of *Read Capture*, with the same names.

**Benchmarks:** `python -m training.score_benchmark tracks FOLDER INPUT` writes the masks of a MagicBench folder as
tracks; *Load Tracks* opens them in place of *Box Tracks*. *Save Tracks* keeps what was found: as
`VIDEOS/ID.tracks.safetensors` it is what `... magicbench FOLDER VIDEOS` reads for its table. MoveBench, MotiBench and
Peekaboo: docs/track-scores.md.

**Your own:** any picture, boxes, words and model of the pack."""


def score_tracks() -> Draft:
    """15: a picture and two boxes in; how well the clip follows them out, with the tracks for a benchmark's table."""
    d = Draft("15_score_tracks")
    d.group("Start here", 0, GREY)
    d.note(SCORED, 820)
    d.group("Picture and model", 1, BLUE)
    picture = d.add("MatrixExampleClip", SHOWN, "Picture", clip=PUSH.clip)
    model = d.add("MatrixLoadVideoDiT", 0, "Model", source="mini")
    d.group("What is asked for", 2, GREEN)
    given = d.add("MatrixBoxTracks", 220, "Where to", boxes=BOXES, images=picture[1], frames=FRAMES)
    given.inputs.update(width=WIDTH, height=HEIGHT, fps=FPS, hold=True)
    words = d.add("MatrixBindPrompt", SHOWN, clip=model[1], prompt=PUSH.prompt, phrases=PUSH.phrases)
    words.inputs.update(form="as written", tracks=given[0])

    d.group("A clip that follows, watched", 3, RED)
    rough = d.add("MatrixCutAndDrag", 0, image=picture[1], tracks=given[0], vae=model[2])
    held = d.add("MatrixDualClockDenoising", 0, model=model[0], reference=rough[1], tracks=given[0])
    held.inputs.update(inside=0.67, outside=0.5)
    watch = d.add("MatrixWatchAttention", model=held[0], layers="all")
    first = d.add("MatrixImageCondition", 0, model=model[0], positive=words[0], negative=words[0], vae=model[2])
    first.inputs.update(image=picture[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    sample = d.add("KSampler", 0, model=watch[0], positive=first[0], negative=first[1], latent_image=first[2], seed=8)
    sample.inputs.update(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)
    frames = d.add("VAEDecode", 0, samples=sample[0], vae=model[2])

    d.group("Who is where in it", 4, GREEN)
    capture = d.add("MatrixCollectCapture", latent=sample[0], watch=watch[1])
    seen = d.add("MatrixReadCapture", SHOWN, capture=capture[0], frames=frames[0], fps=FPS, mended=True)
    d.group("How well it follows", 5, BLUE)
    scored = d.add("MatrixScoreTracks", SHOWN + 300, given=given[0], seen=seen[0], frames=frames[0], measure="box_iou")
    shown = d.add("SaveAnimatedWEBP", 320, "Tracks over the clip", images=scored[0], filename_prefix="matrix/scored")
    shown.inputs.update(lossless=False, quality=90, method="default", fps=FPS)
    d.add("MatrixSaveTracks", 80, "What was found", tracks=seen[0], filename_prefix="matrix/found")
    return d


DRAFTS = [judge, score_tracks]
