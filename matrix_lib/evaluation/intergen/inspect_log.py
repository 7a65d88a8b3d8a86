"""A judgement as a log of `inspect-ai`, for people who look at answers in its viewer (`inspect view`).

Each question to a judge is a sample of the log, each repeat an epoch: what the judge was told, with the frames, what
it said, and what was read from it. What is missing is a sample with an error and no score.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..judges.judge import Picture, Request, told
from ..judges.store import Answers
from .answers import AnswerError, read_emergence, read_verification
from .questions import KISA, SGI
from .scores import RunScores

__all__ = ["need_inspect", "write_inspect_log"]


def need_inspect() -> None:
    """Raises ValueError with the install line where the `inspect-ai` package is absent."""
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        raise ValueError("this log needs the inspect-ai package:  pip install inspect-ai") from None


def write_inspect_log(
    path: Path, requests: Sequence[Request], answers: Answers, run: RunScores, name: str, suite_hash: str
) -> None:
    """Writes `path` (.eval or .json).

    Args:
        requests: all that was asked about one model's videos. run: their means, which become the log's results.
        name: of the videos' model. suite_hash: of what was asked.

    Raises ValueError where the package is absent.
    """
    need_inspect()
    from inspect_ai import log

    judges = sorted(answers.models(request.key for request in requests))
    samples = [_sample(request, answers) for request in requests]
    content = log.EvalLog(
        status="success",
        eval=log.EvalSpec(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=f"intergen {name}",
            task_version=suite_hash,
            dataset=log.EvalDataset(name=name, samples=len(samples)),
            model=", ".join(judges) or "nobody",
            config=log.EvalConfig(epochs=1 + max(request.repeat for request in requests)),
        ),
        results=log.EvalResults(
            total_samples=len(samples),
            completed_samples=sum(sample.error is None for sample in samples),
            scores=[_result(measure, found) for measure, found in run.estimates.items() if not np.isnan(found.mean)],
        ),
        samples=samples,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_eval_log(content, str(path))


def _sample(request: Request, answers: Answers) -> Any:
    from inspect_ai import log, model, scorer

    parts = [_part(part) for part in told(request)]
    shown: list[Any] = [model.ChatMessageSystem(content=request.system), model.ChatMessageUser(content=parts)]
    where = f"{request.id}.{request.seed}" if request.seed else request.id
    about = {"kind": request.kind, "video": where, "interaction": request.interaction + 1, "key": request.key}
    sample = log.EvalSample(
        id=f"{where} {request.kind} {request.interaction + 1}",
        epoch=request.repeat + 1,
        input=shown,
        target="",
        messages=shown,
        metadata=about,
    )
    stored = answers.found.get(request.key)
    why = answers.failed.get(request.key, "not answered yet")
    if stored is not None:
        sample.output = model.ModelOutput.from_content(f"{stored.judge}: {stored.model}", stored.raw)
        sample.messages = [*shown, sample.output.message]
        try:
            values, said = _values(request, stored.raw)
            sample.scores = {name: scorer.Score(value=value, answer=said) for name, value in values.items()}
            return sample
        except AnswerError as error:
            why = f"the answer cannot be read: {error}"
    sample.error = log.EvalError(message=why, traceback="", traceback_ansi="")
    return sample


def _values(request: Request, raw: str) -> tuple[dict[str, float], str]:
    """(scores of one answer, the answer in a line)."""
    shown = [picture.index for picture in request.pictures]
    if request.kind == "emergence":
        found = read_emergence(raw, shown)
        return {"emergence": float(bool(found.frames))}, f"frames {list(found.frames)}: {found.reason}"
    read = read_verification(raw, shown)
    words = {q: "yes" if each.yes else "no (implausible)" if each.implausible else "no" for q, each in read.items()}
    parts = (("kisa_raw", KISA), ("sgi_raw", SGI))
    values = {name: float(np.mean([read[q].yes for q in some])) for name, some in parts}
    return values, ", ".join(f"{q} {word}" for q, word in sorted(words.items()))


def _part(part: str | Picture) -> Any:
    from inspect_ai import model

    if isinstance(part, str):
        return model.ContentText(text=part)
    png = base64.b64encode(part.path.read_bytes()).decode()
    return model.ContentImage(image=f"data:image/png;base64,{png}")


def _result(measure: str, found: Any) -> Any:
    from inspect_ai import log

    numbers = {"mean": found.mean, "low (95 %)": found.low, "high (95 %)": found.high}
    metrics = {name: log.EvalMetric(name=name, value=float(value)) for name, value in numbers.items() if value == value}
    return log.EvalScore(name=measure, scorer="intergen", metrics=metrics)
