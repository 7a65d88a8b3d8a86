"""A local judge through the real classes of two families, with tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support_judging import answers
from support_vlms import llava_onevision, qwen2_vl

from matrix_lib.evaluation.intergen.answers import read_verification
from matrix_lib.evaluation.judges.judge import JudgeError, Picture, Request
from matrix_lib.evaluation.judges.local import LocalJudge
from matrix_lib.evaluation.judges.store import Answers, ask

SHOWN = (0, 5, 8)


@pytest.fixture(scope="module", params=[qwen2_vl, llava_onevision], ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("models") / make.__name__)


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    rng = np.random.default_rng(0)
    pictures = []
    for k in SHOWN:
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
        pictures.append(Picture(k, tmp_path / f"{k}.png"))
    return Request("verify", "000", "", "Judge by the frames.", "Questions: [...]", tuple(pictures))


def check(request: Request, raw: str) -> None:
    read_verification(raw, SHOWN)


class Scripted(LocalJudge):
    """Says what it is told to, in the model's own tokens behind what it was given."""

    said = ""

    def generate(self, inputs: Any) -> torch.Tensor:
        tokens = self.processor.tokenizer(self.said, add_special_tokens=False, return_tensors="pt")["input_ids"]
        end = torch.tensor([[self.processor.tokenizer.eos_token_id]])
        return torch.cat([inputs["input_ids"], tokens, end], dim=1)


def test_random_weights_say_nothing_that_counts(folder: Path, asked: Request, tmp_path: Path) -> None:
    judge, store = LocalJudge(folder, most=12), Answers(tmp_path / "answers.jsonl")
    assert ask([asked], judge, store, check) == 1
    assert not store.found
    assert "no JSON" in store.failed[asked.key] or "empty" in store.failed[asked.key]
    reply = judge.answer(asked)
    assert reply == judge.answer(asked), "greedy: one request has one answer"
    assert reply.usage["completion_tokens"] == 12
    # It looks: with other pictures the same words lead to other logits.
    inputs = judge.inputs(asked)
    with torch.inference_mode():
        seen = judge.model(**inputs).logits
        inputs["pixel_values"] = -inputs["pixel_values"]
        other = judge.model(**inputs).logits
    assert not torch.equal(seen, other)


def test_a_readable_answer_counts(folder: Path, asked: Request, tmp_path: Path) -> None:
    judge, store = Scripted(folder), Answers(tmp_path / "answers.jsonl")
    judge.said = json.dumps({"answers": answers({4: False})})
    assert ask([asked], judge, store, check) == 0
    found = read_verification(store.found[asked.key].raw, SHOWN)
    assert [q for q, answer in found.items() if not answer.yes] == [4]
    assert store.found[asked.key].model.startswith(folder.name)
    shown = judge.processor.tokenizer.decode(judge.inputs(asked, "question 3 is missing")["input_ids"][0])
    places = [shown.index(words) for words in ("Judge by the", "Questions:", "Frame 0:", "Frame 8:", "question 3 is")]
    assert places == sorted(places)


def test_a_model_that_fails_is_no_answer(folder: Path, asked: Request) -> None:
    class Broken(LocalJudge):
        def generate(self, inputs: Any) -> torch.Tensor:
            raise RuntimeError("the sizes\n do not match")

    with pytest.raises(JudgeError, match="fails on 000, verify 1: RuntimeError: the sizes do not match"):
        Broken(folder).answer(asked)


def test_folders_that_are_no_judge(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder: it has no config.json"):
        LocalJudge(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="does not open as a vision-language model"):
        LocalJudge(tmp_path)
    for name in ("blind", "silent"):
        copy = tmp_path / name
        copy.mkdir()
        for path in folder.iterdir():
            if not path.name.startswith("chat_template"):
                (copy / path.name).write_bytes(path.read_bytes())
    (tmp_path / "blind" / "chat_template.jinja").write_text(
        "{% for part in messages[0]['content'] %}{{ part['text'] if part['type'] == 'text' else '' }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="does not take several pictures"):
        LocalJudge(tmp_path / "blind")
    with pytest.raises(ValueError, match="has no chat template"):
        LocalJudge(tmp_path / "silent")
