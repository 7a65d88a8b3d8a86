"""`python -m training.convert IN OUT --to FORMAT`: turns a LoRA file of any format into any other.

    python -m training.convert matrix.safetensors wan_matrix_comfy.safetensors --to comfyui
    python -m training.convert tavid/ tavid_matrix.safetensors --to matrix --scale 1.0
    python -m training.convert runs/matrix_wan21/0001/step-0000250 step250.safetensors --to comfyui

IN may be a checkpoint of `training.fit`, or the folder of a run: its LoRA, else that of its newest checkpoint. Every
tensor and the scale are kept; `docs/lora-formats.md` says what each format holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.io.lora.read import FORMATS, describe, load_lora, save_lora
from matrix_lib.io.lora.write import lost_scale

from .run import checkpoint
from .run.exported import find_lora, lora_of_weights

__all__ = ["main"]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.convert", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "source", metavar="IN", type=Path, help="a LoRA file, or the folder of one, of a checkpoint or of a run"
    )
    parser.add_argument("target", metavar="OUT", type=Path, help="a .safetensors file, or a folder")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format to write")
    parser.add_argument("--family", choices=tuple(REGISTRY), help="model family, where names leave it open")
    parser.add_argument("--scale", type=float, help="scale of factors for which IN stores none; it is written down")
    parser.add_argument("--projection", type=Path, help="file with the input projection, where it is not beside IN")
    parser.add_argument(
        "--part", choices=("transformer", "transformer_2"), default="", help="which expert's LoRA of IN"
    )
    parser.add_argument("--condition", choices=("id_map", "target_mask"), help="what the extra input channels take")
    parser.add_argument("--trigger", help="word or phrase that prompts need")
    parser.add_argument("--prompt-form", help="how prompts are written")
    parser.add_argument("--force", action="store_true", help="overwrite what is at OUT")
    return parser.parse_args(argv)


def _told(lora: AlignmentLoRA, options: argparse.Namespace) -> AlignmentLoRA:
    """With what the command line says about the LoRA."""
    given = {name: getattr(options, name) for name in ("condition", "trigger", "prompt_form")}
    return replace(lora, info=replace(lora.info, **{name: value for name, value in given.items() if value is not None}))


def _read(source: Path, options: argparse.Namespace) -> AlignmentLoRA:
    if (source / checkpoint.META).is_file():
        return lora_of_weights(source)
    return load_lora(source, options.family, options.scale, options.projection, options.part)


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; prints what was read and written. 2 on a file that cannot be converted."""
    options = _arguments(argv)
    target: Path = options.target
    try:
        if target.is_file() and not options.force:
            raise ValueError(f"{str(target)!r} is there already; --force overwrites it")
        source = find_lora(options.source)
        if source != options.source:
            print(f"reading {source}")
        lora = _told(_read(source, options), options)
        print(describe(lora))
        if options.scale is not None and not any("as asked for" in note for note in lora.notes):
            print(f"IN stores its scale, so --scale {options.scale:g} was not used")
        if told := lost_scale(lora, options.to):
            print(told)
        for path in save_lora(lora, target, options.to):
            print(f"wrote {path}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
