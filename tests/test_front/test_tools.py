"""The scripts of web/js and of the pages as their tools see them: types, rules, unit tests."""

from __future__ import annotations

import re

from scripts.comfyui import ROOT
from scripts.front import BIOME, node, packages


def test_types() -> None:
    packages()
    done = node("node_modules/typescript/bin/tsc", "--project", "jsconfig.json")
    assert done.returncode == 0, done.stdout


def test_rules_and_form() -> None:
    packages()
    done = node(BIOME, "ci", "--colors=off", "--config-path=.", "../../web/js", "../../matrix_lib/pages/look", ".")
    assert done.returncode == 0, done.stdout


def test_units() -> None:
    files = sorted(path.relative_to(ROOT / "tests" / "front") for path in (ROOT / "tests/front/unit").glob("*.test.js"))
    done = node("--test", *map(str, files))
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"pass (\d+)", done.stdout)[1]) >= 7, done.stdout


def test_what_the_host_serves_is_modules_and_pages_alone() -> None:
    """Every script below `web/` is loaded by the page as an extension: no test and no tool lies there."""
    found = {path.relative_to(ROOT / "web").parts[0] + path.suffix for path in (ROOT / "web").rglob("*.*")}
    assert found == {"docs.md", "docs.webp", "js.js"}


def test_scripts_fetch_nothing_and_write_no_html() -> None:
    every = [*(ROOT / "web" / "js").rglob("*.js"), *(ROOT / "matrix_lib" / "pages" / "look").glob("*.js")]
    assert len(every) > 5
    for path in every:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://", text), path
