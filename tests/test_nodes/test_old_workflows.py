"""What people saved with 0.1 still opens and still says the same: workflows, nodes, commands, presets.

`tests/data/0.1.tar.xz` holds what that version shipped and what `python -m scripts.freeze` made of it.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts.freeze import commands, nodes, presets, unpack

OLD = unpack(Path(__file__).resolve().parents[1] / "data" / "0.1.tar.xz")
NAMES = sorted(Path(name).stem for name in OLD if name.startswith("workflows/api/"))
FILES = {"bikes.mp4"}  # which a person had put into the input folder
NO_FILES = ["(no capture files yet)"]


def read(name: str) -> Any:
    """A copy of what a file of that version holds: a test may change it."""
    return copy.deepcopy(OLD[name])


@pytest.fixture(scope="module")
def info(server: Any) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(scope="module")
def execution(pack: Any) -> ModuleType:
    """The host's own checks, in a host that has all of its nodes and the files that the workflows name."""
    import folder_paths

    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    for name in FILES:
        (Path(folder_paths.get_input_directory()) / name).touch()
    import execution

    return execution


@pytest.mark.parametrize("name", NAMES)
def test_the_host_takes_its_server_form(name: str, execution: ModuleType) -> None:
    graph = read(f"workflows/api/{name}.json")
    valid, error, outputs, wrong = asyncio.run(execution.validate_prompt(name, graph, None))
    assert valid, (error, wrong)
    assert not wrong
    assert outputs


@pytest.mark.parametrize("name", NAMES)
def test_its_canvas_form_opens_as_it_was_saved(name: str, info: dict[str, Any]) -> None:
    """Widget values are kept without names: the widgets have to come in the same order, new ones at the end."""
    from scripts.workflows import NOTES, slots

    for node in read(f"workflows/{name}.json")["nodes"]:
        if node["type"] in NOTES:
            continue
        definition, where = info[node["type"]], f"{name}: node {node['id']}, {node['type']}"
        values, widgets = iter(node["widgets_values"]), []

        def value_of(slot: Any, values: Any = values, widgets: list[str] = widgets) -> Any:
            widgets.append(slot.name)
            value = next(values, slot.options.get("default"))
            for _ in slot.extra:
                next(values, None)
            return value

        known = {slot.name: slot.kind for slot in slots(definition, value_of)}
        assert list(values) == [], f"{where}: values that no widget takes"
        saved = [entry["name"] for entry in node["inputs"] if "widget" in entry]
        assert widgets[: len(saved)] == saved, where
        for entry in node["inputs"]:
            assert takes(known.get(entry["name"], ""), entry["type"]), f"{where}.{entry['name']}"
        outputs = list(zip(definition["output_name"], definition["output"]))
        assert outputs[: len(node["outputs"])] == [(entry["name"], entry["type"]) for entry in node["outputs"]], where


def takes(new: str, old: str) -> bool:
    """Whether a socket takes what it took: more types may have come."""
    return set(old.split(",")) <= set(new.split(","))


def test_nodes_have_only_grown(info: dict[str, Any]) -> None:
    today = json.loads(json.dumps(nodes(info)))
    assert not shrunk(read("nodes.json"), today)


def test_a_menu_of_files_may_hold_files() -> None:
    old = read("nodes.json")
    new = json.loads(json.dumps(old))
    menu = new["MatrixLoadCapture"]["input"]["required"]["file"]
    assert menu["options"] == NO_FILES
    menu["options"] = ["matrix/tracks_00003_.safetensors [output]"]
    assert not shrunk(old, new)


