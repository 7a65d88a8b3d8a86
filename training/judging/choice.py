"""Who answers for `training.judge`: what its command line takes, and what is told before anything is sent.

A new judge is a file in `matrix_lib/evaluation/judges/`, a line in `JUDGES` and its settings here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from matrix_lib.evaluation.judges.endpoint import EndpointJudge
from matrix_lib.evaluation.judges.endpoint_wire import Endpoint
from matrix_lib.evaluation.judges.estimate import plan
from matrix_lib.evaluation.judges.files import FileJudge, write_requests
from matrix_lib.evaluation.judges.judge import Judge, Request
from matrix_lib.evaluation.judges.local import LocalJudge
from matrix_lib.evaluation.judges.store import Answers, Check, ask

__all__ = ["JUDGES", "add_settings", "put"]


def put(given: argparse.Namespace, requests: Sequence[Request], out: Path, check: Check) -> int:
    """Writes requests to `out`/requests.jsonl, asks the chosen judge what `out`/answers.jsonl does not hold, and
    returns how many stay unanswered. Nothing is sent before a person has agreed to what is printed.

    Raises ValueError where another judge has begun, where another run is at it, and where nobody agreed; JudgeError
    where the judge cannot go on.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / "answers.lock", timeout=0):  # two runs would ask the same questions twice
            return _put(given, requests, out, check)
    except Timeout:
        raise ValueError(f"another run is asking about {out}: wait for it, or stop it") from None


def _put(given: argparse.Namespace, requests: Sequence[Request], out: Path, check: Check) -> int:
    write_requests(requests, out / "requests.jsonl")
    print(f"{len(requests)} requests are in {out / 'requests.jsonl'}")
    answers = Answers(out / "answers.jsonl")
    answers.recheck(requests, check)
    left = list({request.key: request for request in requests if request.key not in answers.found}.values())
    if given.judge == "endpoint":
        _plan(given, _endpoint(given), left)
    elif given.dry_run:
        print(f"{len(left)} would be asked of {given.judge}; nothing is sent anywhere")
    if given.dry_run:
        return len(left)
    judge = JUDGES[given.judge](given, out)
    others = answers.judges(request.key for request in requests) - {judge.name}
    if others and left and given.judge != "file" and not given.mixed:
        raise ValueError(
            f"{out / 'answers.jsonl'} holds answers of {', '.join(sorted(others))}: move it away to ask {judge.name} "
            "about everything, or say --mixed to let it answer the rest"
        )
    if left and given.judge == "endpoint":
        _agree(given)
    open_ = ask(requests, judge, answers, check, progress=_progress)
    print(f"\n{len(requests) - open_} of {len(requests)} are answered" + (f"; {open_} are missing" if open_ else ""))
    return open_


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The judge's settings."""
    parser.add_argument("--judge", choices=tuple(JUDGES), default="file", help="who answers (default: file)")
    parser.add_argument(
        "--answers", type=Path, help="file: answers.jsonl of another program (default: beside requests)"
    )
    parser.add_argument("--mixed", action="store_true", help="answers of several judges may stand side by side")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    parser.add_argument("--most-tokens", type=int, help="tokens of an answer (default: endpoint 4096, local 1024)")
    local = parser.add_argument_group("--judge local")
    local.add_argument("--folder", type=Path, help="a vision-language model, for transformers")
    local.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    sent = parser.add_argument_group("--judge endpoint (an OpenAI-compatible address)")
    sent.add_argument("--base-url", help="for example http://127.0.0.1:8000/v1")
    sent.add_argument("--model", help="as the service calls it")
    sent.add_argument("--key-env", default="OPENAI_API_KEY", help="environment variable with the key (OPENAI_API_KEY)")
    sent.add_argument("--yes", action="store_true", help="send without asking")
    sent.add_argument("--temperature", type=_or_none, default=0.0, help="0 unless given; 'none' sends none")
    sent.add_argument("--seed", type=_or_none, default=42.0, help="of the first repeat (42); 'none' sends none")
    sent.add_argument("--no-schema", dest="schema", action="store_false", help="for servers without JSON schemas")
    sent.add_argument("--workers", type=int, default=4, help="requests at once (4)")
    sent.add_argument("--per-minute", type=float, default=0.0, help="requests a minute (no limit)")
    sent.add_argument("--timeout", type=float, default=120.0, help="seconds for a whole answer (120)")
    sent.add_argument("--tries", type=int, default=6, help="times that a request is sent where the service fails (6)")
    sent.add_argument("--price-in", type=float, help="price of a million tokens in")
    sent.add_argument("--price-out", type=float, help="price of a million tokens out")
    sent.add_argument("--tokens-per-picture", type=int, help="where you know what a picture costs")


def _file(given: argparse.Namespace, out: Path) -> Judge:
    if given.answers and not given.answers.is_file():
        print(f"there is no file {str(given.answers)!r} with answers yet", file=sys.stderr)
    judge = FileJudge(given.answers or out / "answers.jsonl")
    if given.answers and judge.damaged:
        print(f"{judge.path}: {judge.damaged} lines are no answers, and do not count", file=sys.stderr)
    return judge


def _local(given: argparse.Namespace, out: Path) -> Judge:
    if given.folder is None:
        raise ValueError("--judge local needs --folder: a vision-language model for transformers")
    return LocalJudge(given.folder, given.device, most=given.most_tokens or 1024)


def _service(given: argparse.Namespace, out: Path) -> Judge:
    return EndpointJudge(_endpoint(given))


JUDGES: dict[str, Callable[[argparse.Namespace, Path], Judge]] = {"file": _file, "local": _local, "endpoint": _service}


def _endpoint(given: argparse.Namespace) -> Endpoint:
    if not given.base_url or not given.model:
        raise ValueError(
            "--judge endpoint needs --base-url and --model: nothing is sent to an address that nobody named"
        )
    return Endpoint(
        given.base_url,
        given.model,
        given.key_env,
        given.temperature,
        None if given.seed is None else int(given.seed),
        given.schema,
        given.workers,
        given.per_minute,
        given.timeout,
        given.tries,
        most=given.most_tokens or 4096,
    )


def _plan(given: argparse.Namespace, endpoint: Endpoint, left: Sequence[Request]) -> None:
    said = plan(endpoint, left, given.tokens_per_picture, given.price_in, given.price_out)
    print("\n".join(said), flush=True)


def _agree(given: argparse.Namespace) -> None:
    if given.yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("nothing was sent: say --yes to send what is printed above")
    if input("Send this? [yes/no] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was sent")


def _progress(done: int, of: int) -> None:
    print(f"\r{done} of {of}", end="", flush=True)


def _or_none(text: str) -> float | None:
    return None if text == "none" else float(text)
