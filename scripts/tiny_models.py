"""A tiny CogVideoX with random weights, as a diffusers folder: everything runs, nothing means anything.

Its codec is of the Wan type, because the CogVideoX codec that ComfyUI knows has 216 million parameters and no smaller
size.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["random_cogvideox"]


def random_cogvideox(folder: Path, layers: int = 6, seed: int = 0) -> Path:
    """Makes the folder once; an unfinished one is made again. Returns it."""
    index = folder / "model_index.json"
    if (folder / "vae" / "config.json").is_file() and index.is_file():
        return folder
    from diffusers import AutoencoderKLWan
    from transformers.utils import logging

    from tests.support_models import make_cogvideox, randomize

    logging.disable_progress_bar()
    make_cogvideox(folder, sample=(17, 14, 32), layers=layers, vae=False, seed=seed)
    described = json.loads(index.read_text(encoding="utf-8"))
    index.unlink()
    randomize(AutoencoderKLWan(base_dim=8, z_dim=16), seed + 10, 0.1).save_pretrained(folder / "vae")
    described["vae"] = ["diffusers", "AutoencoderKLWan"]
    index.write_text(json.dumps(described, indent=2), encoding="utf-8")
    return folder
