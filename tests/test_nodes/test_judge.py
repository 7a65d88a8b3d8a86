"""MATRIX Evaluate in the real host: mini's exact judge, the host's own text models, a real HTTP server, files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support_endpoint import KEY, Service, serve_endpoint
from support_judging import answers

ENTRY = "one: the red thing [subject]\nother: the blue thing [object]\npushes = verb(one -> other)"


@pytest.fixture(scope="module")
def world(pack: Any) -> Any:
    return pack.lib("mini.examples").example_truth("push")


@pytest.fixture(scope="module")
def frames(world: Any) -> torch.Tensor:
    return world.video[0].permute(0, 2, 3, 1).float() / 255


@pytest.fixture
def home(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path / "matrix" / "judge"


@pytest.fixture(scope="module")
def tracks(pack: Any) -> Any:
    boxes = {"one": {0: (10, 10, 40, 40)}, "other": {0: (60, 60, 100, 100)}}
    return pack.lib("core.tracks.tracks").MaskTracks.from_boxes(boxes, 17, 128, 128, hold=True)


def test_the_exact_judge(pack: Any, world: Any, frames: torch.Tensor, home: Path) -> None:
    out = pack.run("MatrixEvaluate", frames=frames, entry="", judge={"judge": "mini world", "shows": "push"}, stride=1)
    shown, table, scores, value = out.result
    assert value == 1
    assert tuple(shown.shape) == (17, 128, 128, 3)
    assert len(out.ui["images"]) == 17
    assert json.loads(scores)["values"]["kisa"] == 1
    assert "| folder | 1 of 1 |" in table
    # Nothing moves: the same clip of another content, and the folder's means are of both.
    still = pack.run(
        "MatrixEvaluate",
        frames=frames[:1].expand_as(frames),
        entry="",
        judge={"judge": "mini world", "shows": "push"},
        stride=1,
    )
    verdict = pack.lib("evaluation.mini.judges").judge(world.video[:, :1].expand_as(world.video), world)
    assert still.result[3] == pytest.approx(float(verdict.interaction_fidelity[0]), abs=1e-6)
    assert still.result[3] < 0.5
    folder = json.loads(still.result[2])["folder"]
    assert (folder["clips"], folder["complete"]) == (2, 2)
    assert folder["means"]["fidelity"] == pytest.approx((1 + still.result[3]) / 2, abs=1e-6)
    answered = (home / "answers.jsonl").read_bytes()
    again = pack.run(
        "MatrixEvaluate", frames=frames, entry="", judge={"judge": "mini world", "shows": "push"}, stride=1
    )
    assert again.result[3] == 1
    assert (home / "answers.jsonl").read_bytes() == answered, "nothing is asked twice"


def test_files_that_somebody_answers_later(pack: Any, frames: torch.Tensor, tracks: Any, home: Path) -> None:
    asked = {"frames": frames, "entry": ENTRY, "judge": {"judge": "files"}, "tracks": tracks, "measure": "sgi_raw"}
    before = pack.classes["MatrixEvaluate"].fingerprint_inputs(folder="matrix/judge")
    out = pack.run("MatrixEvaluate", **asked)
    assert math.isnan(out.result[3])
    assert "answered: 0 of 2" in out.result[1]
    assert "holds no answer" in out.result[1]
    lines = [json.loads(line) for line in (home / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["verify", "emergence"]
    assert all((home / frame["png"]).is_file() for line in lines for frame in line["frames"])
    assert "the red thing (red box)" in lines[0]["text"]
    new = {"emergence": "no", "emergence_frames": [], "emergence_reason": ""}
    with open(home / "answers.jsonl", "a", encoding="utf-8") as file:
        for line, said in zip(lines, (answers({10: False}), new)):
            file.write(json.dumps({"key": line["key"], "judge": "me", "model": "1", "raw": json.dumps(said)}) + "\n")
    assert pack.classes["MatrixEvaluate"].fingerprint_inputs(folder="matrix/judge") != before
    out = pack.run("MatrixEvaluate", **asked)
    assert out.result[3] == pytest.approx(0.75)
    assert "10 no" in out.result[1]
    with pytest.raises(ValueError, match="holds answers of me"):
        pack.run("MatrixEvaluate", **asked | {"judge": {"judge": "mini world", "shows": "push"}})


def test_a_service_is_sent_nothing_unless_it_is_said(
    pack: Any, frames: torch.Tensor, tracks: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serve_endpoint(Service(lambda question, before: "")) as service:
        judge = {"judge": "service", "address": service.url, "model": "m", "key_variable": "JUDGE_KEY"}
        asked = {"frames": frames, "entry": ENTRY, "tracks": tracks}
        out = pack.run("MatrixEvaluate", judge=judge, **asked)
        assert not service.bodies
        assert "Nothing was sent" in out.result[1]
        assert "calls:    2" in out.result[1]
        out = pack.run("MatrixEvaluate", judge=judge | {"send": True}, **asked)
        assert "answered: 2 of 2" in out.result[1]
        assert len(service.bodies) == 2
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert KEY.encode() not in written


# --- the host's own text models


@pytest.fixture(scope="module")
def qwen(comfy: Any, monkeypatch_module: pytest.MonkeyPatch) -> Any:
    """Qwen3-VL in the host's own classes, with tiny random weights."""
    import comfy.sd
    from comfy.text_encoders import qwen3vl

    eyes = {"hidden_size": 64, "intermediate_size": 64, "depth": 2, "deepstack_visual_indexes": [0]}
    monkeypatch_module.setitem(qwen3vl.QWEN3VL_VISION, "qwen3vl_4b", eyes)

    class Target:
        params: dict[str, Any] = {}
        clip = staticmethod(qwen3vl.te(model_type="qwen3vl_4b"))
        tokenizer = staticmethod(qwen3vl.tokenizer(model_type="qwen3vl_4b"))

    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    options = {"qwen3vl_4b_model_config": small | {"num_key_value_heads": 1}}
    torch.manual_seed(0)
    made = comfy.sd.CLIP(Target, model_options=options)
    chance = torch.Generator().manual_seed(1)
    for weight in made.cond_stage_model.parameters():
        weight.data = torch.randn(weight.shape, generator=chance) * 0.2
    return made


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_text_model_of_the_host(pack: Any, frames: torch.Tensor, tracks: Any, qwen: Any, home: Path) -> None:
    """A random model says nothing that can be read: all is missing, by name, and what it said is the host's node's."""
    from comfy_extras.nodes_textgen import TextGenerate

    judge = {"judge": "text model", "pictures": "each frame", "max_tokens": 8}
    out = pack.run("MatrixEvaluate", frames=frames, entry=ENTRY, judge=judge, tracks=tracks, text_model=qwen, stride=8)
    assert math.isnan(out.result[3])
    assert "answered: 0 of 2" in out.result[1]
    assert "the answer is no JSON" in out.result[1]
    # What the model was given, through the host's own node.
    text_model = pack.lib("hosts.comfy.text_model")
    request = json.loads((home / "requests.jsonl").read_text(encoding="utf-8").splitlines()[0])
    pictures = text_model.pictures_of([home / frame["png"] for frame in request["frames"]])
    text = "\n\n".join(
        [
            request["system"],
            "There are 3 pictures. In this order, they are the frames 0, 8, 16.",
            request["text"],
        ]
    )
    with torch.inference_mode():
        said = TextGenerate.execute(qwen, text, 8, {"sampling_mode": "off"}, image=pictures).result[0]
    assert text_model.generate(qwen, text, pictures, 8) == said
    # It sees the pictures: others make it say something else.
    said = text_model.generate(qwen, "?", pictures, 8)
    assert text_model.generate(qwen, "?", 1 - pictures, 8) != said
    sheet = text_model.contact_sheet(pictures, [0, 8, 16])
    assert tuple(sheet.shape) == (1, 2 * (128 + 12), 2 * 128, 3)
    assert text_model.generate(qwen, "?", sheet, 8) != said
    assert text_model.model_name(qwen) == text_model.model_name(qwen)


