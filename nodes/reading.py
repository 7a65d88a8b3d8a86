"""A node that reads off a capture who is where, who was mistaken for whom, where everybody looks, and who moves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image

from ..matrix_lib.core.grid import Framing
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.draw.capture import choose_names, choose_numbers
from ..matrix_lib.draw.followed import draw_followed
from ..matrix_lib.evaluation.trajectories.against import as_made, told_against
from ..matrix_lib.hosts.comfy.tracks import check_images, frame_reader, image_batch, point_paths
from ..matrix_lib.instrument.kinds import KINDS
from ..matrix_lib.instrument.readings.contacts import parse_contact
from ..matrix_lib.instrument.readings.readers import Reader, parse_readers
from ..matrix_lib.instrument.readings.reading import Reading, read_capture
from ..matrix_lib.instrument.readings.word_masks import sharpest_layers, told_names
from .sockets import CaptureSocket, TracksSocket, ticker
from .viewer import shown_in_viewer

_KINDS = {KINDS[kind].title: kind for kind in ("v2t", "v2v")}


class MatrixReadCapture(io.ComfyNode):
    """Capture to masks of its words, a report of swaps, doublings and sinks, and both over the frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixReadCapture",
            display_name="MATRIX Read Capture",
            category="MATRIX/capture",
            description="Reads off a capture what it knows of the clip: masks of the words without a segmenter, "
            "instances that were swapped or doubled, with frames and steps, attention sinks, where pinned points went, "
            "who moves when, and when two meet. Needs no model.",
            search_aliases=[
                "segment",
                "mask from prompt",
                "attention to mask",
                "identity swap",
                "double",
                "attention sink",
                "who is who",
                "point tracking",
                "motion",
            ],
            is_output_node=True,
            inputs=[
                CaptureSocket.Input("capture", tooltip="What a sampler recorded, or a capture from a file."),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Where everybody should be, by the names that were bound: words are compared with it, and "
                    "masks of more than one frame are scored (J&F).",
                ),
                io.Image.Input(
                    "frames", optional=True, tooltip="The decoded clip, to draw on. Without it on a dark page."
                ),
                io.Combo.Input(
                    "kind",
                    options=list(_KINDS),
                    tooltip="Whose masks: of the words, or of where each instance's first-frame tokens look.",
                ),
                io.String.Input(
                    "names", default="all", tooltip="Words or instances, with commas between; 'all' is each but verbs."
                ),
                io.String.Input(
                    "layers",
                    default="sharpest",
                    tooltip="Layers to average: 'sharpest' (a quarter of them, whose maps are most concentrated; two "
                    "thirds for mended masks of words), 'all', or like '7, 11-13'.",
                ),
                io.String.Input(
                    "steps", default="all", tooltip="Sampling steps to average for the masks: 'all', 'last', '12-23'."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How hot a place of a mask is at least, from the median of its frame to 1, its peak. 0: "
                    "what suits the kind, 0.5 for words and 0.3 for instances.",
                ),
                io.Int.Input(
                    "stream", default=0, min=0, max=4095, tooltip="Which prompt and sample of a batch, from 0."
                ),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.5, tooltip="Frames per second of the clip."
                ),
                io.Boolean.Input(
                    "without_sinks",
                    default=False,
                    advanced=True,
                    tooltip="Leave attention sinks (places that everybody looks at) out of masks and findings.",
                ),
                io.Boolean.Input(
                    "mended",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Make the masks fit to steer a second run by: swaps and doublings of the last step are put "
                    "right in them, a thing at rest has one mask while it rests, frames that say nothing take the "
                    "nearest one's mask, and the report names each.",
                ),
                io.String.Input(
                    "point_heads",
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Whose maps follow pinned points: layers and heads like '8.0, 10.2', layers like '10', or "
                    "'auto': those whose points stay on the word that they are pinned on.",
                ),
                io.String.Input(
                    "motion_head",
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Whose maps tell who moves: a head like '9.2', a layer like '9', or 'auto': the one that "
                    "separates frames best.",
                ),
                io.String.Input(
                    "contact",
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What tells when subject and object of a verb meet: layer, offset and slope of a line such "
                    "as '5, -16.9, 1.96', or '5' for the bend alone. 'auto' knows mini's, and of other models nothing: "
                    "each has its own.",
                ),
            ],
            outputs=[
                TracksSocket.Output(
                    display_name="masks",
                    tooltip="A mask of each word or instance over the clip, by its name, for every node that takes "
                    "tracks.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Swaps, doublings and sinks, then masks, points and motion."
                ),
                io.Image.Output(
                    display_name="overlay", tooltip="Masks and followed points on the frames, with what lasts below."
                ),
                io.Int.Output(
                    display_name="mix_ups", tooltip="How many swaps and doublings are there in the last step."
                ),
                io.String.Output(
                    display_name="findings",
                    tooltip="Swaps, doublings, sinks, followed points, motion and contacts as JSON, with frames and "
                    "steps.",
                ),
                io.Tracks.Output(
                    display_name="paths",
                    tooltip="Where each pinned point is in every frame, as ComfyUI's TRACKS. Where no point was "
                    "pinned, whatever is connected here does not run.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        capture,
        kind,
        names,
        layers,
        steps,
        threshold,
        stream,
        fps,
        without_sinks,
        mended=False,
        point_heads="auto",
        motion_head="auto",
        contact="auto",
        tracks=None,
        frames=None,
    ) -> io.NodeOutput:
        own, which = capture.stream(stream), _KINDS[kind]
        held = choose_names("all", own.maps[which].entities if which in own.maps else (), which)
        numbers = [step.index for step in capture.steps]
        sharpest = {"sharpest": sharpest_layers(capture, which, stream)} if "sharpest" in layers.lower() else {}
        alone = layers.strip().lower() == "sharpest"  # then it is the reading that knows how many
        experts = capture.experts if len(capture.experts) > 1 else {}
        everyone = names.strip().lower() in ("", "all")
        found = read_capture(
            capture,
            tracks,
            told_names(own, which) if everyone else choose_names(names, held, which),
            kind=which,
            layers=None if alone else choose_numbers(layers, "layer", own.get(which).layers, sharpest),
            steps=choose_numbers(steps, "step", numbers, experts),
            stream=stream,
            threshold=threshold or None,
            without_sinks=without_sinks,
            fps=fps,
            mended=mended,
            point_readers=_readers(point_heads),
            motion_reader=_reader(motion_head),
            contact=parse_contact(contact),
        )
        given = None if tracks is None else as_made(tracks, found.masks)
        report = "\n".join([found.report(), *([] if tracks is None else told_against(tracks, found.masks))])
        overlay = image_batch(list(_drawn(found, given, frames)))
        shown = ui.PreviewImage(overlay, cls=cls).as_dict() | {"text": (report,)}
        shown |= shown_in_viewer(capture, frames, tracks, fps)
        told = (found.masks, report, overlay, found.lasting, json.dumps(found.as_json()))
        return io.NodeOutput(*told, _paths(found), ui=shown)


def _readers(text: str) -> tuple[Reader, ...] | None:
    """Layers and heads of a text; None for 'auto' and an empty one."""
    return None if text.strip().lower() in ("", "auto") else parse_readers(text)


def _reader(text: str) -> Reader | None:
    """The one head or layer of a text; None for 'auto' and an empty one."""
    found = _readers(text)
    if found is not None and len(found) != 1:
        raise ValueError(f"motion is read off one head, such as '9.2', or one layer, such as '9'; got {text[:60]!r}")
    return None if found is None else found[0]


def _paths(found: Reading) -> dict[str, torch.Tensor] | ExecutionBlocker:
    """Followed points as the host's TRACKS; blocks what reads it where no point was pinned."""
    if found.points is None:
        return ExecutionBlocker(
            "no point was pinned in this capture: type points such as '60,90; 50%,25%@8' into the node that records, "
            "and sample again"
        )
    return point_paths(found.points.xy, found.points.seen)


def _drawn(found: Reading, given: MaskTracks | None, frames: torch.Tensor | None) -> Iterator[Image.Image]:
    """The masks over the frames, and the boxes of the given tracks, with a stop at every frame."""
    masks, read = found.masks, None
    if frames is not None:
        size, target = (int(frames.shape[1]), int(frames.shape[2])), (masks.height, masks.width)
        check_images(frames, *size, masks.frames)
        fit = "center" if given is None else given.fit
        read = frame_reader(frames, None if size == target else Framing(size, target, fit))
    step = ticker(masks.frames)
    for picture in draw_followed(given, masks, read, found.by_frame(), points=found.points):
        step()
        yield picture


NODES: list[type[io.ComfyNode]] = [MatrixReadCapture]
