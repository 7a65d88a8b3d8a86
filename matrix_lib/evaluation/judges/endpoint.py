"""A judge behind an OpenAI-compatible address: a service, or a server of one's own (vLLM, Ollama, llama.cpp).

The client is the `openai` package, with its own retries switched off: when and how often something is sent is decided
here. The key comes from an environment variable, goes into the request's header, and is written nowhere; where a
server repeats it in an error, it is blacked out.
"""

from __future__ import annotations

import base64
import json
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from .judge import JudgeError, Picture, Reply, Request, told

__all__ = ["Endpoint", "EndpointJudge", "need_openai"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AGAIN = (408, 409, 425, 429)  # and all from 500
_FINAL = {
    401: "it does not accept the key",
    402: "it asks for payment",
    403: "it does not let this key do that",
    404: "it has no such address or model",
}
_LARGEST = 8 << 20  # bytes of a response
_LONGEST_WAIT = 600.0  # seconds that a Retry-After is obeyed for


def need_openai() -> None:
    """Raises ValueError with the install line where the `openai` package is absent."""
    try:
        import openai  # noqa: F401
    except ImportError:
        raise ValueError("this judge needs the openai package:  pip install openai") from None


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how.

    Args:
        url: base address, with its version ("https://HOST/v1"). model: as the service calls it.
        key_from: name of the environment variable with the key. On a loopback address there need not be one.
        temperature: None leaves it to the service (some models take none). seed: of the first repeat; None sends none.
        schema: sends the JSON schema of the answer; False for servers that know none.
        workers: requests at once. per_minute: requests a minute, 0 for no limit.
        timeout: seconds until a whole answer is there. tries: times that a request is sent where it fails by no fault
            of its own. patience: requests in a row that may fail before the run ends.
        most: tokens of an answer.

    Raises ValueError for settings that cannot be.
    """

    url: str
    model: str
    key_from: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    seed: int | None = 42
    schema: bool = True
    workers: int = 4
    per_minute: float = 0.0
    timeout: float = 120.0
    tries: int = 6
    patience: int = 20
    most: int = 4096

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint's address is of the form https://HOST/v1; got {self.url!r:.80}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an endpoint's address holds no user, password or query: a key comes from the environment")
        if not self.model:
            raise ValueError("an endpoint needs the name of a model")
        for name, least in (("workers", 1), ("tries", 1), ("patience", 1), ("most", 1), ("per_minute", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of an endpoint is {least} or more; got {getattr(self, name)}")
        if self.timeout <= 0:
            raise ValueError(f"timeout of an endpoint is seconds above 0; got {self.timeout}")

    @property
    def host(self) -> str:
        """Name and port, for people."""
        return urlsplit(self.url).netloc

    @property
    def here(self) -> bool:
        """Whether it is this very machine."""
        return urlsplit(self.url).hostname in _LOOPBACK

    def key(self) -> str:
        """Raises ValueError where the environment has none and the address is not this machine's."""
        found = os.environ.get(self.key_from, "").strip()
        if not found and not self.here:
            raise ValueError(f"the environment variable {self.key_from} holds no key for {self.host}: set it")
        return found or "none"


class EndpointJudge:
    """Asks an `Endpoint`. Safe to use from several threads.

    A refusal, an empty or cut-off answer is a JudgeError, and so is what still fails after all tries; one that would
    repeat for every request (a wrong key, no such model, `patience` failures in a row) has `again` false. Raises
    ValueError where the `openai` package or the key is missing.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        need_openai()
        from openai import DefaultHttpxClient, OpenAI

        self.endpoint, self._key = endpoint, endpoint.key()
        self.name, self.workers = f"{endpoint.model} at {endpoint.host}", endpoint.workers
        self._client = OpenAI(
            api_key=self._key,
            base_url=endpoint.url,
            timeout=endpoint.timeout,
            max_retries=0,
            http_client=DefaultHttpxClient(follow_redirects=False),  # nothing goes to anybody who was not named
        )
        self._turns, self._stopped = _Turns(endpoint.per_minute), threading.Event()
        self._lock, self._failed = threading.Lock(), 0

    def stop(self) -> None:
        """Ends the waits of all threads: their requests fail."""
        self._stopped.set()

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """See `Judge`."""
        try:
            reply = self._sent(_body(self.endpoint, request, complaint))
        except JudgeError as error:
            text = str(error).replace(self._key, "[key]") if self._key != "none" else str(error)
            raise JudgeError(text, not self._last(error)) from None
        with self._lock:
            self._failed = 0
        return reply

    def _last(self, error: JudgeError) -> bool:
        """Whether this failure ends the run."""
        with self._lock:
            self._failed = 0 if isinstance(error, _UnsaidError) else self._failed + 1  # who refuses does answer
            return not error.again or self._failed >= self.endpoint.patience

    def _sent(self, body: Mapping[str, Any]) -> Reply:
        """Sends until there is an answer, with longer and longer waits."""
        for attempt in range(self.endpoint.tries):
            self._wait(self._turns.next())
            try:
                return _reply(self._once(body), self.endpoint.model)
            except _PassingError as error:
                said = str(error)
                if attempt + 1 == self.endpoint.tries:
                    break
                if error.after is not None:
                    self._turns.hold(min(error.after, _LONGEST_WAIT))
                else:
                    self._wait(min(60.0, 2.0**attempt) * random.uniform(0.5, 1.0))
        raise JudgeError(f"{self.endpoint.host} gave no answer in {self.endpoint.tries} tries; the last: {said}")

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)) or self._stopped.is_set():
            raise JudgeError("the run was stopped", again=False)

    def _once(self, body: Mapping[str, Any]) -> Any:
        """The JSON of one response. Raises _PassingError for what may pass, JudgeError for what will not."""
        import openai

        end = time.monotonic() + self.endpoint.timeout
        try:
            create = self._client.chat.completions.with_streaming_response.create
            with create(**body) as response:
                parts, size = [], 0
                for part in response.iter_bytes():  # the client's own time-out is of each read, not of the whole
                    parts.append(part)
                    size += len(part)
                    if time.monotonic() > end:
                        raise _PassingError(f"no whole answer in {self.endpoint.timeout:g} seconds")
                    if size > _LARGEST:
                        raise JudgeError(f"the response has more than {_LARGEST >> 20} MB")
            return json.loads(b"".join(parts))
        except openai.APIStatusError as error:
            raise _status(error, self.endpoint) from None
        except openai.APITimeoutError:
            raise _PassingError(f"no answer in {self.endpoint.timeout:g} seconds") from None
        except openai.OpenAIError as error:
            raise _PassingError(f"{error}: {error.__cause__}"[:300]) from None
        except (ValueError, RecursionError) as error:
            raise _PassingError(f"the response is no JSON: {error}"[:300]) from None
        except (_PassingError, JudgeError):
            raise
        except Exception as error:  # the transport's own errors, where a connection is cut inside the body
            raise _PassingError(f"the connection broke: {error!r}"[:300]) from None


class _PassingError(Exception):
    """A failure that may pass. after: seconds that the server asks to wait."""

    def __init__(self, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.after = after


class _UnsaidError(JudgeError):
    """The service works, and says nothing to this request."""


class _Turns:
    """When the next request may go: evenly spaced, and none before the server's own time is over."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._free, self._lock = 60.0 / per_minute if per_minute else 0.0, 0.0, threading.Lock()

    def next(self) -> float:
        """Seconds until this caller's turn."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free)
            self._free = start + self._gap if self._gap else self._free
            return start - now

    def hold(self, seconds: float) -> None:
        """Nobody sends for so long."""
        with self._lock:
            self._free = max(self._free, time.monotonic() + seconds)


def _body(endpoint: Endpoint, request: Request, complaint: str) -> dict[str, Any]:
    content = [_part(part) for part in told(request, complaint)]
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": "system", "content": request.system}, {"role": "user", "content": content}],
        "max_completion_tokens" if endpoint.host.endswith("openai.com") else "max_tokens": endpoint.most,
    }
    if endpoint.temperature is not None:
        body["temperature"] = endpoint.temperature
    if endpoint.seed is not None:
        body["seed"] = endpoint.seed + request.repeat
    if endpoint.schema and request.schema:
        schema = {"name": request.kind, "strict": True, "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    png = base64.b64encode(part.path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}", "detail": "high"}}


def _reply(content: Any, model: str) -> Reply:
    """The answer in a response. Raises _UnsaidError for a refusal and for no answer, _PassingError for another form."""
    try:
        choice = content["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        refusal, text = message.get("refusal"), message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _PassingError(f"the response has no choices: {json.dumps(content)[:200]}") from None
    if refusal or reason == "content_filter":
        raise _UnsaidError(f"the judge refuses: {refusal or 'its content filter'!s:.500}")
    if reason == "length":
        raise _UnsaidError("the answer was cut off: it needs more tokens (--most-tokens)")
    if text is None or (isinstance(text, str) and not text.strip()):
        raise _UnsaidError("the answer is empty")
    if not isinstance(text, str):
        raise _PassingError(f"the answer is no text: {text!r:.200}")
    usage = content.get("usage")
    counts = {name: value for name, value in usage.items() if type(value) is int} if isinstance(usage, dict) else {}
    told_by = content.get("model")
    return Reply(text, told_by if isinstance(told_by, str) and told_by else model, counts)


def _status(error: Any, endpoint: Endpoint) -> Exception:
    """What an error's status means."""
    status, said = error.status_code, str(error)[:500]
    if getattr(error, "code", None) == "insufficient_quota":
        return JudgeError(f"{endpoint.host}: the account's quota is used up: {said}", again=False)
    if status in _AGAIN or status >= 500:
        return _PassingError(said, _after(error.response.headers.get("retry-after")))
    if status in _FINAL:
        hint = f" (the key comes from {endpoint.key_from})" if status in (401, 403) else ""
        return JudgeError(f"{endpoint.host}, {status}: {_FINAL[status]}{hint}: {said}", again=False)
    return JudgeError(f"{endpoint.host} does not take the request, {status}: {said}")


def _after(header: str | None) -> float | None:
    """Seconds of a Retry-After: a number, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
        except (ValueError, TypeError):
            return None
