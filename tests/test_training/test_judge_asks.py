"""`python -m training.judge` with judges that answer by themselves: a service, a local model, a writer of questions."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support_counts import count, seeds
from support_endpoint import KEY, Service, random_faults, serve_endpoint
from support_judging import SUITE, write_clips, write_suite
from support_vlms import qwen2_vl

from matrix_lib.evaluation.intergen.questions import from_template
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.evaluation.judges.store import Answers
from training.judge import main


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    return str(write_suite(tmp_path / "suite")), str(write_clips(tmp_path / "model"))


def to(service: Service, *more: str) -> list[str]:
    return ["--judge", "endpoint", "--base-url", service.url, "--model", "played", "--timeout", "2", *more]


def test_nothing_is_sent_before_somebody_agreed(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, videos = folders
    monkeypatch.setenv("TEST_KEY", KEY)
    with serve_endpoint(Service(lambda *_: "")) as service:
        settings = to(service, "--price-in", "2", "--price-out", "10", "--key-env", "TEST_KEY")
        assert main(["ask", suite, videos]) == 2
        assert main(["ask", suite, videos, *settings, "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert f"to:       {service.url} (model played)\n" in said
        assert "sent:     3 verify, 2 emergence; the task" in said
        assert "calls:    5\npictures: 15, " in said
        assert "tokens:   about " in said
        assert "money:    about 0.0" in said
        assert main(["ask", suite, videos, *settings]) == 1
        assert "nothing was sent: say --yes" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        for word, code, calls in (("no", 1, 0), ("yes", 0, 5)):
            monkeypatch.setattr("builtins.input", lambda _, word=word: word)
            assert main(["ask", suite, videos, *settings]) == code
            assert sum(service.came.values()) == calls
        store = Path(videos, "intergen", "answers.jsonl")
        whole = store.read_text()
        *lines, last = whole.splitlines(keepends=True)
        store.write_text("".join([*lines, json.dumps({**json.loads(last), "raw": "yes"}) + "\n"]))
        assert main(["ask", suite, videos, *settings, "--dry-run"]) == 0
        assert "sent:     1 " in capsys.readouterr().out
        monkeypatch.setattr("builtins.input", lambda _: "no")
        assert main(["ask", suite, videos, *settings]) == 1, "what another program spoilt is not sent unasked"
        store.write_text(whole)
        with FileLock(Path(videos, "intergen", "answers.lock")):  # another run is at it
            assert main(["ask", suite, videos, *settings, "--yes"]) == 1
        assert "another run is asking" in capsys.readouterr().err
        assert main(["ask", suite, videos, *settings, "--yes"]) == 0
        assert sum(service.came.values()) == 5, "what is answered is not asked again"
    assert main(["score", suite, videos]) == 0
    assert "| model | 2 of 2 |" in capsys.readouterr().out
    shutil.copytree(videos, Path(videos, "..", "b", "model"))
    assert main(["score", suite, videos, f"{videos}/../b/model"]) == 0
    said = capsys.readouterr().out
    assert f"| {videos} - {videos}/../b/model | kisa_raw |" in said, "two folders of one name are two models"
    assert main(["score", suite, videos, videos]) == 1
    assert "is given twice" in capsys.readouterr().err
    summary = json.loads(Path(videos, "intergen", "summary.json").read_text())
    assert summary["judges"] == ["played at 127.0.0.1: played-1"]
    for path in Path(videos).rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_judge_that_cannot_go_on_or_is_another_one(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders
    with serve_endpoint(Service(lambda *_: "key")) as service:
        assert main(["ask", suite, videos, *to(service, "--yes")]) == 1
        said = capsys.readouterr().err
        assert "the judge cannot go on: " in said
        assert "everything that was answered is kept" in said
        service.faults = lambda question, before: "refusal" if "Classes" in question else ""
        assert main(["ask", suite, videos, *to(service, "--yes")]) == 2
        assert "3 of 5 are answered; 2 are missing" in capsys.readouterr().out
        service.faults = lambda *_: ""
        other = [*to(service, "--yes")]
        other[other.index("played")] = "another"
        assert main(["ask", suite, videos, *other]) == 1
        assert "holds answers of played at 127" in capsys.readouterr().err
        assert main(["ask", suite, videos, *other, "--mixed"]) == 0
    assert main(["score", suite, videos]) == 1
    assert "several judges answered (another at 127" in capsys.readouterr().err
    for settings, message in (
        (["--judge", "endpoint"], "needs --base-url and --model"),
        (["--judge", "local"], "needs --folder"),
        (["--judge", "local", "--folder", videos], "no model folder"),
    ):
        Path(videos, "intergen", "answers.jsonl").unlink(missing_ok=True)
        assert main(["ask", suite, videos, *settings]) == 1
        assert message in capsys.readouterr().err


def test_a_local_model_that_says_nothing_leaves_everything_missing(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders
    model = qwen2_vl(tmp_path / "vlm")
    assert main(["ask", suite, videos, "--judge", "local", "--folder", str(model), "--most-tokens", "4"]) == 2
    assert "0 of 5 are answered; 5 are missing" in capsys.readouterr().out
    assert main(["score", suite, videos]) == 2
    said = capsys.readouterr().out
    assert re.search(r"\| model \| 0 of 2 \|( not known \|){6}", said), said
    assert "000, verify 1: the answer is no JSON" in said


def test_questions_that_a_model_writes(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = folders
    content: dict[str, Any] = json.loads(json.dumps(SUITE))
    content["samples"][1]["interactions"] = []
    write_suite(Path(suite), content)
    samples = read_suite(write_suite(Path(suite).with_name("known"))).samples
    failed: dict[str, str] = {}

    def written(text: str) -> str:
        sample = samples["girls" in text]
        interactions = [
            {"name": each.interaction.name, "subject": each.interaction.subject, "object": each.interaction.recipient,
             "questions": list(each.texts)}
            for each in from_template(sample, "").asked
        ]  # fmt: skip
        if sample.id in failed:
            interactions[0]["questions"].pop()
        return json.dumps({"interactions": interactions})

    assert main(["prepare", suite]) == 1
    assert "'001' names no interactions" in capsys.readouterr().err
    Path(suite, "questions", "000.json").unlink()
    with serve_endpoint(Service(lambda *_: "", reply=written)) as service:
        failed["001"] = "always"
        settings = to(service, "--yes", "--questions", "model")
        assert main(["prepare", suite, *settings]) == 2
        said = capsys.readouterr()
        assert "001, questions: interaction 1: sample '001', 'hugs': there are 9 questions, not 10" in said.err
        assert "left open: 1 samples have no questions: 001" in said.err
        texts = [body["messages"][1]["content"][-1]["text"] for body in service.bodies]  # several are asked at a time
        assert any("there are 9 questions" in text for text in texts)
        assert main(["ask", suite, videos]) == 2
        assert "left out: 001: sample '001' has no questions" in capsys.readouterr().err
        failed.clear()
        assert main(["prepare", suite, *settings]) == 0
        assert "2 samples, 3 interactions" in capsys.readouterr().out
    sheet = json.loads(Path(suite, "questions", "001.json").read_text())
    assert sheet["generator"]["name"] == "played-1"
    assert main(["ask", suite, videos]) == 2
    assert "left out" not in capsys.readouterr().err


def kill_at_random(process: Any, store: Path, rng: random.Random) -> None:
    """SIGKILL at any moment from the start on, or, half of the times, while answers come in."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        before = store.stat().st_size if store.is_file() else 0
        while process.is_alive() and (store.stat().st_size if store.is_file() else 0) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
    process.kill()


