"""`python -m training.analyse INPUT MODEL --out FOLDER`: which layers carry the interaction, as tables and a report.

INPUT is a folder of clips (see docs/analysis.md), or `mini:200` for clips of the mini world. MODEL is `mini` or a
folder of a diffusers pipeline. Each run is one file, written when it is done: stop whenever you like, by Ctrl-C or the
mains; the same command goes on from there and gives the same report. `accelerate launch -m training.analyse ...` splits
the runs over several GPUs. Processes that share one GPU take a part each (`--part 1/8` to `--part 8/8`, with the same
--out); the same command without --part then measures what is left, reports and fits.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm import tqdm

from matrix_lib.core.grid import Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.layers.examples import Example, load_example, make_example, save_example
from matrix_lib.evaluation.layers.labels import Labels, read_labels
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, generate, probe
from matrix_lib.evaluation.layers.report import Shown, write_report
from matrix_lib.evaluation.layers.scores import RunScores, load_run, save_run
from matrix_lib.evaluation.layers.study import Study, study
from matrix_lib.evaluation.layers.tables import write_tables
from matrix_lib.evaluation.mini.clips import MiniClip, mini_clips
from matrix_lib.hosts.diffusers.load import Model, check_model, open_model
from matrix_lib.io.clips.folder import ClipSource, bad_clips, read_clips
from matrix_lib.io.files import whole_file
from matrix_lib.io.strict_json import own_object
from matrix_lib.io.tables import need_pyarrow

from .analysis.lora import AnalysedLoRAs
from .analysis.seeds import about_seeds, check_seeds
from .analysis.settings import Settings, parse
from .clips.encoders import known_by

__all__ = ["Analysis", "main"]

Clip = ClipSource | MiniClip


class Analysis:
    """One analysis: checks everything, measures what is missing, reports."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        patience = InitProcessGroupKwargs(timeout=datetime.timedelta(days=7))  # a process may finish hours early
        # Without `cpu` several processes on a machine without a GPU do not find each other, and each does everything.
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience])
        self.main = self.accelerator.is_main_process
        if settings.part is not None and self.accelerator.num_processes > 1:
            raise ValueError(
                f"--part is for processes that know nothing of each other, and these {self.accelerator.num_processes} "
                "share the runs already: leave it out"
            )
        self.notes: list[str] = []
        self.loras = AnalysedLoRAs()

    def run(self) -> Path:
        """Returns the report's path, or with a part the folder of the runs. Raises ValueError before anything is
        measured where something cannot work."""
        settings, out = self.settings, self.settings.out
        need_pyarrow()
        backbone = check_model(settings.model)
        if settings.lora:
            self.loras = AnalysedLoRAs.read(settings.lora, settings.model, backbone)
            self._say(self.loras.described())
        clips: list[Clip] = [] if settings.mini_clips else self._folder_clips()
        labels = self._labels(clips)
        model = self._open()
        recipe = self._recipe(model)
        if settings.seed_steps or settings.seed_rule:
            check_seeds(settings.seed_steps, settings.seed_rule, backbone, recipe.forwards)
        if settings.mini_clips:
            clips = [*mini_clips(settings.source, *model.size)]
            clips = clips[: settings.limit or None]
        self._keep_plan(recipe)
        if self.main:
            self._check_clips(model, recipe, clips)
        self.accelerator.wait_for_everyone()
        self._measure(model, recipe, clips)
        self.accelerator.wait_for_everyone()
        if settings.part is not None:
            self._say(f"part {settings.part[0]} of {settings.part[1]} is done; the same command without --part reports")
            return out / "runs"
        return self._report(backbone, clips, labels) if self.main else out / "report.html"

    # --- before anything is measured

    def _folder_clips(self) -> list[Clip]:
        found = read_clips(Path(self.settings.source), self.settings.roots, self.settings.masks_are)
        self.notes += found.notes
        every: list[Clip] = [*found.clips]
        return every[: self.settings.limit or None]

    def _labels(self, clips: Sequence[Clip]) -> Labels | None:
        settings = self.settings
        if settings.labels in ("none", "judge"):
            return None
        labels = read_labels(Path(settings.labels), settings.column, settings.threshold)
        if clips:
            labels.check([(clip.name, seed) for clip in clips for seed in settings.seeds], settings.options.least)
        return labels

    def _open(self) -> Model:
        device = self.accelerator.device
        precision = self.settings.precision or ("float32" if device.type == "cpu" else "bfloat16")
        self._say(f"loading {self.settings.model} on {device}, {precision}")
        return open_model(self.settings.model, device, getattr(torch, precision), self.settings.offload)

    def _recipe(self, model: Model) -> Recipe:
        settings, small = self.settings, self.settings.model == "mini"
        frames, height, width = (
            given or own for given, own in zip((settings.frames, settings.height, settings.width), model.size)
        )
        if settings.mini_clips:
            model.size = (frames, height, width)
        return Recipe(
            settings.mode,
            frames,
            height,
            width,
            settings.steps or (24 if small else 50),
            settings.guidance if settings.guidance >= 0 else (4.0 if small else 6.0),
            settings.negative,
            settings.timesteps,
        )

    def _keep_plan(self, recipe: Recipe) -> None:
        """Results of other settings in the same folder would mix with ours: refused, naming what differs."""
        path = self.settings.out / "plan.json"
        files, content = _stamps(self.settings.model)
        plan = {"model": self.settings.model, "weights": files, "content": content, **asdict(recipe)}
        plan = json.loads(json.dumps(plan | self.loras.plan(self.settings.strength)))
        if path.is_file():
            before = own_object(path)
            before.setdefault("content", plan["content"])  # of older versions, which knew names and sizes alone
            names = [name for name in {**before, **plan} if before.get(name) != plan.get(name)]
            differ = [f"{name}: {before.get(name)!r} before, {plan.get(name)!r} now" for name in names]
            if differ:
                raise ValueError(
                    f"{str(self.settings.out)!r} holds results of other settings ({'; '.join(differ)}): use another "
                    "--out, or remove that folder"
                )
        elif self.main:
            with whole_file(path) as temporary:
                temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")

    def _check_clips(self, model: Model, recipe: Recipe, clips: Sequence[Clip]) -> None:
        """Binds every prompt and puts every mask on the grid, so that nothing fails after hours."""
        problems: dict[str, str] = {}
        grid = model.grid(recipe.frames, recipe.height, recipe.width)
        for clip in tqdm(clips, "checking", unit=" clips", disable=len(clips) < 20, leave=False):
            try:
                binding = model.bind(clip.prompt, clip.phrases)
                want = recipe.frames if recipe.mode == "noise" else 1
                fitted = fit_clip(clip.frames(want), clip.tracks(), recipe)[1]
                with self._adapted(model, fitted):  # it says where the LoRA cannot read these tracks
                    on_grid = fitted.to_grid(grid)
                hidden = [phrase.name for phrase in binding.instances if on_grid.query_frame[phrase.name] is None]
                if hidden:
                    raise ValueError(f"{', '.join(map(repr, hidden))} shows on no token of the {grid.shape} token grid")
            except (ValueError, OSError) as error:
                problems[clip.name] = str(error)
        if problems:
            raise bad_clips(problems, len(clips))

    # --- measuring

    def _measure(self, model: Model, recipe: Recipe, clips: Sequence[Clip]) -> None:
        settings = self.settings
        if self.main and settings.part is None:  # what looks left behind may be another part's, half written
            _clean(settings.out)
        self.accelerator.wait_for_everyone()
        every = [(clip, seed) for clip in clips for seed in settings.seeds]
        pictured = {(clip.name, seed) for clip, seed in every[: 2 * settings.examples]}
        mine = self._mine(every)
        todo = [(clip, seed) for clip, seed in mine if not self._done(recipe, clip, seed)]
        if len(todo) < len(mine):
            self._say(f"{len(mine) - len(todo)} of {len(mine)} runs are done already; going on")
        total = len(todo) * recipe.forwards * (2 if settings.tracks == "seen" else 1)
        with tqdm(total=total, desc="analysing", unit=" steps", disable=not (self.main and todo), leave=False) as bar:
            for clip, seed in todo:
                bar.set_postfix_str(f"{clip.name}, seed {seed}")
                before = bar.n

                def step(done: int, before: int = before) -> None:
                    bar.update(before + done - bar.n)

                self._one(model, recipe, clip, seed, (clip.name, seed) in pictured, step)

    def _mine(self, every: Sequence[tuple[Clip, int]]) -> Sequence[tuple[Clip, int]]:
        """The runs that this process makes."""
        if self.settings.part is not None:
            place, count = self.settings.part
            return every[place - 1 :: count]
        return every[self.accelerator.process_index :: self.accelerator.num_processes]

    def _one(self, model: Model, recipe: Recipe, clip: Clip, seed: int, pictured: bool, step: Any) -> None:
        want = recipe.frames if recipe.mode == "noise" else 1
        frames, tracks = fit_clip(clip.frames(want), clip.tracks(), recipe)
        binding = model.bind(clip.prompt, clip.phrases)
        judging = self.settings.labels == "judge" and isinstance(clip, MiniClip)
        notes: tuple[str, ...] = ()
        if self.settings.tracks == "seen" and isinstance(clip, MiniClip):
            with self._adapted(model, tracks):
                made = generate(model, recipe, clip.prompt, frames, seed, step)
            tracks, notes = _seen(clip, made, model.grid(recipe.frames, recipe.height, recipe.width))
        again = recipe.forwards if self.settings.tracks == "seen" else 0
        with self._adapted(model, tracks):
            found = probe(
                model, recipe, binding, tracks, frames, seed, lambda n: step(again + n), maps=pictured, picture=judging
            )
        judged = clip.judge(found.frames) if isinstance(clip, MiniClip) and found.frames is not None else {}
        run = RunScores(
            clip.name,
            seed,
            clip.prompt,
            found.kinds,
            self._fingerprint(recipe, clip, seed),
            None,
            judged,
            found.notes + notes,
            found.experts,
        )
        if found.capture is not None and found.frames is not None:
            save_example(make_example(found.capture, tracks, found.frames), self._path("examples", clip.name, seed))
        save_run(run, self._path("runs", clip.name, seed))

    def _adapted(self, model: Model, tracks: MaskTracks) -> contextlib.AbstractContextManager[object]:
        """The model with the LoRAs that are analysed."""
        return self.loras.on(model.pipeline, tracks, self.settings.strength)

    def _path(self, what: str, clip: str, seed: int) -> Path:
        return self.settings.out / what / f"{clip}__seed{seed}.safetensors"

    def _fingerprint(self, recipe: Recipe, clip: Clip, seed: int) -> str:
        how = [self.settings.labels == "judge", self.settings.tracks]
        said = [asdict(recipe), clip.prompt, repr(clip.phrases), clip.tracks().digest, seed, *how]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]

    def _done(self, recipe: Recipe, clip: Clip, seed: int) -> bool:
        """Whether a whole result of exactly this run is there; of a clip that changed since, it is made again."""
        path = self._path("runs", clip.name, seed)
        if not path.is_file():
            return False
        try:
            return load_run(path).fingerprint == self._fingerprint(recipe, clip, seed)
        except ValueError:
            return False

    # --- reporting

    def _report(self, backbone: str, clips: Sequence[Clip], labels: Labels | None) -> Path:
        settings = self.settings
        runs = []
        for clip in clips:
            for seed in settings.seeds:
                run = load_run(self._path("runs", clip.name, seed))
                runs.append(RunScores(**{**vars(run), "success": self._success(run, labels)}))
        found = study(runs, backbone, settings.options, Path(settings.model).name)
        write_tables(runs, found, settings.out / "tables")
        (settings.out / "layers.json").write_text(found.preset.to_json() + "\n", encoding="utf-8")
        if settings.seed_steps or settings.seed_rule:
            source = settings.source if settings.mini_clips else Path(settings.source).name
            title = ", ".join((Path(settings.model).name, *self.loras.titles, source))
            steps, rule, take = settings.seed_steps, settings.seed_rule, settings.options.preset
            self._say(about_seeds(runs, backbone, settings.out, steps=steps, rule=rule, take=take, title=title))
        path = write_report(settings.out / "report.html", found, self._about(found), self._examples(runs))
        self._say(_summary(found, path))
        return path

    def _success(self, run: RunScores, labels: Labels | None) -> bool | None:
        if labels is not None:
            return labels.of(run.clip, run.seed)
        if self.settings.labels != "judge":
            return None
        return all(run.judged[name] >= self.settings.threshold for name in self.settings.criteria)

    def _about(self, found: Study) -> dict[str, str]:
        """What the report says about how it was made; nothing that differs between equal analyses."""
        settings, plan = self.settings, own_object(self.settings.out / "plan.json")
        how = f"generated, {plan['steps']} steps, guidance {plan['guidance']:g}"
        if settings.mode == "noise":
            how = f"real clips under noise, timesteps {', '.join(map(str, plan['timesteps']))} of 1000"
        labels = {"none": "none", "judge": f"the mini world's judge: {', '.join(settings.criteria)}"}
        about = {
            "model": f"{Path(settings.model).name} ({found.backbone})",
            "input": settings.source if settings.mini_clips else Path(settings.source).name,
            "clips": f"{how}, {plan['frames']} frames of {plan['width']}x{plan['height']}",
            "masks": "as seen in the generated clips" if settings.tracks == "seen" else "given",
            "seeds": ", ".join(map(str, settings.seeds)),
            "labels": labels.get(settings.labels, f"{Path(settings.labels).name}, column {settings.column}"),
        }
        about |= self.loras.about(settings.strength)
        return about | ({"note": "; ".join(self.notes)} if self.notes else {})

    def _examples(self, runs: Sequence[RunScores]) -> list[Shown]:
        """Up to `examples` of the runs that were pictured, successes and failures in turn, each in its order."""
        there: list[tuple[RunScores, Example]] = []
        for run in runs[: 2 * self.settings.examples]:
            path = self._path("examples", run.clip, run.seed)
            if path.is_file():
                there.append((run, load_example(path)))
        groups = [[pair for pair in there if pair[0].success is label] for label in (True, False, None)]
        turns = [group[i] for i in range(len(there)) for group in groups if i < len(group)]
        return [Shown(run, example) for run, example in turns[: self.settings.examples]]

    def _say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


