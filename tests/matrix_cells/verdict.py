"""A cell of the matrix: what this pack showed and did beside something, against what really ran.

exact    all maps equal the explicit softmax of the calls that made the prompt's prediction, and latents are bit for bit
         those of a run without this pack; or steering gave the latent of its reference
refused  a `ValueError` of this pack
noted    not all of that, and this pack said something that it does not say where nothing is beside
host     the host itself does not run this, with or without this pack
untold   there is no reference to compare with
SILENT   none of these; a refusal that denies what is connected is none, either
"""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .graphs import Graph
from .reference import Way, reference
from .truth import Bottom, Truth

__all__ = ["Verdict", "captured", "capturing", "compare", "sample", "steered"]

ROOT = Path(__file__).resolve().parents[2]
ABSENT = re.compile("skipped|was not active|nothing was recorded")  # in a report: what is not in the maps
NOT_FINITE = "its latents are not finite by themselves"
CLOSE, HALF = 1e-4, 2.0**-11  # of a map's maximum; rounding of a capture's float16


@dataclass(frozen=True)
class Verdict:
    kind: str
    text: str = ""
    notes: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        return self.kind == "SILENT"


def captured(graph: Graph, usual: tuple[str, ...] = ()) -> Verdict:
    """What 'MATRIX Sample and Capture Attention' showed. usual: notes of the same graph with nothing beside."""
    truths: list[Truth] = []

    def truly(guider: Any, noise: Any, sampler: Any, sigmas: Tensor, latent: Any) -> tuple[Tensor, None]:
        bottom = Bottom(graph)
        positives = guider.original_conds["positive"]
        with bottom.watching(guider):
            out = sample(guider, noise, sampler, sigmas, latent)
        truths.append(Truth(graph, bottom.calls, sigmas, positives))
        return out, bottom.seen

    try:
        want, _ = graph.sample(truly)
    except Exception as error:
        return Verdict("host", _sentence(error))
    if not bool(want.isfinite().all()):
        return Verdict("host", NOT_FINITE)
    with _said() as said:
        try:
            got, found = graph.sample(capturing(graph))
        except Exception as error:
            return _raised(error, graph)
    captures = [capture for capture, _ in found]
    notes = [note for _, report in found for note in _notes(report)]
    news = [note for note in dict.fromkeys([*notes, *said]) if note not in usual]
    if not torch.equal(got, want):
        return Verdict("SILENT", f"latents are {_off(got, want):.2g} away from those of a run without this pack")
    wrong = [each for truth, shown in zip(truths, found, strict=True) for each in compare(truth, *shown)]
    if graph.due and not wrong and not _shows_all(graph, captures):
        wrong = [graph.due + " are not shown"]
    if not any(truth.maps for truth in truths):
        wrong = wrong or ["no call made the prompt's prediction"]
    if not wrong:
        return _exact(news)
    spoken = {what: [note for note in news if _names(note, what)] for what in wrong}
    unsaid = [what for what, notes in spoken.items() if not notes]
    text = "; ".join((unsaid or wrong)[:3])
    return Verdict("SILENT", text) if unsaid else Verdict("noted", text, tuple(spoken[wrong[0]] + news))


