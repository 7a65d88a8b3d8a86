"""VBench's measures against plain float64 loops, on the real networks with random weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from matrix_lib.evaluation.quality import vbench, vbench_models
from matrix_lib.evaluation.quality.consistency import frame_consistency
from matrix_lib.io.video import read_video, write_video
from training.score_quality import main

pytestmark = pytest.mark.usefixtures("one_thread")


def clip(frames: int, height: int = 20, width: int = 36, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=chance)


def test_dynamic_degree_by_loops() -> None:
    frames, flows = clip(33), []

    def flow(one: Tensor, other: Tensor) -> Tensor:
        assert one.shape == (3, 24, 40)  # 20 x 36 with edges to multiples of 8
        assert torch.equal(one[:, 2:22, 2:38], one[:, 2:22, 2:38].round())
        chance = torch.Generator().manual_seed(len(flows))
        flows.append(torch.randn(2, 24, 40, generator=chance, dtype=torch.float64) * (0.05 + 0.03 * len(flows)))
        return flows[-1]

    found = vbench.dynamic_degree(frames, 16, flow)  # every second frame: 17, so 4 of 16 flows have to be long
    assert (found.wanted, len(found.lengths)) == (4, 16)
    assert found.limit == pytest.approx(6 * 20 / 256)
    for each, length in zip(flows, found.lengths):
        every = sorted((math.hypot(float(u), float(v)) for u, v in each.reshape(2, -1).T), reverse=True)
        most = every[: int(24 * 40 * 0.05)]
        assert length == pytest.approx(sum(most) / len(most), rel=1e-12)
    assert found.dynamic is (sum(length > found.limit for length in found.lengths) >= 4)
    assert found.dynamic
    still = vbench.dynamic_degree(frames, 16, lambda one, other: torch.zeros(2, *one.shape[1:]))
    assert not still.dynamic
    slow = vbench.dynamic_degree(frames[:5], 4, lambda one, other: torch.zeros(2, *one.shape[1:]))
    assert slow.limit == pytest.approx(2 * 6 * 20 / 256)
    for few, fps, words in ((2, 8, "3 frames or more"), (5, 24, "3 frames or more"), (9, 0, "above 0")):
        with pytest.raises(ValueError, match=words):
            vbench.dynamic_degree(frames[:few], fps, lambda one, other: one[:2])


@pytest.mark.parametrize("count", [3, 6, 9])
def test_motion_smoothness_by_loops(count: int) -> None:
    frames = clip(count, 4, 5)
    found = vbench.motion_smoothness(frames, lambda one, other: (one + other) / 2)
    rough = []
    for k in range(1, count - 1, 2):
        a, b = (frames[i].numpy().astype(np.float32) / np.float32(255) for i in (k - 1, k + 1))
        made = np.floor(((a + b) / np.float32(2)).astype(np.float64) * 255)
        rough.append(np.abs(made - frames[k].numpy()).mean())
    assert found == pytest.approx(1 - np.mean(rough) / 255, abs=1e-12)
    assert vbench.smoothness(frames, frames[1::2][: (count - 1) // 2]) == 1
    with pytest.raises(ValueError, match="3 frames or more"):
        vbench.motion_smoothness(frames[:2], lambda one, other: one)
    with pytest.raises(ValueError, match="an interpolator gives"):
        vbench.motion_smoothness(frames, lambda one, other: one[:1])
    with pytest.raises(ValueError, match="of that size, uint8"):
        vbench.smoothness(frames, frames[:1].float())


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(raft_large(weights=None).state_dict(), path)
    return path


def test_raft_is_torchvisions(raft: Path) -> None:
    from torchvision.models.optical_flow import raft_large

    one, other = clip(2, 128, 128).permute(0, 3, 1, 2).float()
    found = vbench_models.raft(raft, updates=2)(one, other)
    model = raft_large(weights=None).eval()
    model.load_state_dict(torch.load(raft, weights_only=True))
    with torch.no_grad():
        wanted = model(one[None] / 255 * 2 - 1, other[None] / 255 * 2 - 1, num_flow_updates=2)[-1][0]
    assert torch.allclose(found, wanted, atol=1e-3)
    with pytest.raises(ValueError, match="128 pixels or more"):
        vbench_models.raft(raft)(one[:, :64], other[:, :64])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    dino, clips = tmp_path_factory.mktemp("dino"), tmp_path_factory.mktemp("clip")
    transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(dino)
    seen = transformers.CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=8)
    transformers.CLIPVisionModelWithProjection(seen).save_pretrained(clips)
    return dino, clips


def test_features_are_the_models_own(folders: tuple[Path, Path]) -> None:
    dino, clips = folders
    frames = clip(3, 32, 48)  # the shorter side as it is, so that nothing is resized
    found = vbench_models.subject(dino, side=32)(frames)
    vit = transformers.ViTModel.from_pretrained(dino).eval()
    mean, spread = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    seen = (frames.permute(0, 3, 1, 2) / 255 - mean) / spread
    with torch.no_grad():
        wanted = vit(pixel_values=seen, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    assert np.allclose(found, wanted, atol=1e-5)
    assert 0 <= frame_consistency(found) <= 1
    found = vbench_models.background(clips, side=32)(frames)
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(clips).eval()
    mean, spread = (
        torch.tensor(v)[:, None, None]
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    seen = (frames.permute(0, 3, 1, 2)[..., 8:40] / 255 - mean) / spread
    with torch.no_grad():
        assert np.allclose(found, model(pixel_values=seen).image_embeds, atol=1e-5)
    # Another size is resized: the shorter side to what the network takes.
    assert vbench_models.background(clips, side=32)(clip(2, 64, 50)).shape == (2, 8)
    assert vbench_models.subject(dino, side=32)(clip(2, 64, 50)).shape == (2, 16)


@pytest.mark.parametrize(
    ("open_it", "words"),
    [
        (vbench_models.raft, "there are no RAFT weights at .* raft_large_C_T_V1-22a6c225.pth goes there; nothing"),
        (vbench_models.subject, "subject consistency needs the folder of DINO"),
        (vbench_models.background, "background consistency needs the folder of CLIP"),
    ],
)
def test_what_is_absent_is_said_in_one_line(open_it: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as told:
        open_it(tmp_path / "nothing")
    assert "\n" not in str(told.value)


def test_weights_of_another_network(folders: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(ValueError, match="holds no weights of torchvision's raft_large") as told:
        vbench_models.raft(tmp_path / "raft.pth")
    assert "\n" not in str(told.value)
    torch.save(Path("more than tensors"), tmp_path / "raft.pth")
    with pytest.raises(ValueError, match="holds no weights of torchvision's raft_large"):
        vbench_models.raft(tmp_path / "raft.pth")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be opened as a ViTModel"):
        vbench_models.subject(tmp_path)


def test_the_command_and_vbenchs_own_files(folders: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    made, between = tmp_path / "made", tmp_path / "between"
    between.mkdir()
    for i in range(2):
        path = write_video(made / f"clip {i}.mp4", clip(5, 32, 48, i))
        np.save(between / f"clip {i}.npy", read_video(path).frames[1::2].numpy())
    (made / "prompts.json").write_text(json.dumps({"clip 0": "a cat", "clip 1": "a dog"}))
    results = tmp_path / "own_eval_results.json"
    lines = [{"video_path": f"somewhere/clip {i}.mp4", "video_results": bool(i)} for i in range(2)]
    results.write_text(json.dumps({"dynamic_degree": [0.5, lines]}))
    out = tmp_path / "found.json"
    arguments = [str(made), "--dino", str(folders[0]), "--between", str(between), "--vbench", str(results)]
    arguments += ["--vbench-prompts", str(tmp_path / "asked.json"), "--device", "cpu", "--out", str(out)]
    assert main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["motion_smoothness"].startswith("1")
    assert found["vbench dynamic_degree"].startswith("0.5")
    assert set(found) == {"vbench dynamic_degree", "motion_smoothness", "subject_consistency", "videos"}
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert asked == {str((made / f"clip {i}.mp4").resolve()): word for i, word in enumerate(("a cat", "a dog"))}
    (between / "clip 1.npy").unlink()
    assert main(arguments) == 1
    results.write_text(json.dumps({"dynamic_degree": [0.5, lines[:1]]}))
    assert main([str(made), "--vbench", str(results)]) == 1
    results.write_text("[]")
    assert main([str(made), "--vbench", str(results)]) == 1
    said = capsys.readouterr().err
    assert "an interpolation network (VBench has AMT-S) puts between" in said
    assert "has no value of clip 1" in said
    assert "cannot be read as results of VBench" in said
