"""The template with two experts, as it ships but in one step each, over HTTP in the real ComfyUI with mini."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from support_graphs import only

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_as_it_is_and_again_from_what_the_host_kept(server: Any) -> None:
    """Two runs of two models come out as one capture, experts apart; with a changed second half the first one's run is
    still there, though its nodes did not run again."""
    from matrix_lib.io.captures import load_capture
    from scripts.follow import follow

    graph = json.loads((ROOT / "workflows" / "api" / "08_two_experts.json").read_text(encoding="utf-8"))
    ends = [n for n, node in graph.items() if node["class_type"] in ("MatrixSaveCapture", "MatrixAnalyseLayers")]
    graph = only(graph, *ends)
    samplers = [n for n, node in graph.items() if node["class_type"] == "KSamplerAdvanced"]
    for number in samplers:
        inputs = graph[number]["inputs"]
        inputs["steps"] = 2
        inputs["start_at_step"], inputs["end_at_step"] = (0, 1) if inputs["add_noise"] == "enable" else (1, 10000)
    found = []
    for cfg in (4.0, 3.0):
        second = next(n for n in samplers if graph[n]["inputs"]["add_noise"] == "disable")
        graph[second]["inputs"]["cfg"] = cfg
        follow(server, graph, sink=StringIO())
        saved = max((server.base / "output" / "matrix").glob("experts_*.safetensors"))
        found.append(load_capture(saved))
    for capture in found:
        assert capture.experts == {"high noise": (0,), "low noise": (1,)}
        assert capture.skipped == ()
    first, second_run = (capture.streams[0].v2t for capture in found)
    assert (first[:, 0] == second_run[:, 0]).all()
    assert found[0].streams[0].calls(1) == 1
