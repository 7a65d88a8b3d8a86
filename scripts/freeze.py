"""What saved work leans on, as JSON: workflows, nodes' inputs and outputs, commands' options, presets' settings.

`python -m scripts.freeze tests/data/VERSION.tar.xz` packs it for the present version; a test holds later ones to it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import re
import runpy
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .comfyui import ROOT, serve

__all__ = ["commands", "nodes", "pack", "presets", "unpack"]

_KEPT = ("default", "min", "max", "step", "options", "template")


def nodes(info: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs and outputs of the pack's nodes, of what the host's /object_info says. Words for people are left out."""
    return {
        name: {"input": _inputs(node["input"]), "output": list(zip(node["output_name"], node["output"]))}
        for name, node in sorted(info.items())
        if name.startswith("Matrix")
    }


def _inputs(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {level: {name: _input(*entry) for name, entry in tree[level].items()} for level in tree if level != "hidden"}


def _input(kind: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    options = {key: value for key, value in (options or {}).items() if key in _KEPT}
    if isinstance(kind, list):
        kind, options = "COMBO", {**options, "options": kind}
    if kind == "COMFY_DYNAMICCOMBO_V3":
        options["options"] = {each["key"]: _inputs(each["inputs"]) for each in options["options"]}
    if "template" in options:
        template = options["template"]
        options["template"] = {**{k: v for k, v in template.items() if k != "input"}, **_inputs(template["input"])}
    return {"type": kind, **options}


def commands() -> dict[str, list[str]]:
    """The options of every `python -m training.X`, as its help has them. Raises RuntimeError where there is no help."""
    found = {}
    for path in sorted((ROOT / "training").glob("*.py")):
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            found[path.stem] = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", _help(f"training.{path.stem}"))))
    return found


def _help(module: str) -> str:
    said, before = io.StringIO(), sys.argv
    sys.argv = [module, "--help"]
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the module may have been imported before
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        if not end.code:
            return said.getvalue()
    finally:
        sys.argv = before
    raise RuntimeError(f"python -m {module} --help does not end well")


def presets(every: Mapping[str, Callable[[], Any]]) -> dict[str, dict[str, Any]]:
    """Every setting of every preset by its path (`optim.lr`), with the value that the preset gives it."""
    return {name: json.loads(json.dumps(_flat(dataclasses.asdict(make())))) for name, make in sorted(every.items())}


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return flat


def main() -> None:
    from training.run.presets import PRESETS

    parser = argparse.ArgumentParser(prog="python -m scripts.freeze", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("archive", type=Path, help="a .tar.xz")
    archive = parser.parse_args().archive
    with tempfile.TemporaryDirectory() as base, serve(Path(base)) as server:
        info = server.get("/object_info")
    made = {"nodes": nodes(info), "commands": commands(), "presets": presets(PRESETS)}
    texts = {f"{name}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n" for name, each in made.items()}
    saved = sorted((ROOT / "workflows").glob("**/*.json"))
    pack(archive, texts | {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in saved})


def pack(archive: Path, texts: Mapping[str, str]) -> None:
    """Texts by their names, packed as a .tar.xz that is the same bytes for the same texts."""
    with tarfile.open(archive, "w:xz", format=tarfile.USTAR_FORMAT, preset=9) as packed:
        for name in sorted(texts):
            content = texts[name].encode("utf-8")
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))


def unpack(archive: Path) -> dict[str, Any]:
    """What the JSON files of an archive hold, by their names in it (`workflows/api/01_watch_attention.json`)."""
    with tarfile.open(archive, "r:xz") as packed:
        files = ((entry.name, packed.extractfile(entry)) for entry in packed)
        return {name: json.load(file) for name, file in files if file is not None}


if __name__ == "__main__":
    main()
