"""Every workflow that ships: the server accepts it, its two forms say the same, and it shows up as a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def info(server: Any) -> dict[str, Any]:
    return server.get("/object_info")


def forms(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = ROOT / "workflows"
    canvas = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return canvas, json.loads((folder / "api" / f"{name}.json").read_text(encoding="utf-8"))


def test_there_are_workflows_with_both_forms_and_a_picture() -> None:
    assert "01_watch_attention" in NAMES
    assert sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json")) == NAMES
    for name in NAMES:
        assert (ROOT / "workflows" / f"{name}.jpg").stat().st_size < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_the_server_would_take_it(name: str, info: dict[str, Any]) -> None:
    from scripts.workflows import problems

    assert problems(forms(name)[1], info) == []


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name: str, info: dict[str, Any]) -> None:
    from scripts.workflows import api_form

    canvas, graph = forms(name)
    assert api_form(canvas, info) == graph, "run: python -m scripts.workflows"


@pytest.mark.parametrize("name", NAMES)
def test_the_canvas_form_holds_together(name: str, info: dict[str, Any]) -> None:
    """Links meet sockets that exist on both ends and agree on the type; nodes do not lie on each other."""
    canvas, _ = forms(name)
    nodes = {node["id"]: node for node in canvas["nodes"]}
    assert len(nodes) == len(canvas["nodes"])
    for number, source, output, target, index, kind in canvas["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][index]["link"] == number
    boxes = [(*node["pos"], *node["size"], node["type"]) for node in canvas["nodes"]]
    for i, (x, y, w, h, first) in enumerate(boxes):
        for x2, y2, w2, h2, second in boxes[i + 1 :]:
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 - 30 or y2 + h2 <= y - 30
            assert apart, f"{first} and {second} lie on each other"


@pytest.mark.parametrize("name", NAMES)
def test_its_groups_hold_their_nodes_and_lie_apart(name: str) -> None:
    canvas, _ = forms(name)
    frames = [group["bounding"] for group in canvas["groups"]]
    for i, (x, y, w, h) in enumerate(frames):
        assert all(x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y for x2, y2, w2, h2 in frames[i + 1 :])
    for node in canvas["nodes"]:
        (left, top), (width, height) = node["pos"], node["size"]
        held = [
            x <= left and left + width <= x + w and y <= top - 30 and top + height <= y + h for x, y, w, h in frames
        ]
        assert sum(held) == 1, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_at_a_scale_that_shows_text(name: str) -> None:
    """The host fits a template into three quarters of its canvas; text of 14 pixels is drawn from 8 pixels on."""
    canvas, _ = forms(name)
    sides = [
        (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in canvas["nodes"]
    ]
    left, top, right, bottom = (pick(side[i] for side in sides) for i, pick in enumerate((min, min, max, max)))
    scale = min(0.75 * 1920 / (right - left), 0.75 * 1080 / (bottom - top + 30))
    assert scale * 14 >= 8
    assert canvas["extra"]["ds"]["scale"] * 14 >= 8


def test_the_first_one_is_small_and_needs_no_file() -> None:
    canvas, graph = forms(NAMES[0])
    assert NAMES[0].startswith("00")
    assert len(graph) <= 10
    assert not {"LoadVideo", "LoadImage"} & {node["class_type"] for name in NAMES for node in forms(name)[1].values()}


def test_a_broken_graph_is_seen(info: dict[str, Any]) -> None:
    from scripts.workflows import problems

    graph = forms("01_watch_attention")[1]
    number = next(n for n, node in graph.items() if node["class_type"] == "KSamplerSelect")
    graph[number]["inputs"] = {"sampler_name": "no such sampler", "speed": 3}
    found = "\n".join(problems(graph, info))
    assert "is no choice" in found
    assert "there is no input speed" in found


def test_the_host_offers_templates_words_and_pages(server: Any) -> None:
    import urllib.request

    assert set(NAMES) <= set(server.get("/workflow_templates")["matrix-video"])
    assert "MatrixSampleAttention" in server.get("/i18n")["en"]["nodeDefs"]
    page = f"{server.url}/extensions/matrix-video/docs/MatrixSampleAttention.md"
    with urllib.request.urlopen(page, timeout=30) as reply:
        assert b"MATRIX Sample and Capture Attention" in reply.read()