def _seen(clip: MiniClip, made: Any, grid: Grid) -> tuple[MaskTracks, tuple[str, ...]]:
    """Masks as they are seen in a generated clip; the given ones, and a note, where somebody is not to be seen."""
    try:
        tracks = clip.seen(made)
        hidden = [name for name, frame in tracks.to_grid(grid).query_frame.items() if frame is None]
        if hidden:
            raise ValueError(f"{', '.join(map(repr, hidden))} shows on no token")
    except ValueError as error:
        return clip.tracks(), (f"{clip.name}: the given masks are used, because {error}",)
    return tracks, ()


def _stamps(model: str) -> tuple[str, str]:
    """Digests of names and sizes of a model's files, and of what they hold: results of two models do not mix."""
    from matrix_lib.hosts import bundle

    if (found := bundle.find(model)) is not None:
        return hashlib.sha256((found / bundle.MANIFEST).read_bytes()).hexdigest()[:16], ""
    folder = Path(model)
    files = sorted((p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file())
    held = [known_by(folder / name) for name, _ in files]
    return _digest(files), _digest(held)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _clean(out: Path) -> None:
    """Removes unfinished files that a killed process left behind."""
    for left in out.glob("*/.*.part.*"):
        left.unlink(missing_ok=True)


def _summary(found: Study, path: Path) -> str:
    good, bad = found.labelled
    lines = [f"{len(found.names)} runs, {good} successes and {bad} failures"]
    for name, each in {"": found, **found.experts}.items():
        for kind, one in each.kinds.items():
            dominant = one.dominance is not None and bool(one.dominance.chosen)
            listed = ", ".join(map(str, one.preset(found.options.preset)))
            whose = f"{name}, {kind}" if name else kind
            lines.append(f"{whose}: {'dominant' if dominant else 'influential'} layers {listed}")
            lines += [f"{kind}: {one.no_gap}"] if one.no_gap and not name else []
    return "\n".join([*lines, f"wrote {path}"])


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments, (__doc__ or "").splitlines()[0])
    signal.signal(signal.SIGTERM, _stop)
    analysis: Analysis | None = None
    try:
        analysis = Analysis(settings)
        analysis.run()
    except (ValueError, OSError) as error:
        sys.exit(f"training.analyse: {error}" if analysis is None or analysis.main else 1)
    except KeyboardInterrupt:
        if analysis is None or analysis.main:
            print("\nstopped; every finished run is kept, and the same command goes on from here", flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
