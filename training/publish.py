"""`python -m training.publish RUN OUT`: a finished run of `training.fit mini` as a bundle of small files."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from matrix_lib.hosts.diffusers.mini import Sizes, build_pipeline, make_tokenizer, token_ids
from matrix_lib.mini import bundle
from matrix_lib.mini.captions import CAMERA_MOVES, caption
from matrix_lib.mini.shapes import COLOURS, SHAPES
from matrix_lib.mini.verbs import VERBS

from . import checkpoint
from .step import TOKENIZER, load_codec

__all__ = ["main", "pipeline_of", "publish", "sayings"]

SHARD_BYTES = 14_000_000


def weights_of(run: Path) -> tuple[dict[str, dict[str, Tensor]], Sizes, dict[str, Any]]:
    """Weights per part of a finished run (codec, text, transformer), its sizes and its metadata."""
    found = checkpoint.latest(run) if run.is_dir() else None
    if found is None:
        raise ValueError(f"no checkpoint in {run}: give the folder of a run of `python -m training.fit mini`")
    groups, meta = checkpoint.load(found)
    if not meta.get("finished") or not meta.get("sizes"):
        raise ValueError(f"{found} is not a finished run of the mini model")
    parts: dict[str, dict[str, Tensor]] = {"text": {}, "transformer": {}}
    for name, value in groups["final"].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    parts["codec"] = load_codec(Path(meta["config"]["task"]["codec"])).state_dict()
    return parts, Sizes(**meta["sizes"]), meta


def pipeline_of(folder: Path) -> tuple[Any, Sizes]:
    """The pipeline of a run or of a bundle, in float32 on the CPU."""
    if (folder / bundle.MANIFEST).is_file():
        found = bundle.load(folder)
        sizes = Sizes(**found.sizes)
        return build_pipeline(
            sizes, found.weights("codec"), found.weights("text"), found.weights("transformer"), found.tokenizer
        ), sizes
    parts, sizes, _ = weights_of(folder)
    return build_pipeline(sizes, parts["codec"], parts["text"], parts["transformer"], TOKENIZER), sizes


def sayings() -> list[str]:
    """Prompts that together use every word the world ever uses."""
    out = [""]
    for verb in VERBS:
        for colour in COLOURS:
            for shape in SHAPES:
                out.append(caption(verb, [f"{colour} {shape}"] * verb.parts).prompt)
    out += [caption(VERBS[0], ["red circle", "blue square"], move).prompt for move in CAMERA_MOVES]
    return out


def silence(table: Tensor, used: Tensor) -> Tensor:
    """The word table with the rows of words that were never trained set to zero: such words are read as nothing."""
    kept = torch.zeros(len(table), 1)
    kept[used.unique()] = 1.0
    return table * kept


def publish(run: Path, out: Path) -> Path:
    """Writes the bundle of a run: float16 weights in shards, the tokenizer, and the manifest with every checksum."""
    parts, sizes, meta = weights_of(run)
    ids = token_ids(make_tokenizer(TOKENIZER), sayings(), sizes.text_length)
    parts["text"]["shared.weight"] = silence(parts["text"]["shared.weight"], ids)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {part: write_shards(out, part, parts[part]) for part in sorted(parts)}
    if (out / "tokenizer").resolve() != TOKENIZER.resolve():
        shutil.copytree(TOKENIZER, out / "tokenizer", dirs_exist_ok=True)
    files["tokenizer"] = [f"tokenizer/{p.name}" for p in sorted((out / "tokenizer").iterdir())]
    words = sorted({word.strip(",") for saying in sayings() for word in saying.split()})
    manifest = {
        "format": bundle.FORMAT,
        "name": "mini",
        "sizes": vars(sizes),
        "files": files,
        "checksums": {name: checksum(out / name) for names in files.values() for name in names},
        "words": words,
        "training": {"steps": meta["step"], "config": _anywhere(meta["config"])},
    }
    (out / bundle.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return out


def _anywhere(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without this machine's folders: only their names."""
    return {
        part: {k: Path(v).name if k in ("codec", "out") else v for k, v in values.items()}
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
    for old in out.glob(f"{part}-*.safetensors"):
        old.unlink()
    names = [f"{part}-{i + 1:02d}-of-{len(shards):02d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        save_file(shard, out / name)
    return names


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        print(f"wrote {publish(chosen.run, chosen.out)}")
    except ValueError as error:
        sys.exit(f"training.publish: {error}")


if __name__ == "__main__":
    main()
