"""`python -m training.check_clips FOLDER [setting=value ...]`: lists every bad clip of a folder, and why.

Settings are those of `clips.folder.FolderData`, as the run will have them. With `--model` (`mini`, or a folder of a
diffusers pipeline) prompts are bound to the model's text and masks put on its token grid as well. Nothing is changed;
exits with 1 where a clip is bad. What was found about good clips is remembered in `cache=FOLDER`, so a run need not
look again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .clips.folder import FolderData, Sample
from .clips.folders import open_folders
from .clips.store import Store
from .run.config import override

__all__ = ["main"]


def _told(samples: Sequence[Sample]) -> str:
    """What the good clips are, by bucket."""
    counts = Counter(str(sample.bucket) for sample in samples)
    lines = [f"  {bucket} (frames x height x width): {count}" for bucket, count in sorted(counts.items())]
    clips = len({sample.clip.name for sample in samples})
    return "\n".join([f"{clips} good clips, {len(samples)} samples:", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.check_clips", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="of clips")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as frames=49 verbs=optional")
    parser.add_argument("--model", help="mini, or a folder of a diffusers pipeline: words and token grid, too")
    given = parser.parse_intermixed_args(arguments)
    try:
        data = override(FolderData(folder=given.folder), [text.removeprefix("data.") for text in given.settings])
        model = None
        store = Store(data.cache)
        if given.model:
            from .clips.encoders import ModelFiles

            model = ModelFiles(given.model)
            model.hash_file = store.file_hash
        found, _ = open_folders(replace(data, skip_bad=True), model, store, say=lambda text: None)
    except (ValueError, OSError) as error:
        sys.exit(f"training.check_clips: {error}")
    for note in found.notes:
        print(f"note: {note}")
    print(_told(found.samples))
    if found.skipped:
        lines = "\n".join(f"  {name}: {why}" for name, why in found.skipped.items())
        sys.exit(f"{len(found.skipped)} bad clips:\n{lines}")


if __name__ == "__main__":
    main()
