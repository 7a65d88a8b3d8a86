"""Writes `locales/en/nodeDefs.json` from the nodes' own schemas, and says what other languages lack. Writes the help
page of every node in those languages, `web/docs/ID/LANGUAGE.md`, of their words.

`python -m scripts.locales` from the project's root. Run it after a change of a node's words; a test compares.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .comfyui import ROOT, comfyui_path
from .json_lines import dumps

__all__ = ["definitions", "help_page"]

# What stands above inputs, above outputs, and at the end of a help page.
_HEADS = {"zh": ("输入", "输出", "示例、接法和常见错误见英文帮助页。")}


def definitions(classes: Mapping[str, Any]) -> dict[str, Any]:
    """The host's `nodeDefs` tree of the given node classes: names and tooltips of nodes, inputs and outputs."""
    return {name: _definition(classes[name].GET_SCHEMA()) for name in sorted(classes)}


def _definition(schema: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for entry in schema.inputs:
        inputs[entry.id] = _words(entry)
        for option in getattr(entry, "options", None) or ():
            for inner in getattr(option, "inputs", ()):
                inputs[f"{entry.id}_{inner.id}"] = _words(inner)  # the frontend turns the dot of a key into this
    outputs = {str(index): _words(entry) for index, entry in enumerate(schema.outputs)}
    found: dict[str, Any] = {"display_name": schema.display_name, "description": schema.description}
    if inputs:
        found["inputs"] = inputs
    if outputs:
        found["outputs"] = outputs
    return found


def _words(entry: Any) -> dict[str, str]:
    return {"name": _name(entry), "tooltip": entry.tooltip or ""}


def _name(entry: Any) -> str:
    """What the canvas shows: the display name, the id, or for an output that the host named, its type."""
    own = "" if entry.id is None or entry.id.startswith("_") else entry.id
    return entry.display_name or own or entry.io_type


def _load_pack() -> dict[str, Any]:
    """The node classes, loaded by the host itself on the CPU in a folder of its own."""
    sys.path.insert(0, str(comfyui_path()))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = tempfile.mkdtemp(prefix="matrix-locales-")
    nodes: Any = importlib.import_module("nodes")  # the host's
    before = set(nodes.NODE_CLASS_MAPPINGS)
    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        raise RuntimeError("ComfyUI could not load the pack; its log is above")
    return {name: cls for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}


def help_page(words: Mapping[str, Any], language: str) -> str:
    """The help page of a node, in Markdown, of its words in `language`."""
    inputs, outputs, more = _HEADS[language]
    page = f"# {words['display_name']}\n\n{words['description']}\n"
    for head, parts in ((inputs, words.get("inputs", {})), (outputs, words.get("outputs", {}))):
        lines = [f"- **{part['name']}**: {part['tooltip']}" for part in parts.values()]
        page += f"\n## {head}\n\n" + "\n".join(lines) + "\n" if lines else ""
    return f"{page}\n{more}\n"


def _keys(tree: Any, path: str = "") -> set[str]:
    if isinstance(tree, str):
        return {path}
    return {key for name, value in tree.items() for key in _keys(value, f"{path}/{name}")}


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(dumps(tree, 3) + "\n", encoding="utf-8")  # a line for each input and output


def main() -> None:
    english = definitions(_load_pack())
    target = ROOT / "locales" / "en" / "nodeDefs.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, english)
    print(f"{target}: {len(english)} nodes, {len(_keys(english))} texts")
    for other in sorted((ROOT / "locales").glob("*/nodeDefs.json")):
        texts = json.loads(other.read_text(encoding="utf-8"))
        _write(other, texts)
        lacking, strange = sorted(_keys(english) - _keys(texts)), sorted(_keys(texts) - _keys(english))
        for word, keys in (("lacks", lacking), ("has for nothing", strange)):
            if keys:
                print(f"{other.parent.name} {word}: {', '.join(keys)}")
        for name, words in texts.items() if other.parent.name != "en" else ():
            page = ROOT / "web" / "docs" / name / f"{other.parent.name}.md"
            page.parent.mkdir(exist_ok=True)
            page.write_text(help_page(words, other.parent.name), encoding="utf-8")


if __name__ == "__main__":
    main()
