"""Says what each language in `locales/` lacks of the nodes' words, and what it has for nothing. Writes the help page of
every node in that language, `web/docs/ID/LANGUAGE.md`, of its words.

English is in the nodes' own schemas, where the page reads most of it. `locales/en/nodeDefs.json`, which is written
here, has the rest: names of nodes, which its menus look up there alone, and the inputs inside of dynamic ones.

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

__all__ = ["definitions", "english", "help_page", "texts"]

# What stands above inputs, above outputs, and at the end of a help page.
_HEADS = {"zh": ("输入", "输出", "示例、接法和常见错误见英文帮助页。")}


def definitions(classes: Mapping[str, Any]) -> dict[str, Any]:
    """The host's `nodeDefs` tree of the given node classes: names and tooltips of nodes, inputs and outputs."""
    return {name: _definition(classes[name].GET_SCHEMA()) for name in sorted(classes)}


def english(classes: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `definitions` that the page does not read off schemas: names, and inputs inside of dynamic ones."""
    found: dict[str, Any] = {}
    for name, words in definitions(classes).items():
        own = {entry.id for entry in classes[name].GET_SCHEMA().inputs}
        inner = {key: each for key, each in words.get("inputs", {}).items() if key not in own}
        found[name] = {"display_name": words["display_name"]} | ({"inputs": inner} if inner else {})
    return found


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


def texts(tree: Any, path: str = "") -> dict[str, str]:
    """Every text of a `nodeDefs` tree by its path, "/MatrixX/inputs/clip/name"."""
    if isinstance(tree, str):
        return {path: tree}
    return {key: text for name, value in tree.items() for key, text in texts(value, f"{path}/{name}").items()}


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(tree, 3) + "\n", encoding="utf-8")  # a line for each input and output


def main() -> None:
    classes = _load_pack()
    _write(ROOT / "locales" / "en" / "nodeDefs.json", english(classes))
    whole = texts(definitions(classes))
    for path in sorted((ROOT / "locales").glob("*/nodeDefs.json")):
        language, nodes = path.parent.name, json.loads(path.read_text(encoding="utf-8"))
        if language == "en":
            continue
        _write(path, nodes)
        found = texts(nodes)
        print(f"{path}: {len(found)} of {len(whole)} texts")
        for key in sorted(whole.keys() - found.keys()):
            print(f"{language} lacks {key}: {whole[key]}")
        for key in sorted(found.keys() - whole.keys()):
            print(f"{language} has for nothing {key}")
        for name, words in nodes.items():
            page = ROOT / "web" / "docs" / name / f"{language}.md"
            page.parent.mkdir(exist_ok=True)
            page.write_text(help_page(words, language), encoding="utf-8")


if __name__ == "__main__":
    main()
