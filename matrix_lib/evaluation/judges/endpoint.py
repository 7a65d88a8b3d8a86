"""A judge behind an OpenAI-compatible address: a service, or a server of one's own (vLLM, Ollama, llama.cpp).

The client is the `openai` package, with its own retries switched off: when and how often something is sent is decided
here. The key comes from an environment variable, goes into the request's header, and is written nowhere; where a
server repeats it in an error, it is blacked out.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from .endpoint_wire import Endpoint, PassingError, UnsaidError, body_of, meaning_of, reply_of
from .judge import JudgeError, Reply, Request

__all__ = ["EndpointJudge", "need_openai"]

_LATER_LIMIT = "max_completion_tokens"
_LARGEST = 8 << 20  # bytes of a response
_LONGEST_WAIT = 600.0  # seconds that a Retry-After is obeyed for


def need_openai() -> None:
    """Raises ValueError with the install line where the `openai` package is absent."""
    try:
        import openai  # noqa: F401
    except ImportError:
        raise ValueError("this judge needs the openai package:  pip install openai") from None


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
        self.name, self.workers = f"{endpoint.model} at {endpoint.machine}", endpoint.workers
        self._client = OpenAI(
            api_key=self._key,
            base_url=endpoint.url,
            timeout=endpoint.timeout,
            max_retries=0,
            http_client=DefaultHttpxClient(follow_redirects=False),  # nothing goes to anybody who was not named
        )
        self._turns, self._stopped = _Turns(endpoint.per_minute), threading.Event()
        self._lock, self._failed, self._limit = threading.Lock(), 0, "max_tokens"

    def stop(self) -> None:
        """Ends the waits of all threads: their requests fail."""
        self._stopped.set()

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """See `Judge`."""
        try:
            reply = self._sent(request, complaint)
        except JudgeError as error:
            raise JudgeError(self._without_key(str(error))[:600], not self._last(error)) from None
        with self._lock:
            self._failed = 0
        return Reply(self._without_key(reply.raw), self._without_key(reply.model), reply.usage)

    def _without_key(self, text: str) -> str:
        """Servers repeat what they were sent."""
        return text.replace(self._key, "[key]") if len(self._key) >= 8 else text

    def _last(self, error: JudgeError) -> bool:
        """Whether this failure ends the run."""
        with self._lock:
            self._failed = 0 if isinstance(error, UnsaidError) else self._failed + 1  # who refuses does answer
            return not error.again or self._failed >= self.endpoint.patience

    def _sent(self, request: Request, complaint: str) -> Reply:
        """Sends until there is an answer, with longer and longer waits."""
        for attempt in range(self.endpoint.tries):
            self._wait(self._turns.next())
            try:
                return reply_of(
                    self._once(body_of(self.endpoint, request, complaint, self._limit)), self.endpoint.model
                )
            except PassingError as error:
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
        """The JSON of one response. Raises PassingError for what may pass, JudgeError for what will not."""
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
                        raise PassingError(f"no whole answer in {self.endpoint.timeout:g} seconds")
                    if size > _LARGEST:
                        raise JudgeError(f"the response has more than {_LARGEST >> 20} MB")
            return json.loads(b"".join(parts))
        except openai.APIStatusError as error:
            if error.status_code == 400 and _LATER_LIMIT in str(error) and _LATER_LIMIT not in body:
                self._limit = _LATER_LIMIT  # newer models know the limit by this name alone, and say so
                raise PassingError(str(error), after=0.0) from None
            raise meaning_of(error, self.endpoint) from None
        except openai.APITimeoutError:
            raise PassingError(f"no answer in {self.endpoint.timeout:g} seconds") from None
        except openai.OpenAIError as error:
            raise PassingError(f"{error}: {error.__cause__}") from None
        except (ValueError, RecursionError) as error:
            raise PassingError(f"the response is no JSON: {error}") from None
        except (PassingError, JudgeError):
            raise
        except Exception as error:  # the transport's own errors, where a connection is cut inside the body
            raise PassingError(f"the connection broke: {error!r}") from None


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
