"""`python -m training.shards FOLDER OUT [setting=value ...]`: the good clips of a folder as WebDataset shards.

Settings are those of `clips.folder.FolderData`. `data.folder=OUT` then trains on them, with the same batches as on the
folder. A shard holds each clip's video as it is, its texts, and its masks as tracks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from matrix_lib.io.files import expanded

from .clips.folder import FolderData, open_folder
from .clips.shards import write_shards
from .clips.store import Store
from .run.config import override

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.shards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="of clips")
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as frames=49 verbs=optional")
    parser.add_argument("--size", type=float, default=1000.0, help="MB of a shard (%(default)g)")
    given = parser.parse_intermixed_args(arguments)
    try:
        data = override(FolderData(folder=given.folder), [text.removeprefix("data.") for text in given.settings])
        if data.id_map == "merged":
            raise ValueError("shards hold no merged ID maps: train on the folder, or with id_map=tracks")
        store = Store(data.cache)
        found = open_folder(data, store=store)
        count = len({sample.clip.name for sample in found.samples})
        with tqdm(total=count, desc="writing", unit=" clips") as bar:
            made = write_shards(expanded(data.folder), found, given.out, int(given.size * 1e6), store, bar.update)
        print(f"wrote {count} clips into {len(made)} shards: data.folder={given.out}")
    except (ValueError, OSError) as error:
        sys.exit(f"training.shards: {error}")


if __name__ == "__main__":
    main()