def shrunk(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What 0.1 had and today's nodes have not, or have otherwise."""
    found = [f"{name} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        before, after = old[name]["output"], new[name]["output"]
        if after[: len(before)] != before:
            found.append(f"{name}: outputs {before} are {after}")
        found += _inputs(name, old[name]["input"], new[name]["input"])
    return found


def _inputs(where: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    was, now = ({name: each for level in tree.values() for name, each in level.items()} for tree in (old, new))
    found = [f"{where}: {name} is gone" for name in was if name not in now]
    needed = new.get("required", {}).keys() - old.get("required", {}).keys()
    found += [f"{where}: {name} is required now" for name in sorted(needed)]
    order = [name for name in now if name in was]
    found += [f"{where}: inputs come in the order {order}"] if order != [name for name in was if name in now] else []
    for name in was.keys() & now.keys():
        found += _input(f"{where}.{name}", was[name], now[name])
    return found


def _input(where: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    grown = old["type"] != new["type"] and takes(str(new["type"]), str(old["type"]))
    found = [
        f"{where}: {key} was {old.get(key)}, is {new.get(key)}"
        for key in ("type", "default")
        if old.get(key) != new.get(key) and not grown  # a socket of several types has no default of one of them
    ]
    if new.get("min", 0) > old.get("min", 0) or new.get("max", 0) < old.get("max", 0):
        found.append(f"{where}: {old['min']} to {old['max']} is {new['min']} to {new['max']}")
    before, after = old.get("options", []), new.get("options", [])
    if before == NO_FILES:
        before = after  # a menu of files, frozen where there were none: today it lists what lies there
    found += [f"{where}: {choice!r} is no choice any more" for choice in before if choice not in after]
    if isinstance(before, dict):
        for choice in before.keys() & after.keys():
            found += _inputs(f"{where}.{choice}", before[choice], after[choice])
            was, now = ({name for level in tree[choice].values() for name in level} for tree in (before, after))
            # It would take the saved value of a field behind the menu.
            found += [f"{where}.{choice}: {name} is new" for name in now - was]
    elif before and before[:1] != after[:1]:
        found.append(f"{where}: the first choice was {before[0]!r}, is {after[0]!r}")
    if old.get("template", {}) != new.get("template", {}):
        found.append(f"{where}: grows otherwise")
    return found


def test_what_shrinks_is_seen() -> None:
    old = read("nodes.json")
    for change in (
        lambda new: new.pop("MatrixBindPrompt"),
        lambda new: new["MatrixSampleAttention"]["output"].reverse(),
        lambda new: new["MatrixBoxTracks"]["input"]["required"].pop("hold"),
        lambda new: new["MatrixAnalyseLayers"]["input"]["required"]["keep"].update(max=8),
        lambda new: new["MatrixAttentionGuidance"]["input"]["required"]["mode"]["options"].pop("region bias"),
        lambda new: new["MatrixAnalyseLayers"]["input"]["required"].update(more={"type": "INT"}),
        lambda new: new["MatrixLoadVideoDiT"]["input"]["required"]["source"]["options"]["mini"].update(
            optional={"more": {"type": "INT"}}
        ),
    ):
        new = json.loads(json.dumps(old))
        change(new)
        assert len(shrunk(old, new)) == 1
    assert shrunk(old, old) == []


def test_commands_have_their_options() -> None:
    today = commands()
    for name, options in read("commands.json").items():
        assert set(options) <= set(today[name]), f"python -m training.{name}"


def test_presets_have_their_settings() -> None:
    from training.run.presets import PRESETS

    today = presets(PRESETS)
    for name, settings in read("presets.json").items():
        assert {path: today[name].get(path, "is gone") for path in settings} == settings


@pytest.mark.parametrize(
    ("kind", "inputs", "told"),
    [
        (
            "MatrixLoadVideoDiT",
            {"source": "diffusers folder", "source.folder": "Gone-5b"},
            ("Gone-5b", "models/diffusers"),
        ),
        (
            "MatrixLoadVideoDiT",
            {"source": "native file", "source.file": "gone.safetensors"},
            ("gone", "diffusion_models"),
        ),
        ("MatrixApplyLoRA", {"lora": "gone.safetensors"}, ("gone.safetensors", "models/loras")),
    ],
)
def test_what_is_missing_is_named_with_its_folder(
    kind: str, inputs: dict[str, Any], told: tuple[str, ...], execution: ModuleType
) -> None:
    graph = read("workflows/api/02_matrix_lora.json")
    (node,) = [node for node in graph.values() if node["class_type"] == kind][:1]
    node["inputs"].update(inputs)
    valid, _, _, wrong = asyncio.run(execution.validate_prompt("missing", graph, None))
    assert not valid
    # the value, and what the input says of itself: its tooltip names the folder
    texts = [error["details"] + str(error["extra_info"]) for found in wrong.values() for error in found["errors"]]
    assert any(all(word in text for word in told) for text in texts), texts


def test_a_typo_in_boxes_is_one_error_at_that_input(execution: ModuleType) -> None:
    graph = read("workflows/api/01_watch_attention.json")
    number = next(n for n, node in graph.items() if node["class_type"] == "MatrixBoxTracks")
    graph[number]["inputs"]["boxes"] = "van: 1 2 3"
    valid, _, _, wrong = asyncio.run(execution.validate_prompt("typo", graph, None))
    assert not valid
    (error,) = wrong[number]["errors"]
    assert error["extra_info"]["input_name"] == "boxes"
    assert "line 1" in error["details"]
