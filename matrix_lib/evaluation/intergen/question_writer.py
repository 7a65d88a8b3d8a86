"""Questions that a language model writes: what it is asked, and what of its answer is taken.

The model sees the prompt, the instances by name, and the interactions where the suite knows them; no video. What it
writes is held to the same rules as questions by hand; what breaks one is refused with the place.
"""

from __future__ import annotations

import json
from typing import Any

from ..judges.judge import Request
from .answers import AnswerError, read_json
from .questions import STAGES, Asked, Sheet, check_texts
from .suite import Interaction, Sample

__all__ = ["question_request", "read_questions"]

_TASK = """You write questions by which others judge a video that was made from a prompt. They see frames of it and
not the prompt.
You are told the prompt and the persons and things in it, each with a name in braces. An interaction is a verb, done by
one of them (subject) to another (object), or by one alone (object "").
For each interaction write ten questions, in this order:
{stages}
A question names a person or thing by its name in braces alone, as {{{example}}}, never by looks or colours. Each is
short, in the present tense, ends with a question mark, and can be answered yes or no from frames. Nothing is guessed.
Answer with one JSON object:
{{"interactions": [{{"name": "the verb", "subject": "a name", "object": "a name, or nothing",
"questions": ["...", ...]}}]}}
Write nothing else."""


def question_request(sample: Sample) -> Request:
    """What a model is asked about a sample."""
    stages = "\n".join(
        f"{f'questions {qs[0]} to {qs[-1]}' if len(qs) > 1 else f'question {qs[0]}'}: {what}. Names {whom}."
        for qs, what, whom in STAGES
    )
    task = _TASK.format(
        stages=f"{stages}\nWithout an object every question names the subject.", example=sample.names[0]
    )
    who = [{"name": each.name, "class": each.kind, "appearance": each.appearance} for each in sample.instances]
    known = [
        {"name": each.name, "subject": each.subject, "object": each.recipient, "phrase": each.phrase}
        for each in sample.interactions
    ]
    text = f"Prompt: {sample.prompt}\nPersons and things: {json.dumps(who, ensure_ascii=False)}\n"
    if known:
        text += f"Interactions, these and no others: {json.dumps(known, ensure_ascii=False)}"
    else:
        text += f"Interactions: find them in the prompt ({sample.direction})."
    return Request("questions", sample.id, "", task, text, schema=_schema(sample))


def read_questions(raw: str, sample: Sample, suite_hash: str, maker: str) -> Sheet:
    """The questions of a sample from a model's answer.

    Raises AnswerError that says what is wrong, and where, for anything but questions for exactly the interactions of
    the suite, or for at least one that the model found among the sample's instances.
    """
    content = read_json(raw)
    given = content.get("interactions") if isinstance(content, dict) else None
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        raise AnswerError('the answer is an object {"interactions": [{"name", "subject", "object", "questions"}, ...]}')
    asked = tuple(_asked(each, place, sample) for place, each in enumerate(given, 1))
    found = [(each.interaction.name, each.interaction.subject, each.interaction.recipient) for each in asked]
    if len(set(found)) != len(found):
        raise AnswerError(f"an interaction is there twice: {found[:8]}")
    wanted = [(each.name, each.subject, each.recipient) for each in sample.interactions]
    if wanted and sorted(found) != sorted(wanted):
        raise AnswerError(f"the interactions are {wanted[:8]}, and no others; got {found[:8]}")
    return Sheet(sample.id, suite_hash, maker, asked)


def _asked(given: dict[str, Any], place: int, sample: Sample) -> Asked:
    where = f"interaction {place}"
    name, subject, recipient = (given.get(key, "") for key in ("name", "subject", "object"))
    if not all(isinstance(each, str) for each in (name, subject, recipient)) or not name.strip():
        raise AnswerError(f"{where}: name, subject and object are texts, and the name is not empty")
    subject, recipient = (each.strip().removeprefix("{").removesuffix("}") for each in (subject, recipient))
    texts = given.get("questions")
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise AnswerError(f"{where}: questions is a list of ten texts")
    phrase = next((each.phrase for each in sample.interactions
                   if (each.name, each.subject, each.recipient) == (name, subject, recipient)), "")  # fmt: skip
    interaction = Interaction(name.strip(), subject, recipient, phrase)
    try:
        Sample(sample.id, sample.prompt, sample.instances, (interaction,))  # checks the names
        check_texts(sample, interaction, tuple(text.strip() for text in texts))
    except ValueError as error:
        raise AnswerError(f"{where}: {error}") from None
    return Asked(interaction, tuple(text.strip() for text in texts))


def _schema(sample: Sample) -> dict[str, Any]:
    names = list(sample.names)
    one = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "subject": {"type": "string", "enum": names},
            "object": {"type": "string", "enum": [*names, ""]},
            "questions": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "subject", "object", "questions"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"interactions": {"type": "array", "items": one}},
        "required": ["interactions"],
        "additionalProperties": False,
    }
