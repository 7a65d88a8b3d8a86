"""`python -m training.publish RUN OUT`: a finished run of `training.fit mini` as a bundle of small files."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import make_tokenizer, token_ids
from matrix_lib.io.files import whole_file
from matrix_lib.mini.captions import CAMERA_MOVES, Form, caption
from matrix_lib.mini.shapes import COLOURS, SHAPES
from matrix_lib.mini.verbs import VERBS

from .models.mini_run import TOKENIZER, weights_of
from .run.ending import ending, probe

__all__ = ["main", "publish", "training_prompts"]

SHARD_BYTES = 14_000_000


def training_prompts(form: Form = "full") -> list[str]:
    """Prompts that together use every word of the world's captions, of those in full and those of a form."""
    out = [""]
    for verb in VERBS:
        for colour in COLOURS:
            for shape in SHAPES:
                looks = [f"{colour} {shape}"] * verb.parts
                out += dict.fromkeys(caption(verb, looks, form=each).prompt for each in ("full", form))
    out += [caption(VERBS[0], ["red circle", "blue square"], move).prompt for move in CAMERA_MOVES]
    return out


def silence(table: Tensor, used: Tensor) -> Tensor:
    """The word table with the rows of words that were never trained set to zero: such words are read as nothing."""
    kept = torch.zeros(len(table), 1)
    kept[used.unique()] = 1.0
    return table * kept


def publish(run: Path, out: Path) -> Path:
    """Writes the bundle of a run: float16 weights in shards, the tokenizer, and the manifest with every checksum. A
    bundle that lies there already is as it was until all of the new one is written."""
    parts, sizes, meta = weights_of(run)
    said = training_prompts(meta["config"]["data"].get("captions", "full"))
    ids = token_ids(make_tokenizer(TOKENIZER), said, sizes.text_length)
    parts["text"]["shared.weight"] = silence(parts["text"]["shared.weight"], ids)
    probe(out)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=out) as work:
        new = Path(work)
        files: dict[str, list[str]] = {part: write_shards(new, part, parts[part]) for part in sorted(parts)}
        shutil.copytree(TOKENIZER, new / "tokenizer")
        files["tokenizer"] = [f"tokenizer/{p.name}" for p in sorted((new / "tokenizer").iterdir())]
        words = sorted({word.strip(",") for prompt in said for word in prompt.split()})
        made = [name for names in files.values() for name in names]
        manifest = {
            "format": bundle.FORMAT,
            "name": "mini",
            "sizes": vars(sizes),
            "files": files,
            "checksums": {name: checksum(new / name) for name in made},
            "words": words,
            "training": {"steps": meta["step"], "config": _anywhere(meta["config"])},
        }
        (new / bundle.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        stale = {path.name for part in parts for path in out.glob(f"{part}-*.safetensors")} - set(made)
        (out / "tokenizer").mkdir(exist_ok=True)
        for name in (*made, bundle.MANIFEST):  # nothing can fail any more but the disk itself
            (new / name).replace(out / name)
    for name in stale:
        (out / name).unlink()
    return out


def _anywhere(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without this machine's folders: only their names."""
    return {
        part: {k: Path(v).name if k in ("codec", "text", "out") else v for k, v in values.items()}
        for part, values in config.items()
    }


def write_shards(out: Path, part: str, weights: dict[str, Tensor]) -> list[str]:
    """Float16 weights in as few files of at most `SHARD_BYTES` as their order allows. Returns the files' names."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in weights.items():
        half = value.detach().cpu().to(torch.float16).contiguous()
        if size + half.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = half
        size += half.nbytes
    names = [f"{part}-{i + 1:02d}-of-{len(shards):02d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        with whole_file(out / name) as place:
            save_file(shard, place)
    return names


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    with ending("training.publish", "what lay there is as it was"):
        print(f"wrote {publish(chosen.run, chosen.out)}")


if __name__ == "__main__":
    main()
