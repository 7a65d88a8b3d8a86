"""`make demo`, shortened: the workflow through the running server, and its results looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def demo(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Report and folder of one short run on random weights."""
    from scripts.demo import RANDOM, Weights, run

    target = tmp_path_factory.mktemp("demo")
    return run(server, Weights("random", RANDOM), target, width=128, height=64, length=9, steps=2), target


def test_every_file_is_there(demo: tuple[dict[str, Any], Path]) -> None:
    report, target = demo
    wanted = {"video.mp4", "attention.mp4", "attention.html", "layers.png", "capture.safetensors", "report.json"}
    assert wanted <= {path.name for path in target.iterdir()}
    assert json.loads((target / "report.json").read_text(encoding="utf-8")) == report


def test_the_report_says_what_ran(demo: tuple[dict[str, Any], Path]) -> None:
    report, _ = demo
    assert report["weights"] == "random"
    assert "mean" in report["note"]
    assert report["backbone"] == "cogvideox"
    assert report["layers"] == [0, 1, 2, 3, 4, 5]
    assert report["steps"] == 2
    assert report["host"].split(".")[0].isdigit()
    assert 0 < report["seconds"] < 600
    words = {entry["name"]: entry for entry in report["instances"]}
    assert set(words) == {"cyclist", "van"}
    spelled = "".join(words["cyclist"]["tokens"]).replace("\u2581", " ").strip().lower()
    assert spelled == words["cyclist"]["phrase"].lower() == "a cyclist in a black shirt"
    assert words["cyclist"]["rows"][0] == 0
    assert len(words["cyclist"]["rows"]) == len(words["cyclist"]["tokens"])
    assert report["verbs"][0]["name"] == "waits beside"


def test_scores_are_those_of_the_drawn_boxes(demo: tuple[dict[str, Any], Path]) -> None:
    report, _ = demo
    for kind in ("v2t", "v2v"):
        scores = report["aas"][kind]
        assert {"cyclist", "van", "waits beside"} <= set(scores["chance"])
        assert 0.15 < scores["chance"]["cyclist"] < 0.4  # the boxes' part of the picture, as drawn
        assert 0.3 < scores["chance"]["van"] < 0.55
        assert len(scores["layers"]) == 6
        for layer in scores["layers"].values():
            assert all(0 < entry["share"] < 1 and entry["raw"] > 0 for entry in layer.values())


def test_the_capture_holds_probabilities(demo: tuple[dict[str, Any], Path]) -> None:
    from matrix_lib.io.captures import load_capture

    stream = load_capture(demo[1] / "capture.safetensors").stream()
    assert stream.grid.shape == (3, 4, 8)
    for kind in ("v2t", "v2v"):
        maps = stream.get(kind).values.float()
        assert torch.isfinite(maps).all()
        assert float(maps.min()) >= 0
        assert float(maps.max()) <= 1
        assert float(maps.std()) > 0
    # A row of V2V is a softmax row over text and video: its video part sums to less than one, and to most of it here.
    assert 0.05 < float(stream.v2v.float().sum((-1, -2, -3)).mean()) <= 1.01


def test_the_videos_play(demo: tuple[dict[str, Any], Path]) -> None:
    from PIL import Image

    from matrix_lib.io.video import read_video

    video, attention = read_video(demo[1] / "video.mp4"), read_video(demo[1] / "attention.mp4")
    assert tuple(video.frames.shape) == (9, 64, 128, 3)
    assert len(attention.frames) == 9
    assert float(attention.frames.float().std()) > 10
    assert (attention.frames[0] != attention.frames[-1]).any()
    chart = Image.open(demo[1] / "layers.png").convert("RGB")
    assert len(set(chart.getdata())) > 20


def test_maps_of_mini_find_the_masks_of_its_own_world(server: Any, tmp_path: Path) -> None:
    """The second run of the demo in two steps: attention lies on the true masks far more than chance has it."""
    from scripts.demo import Weights, mini_world, offers_mini, run

    assert offers_mini(server)
    report = run(server, Weights("mini"), tmp_path, mini_world, steps=2)
    assert report["weights"] == "mini"
    assert report["pixels"] == [17, 128, 128]
    assert report["instances"][0]["name"] in report["prompt"]
    for kind, least in (("v2t", 1.5), ("v2v", 3.0)):
        scores = report["aas"][kind]
        for phrase in report["instances"][:2]:
            best = max(layer[phrase["name"]]["share"] for layer in scores["layers"].values())
            assert best > least * scores["chance"][phrase["name"]], (kind, phrase["name"], best)


def test_clip_and_boxes_are_one_shot() -> None:
    """The frames between START and START + FRAMES show no cut, and the boxes lie on them."""
    from matrix_lib.io.video import read_video
    from scripts.street import FRAMES, START, sample_clip

    frames = read_video(sample_clip(), START, START + FRAMES).frames.float()
    assert tuple(frames.shape[1:]) == (272, 640, 3)
    assert float((frames[1:] - frames[:-1]).abs().mean((1, 2, 3)).max()) < 15


def test_progress_names_nodes_and_steps() -> None:
    from scripts.follow import Display

    sink = StringIO()
    display = Display({"1": "Load", "2": "Sample"}, sink)
    display.start("1")
    display.start("2")
    display.step(1, 4)
    display.step(4, 4)
    display.finish()
    lines = sink.getvalue().splitlines()
    assert len(lines) == 2
    assert "[ 1/2] Load" in lines[0]
    assert "[ 2/2] Sample" in lines[1]
    assert "4/4" in lines[1]


def test_a_wrong_model_folder_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from scripts.demo import weights

    monkeypatch.setenv("MATRIX_DEMO_MODEL", str(tmp_path))
    with pytest.raises(ValueError, match="transformer/config.json"):
        weights()


def test_an_interrupt_ends_the_run_and_leaves_the_server_well(server: Any, demo: tuple[dict[str, Any], Path]) -> None:
    from scripts.demo import RANDOM, Weights, graph_for
    from scripts.follow import follow

    graph = graph_for(Weights("random", RANDOM), width=128, height=64, length=9, steps=200)
    stopper = threading.Thread(target=_stop_soon, args=(server,))
    stopper.start()
    with pytest.raises(RuntimeError, match="interrupted"):
        follow(server, graph, sink=StringIO())
    stopper.join()
    assert server.get("/queue")["queue_running"] == []


def _stop_soon(server: Any) -> None:
    for _ in range(1200):
        time.sleep(0.1)
        if server.get("/queue")["queue_running"]:
            time.sleep(1)
            server.interrupt()
            return


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    """The demo ends at once, with the exit status of an interrupt, and takes its server and its folder along."""
    command = [sys.executable, "-u", "-m", "scripts.demo", "--output", str(tmp_path / "out")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A runner that was started in the background hands an ignored Ctrl-C down to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "starting ComfyUI" in line:
                break
        while not list(tmp_path.glob("matrix-demo-*/server.log")):
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "stopped" in rest
    assert not list(tmp_path.glob("matrix-demo-*"))
