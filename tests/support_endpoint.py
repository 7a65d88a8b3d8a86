"""A real HTTP server on the loopback address that plays an OpenAI-compatible endpoint, with its faults.

What it answers is a function of the question alone, so that a test knows the truth; what it does wrong is told by
`faults` for each request. It counts whole, right answers by question.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FAULTS", "Service", "random_faults", "serve_endpoint", "truth"]

FAULTS = ("late", "busy", "error", "no json", "no choices", "not schema", "refusal", "empty", "cut", "slow", "short")
KEY = "sk-secret-of-the-test"


def truth(text: str) -> str:
    """The right answer to a question, from its words alone, in the form that it asks for."""
    bits = hashlib.sha256(text.encode()).digest()
    if "Classes:" in text:
        return json.dumps({"emergence": "no", "emergence_frames": [], "emergence_reason": ""})
    asked = sorted(int(q) for q in re.findall(r'"question_id": (\d+)', text)) or list(range(1, 11))
    said = [
        {"question_id": q, "answer": "yes" if bits[q] & 1 else "no", "frame_index": 0 if bits[q] & 1 else None}
        for q in asked
    ]
    return json.dumps({"answers": said})


class Service:
    """faults: (question, how often it came before) -> what goes wrong, "" for nothing. pause: seconds before each
    answer; late: before one that is to come too late."""

    def __init__(
        self,
        faults: Callable[[str, int], str],
        pause: float = 0.0,
        reply: Callable[[str], str] = truth,
        late: float = 3.0,
    ) -> None:
        self.faults, self.pause, self.reply, self.late = faults, pause, reply, late
        self.answered: Counter[str] = Counter()
        self.came: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""


def random_faults(share: float, seed: int) -> Callable[[str, int], str]:
    """So many requests go wrong, in every way."""
    rng, lock = random.Random(seed), threading.Lock()

    def faults(question: str, before: int) -> str:
        with lock:
            return rng.choice(FAULTS) if rng.random() < share else ""

    return faults


@contextmanager
def serve_endpoint(service: Service) -> Iterator[Service]:
    """The service, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            try:
                _answer(self, service)
            except (BrokenPipeError, ConnectionResetError):  # a client that was killed, or did not wait
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, service: Service) -> None:
    body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    question = body["messages"][1]["content"][0]["text"]
    repeated = json.dumps([body.get("seed"), [part for part in body["messages"][1]["content"]
                                              if not part.get("text", "").startswith("Your last answer")]])  # fmt: skip
    name = hashlib.sha256(repeated.encode()).hexdigest()
    with service.lock:
        before = service.came[name]
        service.came[name] += 1
        if len(service.bodies) < 50:
            service.bodies.append(body)
            service.headers.append({name.lower(): value for name, value in handler.headers.items()})
    fault = service.faults(question, before)
    with service.lock:
        service.made[fault] += 1
    time.sleep(service.pause)
    right = service.reply(question)
    message: dict[str, Any] = {"role": "assistant", "content": right}
    reason = "stop"
    if fault == "late":
        time.sleep(service.late)
    elif fault == "busy":
        return _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
    elif fault == "error":
        said = "oops " * 100 + handler.headers["Authorization"]
        return _send(handler, 500, {"error": {"message": said}})
    elif fault == "key":
        return _send(handler, 401, {"error": {"message": "wrong " + handler.headers["Authorization"]}})
    elif fault == "bad":
        return _send(handler, 400, {"error": {"message": "seed is not supported"}})
    elif fault == "limit" and "max_tokens" in body:
        return _send(handler, 400, {"error": {"message": "use 'max_completion_tokens' instead"}})
    elif fault == "moved":
        return _send(handler, 307, {}, {"Location": service.url + "/elsewhere"})
    elif fault == "no json":
        return _raw(handler, b'{"choices": [{"message": {"content": "')
    elif fault == "no choices":
        return _send(handler, 200, {"object": "error"})
    elif fault == "not schema":
        message["content"] = '{"answers": [{"question_id": 1, "answer": "perhaps"}]}'
    elif fault == "refusal":
        message |= {"content": None, "refusal": "I do not judge people."}
    elif fault == "empty":
        message["content"] = "  "
    elif fault == "short":
        message["content"], reason = right[:9], "length"
    content = {
        "id": "1",
        "model": "played-1",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
    if fault == "cut":
        return _raw(handler, json.dumps(content).encode(), cut=40)
    if fault == "slow":
        return _raw(handler, json.dumps(content).encode(), drip=0.1)
    if not fault:
        with service.lock:
            service.answered[name] += 1
    return _raw(handler, json.dumps(content).encode())


def _send(handler: Any, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    raw = json.dumps(content).encode()
    handler.send_response(status)
    for name, value in (
        {"Content-Type": "application/json", "Content-Length": str(len(raw))} | (headers or {})
    ).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)


def _raw(handler: Any, raw: bytes, cut: int = 0, drip: float = 0.0) -> None:
    """A good response; cut: it breaks off after so many bytes; drip: seconds between single bytes."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    if cut:
        handler.wfile.write(raw[:cut])
        handler.close_connection = True
        return
    if drip:
        for byte in raw:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(drip)
        return
    handler.wfile.write(raw)