def steered(graph: Graph, way: Way, usual: tuple[str, ...] = (), plain: Tensor | None = None) -> Verdict:
    """What a way of steering did to the latent, against its reference at the kernels. plain: what there is without it,
    None where the host fails."""
    if way.steps and graph.sampler != "euler":
        return Verdict("untold", "the reference of steering before steps is an Euler loop")
    if plain is None:
        return Verdict("host", "it fails by itself")
    if not bool(plain.isfinite().all()):
        return Verdict("host", NOT_FINITE)
    try:
        want, _ = graph.sample(reference(graph, way))
    except Exception as error:
        return Verdict("untold", f"its reference fails: {type(error).__name__}: {_sentence(error)}")
    steer = graph.pack.lib("hosts.comfy.steer").steer
    with _said() as said:
        try:
            guidance = way.guidance(graph)
            given = {"reference": {"samples": graph.reference()}} if guidance.needs_reference else {}
            held = graph.but(model=steer(graph.model, guidance, **given))
            got, _ = held.sample(lambda guider, *given: (sample(guider, *given), None))
        except Exception as error:
            return _raised(error, graph)
    effect, off = float((want - plain).norm()), float((got - want).norm())
    close = 1e-3 * effect + 1e-5 * float(plain.norm())
    news = [note for note in dict.fromkeys(said) if note not in usual]
    if off <= close:
        return _exact(news, "" if effect else "there is nothing to steer")
    share = off / effect if effect else float("inf")
    # a sentence about maps says nothing of steering
    news = [note for note in news if re.search(r"steer|guid|held|perturb|edit", note.split(":", 1)[-1])]
    nothing = torch.equal(got, plain)
    return _told(news, "steering changes exactly nothing" if nothing else f"{share:.2g} of its effect away")


def sample(guider: Any, noise: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]) -> Any:
    """As the host's own sampler node does it."""
    made = noise.generate_noise(latent)
    return guider.sample(made, latent["samples"], sampler, sigmas, disable_pbar=True, seed=noise.seed)


def capturing(graph: Graph) -> Callable[..., tuple[Tensor, Any]]:
    """`sampling` for `Graph.sample` through this pack's node, which gives (capture, report)."""

    def run(guider: Any, noise: Any, sampler: Any, sigmas: Tensor, latent: Any) -> tuple[Tensor, Any]:
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        options = {"layers": "all", "step_bins": 0, "budget_mb": 64.0, "words": True, "instances": True}
        out = graph.pack.run("MatrixSampleAttention", **given, **options).result
        return out[0]["samples"], out[2:4]

    return run


# -- what is compared -------------------------------------------------------------------------------------------------
def compare(truth: Truth, capture: Any, report: str) -> list[str]:
    """What of a capture is not as it ran; a sentence each. report: what people read of it, where absent steps stand."""
    wrong: list[str] = []
    worst: dict[tuple[int, str], float] = {}
    streams = {stream.key[0]: stream for stream in capture.streams}
    steps = [info.index for info in capture.steps]
    for prompt in sorted({key[0] for key in truth.maps} - set(streams)):
        wrong.append(f"prompt {prompt} is not there")
    for prompt, stream in streams.items():
        made = {step for place, _, _, step in truth.maps if place == prompt}
        for kind, maps in stream.maps.items():
            for (layer, step, name), found in _cells(maps, steps):
                want = truth.maps.get((prompt, kind, layer, step), {}).get(name)
                known = found.counts > 0
                ran = torch.zeros_like(known) if want is None else ~want.isnan().flatten(1).any(1)
                if bool((ran & ~known).any()):
                    wrong.append(f"{kind} of layer {layer}, step {step} is not there")
                elif bool((known & ~ran).any()) and step not in made:
                    wrong.append(f"prompt {prompt} has maps of step {step}, in which it made nothing")
                elif bool((known & ~ran).any()):
                    wrong.append(f"{kind} of {name!r} has maps of frames of layer {layer} that were not seen")
                elif want is not None and bool(ran.any()):
                    most = want[ran].max()
                    gap = (found.values - want)[ran].abs() - CLOSE * most - HALF * want[ran]
                    if gap.max() > 0:
                        worst[prompt, kind] = max(worst.get((prompt, kind), 0.0), float(gap.max() / most))
        wrong += _left_out(truth, prompt, stream, steps)
        named = _named(report)
        wrong += [f"step {step} is missing, and nobody says so" for step in steps if step not in made | named]
    for (prompt, kind), off in worst.items():
        wrong.append(f"{kind} maps of prompt {prompt} are {100 * off:.0f} % off")
    return list(dict.fromkeys(wrong))


