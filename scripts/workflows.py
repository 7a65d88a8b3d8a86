"""Workflows in their two forms: the one that ComfyUI's canvas opens, and the one that its server takes over HTTP.

`scripts/templates/` says which nodes a workflow has and how they are wired; `python -m scripts.workflows` starts the
real ComfyUI, asks it what every node looks like, checks each draft against that, and writes `workflows/NAME.json`
(canvas) and `workflows/api/NAME.json` (server). A test reads both back and compares.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .comfyui import ROOT, serve
from .draft import Draft, Node
from .json_lines import dumps
from .templates import judge, lora, start, steering, watch

__all__ = ["api_form", "problems", "ui_form"]

Graph = dict[str, Any]
Info = dict[str, Any]
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
NOTES = {"Note", "MarkdownNote"}
# Pixels that the page's track editor takes at least, below the text that it edits.
EDITORS = {"MatrixBoxTracks": 296, "MatrixSAM2Tracks": 296, "MatrixMaskTracks": 46, "MatrixCutAndDrag": 46}
# What a canvas shows first that opens the file itself, beside its bars. One that opens a template shows all of it.
VIEW = {"scale": 0.75, "offset": [120, 100]}


@dataclass(frozen=True)
class Slot:
    """One input of a node as it stands on the canvas. `extra`: values that the canvas keeps behind a widget's own."""

    name: str
    kind: str
    required: bool
    options: dict[str, Any]
    widget: bool
    extra: tuple[Any, ...] = ()


def slots(definition: Info, value_of: Callable[[Slot], Any]) -> Iterator[Slot]:
    """Every input of a node in canvas order. `value_of` is asked once for each widget; what it says for a dynamic combo
    decides which inputs follow."""
    yield from _slots(definition["input"], value_of, "")


def _slots(tree: Info, value_of: Callable[[Slot], Any], prefix: str) -> Iterator[Slot]:
    for level in ("required", "optional"):
        for name, entry in tree.get(level, {}).items():
            kind, options = (entry[0], entry[1] if len(entry) > 1 else {})
            full = f"{prefix}{name}"
            if kind == "COMFY_AUTOGROW_V3":
                yield from _grown(full, options, level == "required")
                continue
            combo = isinstance(kind, list)
            options = {**options, "options": kind} if combo else options
            kind = "COMBO" if combo else kind
            extra: tuple[Any, ...] = ("fixed",) if options.get("control_after_generate") else ()
            extra += ("image",) if any(options.get(f"{what}_upload") for what in ("image", "video", "audio")) else ()
            widget = kind in WIDGETS and not options.get("forceInput")
            slot = Slot(full, kind, level == "required", options, widget, extra)
            yield slot
            if not widget:
                continue
            value = value_of(slot)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    if option["key"] == value:
                        yield from _slots(option["inputs"], value_of, f"{full}.")


def _grown(name: str, options: dict[str, Any], required: bool) -> Iterator[Slot]:
    """The sockets of an input that grows."""
    template = options["template"]
    names = template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]
    inner = next(iter(entries for entries in template["input"].values() if entries))
    kind, inner_options = (*next(iter(inner.values())), {})[:2]
    for index, each in enumerate(names):
        needed = required and index < template.get("min", 0)
        yield Slot(f"{name}.{each}", kind, needed, inner_options, False)


