"""What saved work leans on, as JSON: the nodes' inputs and outputs, the commands' options, presets and their settings.

`python -m scripts.freeze FOLDER` writes it for the present version; a test holds later versions to what was frozen.
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
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .comfyui import ROOT, serve

__all__ = ["commands", "nodes", "presets"]

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
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, serve(Path(base)) as server:
        info = server.get("/object_info")
    for name, made in (("nodes", nodes(info)), ("commands", commands()), ("presets", presets(PRESETS))):
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
