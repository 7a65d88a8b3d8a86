"""How the nodes present themselves: frozen ids, words on everything, a page each, and translations that keep up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Saved workflows name these: an id is never renamed or dropped (a rename goes through the host's node replacement).
FROZEN = {
    *("MatrixLoadVideoDiT", "MatrixRepairModel", "MatrixImageCondition", "MatrixExampleClip"),
    *("MatrixMaskTracks", "MatrixBoxTracks", "MatrixSAM2Tracks", "MatrixTracksToMask", "MatrixPreviewTracks"),
    *("MatrixSaveTracks", "MatrixLoadTracks", "MatrixBindPrompt"),
    *("MatrixApplyLoRA", "MatrixMaskCondition"),
    *("MatrixAttentionGuidance", "MatrixScheduleCurve", "MatrixIntrinsicDenoising", "MatrixAnalyseLayers"),
    *("MatrixCutAndDrag", "MatrixDualClockDenoising"),
    *("MatrixWatchAttention", "MatrixCollectCapture", "MatrixJoinSegments"),
    *("MatrixSampleAttention", "MatrixLivePreview", "MatrixAttentionPreview", "MatrixSaveCapture", "MatrixLoadCapture"),
    *("MatrixScoreTracks", "MatrixEvaluate", "MatrixChartShares", "MatrixReadCapture", "MatrixPickSeeds"),
}


def every_input(schema: Any) -> Iterator[Any]:
    """All inputs of a node, with those inside of dynamic ones."""
    for entry in schema.inputs:
        yield entry
        for option in getattr(entry, "options", None) or ():
            yield from getattr(option, "inputs", ())
        if hasattr(entry, "template"):
            yield entry.template.input


@pytest.fixture(scope="module")
def schemas(pack: Any) -> dict[str, Any]:
    return {name: cls.GET_SCHEMA() for name, cls in pack.classes.items()}


def test_the_frozen_nodes_are_all_there(schemas: dict[str, Any]) -> None:
    assert set(schemas) >= FROZEN


def test_names_and_places(schemas: dict[str, Any]) -> None:
    for name, schema in schemas.items():
        assert name.startswith("Matrix"), name
        assert schema.category.startswith("MATRIX/"), (name, schema.category)
        assert schema.display_name, name
        plain = re.sub(r"DiT|CogVideoX|HunyuanVideo|LoRA", "", schema.display_name)
        assert not re.search(r"[a-z][A-Z]|_", plain), (name, schema.display_name)
        assert len(schema.description) > 40, (name, "one or two sentences that say what it is for")
        assert schema.search_aliases, (name, "words that a person would search for")
    shown = [schema.display_name for schema in schemas.values()]
    assert len(set(shown)) == len(shown), "two nodes share a display name"


def test_every_socket_and_widget_has_a_tooltip(schemas: dict[str, Any]) -> None:
    bare = []
    for name, schema in schemas.items():
        bare += [f"{name} input {entry.id}" for entry in every_input(schema) if not entry.tooltip]
        bare += [f"{name} output {entry.id}" for entry in schema.outputs if not entry.tooltip]
    assert not bare, bare


def test_every_node_has_a_page(schemas: dict[str, Any]) -> None:
    """web/docs/<id>.md, which the host shows beside the node: it names every input and output."""
    wrong = []
    for name, schema in schemas.items():
        page = ROOT / "web" / "docs" / f"{name}.md"
        if not page.is_file():
            wrong.append(f"{name}: no {page.relative_to(ROOT)}")
            continue
        text = page.read_text(encoding="utf-8").lower()
        for entry in [*every_input(schema), *schema.outputs]:
            given = entry.id and not entry.id.startswith("_")  # outputs without an id get one from the host
            words = {entry.id if given else entry.io_type, entry.display_name or entry.io_type}
            if not any(word.lower() in text for word in words):
                wrong.append(f"{name}: its page does not mention {entry.id!r}")
    pages = {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    assert not wrong, "\n".join(wrong)
    assert pages <= set(schemas), f"pages of nodes that do not exist: {pages - set(schemas)}"


def test_pages_in_other_languages_are_of_their_words() -> None:
    """web/docs/<id>/<language>.md, which the host looks for first; `python -m scripts.locales` writes them."""
    from scripts.locales import help_page

    words = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "locales").glob("*/*.json")
    }
    wanted = {
        f"{name}/{language}.md": help_page(node, language)
        for language, nodes in words.items()
        for name, node in nodes.items()
        if language != "en"
    }
    folder = ROOT / "web" / "docs"
    found = {f"{page.parent.name}/{page.name}": page.read_text(encoding="utf-8") for page in folder.glob("*/*.md")}
    assert found == wanted, "run: python -m scripts.locales"


@pytest.mark.parametrize("word", ["points", "wan", "lora", "interaction", "who does what"])
def test_what_people_search_for_finds_a_node(word: str, schemas: dict[str, Any]) -> None:
    """The host looks in names and search words; the prefix of all our nodes is in none of these."""
    found = [s.display_name for s in schemas.values() if any(word in alias.lower() for alias in s.search_aliases)]
    assert found, word


def test_english_words_are_the_schemas_own(pack: Any) -> None:
    """locales/en has what the page finds there alone; it must not fall behind the nodes."""
    from scripts.locales import english

    found = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {"mode_words_up", "mode_layers"} <= found["MatrixAttentionGuidance"]["inputs"].keys()
    assert found.keys() == pack.classes.keys()
    assert found == english(pack.classes), "run: python -m scripts.locales"


def _numbers(tree: Any) -> dict[str, list[str]]:
    """Those in each text, by its path; names of model families hold some."""
    from scripts.locales import texts

    return {path: sorted(set(re.findall(r"\d+(?:\.\d+)?", text))) for path, text in texts(tree).items()}


def test_translations_are_complete(pack: Any) -> None:
    """Every other language has the frozen nodes, and whatever node it has it has whole. A node that it lacks shows in
    English; `python -m scripts.locales` lists what is lacking."""
    from scripts.locales import definitions, texts

    whole = definitions(pack.classes)
    assert all(text.strip() for text in texts(whole).values())
    found = [path for path in sorted((ROOT / "locales").glob("*/nodeDefs.json")) if path.parent.name != "en"]
    assert found
    for path in found:
        other = json.loads(path.read_text(encoding="utf-8"))
        assert set(whole) >= set(other) >= FROZEN
        for name, words in other.items():
            assert texts(words).keys() == texts(whole[name]).keys(), f"{path}: {name}; see scripts.locales"
            assert all(text.strip() for text in texts(words).values()), f"{path}: {name}"
            assert _numbers(words) == _numbers(whole[name]), f"{path} has fallen behind: {name}"
