"""The command line of `training.fit`: a preset or a file, settings, and where the run goes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .config import FitConfig, override
from .config_file import read_config
from .presets import PRESETS
from .settings_help import settings_text

__all__ = ["parse"]

_DASHED = re.compile(r"^--(?=[a-z]+\.)")
_ALONE = re.compile(r"^--[a-z]+\.\w+$")
_EXAMPLES = """\
  python -m training.fit matrix_cogvideox_5b_i2v task.model=models/CogVideoX-5b-I2V data.folder=clips/
  python -m training.fit --config runs/matrix_cogvideox/0001/config.json       goes on with that run
  python -m training.fit matrix_wan21_i2v_14b --config mine.toml optim.lr=1e-4
  python -m training.fit matrix_wan21_i2v_14b --help                           its settings"""


def _plain(argument: str) -> str:
    """`--run.again` and `--optim.lr=1e-4` as `run.again=true` and `optim.lr=1e-4`."""
    alone = "=true" if _ALONE.match(argument) else ""
    return _DASHED.sub("", argument) + alone


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    preset = next((each for each in arguments if each in PRESETS), "")
    wanted = {"-h", "--help"} & set(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        usage="python -m training.fit [PRESET] [--config FILE] [setting=value ...]",
        description=f"Trains, reports, saves, resumes.\n\n{_EXAMPLES}",
        epilog=settings_text(preset) if wanted else "",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", nargs="?", default="", help=f"what to train: {', '.join(sorted(PRESETS))}")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as optim.lr=3e-4 run.steps=100")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings from a file: config.json of a run, or JSON or TOML"
    )
    return parser


def parse(arguments: Sequence[str] | None = None) -> FitConfig:
    """The configuration that a command line asks for: that of the preset, with the settings of the file, with those of
    the command line. A run whose place nobody gives has a folder of its own."""
    given = [_plain(each) for each in (sys.argv[1:] if arguments is None else arguments)]
    parser = _parser(given)
    chosen = parser.parse_intermixed_args(given)
    preset, settings = chosen.preset, list(chosen.settings)
    if "=" in preset:
        preset, settings = "", [preset, *settings]
    if preset and preset not in PRESETS:
        parser.error(f"invalid choice: {preset!r} (choose from {', '.join(sorted(PRESETS))})")
    if not preset and chosen.config is None:
        parser.error(f"what is to be trained? Give a preset ({', '.join(sorted(PRESETS))}) or --config FILE")
    try:
        read: frozenset[str] = frozenset()
        config = PRESETS[preset]() if chosen.config is None else None
        if config is None:
            config, read = read_config(chosen.config, preset)
        made = override(config, settings)
        if any(each.startswith("run.out=") for each in settings):
            return override(made, ["run.numbered=false"]) if "run.numbered" in read else made
        return made if "run.out" in read else override(made, ["run.numbered=true"])
    except ValueError as error:
        parser.error(str(error))
