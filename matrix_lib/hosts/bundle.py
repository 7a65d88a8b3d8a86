"""The mini model's files: where they are, whether they are whole, and what the model can do.

bundle.json      format, sizes, files of each part, checksums, the words that were trained
codec-*.safetensors, text-*.safetensors, transformer-*.safetensors     float16, each file under 16 MB
tokenizer/       the T5 tokenizer

`loras/` beside the bundle's folder holds example LoRAs for this model, each file under 16 MB as well; `clips/` holds
clips of its world, a few kB each.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..backbones.cogvideox import SPEC

__all__ = [
    "BACKBONE",
    "CLIPS",
    "FORMAT",
    "HOME",
    "LORAS",
    "MANIFEST",
    "Bundle",
    "example_clips",
    "example_loras",
    "find",
    "load",
]

FORMAT = 1
MANIFEST = "bundle.json"
BACKBONE = SPEC  # the mini model's transformer is one of this family
HOME = Path(__file__).parents[1] / "mini" / "model"
LORAS, CLIPS = HOME.parent / "loras", HOME.parent / "clips"
PARTS = ("codec", "text", "transformer", "tokenizer")
KINDS: dict[str, type] = {"sizes": dict, "files": dict, "checksums": dict, "words": list}
SIZES = ("frames", "height", "width", "text_length", "text_dim", "latent")
MAX_INSTANCES = 5
MAX_MANIFEST, MAX_FILE = 1_000_000, 16_000_000


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found to be whole.

    Attributes:
        folder: where it lies.
        sizes: layers, heads, time_dim, text_layers, text_dim, text_length, codec_base, latent, frames, height, width.
        files: names of the files of each part.
        words: every word that training used.
        training: steps and configuration of the run.
    """

    folder: Path
    sizes: dict[str, int]
    files: dict[str, tuple[str, ...]]
    words: frozenset[str]
    training: dict[str, Any]

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    def paths(self, part: str) -> list[Path]:
        """Files of a part: "codec", "text", "transformer" or "tokenizer"."""
        return [self.folder / name for name in self.files[part]]

    def weights(self, part: str) -> dict[str, Tensor]:
        """All tensors of a part, float16. The codec has the Wan release's names, the others diffusers' names."""
        out: dict[str, Tensor] = {}
        for path in self.paths(part):
            out.update(load_file(path))
        return out

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns; with one latent pixel per token these are the tokens as well."""
        return (self.sizes["frames"] - 1) // 4 + 1, self.sizes["height"] // 8, self.sizes["width"] // 8

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for a size that the model was not trained for."""
        own = (self.sizes["frames"], self.sizes["height"], self.sizes["width"])
        if (frames, height, width) != own:
            raise ValueError(
                f"the mini model makes {own[0]} frames of {own[1]}x{own[2]} pixels and no other size; got {frames} "
                f"frames of {height}x{width}: set width {own[2]}, height {own[1]} and length {own[0]}"
            )

    def check_instances(self, count: int) -> None:
        """Raises ValueError for more instances than the world ever shows."""
        if count > MAX_INSTANCES:
            raise ValueError(
                f"the mini model's world has at most {MAX_INSTANCES} instances in a clip; got {count}: leave some out"
            )

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of a prompt that training never used; the model reads them as nothing. `<idK>` tags are not words."""
        said = re.findall(r"[^\s,.;:!?]+", re.sub(r"<id\d+>", " ", prompt.lower()))
        return tuple(dict.fromkeys(word for word in said if word not in self.words))

    def warning(self, prompt: str) -> str:
        """A sentence for people about a prompt's unknown words, or ""."""
        unknown = self.unknown_words(prompt)
        if not unknown:
            return ""
        return (
            f"the mini model never saw {', '.join(map(repr, unknown))} and reads them as nothing; "
            f"it knows: {', '.join(sorted(self.words))}"
        )


def find(where: Path | str) -> Path | None:
    """The folder of the bundle at `where` ("mini": the one that comes with this package); None where none lies."""
    if where == "mini":
        return HOME
    return Path(where) if (Path(where) / MANIFEST).is_file() else None


def load(path: Path | str | None = None) -> Bundle:
    """Opens a bundle, by default the one that comes with this package, and checks every file against its checksum.

    Raises ValueError when a file is missing, damaged or of another format; it says which, and what to do.
    """
    folder = Path(path) if path is not None else HOME
    return _load(folder, _stamp(folder))


def example_loras() -> dict[str, Path]:
    """The alignment LoRAs that come with the mini model, by file name."""
    return {path.name: path for path in sorted(LORAS.glob("*.safetensors"))}


def example_clips() -> dict[str, Path]:
    """The clips of the mini world that come along, by name without ending: what `python -m scripts.mini_world clips`
    wrote."""
    return {path.stem: path for path in sorted(CLIPS.glob("*.mp4"))}


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files: a bundle is hashed again when any of them changed."""
    if not folder.is_dir():
        return ()
    found = [(p, p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
    return tuple((p.as_posix(), s.st_size, s.st_mtime_ns) for p, s in found)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> Bundle:
    manifest = _manifest(folder)
    files = {part: tuple(manifest["files"][part]) for part in PARTS}
    for name in (name for names in files.values() for name in names):
        _check_file(folder, name, manifest["checksums"].get(name, ""))
    return Bundle(
        folder=folder,
        sizes={name: int(value) for name, value in manifest["sizes"].items()},
        files=files,
        words=frozenset(manifest["words"]),
        training=manifest.get("training", {}),
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no bundle of the mini model: {MANIFEST} is missing. {_remedy()}")
    if path.stat().st_size > MAX_MANIFEST:
        raise ValueError(f"{path} is {path.stat().st_size} bytes, far more than a bundle's manifest has. {_remedy()}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). {_remedy()}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        given = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(f"{path} has bundle format {given!r}; this version reads {FORMAT}. Update this package.")
    wrong = [key for key, kind in KINDS.items() if not isinstance(manifest.get(key), kind)]
    if not wrong:
        wrong += [part for part in PARTS if not isinstance(manifest["files"].get(part), list)]
        wrong += [name for name in SIZES if not isinstance(manifest["sizes"].get(name), int)]
    if wrong:
        raise ValueError(f"{path} lacks {', '.join(wrong)}, or holds something else there. {_remedy()}")
    return manifest


def _check_file(folder: Path, name: str, wanted: str) -> None:
    path = folder / str(name)
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"the bundle in {folder} names a file outside of it: {name!r}. {_remedy()}")
    if not path.is_file():
        raise ValueError(f"the bundle in {folder} is not whole: {name} is missing. {_remedy()}")
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path} is {path.stat().st_size} bytes, more than any file of a bundle has. {_remedy()}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise ValueError(
            f"{path} is damaged: its checksum begins {found[:12]}, the manifest says {wanted[:12] or 'nothing'}. "
            f"{_remedy()}"
        )


def _remedy() -> str:
    return "Install this package again, or run `python -m training.publish` again for a model of your own."
