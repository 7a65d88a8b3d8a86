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
