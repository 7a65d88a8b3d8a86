"""The workflow that judges a clip, as a draft for `scripts.workflows`. It runs with mini and its exact judge."""

from __future__ import annotations

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft
from .squares import FRAMES, HEIGHT, STEPS, WIDTH
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


DRAFTS = [judge]