@dataclass(frozen=True)
class _Cell:
    """values (F, h, w) float64; counts (F,)."""

    values: Tensor
    counts: Tensor


def _cells(maps: Any, steps: list[int]) -> Iterator[tuple[tuple[int, int, str], _Cell]]:
    """((layer, step, name), cell) of every map."""
    values = maps.dense().double()
    for i, layer in enumerate(maps.layers):
        for j, step in enumerate(steps):
            for e, name in enumerate(maps.entities):
                yield (layer, step, name), _Cell(values[i, j, e], maps.counts[i, j, e])


def _left_out(truth: Truth, prompt: int, stream: Any, steps: list[int]) -> Iterator[str]:
    """What ran and has no place in a stream."""
    for (place, kind, layer, step), entities in truth.maps.items():
        if place != prompt:
            continue
        maps = stream.maps.get(kind)
        if maps is None or layer not in maps.layers or step not in steps:
            yield f"{kind} of layer {layer}, step {step} is not there"
            continue
        for name, want in entities.items():
            if name not in maps.entities and not bool(want.isnan().all()):
                yield f"{kind} of {name!r} is not there"


def _named(report: str) -> set[int]:
    """Steps that a report names as absent: "steps 1-3, 5 were skipped", "the prompt was not active in steps 0"."""
    found: set[int] = set()
    for line in report.splitlines():
        if ABSENT.search(line) is None or line.startswith("note: "):
            continue
        for part in re.findall(r"\bsteps? ([\d,\- ]+)", line):
            for first, last in re.findall(r"(\d+)(?:-(\d+))?", part):
                found |= set(range(int(first), int(last or first) + 1))
    return found


def _notes(report: str) -> list[str]:
    """Lines of a report that say why something is missing, then those that say what."""
    lines = report.splitlines()
    notes = [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]
    return notes + [line for line in lines if ABSENT.search(line) and not line.startswith("note: ")]


def _shows_all(graph: Graph, captures: list[Any]) -> bool:
    """Whether more is shown than the one prompt's own words."""
    run = graph.pack.lib("hosts.comfy.run")
    own = {each.name for _, more in graph.positive if run.BINDING in more for each in more[run.BINDING].phrases}
    return all({name for stream in capture.streams for name in stream.entities} > own for capture in captures)


# What a note has to be about, to say why something is as it is.
TOPICS = (
    ("% off", r"maps|attention|shown"),
    ("second text", r"words|text"),
    ("step", r"\bsteps?\b"),
    ("prompt", r"prompt"),
    ("layer", r"maps|layer|attention"),
)


def _names(note: str, what: str) -> bool:
    """Whether a note says something of what is wrong."""
    return any(part in what and re.search(words, note) is not None for part, words in TOPICS)


# -- what was said ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """This pack's warnings in the log, while open."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and "MATRIX" in record.getMessage():
                found.append(record.getMessage())

    listener = Listener()
    logging.getLogger().addHandler(listener)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(listener)


def _raised(error: Exception, graph: Graph) -> Verdict:
    """A sentence of this pack, or a raw error."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = frames and any(str(ROOT / part) in frames[-1].filename for part in ("matrix_lib", "nodes"))
    if isinstance(error, ValueError) and inside:
        run = graph.pack.lib("hosts.comfy.run")
        denied = re.search(r"\bno\b.*\bcarr(ied|ies)\b|\bcarries no\b", _sentence(error))
        if denied and all(run.BINDING in values and run.TRACKS in values for _, values in graph.positive):
            return Verdict("SILENT", f"a false reason: {_sentence(error)}")
        return Verdict("refused", _sentence(error))
    return Verdict("SILENT", f"a raw error: {type(error).__name__}: {_sentence(error)}")


def _sentence(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _told(news: list[str], what: str) -> Verdict:
    return Verdict("noted", what, tuple(news)) if news else Verdict("SILENT", what)


def _exact(news: list[str], text: str = "") -> Verdict:
    return Verdict("exact", text, tuple(news))


def _off(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())