def test_a_model_that_does_not_take_the_pictures_is_told(pack: Any, qwen: Any) -> None:
    text_model = pack.lib("hosts.comfy.text_model")

    pictures = torch.rand(3, 56, 56, 3)

    class OnePicture:
        """A CLIP that drops pictures, as the host's Gemma 3 does."""

        cond_stage_model, patcher = qwen.cond_stage_model, qwen.patcher

        def generate(self, *a: Any, **k: Any) -> Any:
            return qwen.generate(*a, **k)

        def tokenize(self, text: str, image: Any, **k: Any) -> Any:
            return qwen.tokenize(text, image=image[:1], **k)

    with pytest.raises(ValueError, match=r"takes 1 of 3 pictures: choose 'one sheet'"):
        text_model.generate(OnePicture(), "what is there?", pictures, 8)


def test_what_does_not_fit(pack: Any, frames: torch.Tensor, tracks: Any, home: Path) -> None:
    asked = {"frames": frames, "entry": ENTRY, "judge": {"judge": "files"}, "tracks": tracks}
    mini = {"judge": "mini world", "shows": "lift"}
    for change, words in (
        ({"entry": ""}, "the entry is empty"),
        ({"entry": "one: the red thing"}, "nothing that they do"),
        ({"entry": "somebody runs"}, "the entry 'somebody runs' says of nobody who they are"),
        ({"entry": "{"}, "is no JSON"),
        ({"entry": "who: somebody\nruns = verb(who)"}, "nobody called 'who'"),
        ({"tracks": None}, "needs tracks of the clip"),
        ({"frames": frames[:5]}, "the clip has 5 frames and its tracks 17"),
        ({"frames": frames[:, :64]}, "the images are 64x128 pixels"),
        ({"folder": "../elsewhere"}, "outside of the folders"),
        ({"folder": " "}, "folder is the name"),
        ({"judge": {"judge": "text model"}}, "connect text_model"),
        ({"judge": {"judge": "service", "address": "ftp://x", "model": "m"}}, "of the form https://HOST/v1"),
        ({"judge": mini, "frames": frames[:9], "tracks": None}, "17"),
        (
            {"judge": mini, "frames": torch.cat([frames] * 2), "tracks": None},
            "17 frames of 128x128 .*, and 34 of 128x128",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixEvaluate", **asked | change)
