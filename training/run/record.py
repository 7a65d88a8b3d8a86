"""What a run's folder says of the run: its settings and its data, and whether a command may go on there.

    OUT/config.json     every setting; `python -m training.fit --config OUT/config.json` is the same run
    OUT/data.json       what it is trained on: every clip and the model, by short hashes of their content
    OUT/step-NNNNNNN    a checkpoint, with the settings that it was trained under

A run goes on where all of these agree. Where they do not, the differences are listed by name with both values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matrix_lib.io.files import whole_file
from matrix_lib.io.strict_json import own_object

from . import checkpoint
from .config import FitConfig
from .ending import LOCK, probe

__all__ = [
    "CONFIG",
    "DATA",
    "LORA",
    "DifferentError",
    "FinishedRunError",
    "RunFolder",
    "as_json",
    "config_differences",
    "data_differences",
    "newest_run",
    "own_folder",
]

CONFIG, DATA = "config.json", "data.json"
REPORTING = {
    f"run.{name}"
    for name in (
        "out", "numbered", "resume", "again", "change", "log_every", "save_every", "keep", "skip_steps", "tensorboard",
        "wandb", "push_to", "bar", "sharding", "preview_every", "preview_clips", "preview_steps", "preview_cfg",
    )
} | {"data.workers", "data.cache", "task.swap"} | {
    f"validation.{name}" for name in ("every", "most", "levels", "prompts", "best", "best_is")
}  # fmt: skip
"""Settings that change nothing of what is trained."""
_BATCH = ("data.batch", "optim.accumulate", "processes")
_WEIGHTS = ("kind", "optim.name", "optim.eight_bit", "optim.lora_plus")
_LISTED = 6
LORA = "lora.safetensors"
"""The LoRA in a finished run's folder, and in every checkpoint's."""

Fingerprint = Mapping[str, Mapping[str, Any]]
"""What a run is trained on: {kind: {name: facts}}; "clips" have facts by name (their video, masks, words), other kinds
one hash each."""


class FinishedRunError(RuntimeError):
    """A run that has nothing left to do."""


class DifferentError(ValueError):
    """A folder that holds a run of other settings or data."""


def as_json(config: FitConfig) -> dict[str, Any]:
    """The whole configuration as JSON holds it, with the kind of its task."""
    return {"kind": type(config.task).__name__, **json.loads(json.dumps(dataclasses.asdict(config)))}


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


def config_differences(was: Mapping[str, Any], config: FitConfig, processes: int = 1) -> dict[str, tuple[Any, Any]]:
    """Settings by name, {name: (there, here)}, that differ between what a folder holds (`as_json`, or what a checkpoint
    of an older version says) and a configuration. A setting that the folder does not know has its default there.

    Settings that change nothing of what is trained do not count, and where a step's batch is the same however it is
    split (`TaskSettings.splits_batch`) its parts do not count one by one.
    """
    here, there = _flat(as_json(config)), _flat(was)
    there.setdefault("kind", here["kind"])
    if there["kind"] != here["kind"]:
        return {"kind": (there["kind"], here["kind"])}
    there = {name: value for name, value in there.items() if name != "preset"}
    here["processes"] = processes
    there.setdefault("processes", processes)
    defaults = _defaults(config)
    if config.task.splits_batch:
        for flat in (here, there):
            parts = [int(flat.pop(name, defaults.get(name, 1))) for name in _BATCH]
            flat["data.batch * optim.accumulate * processes"] = parts[0] * parts[1] * parts[2]
    names = [name for name in dict.fromkeys([*here, *there]) if name not in REPORTING]
    pairs = {name: (there.get(name, defaults.get(name)), here.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _defaults(config: FitConfig) -> dict[str, Any]:
    """Every setting's own default, whatever the preset says."""
    found: dict[str, Any] = {}
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        for each in dataclasses.fields(values):
            if each.default is not dataclasses.MISSING:
                found[f"{group.name}.{each.name}"] = json.loads(json.dumps(each.default))
    return found


