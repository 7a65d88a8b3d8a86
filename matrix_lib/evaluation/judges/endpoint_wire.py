"""What goes over the wire to an OpenAI-compatible endpoint, and what comes back: settings, bodies, answers, errors."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from .judge import JudgeError, Picture, Reply, Request, told

__all__ = ["Endpoint", "PassingError", "UnsaidError", "body_of", "meaning_of", "reply_of"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AGAIN = (408, 409, 425, 429)  # and all from 500
_FINAL = {
    401: "it does not accept the key",
    402: "it asks for payment",
    403: "it does not let this key do that",
    404: "it has no such address or model",
}


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
    def machine(self) -> str:
        """The name without the port, which changes where a server starts anew."""
        return urlsplit(self.url).hostname or ""

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


class PassingError(Exception):
    """A failure that may pass. after: seconds that the server asks to wait."""

    def __init__(self, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.after = after


class UnsaidError(JudgeError):
    """The service works, and says nothing to this request."""


def body_of(endpoint: Endpoint, request: Request, complaint: str, limit: str = "max_tokens") -> dict[str, Any]:
    """The body of a request: the task as system, then texts and pictures (PNG as data) in order.

    limit: what the service calls the most tokens of an answer.
    """
    content = [_part(part) for part in told(request, complaint)]
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": "system", "content": request.system}, {"role": "user", "content": content}],
        limit: endpoint.most,
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


def reply_of(content: Any, model: str) -> Reply:
    """The answer in a response. Raises UnsaidError for a refusal and for no answer, PassingError for another form."""
    try:
        choice = content["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        refusal, text = message.get("refusal"), message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise PassingError(f"the response has no choices: {json.dumps(content)[:200]}") from None
    if refusal or reason == "content_filter":
        raise UnsaidError(f"the judge refuses: {refusal or 'its content filter'!s:.500}")
    if reason == "length":
        raise UnsaidError("the answer was cut off: it needs more tokens (--most-tokens)")
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UnsaidError("the answer is empty")
    if not isinstance(text, str):
        raise PassingError(f"the answer is no text: {text!r:.200}")
    usage = content.get("usage")
    counts = {name: value for name, value in usage.items() if type(value) is int} if isinstance(usage, dict) else {}
    told_by = content.get("model")
    return Reply(text, told_by if isinstance(told_by, str) and told_by else model, counts)


def meaning_of(error: Any, endpoint: Endpoint) -> Exception:
    """What an error's status means."""
    status, said = error.status_code, str(error)
    if getattr(error, "code", None) == "insufficient_quota":
        return JudgeError(f"{endpoint.host}: the account's quota is used up: {said}", again=False)
    if status in _AGAIN or status >= 500:
        return PassingError(said, _after(error.response.headers.get("retry-after")))
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
