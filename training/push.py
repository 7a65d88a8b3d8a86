"""`python -m training.push RUN PLACE`: a finished run's LoRA with a model card, in a folder or on the Hugging Face hub.

    python -m training.push runs/matrix_cogvideox/0001 shared/my-lora
    python -m training.push runs/matrix_cogvideox/0001 hub:me/my-lora      # a repository, private where it is new

`run.push_to=PLACE` of `training.fit` does it when a run is finished. Nothing is sent without either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matrix_lib.io.strict_json import own_object

from .run.hub import push
from .run.record import CONFIG, LORA, newest_run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.push", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("place", help="a folder, or hub:USER/NAME")
    chosen = parser.parse_args(arguments)
    try:
        run = newest_run(chosen.run)
        if not (run / LORA).is_file():
            raise ValueError(f"{run} holds no {LORA}: give the folder of a finished run")
        settings = own_object(run / CONFIG)
        print(f"pushed to {push(run, settings, chosen.place)}")
    except (ValueError, OSError) as error:
        sys.exit(f"training.push: {error}")


if __name__ == "__main__":
    main()
