"""A node that has a judge say whether a generated clip shows what was asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.evaluation.intergen.clip import Judgement, clip_requests, judge_clip
from ..matrix_lib.evaluation.intergen.entry import parse_entry
from ..matrix_lib.evaluation.intergen.report import as_line
from ..matrix_lib.evaluation.intergen.run import Options
from ..matrix_lib.evaluation.intergen.scores import MEASURES
from ..matrix_lib.evaluation.intergen.suite import Sample
from ..matrix_lib.evaluation.judges.endpoint import EndpointJudge
from ..matrix_lib.evaluation.judges.endpoint_wire import Endpoint
from ..matrix_lib.evaluation.judges.estimate import plan
from ..matrix_lib.evaluation.judges.files import FileJudge
from ..matrix_lib.evaluation.judges.judge import Judge, Picture
from ..matrix_lib.evaluation.judges.spoken import SpokenJudge
from ..matrix_lib.evaluation.mini.exact_judge import ExactJudge, sample_of
from ..matrix_lib.hosts.comfy.text_model import contact_sheet, generate, model_name, pictures_of
from ..matrix_lib.hosts.comfy.tracks import check_images, frame_reader, image_batch
from ..matrix_lib.io.files import inside
from ..matrix_lib.mini.examples import EXAMPLES, example_truth
from .places import state_of
from .sockets import TracksSocket, ticker

MINI, MODEL, SERVICE, FILES = "mini world", "text model", "service", "files"
EACH, SHEET = "each frame", "one sheet"


def _judges() -> list[io.DynamicCombo.Option]:
    return [
        io.DynamicCombo.Option(
            MINI,
            [
                io.Combo.Input(
                    "shows",
                    options=list(EXAMPLES),
                    default="push",
                    tooltip="The example clip that the frames should show. The exact judge of mini's world knows its "
                    "whole truth, and needs neither tracks nor an entry.",
                )
            ],
        ),
        io.DynamicCombo.Option(
            MODEL,
            [
                io.Combo.Input(
                    "pictures",
                    options=[EACH, SHEET],
                    default=EACH,
                    tooltip="How the model is shown the frames: one picture each, or all in one picture, for models "
                    "that take a single one.",
                ),
                _tokens(),
            ],
        ),
        io.DynamicCombo.Option(
            SERVICE,
            [
                io.String.Input(
                    "address",
                    default="http://127.0.0.1:8000/v1",
                    tooltip="An OpenAI-compatible address: a service, vLLM, Ollama, llama.cpp.",
                ),
                io.String.Input("model", default="", tooltip="The model, as the service calls it."),
                io.String.Input(
                    "key_variable",
                    default="OPENAI_API_KEY",
                    advanced=True,
                    tooltip="The environment variable that holds the key. The key itself stands in no workflow.",
                ),
                _tokens(),
                io.Boolean.Input(
                    "send",
                    default=False,
                    tooltip="Off: nothing is sent, and the table says what would be. On: frames and questions go to "
                    "the address.",
                ),
            ],
        ),
        io.DynamicCombo.Option(FILES, []),
    ]


def _tokens() -> io.Int.Input:
    return io.Int.Input(
        "max_tokens", default=1024, min=8, max=32768, advanced=True, tooltip="The longest answer, in tokens."
    )


class MatrixEvaluate(io.ComfyNode):
    """Questions about a clip to a judge, and the scores of its answers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixEvaluate",
            display_name="MATRIX Evaluate",
            category="MATRIX/evaluation",
            description="Asks a judge whether a generated clip shows the interaction that was asked for, between whom "
            "it should, and whether everybody is still there: KISA, SGI, SPI and IF of InterGenEval.",
            search_aliases=["InterGenEval", "judge", "VLM", "KISA", "SGI", "SPI", "score", "benchmark"],
            is_output_node=True,
            inputs=[
                io.Image.Input("frames", tooltip="The generated clip. A list of clips is judged one after the other."),
                io.String.Input(
                    "entry",
                    default="",
                    multiline=True,
                    tooltip="Who there is and who does what, a line each: 'man: the man in a cap', 'opens = verb(man "
                    "-> fridge)'. Or an entry of a suite.json. Empty is enough for the mini world.",
                ),
                io.DynamicCombo.Input(
                    "judge",
                    options=_judges(),
                    tooltip="Who answers: the exact judge of mini's world, a text model that is loaded here, a "
                    "service, or another program through files.",
                ),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Tracks of this very clip, under the names of the entry: they put the coloured boxes into "
                    "the pictures, and say who disappears.",
                ),
                io.Clip.Input(
                    "text_model",
                    optional=True,
                    tooltip="For the judge 'text model': a language model that sees pictures, as the node Generate "
                    "Text takes it (Qwen3-VL, Qwen3.5, Gemma).",
                ),
                io.String.Input(
                    "folder",
                    default="matrix/judge",
                    tooltip="Where answers are kept, below the output folder: nothing is asked twice, and the table "
                    "has the means of everything judged into it. Take one for each model and judge.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default="fidelity",
                    tooltip="Which score comes out as a number, for nodes that compare or sort.",
                ),
                io.Int.Input(
                    "stride",
                    default=5,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="The judge sees the first frame, the last, and every so many between. The paper has 5.",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=9,
                    step=2,
                    advanced=True,
                    tooltip="How often each question is asked; the majority counts. An odd number.",
                ),
                io.Boolean.Input(
                    "ask_for_new",
                    default=True,
                    advanced=True,
                    tooltip="Whether the judge is asked for things that were not there in the first frame. Without it "
                    "SPI holds disappearance alone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="shown", tooltip="The frames as the judge saw them, with their boxes."),
                io.String.Output(display_name="table", tooltip="All scores, the answers, what is missing, the means."),
                io.String.Output(display_name="scores", tooltip="The same as JSON; null is what is not known."),
                io.Float.Output(display_name="value", tooltip="The chosen measure; nan where it is not known."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str = "matrix/judge", **_: Any) -> str:
        """What others have answered meanwhile counts."""
        try:
            return state_of(_folder(folder) / "answers.jsonl")
        except ValueError:
            return ""

    @classmethod
    def execute(
        cls,
        frames: torch.Tensor,
        entry: str,
        judge: dict[str, Any],
        tracks: MaskTracks | None = None,
        text_model: Any = None,
        folder: str = "matrix/judge",
        measure: str = "fidelity",
        stride: int = 5,
        repeats: int = 1,
        ask_for_new: bool = True,
    ) -> io.NodeOutput:
        place, options = _folder(folder), Options(repeats, "judge" if ask_for_new else "off")
        read = frame_reader(frames)
        who: Judge | None
        if judge["judge"] == MINI:
            sample, tracks, who = _mini(judge, entry, frames, tracks)
        else:
            sample, who = _entry(entry), None
        if tracks is None:
            raise ValueError(f"the judge {judge['judge']!r} needs tracks of the clip: connect SAM 2, SAM 3 or boxes")
        check_images(frames, tracks.height, tracks.width)
        if len(frames) != tracks.frames:
            raise ValueError(f"the clip has {len(frames)} frames and its tracks {tracks.frames}: track this very clip")
        told: list[str] = []
        if judge["judge"] != MINI:
            who = _other(judge, text_model, place)
        if judge["judge"] == SERVICE and not judge["send"]:
            _, requests = clip_requests(read, tracks, sample, place, options, stride)
            told = ["Nothing was sent. With 'send' on:", *plan(_endpoint(judge), requests), ""]
        # the bar goes up by one a request, of which there are as many as interactions and the one about what is new
        step = ticker(repeats * (len(sample.interactions) + ask_for_new))
        found = judge_clip(
            read, tracks, sample, who, place, options, stride, lambda done, of: step() if done else None, _interrupt
        )
        table = "\n".join([*told, found.table()])
        overlay = image_batch([_opened(picture) for picture in found.pictures])
        sent = ui.PreviewImage(overlay, cls=cls).as_dict() | {"text": (table,)}
        return io.NodeOutput(overlay, table, _as_json(found), found.scores.values[measure], ui=sent)


def _folder(name: str) -> Path:
    if not name.strip():
        raise ValueError("folder is the name of a folder below the output folder, like matrix/judge; got nothing")
    return inside(name, [folder_paths.get_output_directory()])


def _entry(text: str) -> Sample:
    """Clips of one entry are averaged: entries are told apart by what they say."""
    return parse_entry(text, name=f"entry-{hashlib.sha256(text.strip().encode()).hexdigest()[:8]}")


def _mini(
    judge: Mapping[str, Any], entry: str, frames: torch.Tensor, tracks: MaskTracks | None
) -> tuple[Sample, MaskTracks, Judge]:
    """The exact judge sees by itself: tracks and entry are its own where none are given."""
    truth = example_truth(judge["shows"])
    (due, _, height, width), given = truth.video.shape[1:], list(frames.shape[:3])
    if given != [due, height, width]:
        raise ValueError(
            f"the example {judge['shows']!r} has {due} frames of {width}x{height} pixels, and {given[0]} of "
            f"{given[2]}x{given[1]} came: judge a clip that mini made of it, of a batch take one (Image From Batch)"
        )
    exact = ExactJudge(frames[..., :3].cpu().float().clamp(0, 1).movedim(-1, 1), truth)
    if tracks is None:
        tracks = exact.tracks()
    sample = _entry(entry) if entry.strip() else sample_of(truth, judge["shows"])
    return sample, tracks, exact


def _other(judge: Mapping[str, Any], text_model: Any, place: Path) -> Judge | None:
    """Who answers; None where nobody is to be asked."""
    if judge["judge"] == FILES:
        return FileJudge(place / "answers.jsonl")
    if judge["judge"] == SERVICE:
        return EndpointJudge(_endpoint(judge)) if judge["send"] else None
    if text_model is None:
        raise ValueError("the judge 'text model' needs a language model: connect text_model, from Load CLIP")
    sheet, most = judge["pictures"] == SHEET, judge["max_tokens"]

    def say(text: str, paths: Any) -> str:
        shown = pictures_of(paths)
        if sheet:
            shown = contact_sheet(shown, [int(path.stem) for path in paths])
            text = f"All frames stand in one picture, each below its number.\n\n{text}"
        return generate(text_model, text, shown, most)

    return SpokenJudge(model_name(text_model) + (", one sheet" if sheet else ""), say)


def _endpoint(judge: Mapping[str, Any]) -> Endpoint:
    return Endpoint(judge["address"].strip(), judge["model"].strip(), judge["key_variable"], most=judge["max_tokens"])


def _interrupt() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _opened(picture: Picture) -> Any:
    with Image.open(picture.path) as opened:
        return opened.convert("RGB")


def _as_json(found: Judgement) -> str:
    means = {name: None if math.isnan(each.mean) else each.mean for name, each in found.all.estimates.items()}
    folder = {"clips": found.all.of, "complete": found.all.complete, "means": means}
    return json.dumps(as_line(found.scores) | {"folder": folder}, ensure_ascii=False)


NODES = [MatrixEvaluate]
