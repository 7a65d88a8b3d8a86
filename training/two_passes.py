"""`python -m training.two_passes --out FOLDER --clips N`: do two passes get roles right that one gets wrong?

A first pass of few steps is watched; masks of the words' own attention steer a second one from the same noise
(`matrix_lib.two_passes`). Beside it stand, on the same clips, which nothing was trained on:

plain                  one pass with all the steps that both take together: as many calls of the model
fewer steps            one pass with the second one's steps: what the first one's steps are taken away from
another clip's masks   the second pass, blind: what it does whoever is where
true masks             the second pass, as if the first one had known: what better masks could reach

The way `noise` asks it otherwise: several shorter first passes, each from its own noise, and the rest of the steps, not
steered, from the noise of the one in which who should act moves first (`Motion.leads`). Beside it stand the choice that
another clip's passes would make, and that of the exact judge, which looks at what the passes show.

Written are every clip's values (rows.csv, after every arm), and a table with paired intervals and verdicts (README.md).
Stop it whenever you like: the same command goes on with the arms that are missing. Several bases are asked at once, or
one after another: --have names rows of earlier runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matrix_lib.core.guidance.base import Guidance
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.evaluation.statistics import Estimate, estimate, holm, over_bases
from matrix_lib.evaluation.trajectories.score import score_tracks
from matrix_lib.evaluation.verdicts import Check, ceiling, floor, manipulated, verdict
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.batches import Branch
from matrix_lib.hosts.diffusers.mini import Sizes, move, sample
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.hosts.diffusers.two_passes import first_pass
from matrix_lib.instrument.readings.reading import Reading
from matrix_lib.io.files import whole_file
from matrix_lib.mini.world import Clips

from .data.alignment_clips import named_tracks, others
from .models.mini_run import pipeline_of
from .reproduction.claims import LEAST_BASES
from .reproduction.sets import SETS, held_out
from .run.ending import alone, ending
from .run.kept_rows import goes_on, read_rows, write_rows

__all__ = ["main"]

PLAIN, FEWER, FIRST = "plain", "fewer steps", "first pass alone"
OWN, BLIND, TRUE = "words' masks", "another clip's masks", "true masks"
NOISE = "noise"
BY_MOTION, BY_ANOTHER, BY_JUDGE = (
    f"{NOISE}, by who moves first",
    f"{NOISE}, by another clip's",
    f"{NOISE}, by the judge",
)
_FAR = 1_000_000  # between the seeds of a clip's noises
MEASURES = {"right roles": "right_roles", "IF": "interaction_fidelity", "SPI": "spi", "intact": "intact"}
CLAIMED = {"right roles": 0.05, "IF": 0.05}  # the smallest difference that would matter
_SETS = [name for name in SETS if name != "open moves"]  # of which nobody acts on anybody
_FLAGS = ("right roles", "intact")
_KEYS = ("base", "arm", "clip", "seed", "prompt", "calls")
Values = dict[str, NDArray[np.float64]]


def ways(second: int) -> dict[str, tuple[Guidance, ...]]:
    """How a second pass of so many steps is steered: as `RegionBias` comes, four times as strong, and divided, which
    docs/guidance.md found to make mini follow masks."""
    held = Partition(round(2 * second / 3), None, words=False)
    return {
        "bias": (RegionBias(),),
        "bias x4": (RegionBias(2.0, 2.0, 1.0, 1.0),),
        "divided": (held, RegionBias(0.0, 2.0, 0.0, 0.0)),
    }


@dataclass
class Bench:
    """One base, its clips, and how they are sampled."""

    chosen: argparse.Namespace
    name: str
    pipeline: Any
    sizes: Sizes
    clips: Clips
    bindings: list[PromptBinding]
    calls: int = 0  # of the transformer, one a clip and branch

    @property
    def branches(self) -> tuple[Branch, ...]:
        return ("uncond", "cond") if self.chosen.cfg != 1 else ("cond",)

    def parts(self) -> Iterator[slice]:
        for start in range(0, len(self.clips), self.chosen.batch):
            yield slice(start, min(start + self.chosen.batch, len(self.clips)))

    def sample(self, part: slice, steps: int, turns: Sequence[int]) -> Tensor:
        """(n, F, 3, H, W) uint8: some of the clips in so many steps, each from its own noise; turns: which of its own,
        of every clip that there is."""
        self.pipeline.scheduler.set_timesteps(steps)  # guidance and captures read the steps there
        first = self.clips.video[part, 0]
        seeds = [self.chosen.seed + i + _FAR * turns[i] for i in range(part.start, part.stop)]
        return sample(self.pipeline, self.sizes, self.clips.prompts[part], first, steps, self.chosen.cfg, seeds)

    def watched(self, steps: int, turn: int = 0) -> tuple[Tensor, list[Reading]]:
        """Videos and readings of a first pass."""
        videos: list[Tensor] = []
        readings: list[Reading] = []
        for part in self.parts():

            def run(steps: int, part: slice = part) -> None:
                videos.append(self.sample(part, steps, [turn] * len(self.clips)))

            own = self.bindings[part]
            readings += first_pass(self.pipeline, own, run, steps, branches=self.branches)
        return torch.cat(videos), readings

    def steered(
        self,
        guidance: Sequence[Guidance],
        tracks: Sequence[MaskTracks],
        steps: int,
        turns: Sequence[int] | None = None,
    ) -> Tensor:
        videos = []
        for part in self.parts():
            with contextlib.ExitStack() as stack:
                if guidance:
                    self.pipeline.scheduler.set_timesteps(steps)
                    own = self.bindings[part]
                    stack.enter_context(steer(self.pipeline, guidance, own, tracks[part], branches=self.branches))
                videos.append(self.sample(part, steps, turns or [0] * len(self.clips)))
        return torch.cat(videos)

    def measured(self, video: Tensor) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in MEASURES}
        for part in self.parts():
            told = judge(video[part], self.clips.select(part))
            for name, field in MEASURES.items():
                found[name] += getattr(told, field).float().tolist()
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parse(arguments)
    with ending("training.two_passes", "every arm that is done is kept, and the same command goes on from here"):
        _run(chosen)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.two_passes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the table")
    parser.add_argument("--clips", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--set", choices=_SETS, default="told", help="of training.reproduce; default: %(default)s")
    parser.add_argument("--steps", type=int, default=24, help="of both passes together; default: %(default)s")
    parser.add_argument("--first", type=int, default=6, help="of them, the first pass's; default: %(default)s")
    every = [*ways(1), NOISE]
    parser.add_argument("--ways", nargs="+", choices=every, default=every, help="of steering, and of choosing noise")
    parser.add_argument("--tries", type=int, default=3, help="first passes of the way noise; default: %(default)s")
    parser.add_argument("--look", type=int, default=4, help="steps of each of them; default: %(default)s")
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128, help="clips sampled together")
    parser.add_argument("--seed", type=int, default=0, help="clip i gets the noise of seed + i")
    parser.add_argument(
        "--model", type=Path, nargs="*", default=[bundle.HOME],
        help="bases: bundles, or runs of training.fit; none: only the table of what --have names",
    )  # fmt: skip
    parser.add_argument(
        "--have", type=Path, nargs="*", default=[], help="rows.csv (or rows.csv.xz) of earlier runs, for the table"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    if chosen.clips < 2 or chosen.batch < 1 or not chosen.cfg >= 1:
        raise ValueError("clips are 2 or more (each needs another one's masks), batch and cfg 1 or more")
    if not 0 < chosen.first < chosen.steps:
        raise ValueError(f"of {chosen.steps} steps the first pass takes 1 to {chosen.steps - 1}; got {chosen.first}")
    if NOISE in chosen.ways and not (chosen.tries > 1 and 0 < chosen.tries * chosen.look < chosen.steps):
        raise ValueError(
            f"{chosen.tries} tries of {chosen.look} steps each: there are 2 or more, which together take fewer "
            f"than the {chosen.steps} steps of --steps"
        )
    for path in chosen.have:
        _check_asked(chosen, path)
    rows = [row for path in chosen.have for row in _read(path)]
    asked = [(row["base"], row["arm"], row["clip"]) for row in rows]
    if twice := sorted({base for (base, *_), times in Counter(asked).items() if times > 1}):
        raise ValueError(f"--have names the rows of {', '.join(twice)} twice: leave one of the files out")
    if not rows and not chosen.model:
        raise ValueError("there is nothing to tell: name a base with --model, or rows of earlier runs with --have")
    names = ["mini" if folder == bundle.HOME else folder.name for folder in chosen.model]
    for name in names:
        if names.count(name) > 1 or any(row["base"] == name for row in rows):
            raise ValueError(f"there are rows of a base {name!r} already: give every base a folder of its own name")
    with alone(chosen.out):
        _ask_all(chosen, names, rows)


def _ask_all(chosen: argparse.Namespace, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Every base's arms that are missing, and the table. rows: those of earlier runs."""
    before = _before(chosen, names)

    def keep(arm: list[dict[str, Any]]) -> None:  # after every arm: a run that is cut short keeps what it has
        rows.extend(arm)
        write_rows(
            chosen.out / "rows.csv", [*rows, *(row for row in before if row["base"] not in {r["base"] for r in rows})]
        )

    for name, folder in zip(names, chosen.model, strict=True):
        own = [row for row in before if row["base"] == name]
        rows += own
        if {row["arm"] for row in own} != set(_arms(chosen)):
            _ask(_bench(chosen, name, folder), {row["arm"] for row in own}, keep)
            _tell(chosen, rows)  # of what there is: the next base may be cut short
    _tell(chosen, rows)
    print(f"wrote {chosen.out / 'README.md'}")