def data_differences(was: Fingerprint, now: Fingerprint) -> list[str]:
    """What changed of the data, a line for each kind of change."""
    lines = []
    for kind in sorted({*was, *now}):
        before, after = was.get(kind, {}), now.get(kind, {})
        there, here = before.keys(), after.keys()
        changes: dict[str, list[str]] = {"new": sorted(here - there), "gone": sorted(there - here)}
        for name in sorted(there & here):
            one, other = before[name], after[name]
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                for what in sorted({*one, *other}):
                    if one.get(what) != other.get(what):
                        changes.setdefault(f"with another {what}", []).append(name)
            elif one != other and not _older(one, other):
                changes.setdefault("changed", []).append(name)
        lines += [f"{kind}: {len(names)} {what}: {_listed(names)}" for what, names in changes.items() if names]
    return lines


def _older(was: Any, now: Any) -> bool:
    """Whether an older version kept of a long file its size alone, and that is the same."""
    return str(was).endswith(" bytes") and str(now).startswith(f"{was}, ")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


class RunFolder:
    """The folder of a run, and the checkpoint that it goes on from.

    Args:
        config: with `run.out` as the run's own folder. say: is told of damaged checkpoints.
        processes: that train. own: the folder is a numbered one, which nobody named.

    Raises DifferentError where the folder holds a run of other settings and nobody said what to do, FinishedRunError
    where its run is finished and the settings are the same. Nothing is written.

    Attributes:
        found: the newest whole checkpoint, None where the run starts at step 0. moves: what is there goes aside.
    """

    def __init__(
        self, config: FitConfig, say: Callable[[str], object] = print, processes: int = 1, own: bool = False
    ) -> None:
        self.config, self.folder, self.processes, self.own = config, Path(config.run.out), processes, own
        self.data: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self.same_settings = True
        found = checkpoint.latest(self.folder, say)
        self.moves = found is not None and (config.run.again or not config.run.resume)
        self.found = None if self.moves else found
        if self.found is not None:
            self.meta = checkpoint.check(self.found)
            self._check_settings()

    def _check_settings(self) -> None:
        run, step = self.config.run, int(self.meta["step"])
        was = {k: self.meta[k] for k in ("kind", "processes") if k in self.meta} | self.meta["config"]
        different = config_differences(was, self.config, self.processes)
        fixed = [name for name in different if not self._may_change(name)]
        self.same_settings = not different
        if different and (fixed or not run.change):
            raise DifferentError(self._refusal([_told(name, *pair) for name, pair in different.items()], fixed))
        if self.meta.get("finished") and (not different or step >= run.steps):
            raise FinishedRunError(self._finished())
        self.changes = {name: list(pair) for name, pair in different.items()}

    def _may_change(self, name: str) -> bool:
        """Whether a run can go on under another value; of a task's settings those that say how it learns."""
        group, _, rest = name.partition(".")
        if group == "task":
            return rest in self.config.task.may_change
        return name not in _WEIGHTS

    def _finished(self) -> str:
        assert self.found is not None
        files = (place / LORA for place in (self.folder, self.found))
        made = next((path for path in files if path.is_file()), self.found)
        return (
            f"the run in {self.folder} is finished (step {self.meta['step']} of {self.config.run.steps}): {made}. "
            "Nothing was written. To train anew: run.again=true, or another run.out; to train longer: more run.steps, "
            "and run.change=true"
        )

    def _refusal(self, lines: Sequence[str], fixed: Sequence[str] = ()) -> str:
        """What differs, and everything that a person can do now."""
        step, same = self.meta["step"], self.same_settings
        anew = "a folder of its own" if self.own else "what is there moves aside, to replaced-1"
        on = f"To go on from step {step} with what is asked for here: run.change=true."
        if fixed:
            on = f"What is asked for here cannot go on from step {step}: its weights are of another {_listed(fixed)}."
        told = [
            f"{self.folder} holds a run of other settings or data, and nothing was done:",
            *(f"  {line}" for line in lines),
            f"To go on with that run as it is: --config {self.folder / CONFIG}, and no other settings.",
            f"To start anew: another run.out, or run.again=true ({anew}).",
            on,
        ]
        return "\n  ".join(line for line in told if not (same and "--config" in line))

    def check_data(self, now: Fingerprint) -> None:
        """Compares what is trained on with what the folder holds. Every process calls it; nothing is written.

        Raises DifferentError with the differences, unless `run.change`.
        """
        self.data = {kind: dict(facts) for kind, facts in now.items()}
        path = self.folder / DATA
        if self.found is None or not path.is_file():  # of an older version, which kept no such file
            return
        lines = data_differences(own_object(path), self.data)
        if not lines:
            return
        if not self.config.run.change:
            raise DifferentError(self._refusal(lines))
        self.changes["data"] = lines

    def probe(self) -> None:
        """Raises ValueError where the folder cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe(self.folder)
        except FileExistsError as error:
            what = "a link that leads nowhere" if self.folder.is_symlink() else "a file"
            raise ValueError(f"run.out={self.folder} is {what}: name a folder") from error
        except OSError as error:
            raise ValueError(f"run.out={self.folder} cannot be written to: {error.strerror or error}") from error

    def write(self) -> None:
        """Moves aside what has to, and writes what the run is. The main process alone calls it, before the first step.

        Raises OSError where the folder cannot be written to.
        """
        if self.moves:
            _move_aside(self.folder)
        made: dict[str, Any] = {**as_json(self.config), "processes": self.processes}
        made["run"] |= {"resume": True, "again": False, "change": False}  # or the file would start anew
        path = self.folder / CONFIG
        changed = _read(path).get("changes", []) if self.found is not None else []
        if self.changes:
            changed = [*changed, {"step": self.meta["step"], "settings": self.changes}]
        if changed:
            made["changes"] = changed
        _write(path, made)
        if self.data:
            _write(self.folder / DATA, self.data)


def _told(name: str, there: Any, here: Any) -> str:
    return f"{name}: {_shown(there)} there, {_shown(here)} here"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, value: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _move_aside(folder: Path) -> Path:
    """Everything of a run, into the first `replaced-N` that is free."""
    number = next(n for n in range(1, 10_000) if not (folder / f"replaced-{n}").exists())
    target = folder / f"replaced-{number}"
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.name != LOCK and not path.name.startswith("replaced-"):
            path.replace(target / path.name)
    return target


# --- numbered runs


def _numbered(home: Path) -> list[Path]:
    """Runs of a home by number, the newest last."""
    found = [path for path in home.glob("[0-9]*") if path.is_dir() and path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def own_folder(config: FitConfig, processes: int = 1, say: Any = print) -> Path:
    """The folder that a run of `run.numbered` gets in its home: of the newest run of just these settings, else a new
    one; always a new one with `run.again`. Nothing is made yet.

    A run that lies in the home itself, as older versions left them, is one of them.
    """
    home, run = Path(config.run.out), config.run
    every = _numbered(home)
    fresh = home / f"{int(every[-1].name) + 1 if every else 1:04d}"
    if run.again or not run.resume:
        return fresh
    different: dict[str, tuple[Any, Any]] = {}
    for folder in (home, *every):
        if was := _settings_of(folder):
            different = config_differences(was, config, processes)
            if not different:
                fresh = folder
    if different and fresh not in every:
        told = _listed([_told(name, *pair) for name, pair in different.items()])
        say(f"a new run: {fresh}. The last one there is of other settings ({told})")
    return fresh


def _settings_of(run: Path) -> dict[str, Any]:
    """What a run's folder says of its settings, as `as_json` has them; {} where it says nothing."""
    if found := _read(run / CONFIG):
        return {name: value for name, value in found.items() if name != "changes"}
    meta = _last_meta(run)
    return {k: meta[k] for k in ("kind", "processes") if k in meta} | meta.get("config", {})


def _last_meta(run: Path) -> dict[str, Any]:
    """The metadata of a run's last checkpoint, without a look at its tensors; {} where there is none."""
    return next((meta for path in sorted(run.glob("step-*"), reverse=True) if (meta := _read(path / "meta.json"))), {})


def newest_run(place: Path) -> Path:
    """The run that a folder means where a finished one is wanted: of its numbered runs the newest that is finished,
    else itself where it holds a checkpoint, else the newest that has one; itself where there is none."""
    every = [run for run in reversed(_numbered(place)) if _last_meta(run)]
    finished = [run for run in every if _last_meta(run).get("finished")]
    return next(iter(finished or ([] if _last_meta(place) else every)), place)