# ------------------------------------------------------------------------------------------------ to the canvas
def ui_form(draft: Draft, info: Info) -> Graph:
    """The canvas form of a draft: nodes with positions, links by number, widget values in the order of the widgets."""
    links: list[list[Any]] = []
    nodes = {node.id: _ui_node(node, info[node.kind], order) for order, node in enumerate(draft.nodes)}
    for node in draft.nodes:
        for index, entry in enumerate(nodes[node.id]["inputs"]):
            value = node.inputs.get(entry["name"])
            if isinstance(value, tuple):
                source, output = value
                out = nodes[source]["outputs"][output]
                link = [len(links) + 1, source, output, node.id, index, out["type"]]
                links.append(link)
                entry["link"] = link[0]
                out["links"] = [*(out["links"] or []), link[0]]
    nodes |= {note.id: _ui_note(note) for note in draft.notes}
    at, frames = draft.places({number: node["size"][1] for number, node in nodes.items()})
    for number, place in at.items():
        nodes[number]["pos"] = list(place)
    groups = [
        {"id": i + 1, "title": group.title, "bounding": list(frame), "color": group.color, "flags": {}}
        for i, (group, frame) in enumerate(zip(draft.groups, frames, strict=True))
    ]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"matrix-video/{draft.name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": VIEW},
        "version": 0.4,
    }


def _ui_node(node: Node, definition: Info, order: int) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []

    def value_of(slot: Slot) -> Any:
        given = node.inputs.get(slot.name, _default(slot))
        value = _default(slot) if isinstance(given, tuple) else given
        values.extend((value, *slot.extra))
        return value

    for slot in slots(definition, value_of):
        entry: dict[str, Any] = {"name": slot.name, "type": slot.kind, "link": None}
        if slot.widget:
            entry["widget"] = {"name": slot.name}
        elif not slot.required:
            entry["shape"] = 7
        linked = isinstance(node.inputs.get(slot.name), tuple)
        if slot.required or slot.widget or linked or "." not in slot.name:
            inputs.append(entry)
    kinds, names = definition["output"], definition["output_name"]
    outputs = [{"name": name, "type": kind, "links": None} for name, kind in zip(names, kinds, strict=True)]
    least = _least_height(inputs, outputs, definition) + EDITORS.get(node.kind, 0)
    size = [node.width, node.height + least]
    found: dict[str, Any] = {"id": node.id, "type": node.kind, "pos": [0, 0], "size": size}
    found |= {"flags": {}, "order": order, "mode": 0, "inputs": inputs, "outputs": outputs}
    found["properties"] = {"Node name for S&R": node.kind}
    if node.title:
        found["title"] = node.title
    return found | {"widgets_values": values}


def _least_height(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], definition: Info) -> int:
    """Pixels that the canvas needs for a node's sockets and widgets, so that nothing is saved smaller than it opens."""
    widgets = [entry["name"] for entry in inputs if "widget" in entry]
    known = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    tall = sum(len(known.get(name, ())) > 1 and bool(known[name][1].get("multiline")) for name in widgets)
    sockets = max(len(inputs) - len(widgets), len(outputs))
    return 12 + 20 * sockets + 25 * len(widgets) + 60 * tall


def _ui_note(note: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"id": note.id, "type": note.kind, "pos": [0, 0], "size": [note.width, note.height]}
    found |= {"flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": note.title, "properties": {}}
    return found | {"widgets_values": [note.inputs["text"]], "color": "#432", "bgcolor": "#653"}


def _default(slot: Slot) -> Any:
    if "default" in slot.options:
        return slot.options["default"]
    choices = slot.options.get("options") or [""]
    if slot.kind == "COMFY_DYNAMICCOMBO_V3":
        return choices[0]["key"]
    return choices[0] if slot.kind == "COMBO" else {"STRING": "", "BOOLEAN": False}.get(slot.kind, 0)


