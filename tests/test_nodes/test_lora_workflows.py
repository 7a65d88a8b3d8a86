"""The workflows with an alignment LoRA, as they ship but in one step, over HTTP in the real ComfyUI with mini."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from support_graphs import only

from scripts.templates.lora import EXAMPLES, MATRIX, Example
from scripts.templates.squares import SIDE

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_it_runs_as_it_is_and_the_mask_counts(example: Example, server: Any) -> None:
    """Both halves show their mask and 17 frames; the clips differ, and without the LoRA they do not."""
    from matrix_lib.io.video import read_video
    from scripts.follow import follow
    from scripts.lora_workflows import halves
    from scripts.steering_workflows import bypassed, saved_videos, shortened

    graph = with_latents(shortened(example.name, steps=1), example.name)
    follow(server, graph, sink=StringIO())
    (path,) = saved_videos(server, graph).values()
    frames = read_video(path).frames
    assert tuple(frames.shape) == (17, 256, 264, 3)
    other = {MATRIX.name: GREEN}.get(example.name)
    for (mask, clip), twin in zip(halves(frames), example.twins):
        assert tuple(clip.shape) == (17, 128, 128, 3)
        assert float(clip[0].float().std()) > 10, "the first frame's squares are there"
        wanted = {twin: RED if other else WHITE} | ({example.other: other} if other else {})
        painted = torch.zeros(128, 128, 3)
        for (x, y), colour in wanted.items():
            painted[y : y + SIDE, x : x + SIDE] = torch.tensor(colour).float()
        assert (mask.float() - painted).abs().mean() < 8, "video compression blurs the edges, no more"
    left, right = latents(server, example.name)
    assert not torch.equal(left, right)

    alone = only(bypassed(graph, ["MatrixApplyLoRA"]), "save-left", "save-right")
    follow(server, alone, sink=StringIO())
    bare_left, bare_right = latents(server, example.name)
    assert torch.equal(bare_left, bare_right)
    assert not torch.equal(bare_left, left)


def test_the_two_alike_are_alike() -> None:
    """As far from the third, so that neither the words nor the distance tell which is meant."""
    for example in EXAMPLES:
        (ax, ay), (bx, by), (x, y) = *example.twins, example.other
        assert (ax - x) ** 2 + (ay - y) ** 2 == (bx - x) ** 2 + (by - y) ** 2


def test_the_nodes_say_what_the_loras_are(pack: Any) -> None:
    """Both are in the menu of a fresh ComfyUI, whole, and match every tensor of mini."""
    model = pack.run("MatrixLoadVideoDiT", source={"source": "mini"}).result[0]
    menu = pack.classes["MatrixApplyLoRA"].INPUT_TYPES()["required"]["lora"][1]["options"]
    for example in EXAMPLES:
        assert example.lora in menu
        report = pack.run("MatrixApplyLoRA", model=model, lora=example.lora).result[1]
        matched, _, total = report.split(" tensors matched")[0].split("\n")[-1].split()
        assert matched == total
        assert f"condition: {example.kind.replace('ID map', 'id_map').replace('target mask', 'target_mask')}" in report


def test_a_file_of_ones_own_goes_first(pack: Any, tmp_path: Path) -> None:
    import folder_paths

    node = pack.classes["MatrixApplyLoRA"]
    ours = node.fingerprint_inputs(lora=MATRIX.lora)
    (tmp_path / MATRIX.lora).write_bytes(b"mine")
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    folder_paths.filename_list_cache.clear()
    try:
        assert node.fingerprint_inputs(lora=MATRIX.lora) != ours
        assert node.INPUT_TYPES()["required"]["lora"][1]["options"].count(MATRIX.lora) == 1
    finally:
        folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
        folder_paths.filename_list_cache.clear()
    assert node.fingerprint_inputs(lora=MATRIX.lora) == ours


def with_latents(graph: dict[str, Any], name: str) -> dict[str, Any]:
    """The same, with the latent of each sampler saved."""
    samplers = [number for number, node in graph.items() if node["class_type"] == "SamplerCustomAdvanced"]
    saved = {}
    for side, number in zip(("left", "right"), samplers, strict=True):
        inputs = {"samples": [number, 0], "filename_prefix": f"latents/{name}_{side}"}
        saved[f"save-{side}"] = {"class_type": "SaveLatent", "inputs": inputs}
    return graph | saved


def latents(server: Any, name: str) -> list[torch.Tensor]:
    """The latest latents of both samplers."""
    from safetensors.torch import load_file

    folder = server.base / "output" / "latents"
    files = [max(folder.glob(f"{name}_{s}_*"), key=lambda path: path.stat().st_mtime_ns) for s in ("left", "right")]
    return [load_file(path)["latent_tensor"] for path in files]
