"""Commands of this project as people start them, each in a process of its own, without importing PyTorch for each.

A first process imports what they need. For every command it forks, and the fork runs the module as `python -m` does:
its own arguments, folder, signals, output and exit code.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Commands", "Running"]

ROOT = Path(__file__).resolve().parent.parent
_NEEDED = ("training.tasks.registry", "training.sample", "training.check_clips", "training.convert", "training.fit")
_NEEDED += ("training.analyse", "training.cache")
_FIRST = """
import importlib, json, os, runpy, signal, sys, traceback
import torch
torch.set_num_threads(1)
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)


def run(module, arguments, folder, said, more):
    with open(said, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(more)
    os.chdir(folder)
    sys.modules.pop(module, None)
    sys.argv = [module, *arguments]
    code = 0
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        pid, status = os.waitpid(asked["wait"], asked["how"])
        print(os.waitstatus_to_exitcode(status) if pid else "runs", flush=True)
        continue
    child = os.fork()
    if child == 0:
        run(*asked["run"])
    print(child, flush=True)
"""


@dataclass
class Running:
    """A command that was started: its process and where its output goes. It answers as a `subprocess.Popen` does."""

    home: Commands
    pid: int
    file: Path
    returncode: int | None = field(default=None, init=False)

    @property
    def said(self) -> str:
        """Its output and its errors so far."""
        return self.file.read_text(encoding="utf-8", errors="replace")

    def until(self, there: Callable[[], Any], seconds: float = 120) -> None:
        """Waits until `there()`. AssertionError with the output where that takes too long."""
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.002)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """Waits for its end; the exit code, below zero for the signal that ended it."""
        code = self._ended(0)
        assert code is not None
        return code

    def _ended(self, how: int) -> int | None:
        if self.returncode is None:
            said = self.home.ask({"wait": self.pid, "how": how})
            self.returncode = None if said == "runs" else int(said)
        return self.returncode


class Commands:
    """Starts commands in `folder`; close it at the end."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs, self.count = folder, logs, 0
        logs.mkdir(parents=True, exist_ok=True)
        self.first = subprocess.Popen(
            [sys.executable, "-c", _FIRST, *_NEEDED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def ask(self, question: dict[str, Any]) -> str:
        assert self.first.stdin is not None
        self.first.stdin.write(json.dumps(question) + "\n")
        self.first.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.first.stdout is not None
        line = self.first.stdout.readline()
        assert line, "the first process has ended"
        return line.strip()

    def at(self, folder: Path, logs: Path) -> Commands:
        """The same in another folder: commands there are forks of the same first process."""
        other = copy.copy(self)
        other.folder, other.logs, other.count = folder, logs, 0
        logs.mkdir(parents=True, exist_ok=True)
        return other

    def start(self, module: str | Path, *arguments: object, **more: str) -> Running:
        """`python -m MODULE ARGUMENTS`, or a script for a path; `more` are variables of its environment."""
        self.count += 1
        file = self.logs / f"{self.count:02d}-{Path(module).name}.txt"
        file.touch()  # it is read before the fork has opened it
        pid = self.ask({"run": [str(module), [*map(str, arguments)], str(self.folder), str(file), more]})
        return Running(self, int(pid), file)

    def ranks(self, count: int, module: str | Path, *arguments: object, codes: Sequence[int] = ()) -> str:
        """What `torchrun --nproc_per_node COUNT` does: so many processes that find each other. Returns what they
        said; AssertionError where one does not end with its exit code, 0 unless `codes` says another."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        places = [{"RANK": str(i), "LOCAL_RANK": str(i), **shared} for i in range(count)]
        started = [self.start(module, *arguments, **place) for place in places]
        try:
            for running, code in zip(started, codes or [0] * count, strict=True):
                assert running.wait() == code, running.said[-3000:]
        finally:
            for running in started:
                running.kill()
        return "".join(running.said for running in started)

    def __call__(self, module: str, *arguments: object, code: int = 0) -> str:
        """Runs a command to its end; what it said. AssertionError for another exit code."""
        running = self.start(module, *arguments)
        ended = running.wait()
        assert ended == code, f"{module} ended with {ended}:\n{running.said[-3000:]}"
        return running.said

    def close(self) -> None:
        """Ends the first process."""
        assert self.first.stdin is not None
        self.first.stdin.close()
        self.first.wait(30)