# ------------------------------------------------------------------------------------------------ to the server
def api_form(ui: Graph, info: Info) -> Graph:
    """What the canvas would send to the server for the workflow `ui`. Raises ValueError on muted or unknown nodes."""
    links = {link[0]: link for link in ui["links"]}
    graph: Graph = {}
    for node in ui["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["type"] not in info or node["mode"] != 0:
            raise ValueError(f"node {node['id']} ({node['type']}) is muted, or this ComfyUI does not know it")
        title = node.get("title") or info[node["type"]]["display_name"] or node["type"]
        inputs = _api_inputs(node, info[node["type"]], links)
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return graph


def _api_inputs(node: dict[str, Any], definition: Info, links: dict[int, list[Any]]) -> dict[str, Any]:
    linked = {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry.get("link")}
    values = iter(node["widgets_values"])
    inputs: dict[str, Any] = {}

    def value_of(slot: Slot) -> Any:
        value = next(values)
        for _ in slot.extra:
            next(values)
        inputs[slot.name] = value
        return value

    for slot in slots(definition, value_of):
        if slot.name in linked and not slot.widget:
            inputs[slot.name] = None
    if len(rest := list(values)):
        raise ValueError(f"node {node['id']} ({node['type']}) has {len(rest)} widget values too many: {rest}")
    for name, (_, source, output, *_) in linked.items():
        inputs[name] = [str(source), output]
    return inputs


# ------------------------------------------------------------------------------------------------ checks
def problems(graph: Graph, info: Info, files: frozenset[str] = frozenset()) -> list[str]:
    """What the server would refuse in `graph`, and what it would let pass silently. `files` are values of file and
    model lists that may be absent from the server asked."""
    found: list[str] = []
    for number, node in graph.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind not in info:
            found.append(f"{number}: no node {kind}")
            continue
        known: set[str] = set()
        for slot in slots(info[kind], _reader(inputs)):
            known.add(slot.name)
            if slot.name not in inputs:
                found += [f"{number} {kind}: {slot.name} is missing"] if slot.required else []
            elif trouble := _trouble(inputs[slot.name], slot, graph, info, files):
                found.append(f"{number} {kind}.{slot.name}: {trouble}")
        found += [f"{number} {kind}: there is no input {name}" for name in sorted(set(inputs) - known)]
    return found


def _reader(inputs: Graph) -> Callable[[Slot], Any]:
    return lambda slot: inputs.get(slot.name)


def _trouble(value: Any, slot: Slot, graph: Graph, info: Info, files: frozenset[str]) -> str | None:
    if isinstance(value, list):
        source = graph.get(str(value[0]))
        kinds = info[source["class_type"]]["output"] if source else []
        if not 0 <= value[1] < len(kinds):
            return f"output {value} does not exist"
        accepted = set(slot.kind.split(","))
        matches = kinds[value[1]] in accepted or "*" in (kinds[value[1]], slot.kind) or slot.kind.startswith("COMFY_")
        return None if matches else f"takes {slot.kind}, gets {kinds[value[1]]}"
    if not slot.widget:
        return f"{slot.kind} has to be linked"
    if slot.kind == "COMBO" and value not in slot.options.get("options", []) and value not in files:
        return f"{value!r} is no choice"
    if slot.kind == "COMFY_DYNAMICCOMBO_V3" and value not in [option["key"] for option in slot.options["options"]]:
        return f"{value!r} is no choice"
    if slot.kind in ("INT", "FLOAT") and not slot.options.get("min", value) <= value <= slot.options.get("max", value):
        return f"{value} is out of range"
    return None


def write(draft: Draft, info: Info, folder: Path = ROOT / "workflows") -> None:
    """Checks and writes both forms. Raises ValueError listing what the server would refuse."""
    canvas = ui_form(draft, info)
    full = api_form(canvas, info)
    given = {name for node in draft.nodes for name in node.inputs if name not in full[str(node.id)]["inputs"]}
    wrong = problems(full, info) + [f"no node takes {name}" for name in sorted(given)]
    if wrong:
        raise ValueError(f"{draft.name}:\n" + "\n".join(wrong))
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for path, form in ((folder / f"{draft.name}.json", canvas), (folder / "api" / f"{draft.name}.json", full)):
        path.write_text(dumps(form, 2) + "\n", encoding="utf-8")
        print(path.relative_to(ROOT))


def main() -> None:
    with tempfile.TemporaryDirectory() as base, serve(Path(base)) as server:
        info = server.get("/object_info")
    for make in (*start.DRAFTS, *watch.DRAFTS, *lora.DRAFTS, *steering.DRAFTS, *judge.DRAFTS):
        write(make(), info)


if __name__ == "__main__":
    main()