@pytest.mark.soak
def test_runs_that_are_killed_give_the_report_of_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL at random moments, then the same command again, until all is answered."""
    suite = str(write_suite(tmp_path / "suite"))
    assert main(["prepare", suite]) == 0
    rng = random.Random(seeds(1, 1)[0])
    kills = count(4, soak=100)
    repeats = str(count(10, soak=301) // 2 * 2 + 1)
    # Processes that fork from one that has everything imported already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.judge", "openai"])
    reports = []
    with serve_endpoint(Service(random_faults(0.05, 1), pause=0.1, late=4.5)) as service:
        for name, left in (("whole", 0), ("killed", kills)):
            videos = str(write_clips(tmp_path / name / "model"))
            command = [
                "ask",
                suite,
                videos,
                "--repeats",
                repeats,
                *to(service, "--yes", "--workers", "4", "--timeout", "3"),
            ]
            store, within, before = Path(videos, "intergen", "answers.jsonl"), 0, sum(service.answered.values())
            for _ in range(left):
                process = context.Process(target=main, args=(command,))
                process.start()
                kill_at_random(process, store, rng)
                process.join()
                within += 0 < len(Answers(store).found) < 5 * int(repeats)
            for _ in range(6):
                if not main(command):
                    break
            assert within >= left // 4, "most are to be killed at work"
            lines = [json.loads(line) for line in store.read_bytes().splitlines() if line.endswith(b"}")]
            keys = [line["key"] for line in lines if "raw" in line]
            assert len(keys) == len(set(keys)) == 5 * int(repeats)
            twice = sum(service.answered.values()) - before - len(keys)
            assert 0 <= twice <= 4 * left, "only what was under way at a kill is asked again"
            assert main(["score", suite, videos, "--repeats", repeats]) == 0
            out = Path(videos, "intergen")
            reports.append([(out / file).read_bytes() for file in ("scores.jsonl", "summary.json", "report.md")])
    assert reports[0] == reports[1]
