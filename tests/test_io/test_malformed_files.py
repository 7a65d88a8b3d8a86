"""Files from anywhere: spoilt ones are refused in one sentence, in no time, and with no memory of their own."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support_capture import make_capture, make_tracks
from support_counts import seeds
from support_fuzz import bounded, check_sentence, dumps, spoil_bytes, spoil_json, spoil_safetensors
from support_loras import make_lora

from matrix_lib.backbones import lora as lora_module
from matrix_lib.core.layers import LayerSet
from matrix_lib.instrument.readings.ranking import describe as describe_capture
from matrix_lib.io.captures import load_capture, save_capture
from matrix_lib.io.lora.read import describe, load_lora, save_lora
from matrix_lib.io.tracks import load_tracks, save_tracks

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("one_thread")]
Rng = random.Random


@dataclass
class Kind:
    """A kind of file: a whole one, how it is spoilt, and what people do with it."""

    name: str
    make: Callable[[Path], Path]
    spoil: Callable[[Rng, bytes], bytes]
    read: Callable[[Path], Any]
    soak: int


def _tensor_file(header: str) -> Callable[[Rng, bytes], bytes]:
    return lambda rng, data: spoil_safetensors(rng, data, header)


def _layers(path: Path) -> Path:
    path = path / "layers.json"
    found = LayerSet("cogvideox", (7, 11), (12,), "a study", {"v2t": {"7": 0.5, "11": 0.25}})
    path.write_text(found.to_json())
    return path


def _spoil_text(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return spoil_bytes(rng, data)
    return dumps(rng, spoil_json(rng, json.loads(data), rng.choice((1, 1, 3)))).encode("utf-8", "surrogatepass")


def _read_layers(path: Path) -> Any:
    return LayerSet.from_json(path.read_bytes().decode("utf-8", "replace")).text


def _projection(path: Path) -> Path:
    return save_lora(make_lora(lora_module, "cogvideox", 16), path / "tavid", "tavid")[0].with_name(
        "patch_embed_conv2d.pth"
    )


def _spoil_zip(rng: Rng, data: bytes) -> bytes:
    """Spoilt as bytes, in its pickle alone, in the size of a storage, or another one that `torch.save` wrote."""
    way = rng.randrange(5)
    if way == 0:
        return spoil_bytes(rng, data)
    if way == 1:
        return _saved(_expanded(rng))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in parts if n.endswith("data.pkl" if way < 4 else "data/0"))
    parts[name] = spoil_bytes(rng, parts[name]) if way < 4 else parts[name][: rng.randrange(len(parts[name]))]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for entry, content in parts.items():
            archive.writestr(entry, content)
    return out.getvalue()


def _expanded(rng: Rng) -> Any:
    one = torch.zeros(1)
    return rng.choice(
        (
            {"weight": one.expand(26_000, 26_000)},
            {"weight": torch.zeros(8, 1).expand(8, 10**8), "bias": one},
            {"weight": torch.as_strided(torch.zeros(64), (60, 5), (1, 1))},
            {f"w{i}": one for i in range(20_050)},
            {"weight": torch.zeros(2, dtype=torch.complex64)},
            {"weight": one.to_sparse()},
            {"state_dict": {"weight": one.expand(2**20, 2**10)}},
            {"weight": torch.full((4, 4, 1, 1), float("nan"))},
            [one] * 5000,
            {"weight": bytearray(10)},
        )
    )


def _saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


KINDS = [
    Kind(
        "tracks", lambda p: save_tracks(make_tracks(), p / "a.safetensors"), _tensor_file("header"), load_tracks, 1500
    ),
    Kind(
        "capture",
        lambda p: save_capture(make_capture(), p / "a.safetensors"),
        _tensor_file("header"),
        lambda path: describe_capture(load_capture(path)),
        1500,
    ),
    Kind(
        "lora",
        lambda p: save_lora(make_lora(lora_module, "cogvideox", 16), p / "matrix", "matrix")[0],
        _tensor_file("matrix_lora"),
        lambda path: describe(load_lora(path)),
        1500,
    ),
    Kind("pth", _projection, _spoil_zip, lambda path: describe(load_lora(path.parent)), 1000),
    Kind("layers", _layers, _spoil_text, _read_layers, 500),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_spoilt_files_are_refused_in_a_sentence(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path)
    whole = path.read_bytes()
    kind.read(path)  # a whole one opens, and whatever is imported late is there
    around = _listing(tmp_path)
    wrong, refused = [], 0
    for seed in seeds(30, kind.soak):
        data = kind.spoil(random.Random(f"{kind.name}/{seed}"), whole)
        path.write_bytes(data)
        try:
            with bounded(len(data)):
                kind.read(path)
        except Exception as error:
            refused += 1
            try:
                check_sentence(error)
            except AssertionError as told:
                wrong.append(f"seed {seed}: {told}")
    assert not wrong, f"{len(wrong)} in all\n" + "\n".join(wrong[:10])
    assert refused > 0.5 * len(seeds(30, kind.soak))
    assert _listing(tmp_path) == around, "nothing is written by reading"


def _listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
