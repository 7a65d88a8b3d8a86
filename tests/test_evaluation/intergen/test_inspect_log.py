"""A log for the viewer of inspect-ai: read by itself where it is installed, else one line says what is missing.

`tests/test_extras.py` reads it with the package in an environment of its own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support_inspect import check, write


def test_the_log_holds_questions_frames_answers_and_what_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("inspect_ai") is None:
        with pytest.raises(ValueError, match="pip install inspect-ai"):
            write(tmp_path)
    else:
        check(write(tmp_path))
