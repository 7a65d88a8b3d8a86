"""Where features come from: CLIP runs as a real, tiny model; what is absent is said in one line."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from matrix_lib.evaluation.quality import extractors
from matrix_lib.io.video import write_video
from training.score_quality import main


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> Path:
    """A CLIP of random weights with a tokenizer of single letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def frames(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_clip_similarity_is_the_models_own(tiny_clip: Path) -> None:
    some = frames()
    found = extractors.clip(tiny_clip)(some, "a cat")
    model = transformers.CLIPModel.from_pretrained(tiny_clip).eval()
    processor = transformers.CLIPProcessor.from_pretrained(tiny_clip)
    with torch.no_grad():
        out = [
            model(**processor(text=["a cat"], images=[frame.numpy()], return_tensors="pt", padding=True))
            for frame in some
        ]
    images = [each.image_embeds[0].double() / each.image_embeds[0].double().norm() for each in out]
    text = out[0].text_embeds[0].double() / out[0].text_embeds[0].double().norm()
    assert found["clip_sim"] == pytest.approx(float(np.mean([float(text @ image) for image in images])), abs=1e-5)
    steps = [float(a @ b) for a, b in itertools.pairwise(images)]
    assert found["clip_frames"] == pytest.approx(float(np.mean(steps)), abs=1e-5)
    assert np.isnan(extractors.clip(tiny_clip)(some[:1], "a cat")["clip_frames"])
    long = extractors.clip(tiny_clip)(some, "a very long prompt " * 20)  # cut as the model wants it
    assert np.isfinite(long["clip_sim"])


@pytest.mark.parametrize(
    ("open_it", "module", "words"),
    [
        (extractors.inception, "torch_fidelity.feature_extractor_inceptionv3", "FID and KID: torch-fidelity"),
        (extractors.i3d, "cdfvd.third_party.i3d.utils", "FVD: cd-fvd"),
    ],
)
def test_packages_and_weights_that_are_absent(open_it, module, words, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"weights at .* goes there; nothing is downloaded"):
        open_it(tmp_path / "weights.pth")
    torch.save(Path("more than tensors"), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="is no file of plain tensors, and is not opened"):
        open_it(tmp_path / "weights.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"{words} is not installed .* run `pip install") as told:
        open_it(tmp_path / "weights.pth")
    assert "\n" not in str(told.value)


def test_lpips_without_its_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", None)
    with pytest.raises(ValueError, match="LPIPS: torchmetrics is not installed"):
        extractors.lpips()


def test_folders_that_are_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CLIP-SIM needs the folder of a CLIP model"):
        extractors.clip(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be opened as a CLIP model"):
        extractors.clip(tmp_path)


def test_the_command(tiny_clip: Path, tmp_path: Path, capsys) -> None:
    made = tmp_path / "made"
    for i in range(2):
        write_video(made / f"clip {i}.mp4", frames(4, i))
    out = tmp_path / "quality.json"
    arguments = [str(made), "--clip", str(tiny_clip), "--device", "cpu", "--out", str(out)]
    assert main(arguments) == 1
    assert "CLIP-SIM needs prompts" in capsys.readouterr().err
    (made / "prompts.json").write_text(json.dumps({"clip 0": "a cat"}))
    assert main(arguments) == 1
    assert "has no prompt of clip 1.mp4" in capsys.readouterr().err
    (made / "prompts.json").write_text(json.dumps({"clip 0": "a cat", "clip 1": "a dog"}))
    chance = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", chance.normal(size=(9, 4)))
    assert main([*arguments, "--jedi", str(tmp_path / "a.npy"), str(tmp_path / "a.npy")]) == 0
    found = json.loads(out.read_text())
    assert found["videos"] == 2
    assert found["jedi"] == pytest.approx(0, abs=1e-9)
    assert "(n = 2)" in found["clip_sim"]
    assert main([str(made)]) == 1
    assert main([str(made), "--i3d", "nowhere.pt"]) == 1
    assert main([str(made), "--real", str(made), "--i3d", "nowhere.pt"]) == 1
    said = capsys.readouterr().err
    assert "nothing is asked for" in said
    assert "give --real FOLDER" in said
    assert "there are no I3D weights at 'nowhere.pt'" in said
