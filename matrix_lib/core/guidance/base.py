"""What every way of steering has in common."""

from __future__ import annotations

from typing import Literal, get_args

Branches = Literal["both", "cond"]


def _check_branches(branches: str) -> None:
    if branches not in get_args(Branches):
        raise ValueError(f"branches is 'cond' (the prompt's prediction alone) or 'both'; got {branches!r}")
