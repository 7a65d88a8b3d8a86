"""Thumbnails of the workflows: what each is for, above a picture of what it makes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from matrix_lib.draw.style import INK, fit_text, page, write

from .comfyui import ROOT

__all__ = ["TITLES", "save"]

# The question that a person has, and what the workflow does about it.
TITLES = {
    "00_move_two_things": ("Move two things", "one picture, two boxes, one sentence: begin here"),
    "01_watch_attention": ("See where each word looks", "attention over the video, word by word, and which layers"),
    "02_matrix_lora": ("Who acts?", "an ID map and a LoRA tell two look-alikes apart"),
    "03_target_aware": ("To whom?", "a target mask and a LoRA tell two look-alikes apart"),
    "04_steer_with_masks": ("Steer with masks", "attention follows masks of another clip, against the prompt"),
    "05_box_trajectory": ("Steer with boxes", "attention follows boxes that move, against the prompt"),
    "06_find_layers": ("Find the layers", "which ones look at whom, beside chance"),
    "07_cut_and_drag": ("Follow any path", "cut out, drag, and hold the model to it; nothing trained"),
    "08_two_experts": ("Two models in one run", "Wan 2.2's experts, watched under the host's own samplers"),
    "09_judge": ("Did it happen?", "a judge answers ten questions about a clip: KISA, SGI, SPI, IF"),
    "10_read_capture": ("What it knows", "masks of words without a segmenter; who was swapped or doubled, and when"),
    "11_words_in_time": ("When does it hold?", "a phrase is looked at in its seconds of the clip: pushes @1s-"),
    "12_two_passes": ("Twice, without masks", "a short first pass says who is where, and steers the second"),
    "13_pick_seeds": ("Which seed will work?", "several for a few steps; the best one goes on, bit for bit"),
    "14_instance_captions": ("To each their own words", "a caption for each instance, seen in its place alone"),
    "15_score_tracks": ("Does it follow?", "boxes that were asked for, tracks of what came, and every score"),
}
_HEAD, _LEFT = 84, 18


def save(name: str, picture: Image.Image) -> Path:
    """Writes the thumbnail of a workflow, with its title above `picture`. Returns its path."""
    title, line = TITLES[name]
    whole, ink = page(picture.width, picture.height + _HEAD)
    write(ink, (_LEFT, 30), title, 34, INK["text"])
    write(ink, (_LEFT, 64), fit_text(line, 20, picture.width - 2 * _LEFT), 20, INK["soft"])
    whole.paste(picture.convert("RGB"), (0, _HEAD))
    target = ROOT / "workflows" / f"{name}.jpg"
    whole.convert("RGB").save(target, quality=50, optimize=True, progressive=True)
    print(target.relative_to(ROOT), target.stat().st_size // 1024, "KiB", flush=True)
    return target
