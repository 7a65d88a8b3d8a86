"""A finished LoRA as a folder that the Hugging Face hub shows well, and its way there.

FOLDER/README.md                          the model card
FOLDER/pytorch_lora_weights.safetensors   as diffusers reads it; a widened projection beside it
FOLDER/lora.safetensors                   everything in one file, for MATRIX Apply LoRA and `apply_lora`
FOLDER/training.json                      every setting, without this machine's folders
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.io.files import whole_file
from matrix_lib.io.lora.files import TAVID_LORA
from matrix_lib.io.lora.read import describe, load_lora, save_lora

from .record import LORA

__all__ = ["HUB", "check_place", "push", "write_folder"]

HUB = "hub:"
"""What a repository on the hub begins with: `hub:USER/NAME`. Anything else is a folder."""
_PLACES = ("model", "start", "folder", "cache", "captions", "roots", "out", "bundle", "push_to", "clips", "prompts")


def check_place(place: str) -> None:
    """ValueError where a LoRA could not be pushed there: a repository without an owner, or without a token."""
    if not place.startswith(HUB):
        return
    owner, _, name = place.removeprefix(HUB).partition("/")
    if not owner or not name or "/" in name:
        raise ValueError(f"run.push_to is {HUB}USER/NAME or a folder; got {place!r}")
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError(f"run.push_to={place} needs a token of the hub: run `hf auth login`, or set HF_TOKEN")


def push(run: Path, settings: dict[str, Any], place: str) -> str:
    """Takes the LoRA of a run to a folder, or to a repository of the hub, which is made and private where it is new.

    Args:
        settings: of the run, as `config.json` has them.

    Returns where it is now. Raises ValueError for a run without a LoRA, OSError where it cannot be written or sent.
    """
    check_place(place)
    lora = load_lora(run / LORA)
    if not place.startswith(HUB):
        return str(write_folder(lora, settings, Path(place)))
    from huggingface_hub import HfApi

    name = place.removeprefix(HUB)
    folder = write_folder(lora, settings, run / "hub")
    api = HfApi()
    api.create_repo(name, private=True, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"LoRA of {lora.family}"))


def write_folder(lora: AlignmentLoRA, settings: dict[str, Any], folder: Path) -> Path:
    """Writes the files of the folder. Raises OSError where it cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    save_lora(lora, folder / TAVID_LORA, "diffusers")
    save_lora(lora, folder / LORA, "matrix")
    _write(folder / "training.json", json.dumps(_anywhere(settings), indent=1, ensure_ascii=False) + "\n")
    _write(folder / "README.md", _card(lora, settings, folder.name))
    return folder


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with names in place of this machine's folders."""
    made: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            made[name] = _anywhere(value)
        elif name in _PLACES and isinstance(value, str):
            made[name] = Path(value).name if value else ""
        elif name not in ("changes", "processes"):
            made[name] = value
    return made


def _card(lora: AlignmentLoRA, settings: dict[str, Any], name: str) -> str:
    task, data = settings.get("task", {}), settings.get("data", {})
    base = Path(str(task.get("model") or task.get("bundle") or "mini")).name
    head = {
        "library_name": "diffusers",
        "tags": ["lora", "video", lora.family, *([lora.info.condition] if lora.info.condition else [])],
    }
    what = {"id_map": "an ID map, one colour for each instance", "target_mask": "a mask of the target"}
    reads = what.get(lora.info.condition, "")
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
        "---",
        f"# {name}",
        f"A LoRA for {REGISTRY[lora.family].title} ({base})" + (f" that reads {reads}." if reads else "."),
        "```",
        describe(lora),
        "```",
        f"Trained for {settings.get('run', {}).get('steps')} steps with the method `{task.get('method')}` on clips of "
        f"{data.get('frames')} frames of {data.get('height')}x{data.get('width')} (height x width); all settings are "
        "in `training.json`.",
        "## ComfyUI",
        f"Put `{LORA}` into `ComfyUI/models/loras` and load it with *MATRIX Apply LoRA*."
        + (" *MATRIX Mask Condition* gives it its mask." if reads else ""),
        "## Python",
        "```python",
        "from matrix_lib import apply_lora",
        "",
        f'with apply_lora(pipe, "{LORA}", tracks):',
        "    video = pipe(image=image, prompt=prompt).frames[0]",
        "```",
    ]
    return "\n".join(lines) + "\n"
