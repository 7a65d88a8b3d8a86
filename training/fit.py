"""`python -m training.fit PRESET [setting=value ...]`: trains, reports, saves, resumes.

Ctrl-C or SIGTERM finishes the step, saves a checkpoint and stops; the same command then goes on from there. A run has a
folder of its own, and goes on under the settings and with the data that it began with. Several processes: `accelerate
launch -m training.fit PRESET ...`, with run.sharding=ddp or fsdp2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .data.world import step_generator
from .run import checkpoint
from .run.command import parse
from .run.config import FitConfig
from .run.distributed import clip, copy_all, fill, make_accelerator, split_like, spread, trained_state, unsynced, whole
from .run.ending import alone
from .run.hub import check_place, push
from .run.log import Log, check_boards
from .run.optim import Average, make_optimisers, rate
from .run.record import LORA, FinishedRunError, RunFolder, as_json, own_folder
from .run.stop import StopOnSignal
from .run.summary import Pace, start_lines
from .run.validation import HELD, Best
from .tasks.registry import look, make_task

__all__ = ["StoppedError", "Trainer", "main", "parse"]

AGREE_EVERY = 10


class StoppedError(RuntimeError):
    """A run that cannot go on, and why; its last good checkpoint stays."""


class Trainer:
    """Builds the parts of a run from its configuration, and runs it.

    Raises FinishedRunError where the run is finished, DifferentError where its folder holds a run of other settings or
    data, and ValueError for what else is known to be wrong before anything is made, another process that trains in the
    folder included.
    """

    def __init__(self, config: FitConfig) -> None:
        self.started = time.monotonic()
        check_boards(config)
        if config.run.push_to:
            if not config.task.gives_lora:
                raise ValueError("run.push_to is for LoRAs; training.publish makes a bundle of the small models")
            check_place(config.run.push_to)
        torch.manual_seed(config.run.seed)
        self.accelerator = make_accelerator(config)
        self.device = self.accelerator.device
        self.config = config = self.placed(config)
        several = self.accelerator.num_processes
        self.held = contextlib.ExitStack()
        self.home = RunFolder(config, self.accelerator.print, several, self.numbered)
        if self.accelerator.is_main_process:
            self.home.probe()
            self.held.enter_context(alone(self.home.folder))
        try:
            self._make()
        except BaseException:
            self.held.close()
            raise

    def _make(self) -> None:
        """Everything that is built once the folder is this process's own."""
        config, run = self.config, self.config.run
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        seen = look(config, self.device)
        self.home.check_data(seen.fingerprint)
        self.claim()
        self.task = make_task(config, self.device, seen)
        self.plain = self.task.net
        ready = spread(self.accelerator, self.plain, config)
        if self.home.found is None:
            fill(self.plain, self.task.start())
        self.net: nn.Module = self.task.compile(ready) if run.compile else ready
        self.params = [p for p in self.plain.parameters() if p.requires_grad]
        self.optimisers = [self.accelerator.prepare(each) for each in make_optimisers(self.plain, config.optim)]
        self.peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.average = Average(self.params, config.optim.ema)
        self.stream = self.task.batches(self.accelerator.process_index)
        self.folder = Path(run.out)
        self.step, self.done = 0, 0.0
        self.best = Best(config.validation, self.home.meta.get("best", {}))
        self.figures: dict[str, float] = {}
        self.bad = torch.zeros((), device=self.device)
        self.asked = self.stopping = False

    def placed(self, config: FitConfig) -> FitConfig:
        """With the folder of the run itself, the same one in every process, and the runs that it builds on."""
        config = dataclasses.replace(config, task=config.task.pinned())
        self.numbered = config.run.numbered
        if not self.numbered:
            return config
        accelerator, names = self.accelerator, [""]
        if accelerator.is_main_process:
            names = [str(own_folder(config, accelerator.num_processes))]
        if accelerator.num_processes > 1:
            broadcast_object_list(names)
        return dataclasses.replace(config, run=dataclasses.replace(config.run, out=names[0], numbered=False))

    def claim(self) -> None:
        """Writes what the run is into its folder, once every process has read what was there.

        Raises StoppedError where it cannot be written to.
        """
        self.accelerator.wait_for_everyone()
        failed = ""
        if self.accelerator.is_main_process:
            try:
                self.home.write()
            except OSError as error:
                failed = str(error)
        self.agree(failed)

    def agree(self, failed: str) -> None:
        """Raises StoppedError in every process where one says why it cannot go on."""
        flag = torch.tensor([float(bool(failed))], device=self.device)
        if float(self.accelerator.gather(flag).max()):
            raise StoppedError(failed or "another process could not write")

    def run(self) -> Path:
        """Trains to the last step, or until told to stop. Returns the last checkpoint's folder.

        Raises StoppedError where gradients are no longer finite, or a checkpoint cannot be written.
        """
        try:
            return self._run()
        finally:
            self.held.close()

    def _run(self) -> Path:
        self.resume()
        self.tell()
        log = Log(self.folder, self.config, self.step, self.accelerator)
        try:
            pace = Pace(self.config.run.steps, self.device, log.say)
            with StopOnSignal(self.stop):
                self.done = self.progress()
                while self.done < 1.0 and not self.stopping:
                    values = self.advance()
                    self.step += 1
                    means = log(self.step, values, self.optimisers[0].param_groups[0]["lr"])
                    self.figures |= means or {}
                    pace(self.step, values)
                    if self.step == 1:
                        held = [HELD + name for name in values if name != "norm"] if self.task.held() else []
                        self.best.check({**values, **dict.fromkeys(held)})
                    if means is not None:
                        self.check()
                    self.done = self.progress()
                    if self.config.run.preview_every and self.step % self.config.run.preview_every == 0:
                        self.task.preview(self.step, log)
                    saves = self.step % self.config.run.save_every == 0 or self.done >= 1.0
                    better = self.judge(saves, log)
                    if (saves or better) and self.done < 1.0:
                        self.save()
                return self.save(finished=self.done >= 1.0)
        finally:
            log.close()
            self.stream.close()

    def tell(self) -> None:
        """The start summary."""
        if self.accelerator.is_main_process:
            several = self.accelerator.num_processes
            for line in start_lines(self.config, self.plain, self.step, several, self.task.facts(), self.folder):
                print(line, flush=True)

    def stop(self) -> bool:
        """Asks for an end after this step; False where that was asked for before."""
        first, self.asked = not self.asked, True
        return first

    def check(self) -> None:
        """Stops the run where too many steps had no finite gradient. Such a step changed nothing."""
        if (bad := int(self.bad)) > self.config.run.skip_steps:
            raise StoppedError(
                f"{bad} steps up to step {self.step} had a loss or a gradient that is not a finite number, so the run "
                f"stops. {self.kept()} Try a lower optim.lr, a longer optim.warmup, or look at the clips of these "
                "steps; run.skip_steps says how many are passed over"
            )

    def kept(self) -> str:
        """What there is to go on from, for a message."""
        found = checkpoint.latest(self.folder, lambda text: None)
        if found is None:
            return "There is no checkpoint yet."
        made = f" (its LoRA: {found / LORA})" if (found / LORA).is_file() else ""
        return f"The last good checkpoint is {found}{made}."

    def progress(self) -> float:
        """Share of the run that is done, by steps or by the time allowed, whichever is further.

        Several processes agree on it, and on stopping, every few steps: asking waits for all that the GPUs still have
        to do, and in between the learning rate must not differ between them.
        """
        run, several = self.config.run, self.accelerator.num_processes > 1
        done = self.step / run.steps
        if several and self.step % AGREE_EVERY and self.step < run.steps:
            return self.done if run.deadline > 0 else done
        if run.deadline > 0:
            done = max(done, (time.monotonic() - self.started) / run.deadline)
        if several:
            views = self.accelerator.gather(torch.tensor([done, float(self.asked)], device=self.device))
            done, asked = (float(x) for x in views.view(-1, 2).amax(dim=0))
            self.asked = bool(asked)
        self.stopping = self.asked
        return min(done, 1.0)

    def judge(self, saves: bool, log: Log) -> bool:
        """Measures on held-out clips where it is time to; whether this step is the best so far and has to be kept.

        Figures of training are looked at where a checkpoint is written, held-out ones where they are measured.
        """
        every = self.config.validation.every
        measured = self.task.held() > 0 and (saves if every == 0 else self.step % every == 0 or self.done >= 1.0)
        if measured:
            found = self.measure()
            log.validation(self.step, found)
            self.figures |= {HELD + name: value for name, value in found.items()}
        fresh = measured if self.best.figure.startswith(HELD) else saves
        return fresh and self.best.offer(self.step, self.figures)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Means over all held-out measurements, of the weights that are published. Nothing of the run moves by it."""
        mine, processes, count = self.accelerator.process_index, self.accelerator.num_processes, self.task.held()
        kept = [p.detach().clone() for p in self.params]
        copy_all(self.params, self.average.values)
        self.net.eval()
        sums: dict[str, Tensor] = {}
        try:
            for turn in range(-(-count // processes)):
                index = turn * processes + mine
                with self.task.during(0), self.accelerator.autocast():
                    values = self.task.measure(self.net, min(index, count - 1))
                share = float(index < count)  # all processes run the network as often
                sums = {name: sums.get(name, 0.0) + share * value.float() for name, value in values.items()}
        finally:
            self.net.train()
            copy_all(self.params, kept)
        total = self.accelerator.reduce(torch.stack([value.detach() for value in sums.values()]), "sum")
        return dict(zip(sums, (total / count).tolist()))

    def advance(self) -> dict[str, Tensor]:
        """One optimiser step."""
        config, parts = self.config, self.config.optim.accumulate
        share = rate(self.step, self.done, config.optim.warmup, config.optim.schedule)
        for optimiser, peaks in zip(self.optimisers, self.peaks):
            for group, peak in zip(optimiser.param_groups, peaks):
                group["lr"] = peak * share
        found: list[dict[str, Tensor]] = []
        for part in range(parts):
            with unsynced(self.accelerator, self.net, part + 1 < parts):
                found.append(self.backward(part))
        values = {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
        values["norm"] = clip(self.accelerator, self.params, config.optim.clip)
        self.bad += ~(values["norm"].isfinite() & values["loss"].isfinite())
        # After clipping by a norm that is not finite every gradient is not a number: such a step changes nothing.
        for p in self.params:
            if p.grad is not None:
                torch.nan_to_num_(p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad, 0.0, 0.0, 0.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.params, self.step)
        return values

    def backward(self, part: int) -> dict[str, Tensor]:
        """Forward and backward of one of the parts that a step accumulates; detached values of its losses."""
        parts = self.config.optim.accumulate
        batch = self.stream.batch(self.step, part, parts)
        generator = step_generator(self.config.run.seed, self.step, self.accelerator.process_index, part)
        torch.manual_seed(generator.initial_seed())  # of what layers draw themselves, such as dropout
        with self.task.during(self.step):
            with self.accelerator.autocast():
                values = self.task.loss(self.net, batch, generator)
            self.accelerator.backward(values["loss"] / parts)
        return {name: value.detach() for name, value in values.items()}

    def averaged(self) -> dict[str, Tensor]:
        """The network's trained state with averaged parameters."""
        state = trained_state(self.plain)
        trained = [name for name, p in self.plain.named_parameters() if p.requires_grad]
        state.update(zip(trained, (whole(value) for value in self.average.values)))
        return state

    def save(self, finished: bool = False) -> Path:
        """Writes a checkpoint, with the network to publish if the run is `finished`.

        Raises StoppedError in every process where it cannot be written.
        """
        self.accelerator.wait_for_everyone()
        averages = {str(i): whole(value) for i, value in enumerate(self.average.values)}
        groups = {"model": trained_state(self.plain), "average": averages}
        for i, optimiser in enumerate(self.optimisers):
            groups[f"optimiser{i}"] = checkpoint.pack_optimiser(optimiser, whole)
        state = self.averaged()
        if finished:
            groups["final"] = self.task.final(state)
        failed = ""
        if self.accelerator.is_main_process:
            try:
                return_path = self.write(groups, state, finished)
            except OSError as error:
                failed = f"the checkpoint of step {self.step} could not be written: {error}."
        self.agree(f"{failed} {self.kept()} Make room, and start again" if failed else "")
        return return_path if self.accelerator.is_main_process else self.folder

    def write(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Tensor], finished: bool) -> Path:
        """The files of a checkpoint, with what people use of it; of a finished run that lies beside it as well."""
        meta = {
            "config": dataclasses.asdict(self.config),
            "kind": type(self.config.task).__name__,
            "processes": self.accelerator.num_processes,
            "finished": finished,
            "best": self.best.found,
            "sizes": self.task.describe(),
        }
        if finished:
            self.task.publish(groups["final"], self.step)

        def export(draft: Path) -> None:
            self.task.export(state, draft, self.step)

        spare = [self.best.found["step"]] if self.best.found else []
        made = checkpoint.save(self.folder, self.step, groups, meta, self.config.run.keep, export, spare)
        if self.best.found.get("step") == self.step:
            self.best.write(self.folder, made)
        return made

    def pushed(self) -> str:
        """Takes a finished run's LoRA where `run.push_to` says; a sentence about it. The main process alone does."""
        place, home = self.config.run.push_to, self.folder
        if not place or self.done < 1.0 or not self.accelerator.is_main_process:
            return ""
        try:
            return f"pushed to {push(home, as_json(self.config), place)}"
        except (ValueError, OSError) as error:
            return f"! it could not be pushed: {error}. Once that is mended: python -m training.push {home} {place}"

    def resume(self) -> None:
        """Goes on from the checkpoint that the run's folder was found to hold."""
        found = self.home.found
        if found is None:
            return
        groups, meta = checkpoint.load(found)
        fill(self.plain, groups["model"])
        for value, saved in zip(self.average.values, (groups["average"][str(i)] for i in range(len(self.params)))):
            value.copy_(split_like(saved.to(value.device), value))
        for i, optimiser in enumerate(self.optimisers):
            checkpoint.unpack_optimiser(optimiser, groups[f"optimiser{i}"], split_like)
        self.step = int(meta["step"])
        self.accelerator.print(f"resumed {found} at step {self.step}")


def main(arguments: Sequence[str] | None = None) -> None:
    # encoding ends by either, also where a shell started this in the background
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer = Trainer(parse(arguments))
        made = trainer.run()
        print(f"saved {made}")
        if (made / LORA).is_file():
            print(f"its LoRA: {made / LORA}")
        if said := trainer.pushed():
            print(said)
    except FinishedRunError as done:
        print(done)
    except (ValueError, OSError, StoppedError) as error:
        sys.exit(f"training.fit: {error}")
    except KeyboardInterrupt:
        sys.exit("training.fit: stopped; what was encoded is kept, and the same command goes on from here")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    main()
