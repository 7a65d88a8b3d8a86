"""What a run says while it trains: lines or a progress bar, `metrics.csv`, and curves for TensorBoard."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from matrix_lib.io.files import whole_file

from .config import FitConfig
from .validation import append_row, cut_rows

__all__ = ["Log", "check_boards"]


class Log:
    """Speaks, and writes a row of `metrics.csv` and points for TensorBoard, every few steps; values stay on the device
    in between. Every process calls it: what is reported are means over all of them."""

    def __init__(self, folder: Path, config: FitConfig, step: int, accelerator: Accelerator) -> None:
        self.config, self.accelerator, self.path = config, accelerator, folder / "metrics.csv"
        self.held_path = folder / "validation.csv"
        self.speak = accelerator.is_main_process
        self.began, self.first = time.monotonic(), step
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.bar: Any = None
        self.board: Any = None
        self.wandb: Any = None
        if not self.speak:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for each in (self.path, self.held_path):
            cut_rows(each, step)
        if config.run.bar and sys.stderr.isatty():
            self.bar = tqdm(total=config.run.steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)
        self.board = _board(folder, config, step)
        self.wandb = _wandb(folder, config)

    def __call__(self, step: int, values: dict[str, Tensor], rate: float) -> dict[str, float] | None:
        """Takes the values of a step; the means since the last report where it is time for one."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in values.items()}
        self.count += 1
        if self.bar is not None:
            self.bar.update()
        if step % self.config.run.log_every and step < self.config.run.steps:
            return None
        means = self._means()
        if not self.speak:
            return means
        seconds = time.monotonic() - self.began
        speed = (step - self.first) / max(seconds, 1e-9)
        self._say(step, means, seconds, speed)
        append_row(self.path, {"step": step, "seconds": f"{seconds:.1f}"}, means)
        if self.board is not None:
            for name, value in {**means, "rate": rate, "steps_per_second": speed}.items():
                self.board.add_scalar(f"train/{name}", value, step)
        self._send("train", {**means, "rate": rate, "steps_per_second": speed}, step)
        return means

    def _means(self) -> dict[str, float]:
        names = list(self.sums)
        stacked = torch.stack([torch.as_tensor(self.sums[name], device=self.accelerator.device) for name in names])
        means = self.accelerator.reduce(stacked.float() / self.count, "mean").tolist()
        self.sums, self.count = {}, 0
        return dict(zip(names, means))

    def _say(self, step: int, means: dict[str, float], seconds: float, speed: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str("  ".join(f"{name} {value:.4g}" for name, value in means.items()))
            return
        run = self.config.run
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        clips = speed * self.config.data.batch * self.config.optim.accumulate * self.accelerator.num_processes
        print(
            f"step {step}/{run.steps}  {shown}  {clips:.{0 if clips >= 10 else 2}f} clips/s  "
            f"{seconds:.0f} s gone, {(run.steps - step) / speed:.0f} s left",
            flush=True,
        )

    def validation(self, step: int, values: dict[str, float]) -> None:
        """What was measured on held-out clips."""
        if not self.speak:
            return
        append_row(self.held_path, {"step": step}, values)
        self.say(f"held-out clips at step {step}: " + "  ".join(f"{name} {v:.4f}" for name, v in values.items()))
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"validation/{name}", value, step)
        self._send("validation", values, step)

    def _send(self, group: str, values: dict[str, float], step: int) -> None:
        if self.wandb is not None:
            self.wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def say(self, text: str) -> None:
        """A sentence that does not tear the bar."""
        if self.speak:
            tqdm.write(text) if self.bar is not None else print(text, flush=True)

    def close(self) -> None:
        """Ends the bar and the board."""
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def check_boards(config: FitConfig) -> None:
    """ValueError where the run is to write to something that is not installed."""
    if config.run.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("run.wandb needs wandb, which is not installed: run `pip install wandb`, or leave it out")


def _wandb(folder: Path, config: FitConfig) -> Any:
    """The run at Weights & Biases: the same one where a run goes on, by the name that its folder keeps."""
    if not config.run.wandb:
        return None
    import wandb

    path = folder / "wandb-id.txt"
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(uuid.uuid4().hex[:16])
    settings = dataclasses.asdict(config)
    name, number = "-".join(folder.parts[-2:]), path.read_text().strip()
    return wandb.init(project=config.run.wandb, name=name, id=number, resume="allow", dir=str(folder), config=settings)


def _board(folder: Path, config: FitConfig, step: int) -> Any:
    if not config.run.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no curves for TensorBoard: pip install tensorboard, or set run.tensorboard=false", flush=True)
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
