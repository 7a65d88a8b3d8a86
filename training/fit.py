"""`python -m training.fit PRESET [setting=value ...]`: trains, reports, saves, resumes.

Ctrl-C or SIGTERM finishes the step, saves a checkpoint and stops; the same command then goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from . import checkpoint
from .config import AlignTask, FitConfig, override
from .data import Stream, seed_of
from .optim import Average, make_optimisers, rate
from .presets import PRESETS
from .step import describe, make_step

__all__ = ["Trainer", "main"]

AGREE_EVERY = 10


class Trainer:
    """Builds the parts of a run from its configuration, and runs it."""

    def __init__(self, config: FitConfig) -> None:
        self.started = time.monotonic()
        self.config, run = config, config.run
        torch.manual_seed(run.seed)
        self.accelerator = Accelerator(mixed_precision=run.precision)
        self.device = self.accelerator.device
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.task = _task(config, self.device)
        self.plain = self.task.net
        self.params = [p for p in self.plain.parameters() if p.requires_grad]
        made = make_optimisers(self.plain, config.optim)
        ready = self.accelerator.prepare(self.plain, *made)
        self.net: nn.Module = self.task.compile(ready[0]) if run.compile else ready[0]
        self.optimisers = list(ready[1:])
        self.peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in made]
        self.average = Average(self.params, config.optim.ema)
        seed = seed_of(run.seed, self.accelerator.process_index)
        own = isinstance(config.task, AlignTask)
        self.stream: Any = self.task.stream(seed) if own else Stream(config.data, self.task, seed, self.device)
        self.folder = Path(run.out)
        self.step, self.done = 0, 0.0
        self.asked = self.stopping = False

    def run(self) -> Path:
        """Trains to the last step, or until told to stop. Returns the last checkpoint's folder."""
        self.resume()
        log = Log(self.folder, self.config, self.step, self.accelerator.is_main_process)
        with StopOnSignal(self):
            self.done = self.progress()
            while self.done < 1.0 and not self.stopping:
                values = self.advance()
                self.step += 1
                log(self.step, values)
                self.done = self.progress()
                if self.step % self.config.run.save_every == 0 and self.step < self.config.run.steps:
                    self.save()
        self.stream.close()
        return self.save(finished=self.done >= 1.0)

    def progress(self) -> float:
        """Share of the run that is done, by steps or by the time allowed, whichever is further.

        Several processes agree on it, and on stopping, every few steps: asking waits for all that the GPUs still have
        to do, and in between the learning rate must not differ between them.
        """
        run, several = self.config.run, self.accelerator.num_processes > 1
        if several and self.step % AGREE_EVERY and self.step < run.steps:
            return self.done
        done = self.step / run.steps
        if run.deadline > 0:
            done = max(done, (time.monotonic() - self.started) / run.deadline)
        if several:
            views = self.accelerator.gather(torch.tensor([done, float(self.asked)], device=self.device))
            done, asked = (float(x) for x in views.view(-1, 2).amax(dim=0))
            self.asked = bool(asked)
        self.stopping = self.asked
        return min(done, 1.0)

    def advance(self) -> dict[str, Tensor]:
        """One optimiser step."""
        config = self.config
        share = rate(self.step, self.done, config.optim.warmup)
        for optimiser, peaks in zip(self.optimisers, self.peaks):
            for group, peak in zip(optimiser.param_groups, peaks):
                group["lr"] = peak * share
        batch = self.stream.batch(self.step)
        place = self.accelerator.process_index
        generator = torch.Generator().manual_seed(seed_of(config.run.seed, self.step, place, 3))
        with self.task.during(self.step) if isinstance(config.task, AlignTask) else contextlib.nullcontext():
            with self.accelerator.autocast():
                values = self.task.loss(self.net, batch, generator)
            self.accelerator.backward(values["loss"])
        values["norm"] = self.accelerator.clip_grad_norm_(self.params, config.optim.clip)
        # After clipping by a norm that is not finite every gradient is not a number: such a step changes nothing.
        for p in self.params:
            if p.grad is not None:
                torch.nan_to_num_(p.grad, 0.0, 0.0, 0.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.params, self.step)
        return {name: value.detach() for name, value in values.items()}

    def averaged(self) -> dict[str, Tensor]:
        """The network's state with averaged parameters."""
        state = {name: value.detach() for name, value in self.plain.state_dict().items()}
        trained = [name for name, p in self.plain.named_parameters() if p.requires_grad]
        state.update(zip(trained, self.average.values))
        return state

    def save(self, finished: bool = False) -> Path:
        """Writes a checkpoint, with the network to publish if the run is `finished`."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return self.folder
        groups = {"model": unshared(self.plain), "average": dict(zip(map(str, range(10**6)), self.average.values))}
        for i, optimiser in enumerate(self.optimisers):
            groups[f"optimiser{i}"] = checkpoint.pack_optimiser(optimiser)
        if finished:
            groups["final"] = self.published()
        meta = {"config": dataclasses.asdict(self.config), "finished": finished, "sizes": describe(self.task)}
        return checkpoint.save(self.folder, self.step, groups, meta)

    def published(self) -> dict[str, Tensor]:
        """Averaged weights after the task's last touches; the weights in training stay as they are."""
        kept = {name: value.detach().clone() for name, value in self.plain.state_dict().items()}
        self.plain.load_state_dict(self.averaged())
        self.task.finish(self.plain)
        final = {name: value.clone() for name, value in unshared(self.plain).items()}
        self.plain.load_state_dict(kept)
        return final

    def resume(self) -> None:
        """Goes on from the newest checkpoint of the folder, if `run.resume` and there is one."""
        found = checkpoint.latest(self.folder) if self.config.run.resume else None
        if found is None:
            return
        groups, meta = checkpoint.load(found)
        self.plain.load_state_dict(groups["model"], strict=False)
        for value, saved in zip(self.average.values, (groups["average"][str(i)] for i in range(len(self.params)))):
            value.copy_(saved)
        for i, optimiser in enumerate(self.optimisers):
            checkpoint.unpack_optimiser(optimiser, groups[f"optimiser{i}"])
        self.step = int(meta["step"])
        self.accelerator.print(f"resumed {found} at step {self.step}")