def _tell(chosen: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    with whole_file(chosen.out / "README.md") as place:
        place.write_text(_report(chosen, rows), encoding="utf-8")


def _bench(chosen: argparse.Namespace, name: str, folder: Path) -> Bench:
    pipeline, sizes = pipeline_of(folder)
    move(pipeline, chosen.device, torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32)
    clips = held_out(chosen.set, (sizes.frames, sizes.height, sizes.width), chosen.clips, torch.device(chosen.device))
    rows = sizes.text_length
    texts = zip(clips.prompts, clips.phrases, strict=True)
    bindings = [bind_prompt(pipeline, prompt, said, max_sequence_length=rows) for prompt, said in texts]
    return Bench(chosen, name, pipeline, sizes, clips, bindings)


def _arms(chosen: argparse.Namespace) -> list[str]:
    """Of one base, in the order in which they run."""
    arms = [PLAIN, FEWER, FIRST]
    for way in chosen.ways:
        arms += (
            [BY_MOTION, BY_ANOTHER, BY_JUDGE] if way == NOISE else [f"{way}, {whose}" for whose in (OWN, BLIND, TRUE)]
        )
    return arms


@torch.no_grad()
def _ask(bench: Bench, done: set[str], keep: Callable[[list[dict[str, Any]]], None]) -> None:
    """Runs the arms of one base that are not done, and hands the rows of each to `keep`."""
    chosen, clips = bench.chosen, bench.clips
    cpu = clips.to("cpu")
    second = chosen.steps - chosen.first

    def count(module: Any, given: Any, named: dict[str, Any]) -> None:
        bench.calls += len(given[0] if given else named["hidden_states"])

    def told(arm: str, video: Tensor, before: int = 0, more: dict[str, list[float]] | None = None) -> None:
        found = bench.measured(video) | (more or {})
        calls, bench.calls = (before + bench.calls) / len(clips), 0
        assert not before or calls == chosen.steps * len(bench.branches), (arm, calls)
        rows = []
        for i in range(len(clips)):
            said = (bench.name, arm, i, chosen.seed + i, clips.prompts[i], calls)
            rows.append(dict(zip(_KEYS, said)) | {name: value[i] for name, value in found.items()})
        keep(rows)
        means = ", ".join(f"{name} {np.mean(value):.3f}" for name, value in found.items())
        print(f"{bench.name}, {arm}: {means}, {calls:g} calls a clip", flush=True)

    handle = bench.pipeline.transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        if PLAIN not in done:
            told(PLAIN, bench.steered((), (), chosen.steps))
        if FEWER not in done:
            told(FEWER, bench.steered((), (), second))
        video, readings = bench.watched(chosen.first)  # also where its rows are there: the second passes take its masks
        looked = bench.calls
        truth = [named_tracks(cpu, i) for i in range(len(cpu))]
        masks = [reading.masks.select(own.names) for reading, own in zip(readings, truth, strict=True)]
        blind = [
            masks[j].rename(dict(zip(truth[j].names, own.names))) for own, j in zip(truth, others(cpu), strict=True)
        ]
        if FIRST not in done:
            told(FIRST, video, more=_first_seen(readings, truth, masks, blind))
        bench.calls = 0
        for way in chosen.ways:
            if way == NOISE:
                _ask_noise(bench, cpu, done, told)
                continue
            guidance = ways(second)[way]
            for whose, tracks, before in ((OWN, masks, looked), (BLIND, blind, looked), (TRUE, truth, 0)):
                if (arm := f"{way}, {whose}") not in done:
                    told(arm, bench.steered(guidance, tracks, second), before)
    finally:
        handle.remove()


def _ask_noise(bench: Bench, cpu: Clips, done: set[str], told: Callable[..., None]) -> None:
    """The arms of the way `noise`."""
    arms = [arm for arm in (BY_MOTION, BY_ANOTHER, BY_JUDGE) if arm not in done]
    if not arms:
        return
    chosen, leads, right = bench.chosen, [], []
    for turn in range(chosen.tries):
        video, readings = bench.watched(chosen.look, turn)
        leads.append([_lead(reading) for reading in readings])
        right.append(bench.measured(video)["right roles"])
    looked, bench.calls = bench.calls, 0
    lead, was = np.array(leads), np.array(right)  # (tries, clips)
    picks = {
        BY_MOTION: lead.argmax(0),
        BY_ANOTHER: lead[:, others(cpu)].argmax(0),
        BY_JUDGE: was.argmax(0),
    }
    pairs = (was[:, None] > was[None]).astype(float)  # one try right, the other wrong
    ordered = ((lead[:, None] > lead[None]) + 0.5 * (lead[:, None] == lead[None])) * pairs
    both = {"pairs": pairs.sum((0, 1)).tolist(), "in order": ordered.sum((0, 1)).tolist()}
    for arm in arms:
        turns = picks[arm].tolist()
        seen = {"first right": was[turns, range(len(turns))].tolist(), **both}
        video = bench.steered((), (), chosen.steps - chosen.tries * chosen.look, turns)
        told(arm, video, looked, seen)


def _lead(reading: Reading) -> float:
    """How far who should act leads, the mean over verbs; 0, which is neither, where no map tells."""
    found = [] if reading.motion is None else list(reading.motion.leads.values())
    return float(np.mean(found)) if found else 0.0


def _first_seen(
    readings: Sequence[Reading],
    truth: Sequence[MaskTracks],
    masks: Sequence[MaskTracks],
    blind: Sequence[MaskTracks],
) -> dict[str, list[float]]:
    """What the first pass told: J of its masks against the true ones, that of another clip's, and whether it found a
    swap or a double that lasted."""

    def j(given: Sequence[MaskTracks]) -> list[float]:
        return [float(score_tracks(own, each).values["j"]) for own, each in zip(truth, given, strict=True)]

    def found(kind: str) -> list[float]:
        return [float(any(e.kind == kind and e.lasting for e in reading.mix_ups.found)) for reading in readings]

    return {"J": j(masks), "J blind": j(blind), "swapped": found("swapped"), "doubled": found("doubled")}


# -- files
def _before(chosen: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of these bases that the same command wrote before it was stopped. Raises ValueError where the folder holds
    those of another one."""
    asked = {
        **_question(chosen), "ways": chosen.ways, "models": [str(folder) for folder in chosen.model],
        "device": chosen.device.split(":")[0],
    }  # fmt: skip
    return [row for row in _read(chosen.out / "rows.csv") if row["base"] in names] if goes_on(chosen.out, asked) else []


def _question(chosen: argparse.Namespace) -> dict[str, Any]:
    """What the rows of every base of one table have in common."""
    names = ("clips", "set", "steps", "first", "cfg", "seed", "tries", "look")
    return {name: getattr(chosen, name) for name in names}


def _check_asked(chosen: argparse.Namespace, path: Path) -> None:
    """Raises ValueError where what lies beside earlier rows says that they were asked otherwise: the table names what
    this command asks. Packed rows that were moved have nothing beside them."""
    beside = path.with_name("asked.json")
    held = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if differ := [f"{name} {held[name]}" for name, now in _question(chosen).items() if held.get(name, now) != now]:
        raise ValueError(f"{path} was asked with {', '.join(differ)}: give the same here")


def _read(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    if not rows or any(name not in rows[0] for name in (*_KEYS, *MEASURES)):
        raise ValueError(f"{path} holds no rows of training.two_passes")
    texts = ("base", "arm", "prompt")
    return [{n: v if n in texts else float(v) for n, v in row.items() if v != ""} for row in rows]


# -- what came out
def _table(rows: Sequence[dict[str, Any]], base: str, arm: str) -> Values:
    own = [row for row in rows if row["base"] == base and row["arm"] == arm]
    names = [name for name in own[0] if name not in _KEYS] if own else []
    return {name: np.array([row[name] for row in own], dtype=np.float64) for name in names}


def _report(chosen: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> str:
    """Tables and verdicts, as Markdown."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    bases, short = _finished(rows, arms)
    tables = {(base, arm): _table(rows, base, arm) for base in bases for arm in arms}
    _check_same(rows, bases)
    lines = [
        "# Two passes, without masks from a person",
        "",
        f"`python -m training.two_passes --clips {chosen.clips} --set {chosen.set!r} --steps {chosen.steps} --first "
        f"{chosen.first} --cfg {chosen.cfg:g} --seed {chosen.seed}`, "
        f"{'bfloat16' if chosen.device.startswith('cuda') else 'float32'}; the same clips and noise for every arm. "
        "Intervals are Wilson's for shares and the bootstrap's for means, 95 %; differences by clip.",
    ]
    lines += [f"\nLeft out, for arms of it are missing: {each}." for each in short]
    for base in bases:
        lines += ["", f"## {base}", "", f"| | {' | '.join(MEASURES)} | calls |", "|---" * (len(MEASURES) + 2) + "|"]
        for arm in arms:
            cells = [_estimated(name, tables[base, arm][name]).interval for name in MEASURES]
            calls = next(row["calls"] for row in rows if row["base"] == base and row["arm"] == arm)
            lines.append(f"| {arm} | {' | '.join(cells)} | {calls:g} |")
        seen = tables[base, FIRST]
        j, blind = (estimate(seen[name], bounds=(0, 1)).interval for name in ("J", "J blind"))
        swapped, doubled = (estimate(seen[name] > 0.5).interval for name in ("swapped", "doubled"))
        lines += ["", f"Masks of the first pass against the true ones: J {j}; those of another clip {blind}. "]
        lines[-1] += f"A swap that lasts was found in {swapped} of the clips, a double in {doubled}."
        if BY_MOTION in arms:
            lines += ["", _told_apart(tables[base, BY_MOTION])]
    return "\n".join([*lines, *_verdicts(bases, arms, tables), *_reach(bases, arms, tables)]) + "\n"


def _finished(rows: Sequence[dict[str, Any]], arms: Sequence[str]) -> tuple[list[str], list[str]]:
    """Bases that have all of these arms, and those that were cut short. ValueError where no base has."""
    have = {
        base: {row["arm"] for row in rows if row["base"] == base} for base in dict.fromkeys(r["base"] for r in rows)
    }
    whole = [base for base, own in have.items() if own.issuperset(arms)]
    if not whole:
        lost = "; ".join(
            f"{base} lacks {', '.join(arm for arm in arms if arm not in own)}" for base, own in have.items()
        )
        raise ValueError(f"no base was asked everything that others were: {lost}. Run each with the same --ways")
    return whole, [base for base in have if base not in whole]


def _check_same(rows: Sequence[dict[str, Any]], bases: Sequence[str]) -> None:
    """Raises ValueError where bases were not asked the same: other clips, noise or calls."""
    asked = {
        base: sorted(tuple(row[name] for name in _KEYS if name != "base") for row in rows if row["base"] == base)
        for base in bases
    }
    if differ := [base for base in bases if asked[base] != asked[bases[0]]]:
        raise ValueError(
            f"{differ[0]} was not asked what {bases[0]} was: clips, noise, steps and ways have to be the same in every "
            "run that --have names"
        )


def _estimated(name: str, values: NDArray[np.float64]) -> Estimate:
    return estimate(values > 0.5) if name in _FLAGS else estimate(values, bounds=(0, 1))


def _told_apart(seen: Values) -> str:
    """How well who moves first tells a clip's right passes from its wrong ones."""
    pairs, order = seen["pairs"], seen["in order"]
    if not pairs.any():
        return "No clip has both a first pass with right roles and one with wrong ones: noise does not decide."
    auc = estimate(order[pairs > 0] / pairs[pairs > 0], bounds=(0, 1))
    return (
        f"Of the passes that noise was chosen by, {int((pairs > 0).sum())} of {len(pairs)} clips have some with right "
        f"roles and some with wrong ones; who moves first puts the right ones above the wrong ones in {auc.interval}."
    )


def _verdicts(bases: Sequence[str], arms: Sequence[str], tables: dict[tuple[str, str], Values]) -> list[str]:
    many = len(bases) >= LEAST_BASES
    asked: list[tuple[str, str, str, Estimate, Estimate, list[Check]]] = []
    masks = _difference(tables, bases, (FIRST, "J"), (FIRST, "J blind"))[0]
    for arm in (arm for arm in arms if arm.endswith(OWN)):
        for other in (PLAIN, arm.removesuffix(OWN) + BLIND):
            for measure in CLAIMED:
                these, like = _difference(tables, bases, (arm, measure), (other, measure))
                level = float(np.mean([tables[base, other][measure].mean() for base in bases]))
                asked.append(
                    (arm, other, measure, these, like, [floor(level, 0.0), ceiling(level), manipulated(masks)])
                )
    if BY_MOTION in arms:
        better = _difference(tables, bases, (BY_MOTION, "first right"), (BY_ANOTHER, "first right"))[0]
        for other in (PLAIN, BY_ANOTHER):
            for measure in CLAIMED:
                these, like = _difference(tables, bases, (BY_MOTION, measure), (other, measure))
                level = float(np.mean([tables[base, other][measure].mean() for base in bases]))
                checks = [floor(level, 0.0), ceiling(level), manipulated(better)]
                asked.append((BY_MOTION, other, measure, these, like, checks))
    ps = [(like if many else these).p for *_, these, like, _ in asked]
    beside = [
        _difference(tables, bases, (arm, measure), (other, measure), CLAIMED[measure])[many].p
        for arm, other, measure, *_ in asked
    ]
    corrected = zip(holm(ps), holm(beside), strict=True)
    who = "bases like these" if many else f"{', '.join(bases)} alone: {LEAST_BASES} bases speak of others"
    lines = [
        "",
        "## Two passes against others",
        "",
        f"Verdicts are about {who}; p against no difference and against the margin are corrected for all rows (Holm). ",
    ]
    lines[-1] += f"Asked of the masks beforehand: their J above that of another clip's, {masks.interval}."
    if BY_MOTION in arms:
        lines[-1] += f" Of the chosen noise: right roles of its first pass above those of another's, {better.interval}."
    lines += ["", "| two passes | against | | these bases | bases like these | verdict |", "|---" * 6 + "|"]
    for (arm, other, measure, these, like, checks), both in zip(asked, corrected, strict=True):
        outcome = verdict(like if many else these, CLAIMED[measure], checks, *both)
        said = like.interval if many else "-"
        lines.append(f"| {arm} | {other} | {measure} | {these.interval} | {said} | {outcome} |")
    return lines


def _reach(bases: Sequence[str], arms: Sequence[str], tables: dict[tuple[str, str], Values]) -> list[str]:
    """What better masks could reach: the true ones against as many unsteered steps. Not a claim."""
    lines = ["", "## True masks against fewer steps", "", f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1)]
    lines[-1] += "|"
    for arm in (arm for arm in arms if arm.endswith(TRUE)):
        found = [_difference(tables, bases, (arm, measure), (FEWER, measure)) for measure in MEASURES]
        told = [(like if len(bases) >= LEAST_BASES else these).interval for these, like in found]
        lines.append(f"| {arm} | {' | '.join(told)} |")
    return lines


def _difference(
    tables: dict[tuple[str, str], Values],
    bases: Sequence[str],
    one: tuple[str, str],
    other: tuple[str, str],
    less: float = 0.0,
) -> tuple[Estimate, Estimate]:
    """Of two (arm, measure), by clip and less a margin: for these bases, and for bases like these."""
    found = [(tables[base, one[0]][one[1]] - tables[base, other[0]][other[1]])[None] - less for base in bases]
    return over_bases(found, bounds=(-1 - less, 1 - less))


if __name__ == "__main__":
    main()
