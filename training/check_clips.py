"""`python -m training.check_clips FOLDER [setting=value ...]`: lists every bad clip of a folder, and why.

Settings are those of `clips.folder.FolderData`, as the run will have them. With `--model` (`mini`, or a folder of a
diffusers pipeline) prompts are bound to the model's text and masks put on its token grid as well. Nothing is changed;
exits with 1 where a clip is bad. What was found about good clips is remembered in `cache=FOLDER`, so a run need not
look again.

A contact sheet shows every clip as it will be seen, with its masks; it lies in the cache, or where `--sheet` says.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from matrix_lib.io.files import expanded

from .clips.folder import Folder, FolderData, Sample
from .clips.folders import open_folders
from .clips.sheet import save_sheets
from .clips.store import Store
from .run.config import override

__all__ = ["main"]


def _told(samples: Sequence[Sample]) -> str:
    """What the good clips are, by bucket."""
    counts = Counter(str(sample.bucket) for sample in samples)
    lines = [f"  {bucket} (frames x height x width): {count}" for bucket, count in sorted(counts.items())]
    clips = len({sample.clip.name for sample in samples})
    return "\n".join([f"{clips} good clips, {len(samples)} samples:", *lines])


def _draw(found: Folder, data: FolderData, store: Store, out: str | None) -> None:
    """Contact sheets, where they can be written: a check is worth its lines alone."""
    count = len({sample.clip.name for sample in found.samples}) + len(found.skipped)
    try:
        with tqdm(total=count, desc="drawing", unit=" clips") as bar:
            paths = save_sheets(found, data, store, None if out is None else expanded(out), bar.update)
    except (ValueError, OSError) as error:
        print(f"no contact sheet: {error}")
        return
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    print(f"contact sheet: {paths[0]}{more}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.check_clips", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="of clips")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as frames=49 verbs=optional")
    parser.add_argument("--sheet", metavar="FILE.png", help="where the contact sheet goes (in the cache)")
    parser.add_argument("--no-sheet", action="store_true", help="draw none")
    parser.add_argument("--model", help="mini, or a folder of a diffusers pipeline: words and token grid, too")
    given = parser.parse_intermixed_args(arguments)
    try:
        data = override(FolderData(folder=given.folder), [text.removeprefix("data.") for text in given.settings])
        model = None
        store = Store(data.cache)
        if given.model:
            from .clips.encoders import ModelFiles

            model = ModelFiles(given.model, tag_ids=data.prompt_form == "tag_ids")
            model.hash_file = store.file_hash
        found, _ = open_folders(replace(data, skip_bad=True), model, store, say=lambda text: None, all_bad=True)
    except (ValueError, OSError) as error:
        sys.exit(f"training.check_clips: {error}")
    for note in found.notes:
        print(f"note: {note}")
    print(_told(found.samples))
    if not given.no_sheet:
        _draw(found, data, store, given.sheet)
    if found.skipped:
        lines = "\n".join(f"  {name}: {why}" for name, why in found.skipped.items())
        sys.exit(f"{len(found.skipped)} bad clips:\n{lines}")


if __name__ == "__main__":
    main()
