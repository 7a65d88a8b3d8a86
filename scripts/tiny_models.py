"""A tiny CogVideoX with random weights, as a diffusers folder: everything runs, nothing means anything.

Its codec is of the Wan type, because the CogVideoX codec that ComfyUI knows has 216 million parameters and no smaller
size.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["model_factory", "random_cogvideox"]


def model_factory() -> Any:
    """The model factory of the tests, by its path: once ComfyUI is on the import path, `tests` is ComfyUI's."""
    path = Path(__file__).resolve().parent.parent / "tests" / "support_models.py"
    spec = importlib.util.spec_from_file_location("matrix_support_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # it imports its neighbours by name
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def random_cogvideox(folder: Path, layers: int = 6, seed: int = 0) -> Path:
    """Makes the folder once; an unfinished one is made again. Returns it."""
    index = folder / "model_index.json"
    if (folder / "vae" / "config.json").is_file() and index.is_file():
        return folder
    from diffusers import AutoencoderKLWan
    from transformers.utils import logging

    models = model_factory()
    logging.disable_progress_bar()
    models.make_cogvideox(folder, sample=(17, 14, 32), layers=layers, vae=False, seed=seed)
    described = json.loads(index.read_text(encoding="utf-8"))
    index.unlink()
    models.randomize(AutoencoderKLWan(base_dim=8, z_dim=16), seed + 10, 0.1).save_pretrained(folder / "vae")
    described["vae"] = ["diffusers", "AutoencoderKLWan"]
    index.write_text(json.dumps(described, indent=2), encoding="utf-8")
    return folder
