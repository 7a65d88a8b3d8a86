"""The endpoint's client against a real HTTP server that does everything wrong that services do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support_counts import count, seeds
from support_endpoint import FAULTS, KEY, Service, random_faults, serve_endpoint, truth

from matrix_lib.evaluation.intergen.answers import read_verification
from matrix_lib.evaluation.judges.endpoint import EndpointJudge
from matrix_lib.evaluation.judges.endpoint_wire import Endpoint
from matrix_lib.evaluation.judges.estimate import estimate, picture_tokens
from matrix_lib.evaluation.judges.judge import JudgeError, Picture, Request
from matrix_lib.evaluation.judges.store import Answers, ask

SHOWN = (0, 5)
SCHEMA = {"type": "object", "properties": {"answers": {"type": "array"}}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TEST_KEY", KEY)
    return None


def judge_of(service: Service, **settings: Any) -> EndpointJudge:
    settings = {"key_from": "TEST_KEY", "timeout": 2.0, "tries": 3, "workers": 8} | settings
    return EndpointJudge(Endpoint(service.url, "played", **settings))


def question(number: int, pictures: tuple[Picture, ...] = (), repeat: int = 0) -> Request:
    return Request("verify", f"{number:05d}", "", "Judge.", f"Question {number}", pictures, 0, repeat, SCHEMA)


def check(request: Request, raw: str) -> None:
    read_verification(raw, SHOWN)


def once(fault: str) -> Any:
    """Goes wrong the first time that a question comes."""
    return lambda question, before: fault if before == 0 else ""


def test_what_is_sent(tmp_path: Path) -> None:
    for k in SHOWN:
        Image.new("RGB", (8, 6), (k, 0, 0)).save(tmp_path / f"{k}.png")
    pictures = tuple(Picture(k, tmp_path / f"{k}.png") for k in SHOWN)
    with serve_endpoint(Service(lambda *_: "")) as service:
        judge = judge_of(service)
        reply = judge.answer(question(1, pictures, repeat=2), "question 3 is not answered")
        judge_of(service, temperature=None, seed=None, schema=False).answer(question(1))
    assert (reply.raw, reply.model, reply.usage["prompt_tokens"]) == (truth("Question 1"), "played-1", 100)
    assert judge.name == "played at 127.0.0.1"
    body, plain = service.bodies
    assert (body["model"], body["temperature"], body["seed"]) == ("played", 0, 44)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert service.headers[0]["authorization"] == f"Bearer {KEY}"
    parts = body["messages"][1]["content"]
    assert [part.get("text", "PNG")[:8] for part in parts] == [
        "Question",
        "Frame 0:",
        "PNG",
        "Frame 5:",
        "PNG",
        "Your las",
    ]
    assert parts[2]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert parts[2] != parts[4]
    assert not {"temperature", "seed", "response_format"} & plain.keys()


@pytest.mark.parametrize("fault", ["late", "busy", "error", "no json", "no choices", "cut", "slow"])
def test_what_passes_is_sent_again(fault: str) -> None:
    with serve_endpoint(Service(once(fault))) as service:
        assert judge_of(service).answer(question(1)).raw == truth("Question 1")
    assert (service.made[fault], service.made[""]) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "message", "again", "calls"),
    [
        ("refusal", "refuses: I do not judge people", True, 1),
        ("empty", "empty", True, 1),
        ("short", "cut off.*--most-tokens", True, 1),
        ("bad", "does not take the request, 400: .*seed is not supported", True, 1),
        ("key", "does not accept the key .*TEST_KEY", False, 1),
        ("moved", "307", True, 1),
        ("error", "no answer in 3 tries; the last: .*500", True, 3),
        ("cut", "no answer in 3 tries; the last: the connection broke|no answer in 3 tries", True, 3),
    ],
)
def test_what_does_not_pass_is_no_answer(fault: str, message: str, again: bool, calls: int) -> None:
    with serve_endpoint(Service(lambda *_: fault)) as service:
        with pytest.raises(JudgeError, match=message) as caught:
            judge_of(service).answer(question(1))
    assert caught.value.again == again
    assert sum(service.came.values()) == calls
    assert KEY[:6] not in str(caught.value), "the server repeats the key, and it is blacked out"


def test_a_newer_name_of_the_limit_is_learnt() -> None:
    with serve_endpoint(Service(lambda *_: "limit")) as service:
        judge = judge_of(service)
        for number in range(3):
            assert judge.answer(question(number)).raw == truth(f"Question {number}")
    assert ["max_tokens" in body for body in service.bodies] == [True, False, False, False]
    assert service.bodies[-1]["max_completion_tokens"] == 4096


def test_a_wrong_key_ends_the_run_and_is_written_nowhere(tmp_path: Path) -> None:
    requests = [question(number) for number in range(40)]
    answers = Answers(tmp_path / "answers.jsonl")
    with serve_endpoint(Service(lambda *_: "key")) as service, pytest.raises(JudgeError, match="does not accept"):
        ask(requests, judge_of(service, workers=2), answers, check)
    assert sum(service.came.values()) < 10
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"[key]" in written
    assert KEY.encode() not in written


def test_a_service_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    with serve_endpoint(Service(lambda *_: "")) as service:
        pass
    judge = judge_of(service, tries=1, patience=5, workers=1)
    with pytest.raises(JudgeError, match="Connection error"):
        ask([question(number) for number in range(40)], judge, Answers(tmp_path / "answers.jsonl"), check)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 5
    with serve_endpoint(Service(lambda *_: "refusal")) as service:
        left = ask([question(n) for n in range(9)], judge_of(service, patience=3), Answers(tmp_path / "b.jsonl"), check)
    assert left == 9, "who refuses does answer: the run goes on"


def test_an_unreadable_answer_is_asked_once_more_with_what_was_wrong(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers.jsonl")
    with serve_endpoint(Service(once("not schema"))) as service:
        assert ask([question(1)], judge_of(service), answers, check) == 0
    assert service.bodies[1]["messages"][1]["content"][-1]["text"].startswith(
        "Your last answer could not be read: the "
    )
    with serve_endpoint(Service(lambda *_: "not schema")) as service:
        assert ask([question(2)], judge_of(service), answers, check) == 1
    assert "perhaps" in answers.failed[question(2).key]


def test_requests_a_minute_and_a_stop_that_does_not_wait() -> None:
    with serve_endpoint(Service(lambda *_: "")) as service:
        judge = judge_of(service, per_minute=600)
        start = time.monotonic()
        for number in range(4):
            judge.answer(question(number))
        assert time.monotonic() - start >= 0.3
    with serve_endpoint(Service(lambda *_: "error")) as service:
        judge = judge_of(service, tries=60)
        threading.Timer(0.3, judge.stop).start()
        start = time.monotonic()
        with pytest.raises(JudgeError, match="stopped") as caught:
            judge.answer(question(1))
    assert time.monotonic() - start < 3
    assert not caught.value.again


def test_settings_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("ftp://a/v1", "a/v1", "https://me:word@a/v1", "https://a/v1?key=1"):
        with pytest.raises(ValueError, match="address"):
            Endpoint(url, "m")
    with pytest.raises(ValueError, match="workers of an endpoint is 1 or more; got 0"):
        Endpoint("https://a/v1", "m", workers=0)
    monkeypatch.delenv("TEST_KEY")
    assert Endpoint("http://127.0.0.1:8000/v1", "m", "TEST_KEY").key() == "none"
    with pytest.raises(ValueError, match="environment variable TEST_KEY holds no key for a.example"):
        EndpointJudge(Endpoint("https://a.example/v1", "m", "TEST_KEY"))


def test_the_estimate_is_what_is_sent(tmp_path: Path) -> None:
    Image.new("RGB", (720, 480)).save(tmp_path / "0.png")
    some = [question(number, (Picture(0, tmp_path / "0.png"),)) for number in range(10)]
    found = estimate(some)
    assert (found.calls, found.count) == (10, 10)
    assert found.pictures == 10 * picture_tokens(720, 480) == 10 * (85 + 170 * 2)
    assert estimate(some, per_picture=7).pictures == 70
    assert found.money(2.0, 8.0) == pytest.approx(((found.text + 4250) * 2 + 3500 * 8) / 1e6)
    said = "\n".join(found.lines(2.0, 8.0, per_minute=5))
    assert "10, in 2 minutes or more" in said
    assert "4,250 of pictures" in said
    assert "not known" in "\n".join(found.lines())
    assert picture_tokens(4096, 4096) == 85 + 170 * 4


@pytest.mark.soak
def test_thousands_of_questions_with_faults_end_complete(tmp_path: Path) -> None:
    """5 % of the requests go wrong: after resumption all is answered, nothing is invented, nothing asked twice."""
    for seed in seeds(1, soak=1):
        requests = [question(number) for number in range(count(300, soak=10_000))]
        path = tmp_path / f"{seed}.jsonl"
        with serve_endpoint(Service(random_faults(0.05, seed), late=4.5)) as service:
            for _ in range(6):
                answers = Answers(path)  # as a new process reads it
                if not ask(requests, judge_of(service, timeout=3, tries=4), answers, check):
                    break
            answered = dict(service.answered)
            assert ask(requests, judge_of(service), Answers(path), check) == 0
            assert dict(service.answered) == answered, "a run over what is answered asks nothing"
        found = Answers(path).found
        assert {key: stored.raw for key, stored in found.items()} == {r.key: truth(r.text) for r in requests}
        assert len(answered) == len(requests)
        assert set(answered.values()) == {1}, "nothing was asked again once it was answered"
        assert sum(service.made[fault] for fault in FAULTS) > 0.03 * len(requests)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert sum("raw" in line for line in lines) == len(requests)
