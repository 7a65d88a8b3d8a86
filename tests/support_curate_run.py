"""One run of a curation of mini clips, in a process of its own that a test may kill:
`python support_curate_run.py FOLDER WORKERS [FILE_BYTES]` (the most bytes that a file may have: a full disk)."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path


def main(folder: Path, workers: int, most: int) -> int:
    import torch
    from support_curation import Reader, Verifier, stages_for

    from training.curation.card import write_card
    from training.curation.local import LocalEngine
    from training.curation.raw import read_raw
    from training.curation.run import Curation, Options
    from training.curation.stage import Place, StageDownError

    torch.set_num_threads(1)
    place = Place(folder / "work", folder / "raw")
    reader = Reader(folder / "asked.log", 0.1, folder / "down")
    stages = stages_for(folder, folder / "out", 64, 9, reader=reader,
                        verifier=Verifier(folder / "truth", folder / "asked.log", down=folder / "down"))  # fmt: skip
    curation = Curation(read_raw(folder / "raw"), place, stages, Options(unreviewed="all"), str)
    if most:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        curation.run(LocalEngine(place, workers))
    except StageDownError as error:
        print(error)
        return 3
    write_card(curation, folder / "out")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
