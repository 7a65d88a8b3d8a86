"""Mini as a run of `training.fit` left it: its codec, its weights, its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import Sizes, build_pipeline
from matrix_lib.mini.codec import Codec, CodecConfig

from ..clips.store import file_hash
from ..run import checkpoint
from ..run.record import newest_run

__all__ = ["TOKENIZER", "identity", "load_codec", "pipeline_of", "place_of", "weights_of"]

TOKENIZER = bundle.HOME / "tokenizer"


def place_of(name: str) -> Path:
    """The folder that a setting names; "mini" is the bundle of this package."""
    return bundle.HOME if name == "mini" else Path(name)


def load_codec(folder: Path) -> Codec:
    """The codec of a finished run or of a published bundle. ValueError when there is none."""
    if (folder / bundle.MANIFEST).is_file():
        return _codec(bundle.load(folder).weights("codec"))
    folder = newest_run(folder)
    found = checkpoint.latest(folder) if folder.is_dir() else None
    if found is None:
        raise ValueError(
            f"no trained codec in {folder}: run `python -m training.fit codec` first, or point task.codec to its "
            "folder or to a published bundle"
        )
    groups, meta = checkpoint.load(found)
    if not meta.get("finished"):
        raise ValueError(f"the codec in {folder} stopped at step {meta['step']}: run it again to finish it")
    return _codec({name.removeprefix("codec."): value for name, value in groups["final"].items()})


def identity(folder: Path) -> dict[str, str]:
    """What tells the weights of a bundle or of a run from others in the same place: by file a short hash."""
    if (folder / bundle.MANIFEST).is_file():  # which holds the hash of every file
        return {bundle.MANIFEST: file_hash(folder / bundle.MANIFEST)[:16]}
    run = newest_run(folder)
    found = checkpoint.latest(run) if run.is_dir() else None
    return {} if found is None else {name: digest[:16] for name, digest in checkpoint.check(found)["files"].items()}


def _codec(weights: dict[str, Tensor]) -> Codec:
    codec = Codec(CodecConfig(base=weights["decoder.head.0.gamma"].shape[0]))
    codec.load_state_dict(weights)
    return codec


def weights_of(run: Path) -> tuple[dict[str, dict[str, Tensor]], Sizes, dict[str, Any]]:
    """Weights per part of a finished run (codec, text, transformer), its sizes and its metadata."""
    run = newest_run(run)
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
    task = meta["config"]["task"]
    if task.get("text"):  # which was taken as it was
        parts["text"] = bundle.load(place_of(task["text"])).weights("text")
    parts["codec"] = load_codec(place_of(task["codec"])).state_dict()
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
