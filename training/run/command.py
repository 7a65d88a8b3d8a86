"""The command line of `training.fit`: a preset, settings, and where the run goes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from .config import FitConfig, override
from .presets import PRESETS

__all__ = ["parse"]

_DASHED = re.compile(r"^--(?=[a-z]+\.)")
_ALONE = re.compile(r"^--[a-z]+\.\w+$")


def _plain(argument: str) -> str:
    """`--run.again` and `--optim.lr=1e-4` as `run.again=true` and `optim.lr=1e-4`."""
    alone = "=true" if _ALONE.match(argument) else ""
    return _DASHED.sub("", argument) + alone


def parse(arguments: Sequence[str] | None = None) -> FitConfig:
    """The configuration that a command line asks for."""
    import sys

    parser = argparse.ArgumentParser(
        prog="python -m training.fit", description="trains, reports, saves, resumes; see docs/training.md"
    )
    parser.add_argument("preset", choices=sorted(PRESETS), help="what to train")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as optim.lr=3e-4 run.steps=100")
    given = [_plain(each) for each in (sys.argv[1:] if arguments is None else arguments)]
    chosen = parser.parse_args(given)
    try:
        made = override(PRESETS[chosen.preset](), chosen.settings)
        places = any(each.startswith("run.out=") for each in chosen.settings)
        return made if places else override(made, ["run.numbered=true"])
    except ValueError as error:
        parser.error(str(error))
