"""The ten questions of each interaction: made once, checked, and shared by all models that are compared.

| question | about | names | counts for |
|---|---|---|---|
| 1 | before: the subject does not interact yet | subject and object | KISA |
| 2 to 5 | it begins, is initiated, goes on, shows | subject and object | KISA |
| 6 | after: the outcome shows | subject and object | KISA |
| 7 | the subject acts at all; the action is not named | subject | SGI |
| 8 | the subject, and nobody else, does it | subject and object | SGI |
| 9 | the object is acted on by the subject | subject and object | SGI |
| 10 | the object is the recipient | object | SGI |

Texts hold `{name}` for each instance; a judge is told its looks and the colour of its box. A verb without an object
asks of the subject alone. Source: MATRIX's released evaluation (the table), the sentences are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...io.files import whole_file
from .suite import Interaction, Sample

__all__ = ["KISA", "SGI", "STAGES", "Asked", "Sheet", "check_texts", "from_template", "read_sheet", "write_sheet"]

KISA, SGI = range(1, 7), range(7, 11)
STAGES = (
    (range(1, 2), "before: the subject does not interact with the object yet", "both"),
    (
        range(2, 6),
        "it begins, is initiated, goes on; in words that a picture can show (moves toward, touches, holds)",
        "both",
    ),
    (range(6, 7), "after: the outcome can be seen", "both"),
    (range(7, 8), "the subject acts at all; the action is not named", "the subject alone"),
    (range(8, 9), "it is the subject, and nobody else, who does it", "both"),
    (range(9, 10), "the object is acted on by the subject", "both"),
    (range(10, 11), "the object is the one to whom it is done", "the object alone"),
)
"""(questions, what they are about, whom they name). Without an object, all of them name the subject."""
_LEAST, _MOST = 8, 200
_FORM = (
    '{"id", "suite_hash", "generator": {"name"}, "interactions": [{"name", "subject", "object", "questions": [...]}]}'
)
_NAMES = re.compile(r"\{([^{}]*)\}")
_TEMPLATE = (
    "At the start, has {s} not yet begun to do '{verb}' with {o}?",
    "Does {s} then move toward {o}, or turn to it, to begin '{verb}'?",
    "Does {s} make the contact or the gesture by which '{verb}' with {o} is initiated?",
    "Is {s} seen in the middle of doing '{verb}' with {o}?",
    "While {s} does '{verb}', does {o} visibly move, change or react as it should?",
    "At the end, does the picture show the outcome of {s} having done '{verb}' with {o}?",
    "Does {s} act at all in this video?",
    "Is it {s}, and nobody else, who does '{verb}' with {o}?",
    "Is {o} acted on by {s}?",
    "Is {o} the one to whom it is done?",
)
_ALONE = (
    "At the start, has {s} not yet begun to do '{verb}'?",
    "Does {s} then move in the way in which '{verb}' begins?",
    "Does {s} initiate '{verb}'?",
    "Is {s} seen in the middle of doing '{verb}'?",
    "While {s} does '{verb}', does the movement go on visibly?",
    "At the end, does the picture show the outcome of {s} having done '{verb}'?",
    "Does {s} act at all in this video?",
    "Is it {s}, and nobody else, who does '{verb}'?",
    "Does {s} do this itself, without being moved by anybody else?",
    "Is {s} the only one who moves in this way?",
)


@dataclass(frozen=True)
class Asked:
    """One interaction and its ten texts, question 1 first."""

    interaction: Interaction
    texts: tuple[str, ...]

    def told(self, sample: Sample) -> tuple[str, ...]:
        """The texts as a judge reads them, with looks and colours."""
        return tuple(_NAMES.sub(lambda found: sample.called(found[1]), text) for text in self.texts)


@dataclass(frozen=True)
class Sheet:
    """All questions of a sample. maker: who wrote them ("template", or a model's name)."""

    id: str
    suite_hash: str
    maker: str
    asked: tuple[Asked, ...]


def from_template(sample: Sample, suite_hash: str) -> Sheet:
    """Questions without any model. Raises ValueError for a sample whose interactions are not written down."""
    if not sample.interactions:
        raise ValueError(
            f"sample {sample.id!r} names no interactions: write them into the suite, or let a language model find them "
            "(--questions model)"
        )
    asked = []
    for each in sample.interactions:
        marks = {"s": "{" + each.subject + "}", "o": "{" + each.recipient + "}", "verb": each.phrase or each.name}
        texts = tuple(text.format(**marks) for text in (_TEMPLATE if each.recipient else _ALONE))
        asked.append(Asked(each, texts))
        check_texts(sample, each, texts)
    return Sheet(sample.id, suite_hash, "template", tuple(asked))


def check_texts(sample: Sample, interaction: Interaction, texts: Sequence[str]) -> None:
    """Raises ValueError, with every place, unless there are ten questions that name whom they should."""
    both = {interaction.subject, interaction.recipient} - {""}
    wanted = dict.fromkeys((*KISA, 8, 9), both) | {7: {interaction.subject}, 10: {interaction.recipient} - {""} or both}
    problems = [] if len(texts) == 10 else [f"there are {len(texts)} questions, not 10"]
    for q, text in enumerate(texts[:10], 1):
        named = set(_NAMES.findall(text))
        if named != wanted[q]:
            problems.append(f"question {q} names {_list(named)}, and should name {_list(wanted[q])}")
        if not _LEAST <= len(text) <= _MOST or not text.endswith("?"):
            problems.append(f"question {q} has {_LEAST} to {_MOST} characters and ends with '?'; got {text[:40]!r}")
    if problems:
        raise ValueError(f"sample {sample.id!r}, {interaction.name!r}: {'; '.join(problems)}")


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Writes the questions of a sample as JSON."""
    content = {
        "id": sheet.id,
        "suite_hash": sheet.suite_hash,
        "generator": {"name": sheet.maker},
        "interactions": [
            {
                "name": each.interaction.name,
                "subject": each.interaction.subject,
                "object": each.interaction.recipient,
                "phrase": each.interaction.phrase,
                "questions": [
                    {"q": q, "text": text, "names": _NAMES.findall(text)} for q, text in enumerate(each.texts, 1)
                ],
            }
            for each in sheet.asked
        ],
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sheet(path: Path, sample: Sample) -> Sheet:
    """Reads questions and checks each of them. Raises ValueError that says where and what."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["id"] != sample.id:
            raise ValueError(f"they are of sample {content['id']!r:.60}")
        asked = tuple(_asked(each, sample) for each in content["interactions"])
        if not asked:
            raise ValueError("there is no interaction")
        return Sheet(sample.id, str(content["suite_hash"]), str(content["generator"]["name"]), asked)
    except KeyError as error:
        said = f"{error} is missing"
    except (TypeError, AttributeError):
        said = f"it is not of the form {_FORM}"
    except (ValueError, OSError, RecursionError) as error:
        said = str(error)
    raise ValueError(f"{path} cannot be read as questions: {said}") from None


def _asked(given: Mapping[str, Any], sample: Sample) -> Asked:
    verb, subject, recipient = (str(given[key]) for key in ("name", "subject", "object"))
    interaction = Interaction(verb, subject, recipient, str(given.get("phrase", "")))
    Sample(sample.id, sample.prompt, sample.instances, (interaction,))  # checks the names
    numbers = [each["q"] for each in given["questions"]]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"{interaction.name!r}: questions are numbered 1 to 10 in order; got {numbers[:12]}")
    texts = tuple(str(each["text"]) for each in given["questions"])
    check_texts(sample, interaction, texts)
    return Asked(interaction, texts)


def _list(names: set[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names)) or "nobody"
