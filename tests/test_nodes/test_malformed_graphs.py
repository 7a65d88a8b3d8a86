"""Graphs from anywhere, through the real `/prompt`: one sentence at the right node, in no time, inside the folders."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_capture import make_capture, make_tracks
from support_counts import SOAK, seeds
from support_fuzz import MEMORY, SECONDS
from support_graphs import only
from support_malformed import ESCAPES, KEPT, malformed, whole

from matrix_lib.io.captures import save_capture
from matrix_lib.io.tracks import save_tracks

pytestmark = pytest.mark.soak
TIMES = "times"
PARTS = 20 if SOAK else 1  # `make soak` goes on behind the last part that passed
RAW = ("has no attribute", "not subscriptable", "unhashable", "positional argument", "not iterable", "has no len()")
WATCH = """
import sys, threading, time
import execution

def hook(event, given):
    if event in ("open", "os.listdir", "os.mkdir", "os.rename", "os.remove") and given and "{outside}" in str(given[0]):
        sys.stderr.write("WENT OUTSIDE " + event + " " + str(given[0]) + "\\n")

def waited():
    with open(f"/proc/self/task/{{threading.get_native_id()}}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9

def execute(self, prompt, prompt_id, *rest, **more):
    before, start = waited(), time.monotonic()
    try:
        return plain(self, prompt, prompt_id, *rest, **more)
    finally:
        took = time.monotonic() - start - (waited() - before)
        with open("{times}", "a") as file:
            file.write(f"{{prompt_id}} {{took:.2f}}\\n")

plain, execution.PromptExecutor.execute = execution.PromptExecutor.execute, execute
sys.addaudithook(hook)
NODE_CLASS_MAPPINGS = {{}}
"""
"""A pack beside this one. It tells of files outside, and how long each graph took by itself: without the time for which
other processes had the core."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server beside a folder that it must not touch, to which a link leads out of each of its own."""
    from scripts.comfyui import serve

    place = tmp_path_factory.mktemp("malformed")
    base, outside = place / "base", place / "outside"
    outside.mkdir()
    for folder in ("input", "output", "models/loras", "models/sam2", "models/diffusers"):
        (base / folder).mkdir(parents=True)
        (base / folder / "way").symlink_to(outside, target_is_directory=True)
    for folder in (base / "input", outside):
        save_tracks(make_tracks(), folder / KEPT)
        save_capture(make_capture(), folder / f"capture-{KEPT}")
    (base / "custom_nodes" / "watch").mkdir(parents=True)
    (base / "custom_nodes" / "watch" / "__init__.py").write_text(
        WATCH.format(outside=outside, times=base / "user" / TIMES)
    )
    with serve(base, ("--cpu", "--use-pytorch-cross-attention", "--cache-lru", "400")) as running:
        yield running


def post(server: Any, graph: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"prompt": graph, "client_id": "x"}).encode("utf-8", "surrogatepass")
    request = urllib.request.Request(server.url + "/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        return error.code, json.loads(text) if text.startswith("{") else {"text": text}


def seconds(server: Any, prompt: str) -> float:
    """How long a graph that has ended took."""
    lines = (server.base / "user" / TIMES).read_text().splitlines()
    return next(float(line.split()[1]) for line in reversed(lines) if line.startswith(prompt))


def again(server: Any, graph: dict[str, Any]) -> float:
    """How long it takes once more, with nothing kept from before: other processes also slow down the memory."""
    free = urllib.request.Request(server.url + "/free", b'{"free_memory": true}', {"Content-Type": "application/json"})
    urllib.request.urlopen(free, timeout=60).close()
    prompt = server.post(graph)
    server.wait(prompt, 300)
    return seconds(server, prompt)


def refusal(reply: dict[str, Any]) -> list[str]:
    """What is wrong with how the host refused a graph: errors of ours that are no sentences."""
    wrong = []
    for node in reply.get("node_errors", {}).values():
        for error in node["errors"]:
            info = error.get("extra_info", {})
            ours = any("/nodes/" in line and "matrix-video" in line for line in info.get("traceback", ()))
            if ours and info.get("exception_type") != "ValueError":
                wrong.append(f"{node['class_type']}: {info.get('exception_type')}: {error['details'][:200]}")
    return wrong


def ending(entry: dict[str, Any]) -> tuple[str, list[str]]:
    """How a graph ended, and what is wrong with that."""
    wrong: list[str] = []
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            text, name = data["exception_message"].strip(), f"{data['node_type']}: {data['exception_type']}"
            if not data["node_type"].startswith("Matrix"):
                ours = any("matrix-video" in line for line in data["traceback"])
                if ours and data["exception_type"] != "ValueError":
                    wrong.append(f"{name}: {text[:300]} {data['traceback'][-1]}")
                return "host", wrong
            if data["exception_type"] not in ("ValueError", "OSError") or any(words in text for words in RAW):
                wrong.append(f"{name}: {text[:300]} {data['traceback'][-1]}")
            if not 20 < len(text) < 2500:
                wrong.append(f"{name}: a text of {len(text)} characters: {text[:200]}")
            return "error", wrong
    return "ran", wrong


def memory(server: Any, what: str) -> int:
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise AssertionError(what)


def listing(place: Path) -> dict[str, int]:
    """Files that no graph may change: all but what the host itself keeps, with their sizes."""
    own = {"output", "temp", "user", "server.log", "__pycache__"}
    found = [path.relative_to(place) for path in place.rglob("*")]
    return {str(path): (place / path).lstat().st_size for path in found if not own & set(path.parts)}


def test_every_node_runs_as_it_is(server: Any) -> None:
    """There is a graph for each node of the pack. SAM 2 alone cannot run: its weights are not here."""
    graph = whole()
    listed = {name for name in server.get("/object_info") if name.startswith("Matrix")}
    assert listed == {node["class_type"] for node in graph.values() if node["class_type"].startswith("Matrix")}
    shown = [each for each in graph if f"{each}v" in graph and each != "sam2"]
    prompts = {number: server.post(only(graph, f"{number}v")) for number in shown}
    for number, prompt in prompts.items():
        assert server.wait(prompt, 600)["status"]["status_str"] == "success", number


@pytest.mark.parametrize("part", range(PARTS))
def test_malformed_graphs_end_in_a_sentence(server: Any, part: int) -> None:
    graph, before = whole(), listing(server.base.parent)
    wrong, ends = [], Counter[str]()
    every = _share(seeds(40, 4000), part)
    for start in range(0, len(every), 20):
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
        rested, waiting = memory(server, "VmRSS"), []
        for seed in every[start : start + 20]:
            number, spoilt = malformed(random.Random(f"graph/{seed}"), graph)
            code, reply = post(server, spoilt)
            bad = refusal(reply) + ([f"the host answered {str(reply)[:200]}"] if code == 500 else [])
            wrong += [f"seed {seed} {number} {_inputs(spoilt[number])}: {text}" for text in bad]
            ends[str(code)] += 1
            waiting += [(seed, number, spoilt, reply["prompt_id"])] if code == 200 else []
        for seed, number, spoilt, prompt in waiting:
            node = spoilt[number]
            how, bad = ending(server.wait(prompt, 300))
            ends[how] += 1
            if seconds(server, prompt) > SECONDS and (took := again(server, spoilt)) > SECONDS:
                bad.append(f"took {took:.1f} s")
            if how == "ran" and node["inputs"].get("file") in ESCAPES:
                bad.append("it opened a file outside of the folders")
            wrong += [f"seed {seed} {number} {_inputs(node)}: {text}" for text in bad]
        grown = memory(server, "VmHWM") - rested
        wrong += [f"seeds from {every[start]} on: {grown >> 20} MB"] if grown > MEMORY else []
    print(dict(ends))
    assert not wrong, f"{len(wrong)} in all; {dict(ends)}\n" + "\n".join(wrong[:40])
    assert "WENT OUTSIDE" not in server.log.read_text(errors="replace")
    assert listing(server.base.parent) == before
    assert ends["error"] + ends["400"] > 0.5 * len(every)


def _share(every: range, part: int) -> range:
    return every[part * len(every) // PARTS : (part + 1) * len(every) // PARTS]


def _inputs(node: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:60]!r}" for name, value in node["inputs"].items())[:600]
