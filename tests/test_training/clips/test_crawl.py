"""A crawl of data sets as people make them: each clip is read as it was meant, or refused with words that mend it."""

import re

import numpy as np
import pytest
from support_counts import seeds
from support_crawl import make_set

from training.clips.folder import FolderData, open_folder

SEEN = dict(frames=5, height=32, width=48, condition="none", verbs="optional", skip_bad=True, shortest=1)


def opened(made):
    data = FolderData(str(made.folder), **SEEN, **made.settings)
    return open_folder(data, say=lambda text: None, bar=False, all_bad=True)


def check_as_meant(made, found, clip):
    """The samples of a clip are its frames at their times, with the masks that it has there."""
    (sample,) = [s for s in found.samples if s.clip.name == clip.name]
    rate = made.settings["fps"]
    if rate:
        moments = [n / rate for n in range(len(sample.numbers))]
        wanted = [max(k for k, time in enumerate(clip.times) if time <= moment + 2e-3) for moment in moments]
        assert list(sample.numbers) == wanted, clip.kind
    else:
        assert sample.numbers == (0, 1, 2, 3, 4)
    seen = sample.clip.window(sample.numbers).numpy().astype(int)
    assert np.abs(seen - clip.frames[list(sample.numbers)]).mean() < 12
    tracks = sample.tracks()
    assert set(tracks.names) == set(clip.masks)
    for name, mask in clip.masks.items():
        wrong = (tracks.masks(name).numpy() != mask[list(sample.numbers)]).mean()
        assert wrong < clip.tolerance, (clip.name, name, clip.kind)


@pytest.mark.parametrize("seed", seeds(12, 200))
def test_a_data_set_is_read_as_meant_or_mended_by_its_message(tmp_path, seed):
    made = make_set(tmp_path / f"set {seed}", seed)
    if made.fault is not None:
        with pytest.raises(ValueError, match=made.fault.said) as told:
            opened(made)
        print(f"{made.fault.kind}: {told.value}")
        made.fault.mend(str(told.value))
    found = opened(made)
    faults = {clip.name: clip.fault for clip in made.clips if clip.fault is not None}
    assert set(found.skipped) == set(faults), {
        name: found.skipped.get(name) for name in set(found.skipped) ^ set(faults)
    }
    for clip in made.clips:
        if clip.fault is None:
            check_as_meant(made, found, clip)
    for name, fault in faults.items():
        assert re.search(fault.said, found.skipped[name], re.DOTALL), (fault.kind, found.skipped[name])
        assert len(found.skipped[name]) < 900
        print(f"{fault.kind}: {name}: {found.skipped[name]}")
        fault.mend(found.skipped[name])
    if faults:
        again = opened(made)
        assert again.skipped == {}, "mended at the first try"
        for clip in made.clips:
            check_as_meant(made, again, clip)
