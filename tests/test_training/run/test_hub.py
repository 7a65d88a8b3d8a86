"""A finished LoRA as a folder for the hub, and its way there: to a server here that answers as the hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support_tuning import tune

from matrix_lib.io.lora.read import load_lora
from training.fit import main
from training.push import main as push

pytestmark = pytest.mark.usefixtures("one_thread")


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to a new repository and one commit of small files."""

    repositories: dict[str, bool] = {}
    files: dict[str, bytes] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "Bearer a-token" not in self.headers["Authorization"]:
            return self._answer({"error": "no token"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.repositories[f"{asked.get('organization')}/{asked['name']}"] = (
                asked.get("visibility") == "private" or asked.get("private") is True
            )
            return self._answer({"url": "https://huggingface.co/me/mine"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            asked = json.loads(body)
            return self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked["files"]]}
            )
        assert "/commit/main" in self.path
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self._answer(
            {"commitUrl": "https://huggingface.co/me/mine/commit/abc", "commitOid": "abc", "success": True}
        )

    def do_GET(self) -> None:
        self._answer({"id": "me/mine", "sha": "abc", "siblings": [], "private": True})

    def _answer(self, what: dict[str, Any], code: int = 200) -> None:
        data = json.dumps(what).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A server that is the hub for `huggingface_hub`."""
    from huggingface_hub import constants, hf_api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(hf_api, "ENDPOINT", url, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "a-token")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has pushed to a folder."""
    folder = tmp_path_factory.mktemp("hub")
    main(tune(home, folder / "run", f"run.push_to={folder / 'my-lora'}", "run.steps=1"))
    return folder


def test_a_folder_as_the_hub_has_them(run: Path, home: Path) -> None:
    made = run / "my-lora"
    assert sorted(path.name for path in made.iterdir()) == [
        "README.md", "lora.safetensors", "pytorch_lora_weights.projection.safetensors",
        "pytorch_lora_weights.safetensors", "training.json",
    ]  # fmt: skip
    wanted = load_lora(run / "run" / "lora.safetensors").digest
    assert load_lora(made / "lora.safetensors").digest == wanted
    assert load_lora(made / "pytorch_lora_weights.safetensors").digest == wanted
    card = (made / "README.md").read_text()
    assert card.startswith("---\n")
    assert '"id_map"' in card.split("---")[1]
    for said in ("# my-lora", "CogVideoX", "an ID map", "scale 32", "1 steps", "9 frames of 64x64"):
        assert said in card
    for text in (card, (made / "training.json").read_text()):
        assert str(home) not in text, "no folder of this machine"
        assert str(run) not in text


def test_to_the_hub(run: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    push([str(run / "run"), "hub:me/mine"])
    assert "pushed to https://huggingface.co/me/mine" in capsys.readouterr().out
    assert hub.repositories == {"me/mine": True}, "a new repository is private"
    assert hub.files["lora.safetensors"] == (run / "run" / "hub" / "lora.safetensors").read_bytes()
    assert set(hub.files) == {path.name for path in (run / "my-lora").iterdir()}


def test_what_is_refused_before_hours_are_spent(
    home: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for place, said in (("hub:mine", "is hub:USER/NAME or a folder"), ("hub:me/mine", "needs a token of the hub")):
        with pytest.raises(SystemExit, match=said):
            main(tune(home, tmp_path, f"run.push_to={place}"))
    with pytest.raises(SystemExit, match="run.push_to is for LoRAs"):
        main(["codec_cpu", f"run.out={tmp_path}", "run.push_to=x"])
    with pytest.raises(SystemExit, match=r"holds no lora\.safetensors"):
        push([str(tmp_path), "there"])
    assert not any(tmp_path.iterdir())
