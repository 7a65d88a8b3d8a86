"""The host's text models (what its node *Generate Text* takes as CLIP): pictures and a text in, a text out.

A model that does not take what it is given says nothing about it: it just never sees the pictures. So the tokens are
counted before anything is generated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

__all__ = ["contact_sheet", "generate", "model_name", "pictures_of"]

_SAMPLED = 16  # numbers of each weight that its model is told by


def generate(clip: Any, text: str, pictures: Tensor | None, longest: int = 1024) -> str:
    """What the model says, greedily: the same input has the same answer.

    Args:
        pictures: (N, H, W, 3) float in [0, 1], shown before the text; None for none.
        longest: tokens of the answer.

    Raises ValueError where the CLIP generates no text, or does not take so many pictures.
    """
    if not callable(getattr(clip, "generate", None)) or not hasattr(clip.cond_stage_model, "generate"):
        raise ValueError(
            f"the CLIP {type(clip.cond_stage_model).__name__} encodes prompts and writes no text: load a language "
            "model that the node Generate Text takes, such as Qwen3-VL, Qwen3.5 or Gemma 4"
        )
    tokens = clip.tokenize(text, image=pictures, skip_template=False, min_length=1, thinking=False)
    wanted, taken = 0 if pictures is None else len(pictures), _shown(tokens)
    if taken != wanted:
        raise ValueError(
            f"the model {type(clip.cond_stage_model).__name__} takes {taken} of {wanted} pictures: choose 'one sheet', "
            "which puts all frames into one picture, or a model that takes several"
        )
    with torch.inference_mode():
        return str(clip.decode(clip.generate(tokens, do_sample=False, max_length=longest, seed=0)))


def model_name(clip: Any) -> str:
    """A name that tells models apart: the class, and a digest of some numbers of every weight and of what is patched
    on it."""
    state = hashlib.sha256()
    for name, weight in sorted(clip.cond_stage_model.state_dict().items()):
        some = weight.detach().flatten()[:_SAMPLED].float().cpu().numpy()
        state.update(f"{name} {tuple(weight.shape)}".encode() + some.tobytes())
    patches = getattr(clip.patcher, "patches", {})
    state.update(repr(sorted((str(key), [entry[0] for entry in each]) for key, each in patches.items())).encode())
    return f"{type(clip.cond_stage_model).__name__} ({state.hexdigest()[:8]})"


def pictures_of(paths: Sequence[Path]) -> Tensor:
    """(N, H, W, 3) float in [0, 1]: picture files of one size, as the host's IMAGE."""
    read = []
    for path in paths:
        with Image.open(path) as picture:
            read.append(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(read))


def contact_sheet(pictures: Tensor, numbers: Sequence[int], longest: int = 2048) -> Tensor:
    """(1, h, w, 3): all pictures (N, H, W, 3) in rows, each with its number above it.

    longest: pixels of the longer side at most; the pictures are made smaller for it.
    """
    count, height, width = pictures.shape[:3]
    across = max(1, round(math.sqrt(count * height / width)))
    down = math.ceil(count / across)
    head = max(12, height // 12)
    scale = min(1.0, longest / max(across * width, down * (height + head)))
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (across * cell[0], down * (cell[1] + head)), (16, 16, 16))
    pen = ImageDraw.Draw(sheet)
    for place, (picture, number) in enumerate(zip(pictures, numbers, strict=True)):
        x, y = place % across * cell[0], place // across * (cell[1] + head)
        pen.text((x + 3, y), f"Frame {number}", fill=(255, 255, 255), font_size=head - 2)
        frame = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
        sheet.paste(frame.resize(cell), (x, y + head))
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _shown(tokens: Any) -> int:
    """How many pictures stand among the tokens."""
    batches = tokens.values() if isinstance(tokens, dict) else [tokens]
    entries = [entry[0] for batch in batches for row in batch for entry in row]
    return sum(isinstance(entry, dict) and entry.get("type") == "image" for entry in entries)