def _task(config: FitConfig, device: torch.device) -> Any:
    if isinstance(config.task, AlignTask):
        from .align import AlignStep  # video files and adapters: the mini model is trained without either

        return AlignStep(config, device)
    return make_step(config, device)


def unshared(net: nn.Module) -> dict[str, Tensor]:
    """State without second names of one tensor (T5 lists its word table twice), which safetensors refuses, and without
    frozen parameters, which are where they came from."""
    seen: set[int] = set()
    state = {}
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    for name, value in net.state_dict().items():
        if name in frozen:
            continue
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            state[name] = value
    return state


class Log:
    """Prints a line and writes a row of `metrics.csv` every few steps; values stay on the device in between."""

    def __init__(self, folder: Path, config: FitConfig, step: int, speak: bool) -> None:
        self.config, self.speak, self.path = config, speak, folder / "metrics.csv"
        self.began, self.first = time.monotonic(), step
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        if speak:
            folder.mkdir(parents=True, exist_ok=True)
            if step == 0:
                self.path.unlink(missing_ok=True)

    def __call__(self, step: int, values: dict[str, Tensor]) -> None:
        self.sums = {name: self.sums.get(name, 0) + value for name, value in values.items()}
        self.count += 1
        if not self.speak or (step % self.config.run.log_every and step < self.config.run.steps):
            return
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        seconds = time.monotonic() - self.began
        speed = (step - self.first) / max(seconds, 1e-9)
        left = (self.config.run.steps - step) / speed
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(
            f"step {step}/{self.config.run.steps}  {shown}  {speed * self.config.data.batch:.0f} clips/s  "
            f"{seconds:.0f} s gone, {left:.0f} s left",
            flush=True,
        )
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "seconds", *means])
            writer.writerow([step, f"{seconds:.1f}", *(f"{value:.6g}" for value in means.values())])


class StopOnSignal:
    """While open, Ctrl-C and SIGTERM ask the trainer to stop after the step; a second one stops at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.trainer.asked:
            raise KeyboardInterrupt
        print("stopping after this step; the same command goes on from here", flush=True)
        self.trainer.asked = True


def parse(arguments: Sequence[str] | None = None) -> FitConfig:
    """The configuration that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m training.fit", description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=sorted(PRESETS), help="what to train")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as optim.lr=3e-4 run.steps=100")
    chosen = parser.parse_args(arguments)
    try:
        return override(PRESETS[chosen.preset](), chosen.settings)
    except ValueError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        print(f"saved {Trainer(parse(arguments)).run()}")
    except ValueError as error:
        sys.exit(f"training.fit: {error}")


if __name__ == "__main__":
    main()
