"""`python -m training.score_quality MADE [--real REAL] ...`: quality of generated videos, by the models that are given.

    --inception FILE          FID and KID over all frames (torch-fidelity)
    --i3d FILE                FVD (cd-fvd)
    --clip FOLDER             CLIP-SIM with prompts.json, {"ID": "prompt"} (transformers)
    --lpips                   LPIPS of each video with the real one of its name (torchmetrics)
    --jedi REAL.npy MADE.npy  JEDi of V-JEPA features that another program wrote
    --raft FILE               VBench's dynamic degree (torchvision)
    --between FOLDER          VBench's motion smoothness, of frames that an interpolation network wrote
    --dino FOLDER             VBench's subject consistency (transformers)
    --clip-frames FOLDER      VBench's background consistency (transformers)
    --vbench RESULTS.json     what VBench itself found; --vbench-prompts FILE writes what it reads

MADE and REAL are folders of .mp4 files. Nothing is downloaded: what is absent is said in one line. See
docs/track-scores.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matrix_lib.evaluation.quality import extractors, vbench, vbench_models
from matrix_lib.evaluation.quality.consistency import frame_consistency
from matrix_lib.evaluation.quality.distances import Moments, frechet, jedi, kid, read_features
from matrix_lib.evaluation.statistics import estimate
from matrix_lib.io.files import whole_file
from matrix_lib.io.video import Clip, read_video

__all__ = ["main"]

_MOST = 20_000  # frames whose features are kept for KID; a random choice of them where there are more
_SUBSET = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where everything that was asked for is there, 1 for what cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        found = _measure(given)
    except (ValueError, OSError) as error:
        print(f"python -m training.score_quality: {error}", file=sys.stderr)
        return 1
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.out is not None:
        with whole_file(given.out) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    """Models are opened before the first video is read, so that what is absent is told at once."""
    asked = (given.inception, given.i3d, given.clip, given.lpips, given.jedi, *_vbench_asked(given))
    if not any(asked):
        raise ValueError(
            "nothing is asked for: give --inception, --i3d, --clip, --lpips, --jedi, --raft, --between, --dino, "
            "--clip-frames, --vbench or --vbench-prompts"
        )
    needs_real = given.inception or given.i3d or given.lpips
    if needs_real and given.real is None:
        raise ValueError("FID, KID, FVD and LPIPS compare with real videos: give --real FOLDER")
    frames = extractors.inception(given.inception, given.device) if given.inception else None
    videos = extractors.i3d(given.i3d, given.device) if given.i3d else None
    scorer = extractors.clip(given.clip, given.device) if given.clip else None
    compare = extractors.lpips(given.device) if given.lpips else None
    prompts = _prompts(given) if scorer is not None else {}
    found: dict[str, Any] = {}
    if given.jedi:
        found["jedi"] = jedi(read_features(given.jedi[0]), read_features(given.jedi[1]))
    each = _vbench_measures(given)
    found |= {f"vbench {name}": value for name, value in _vbench_results(given).items()}
    if given.vbench_prompts:
        vbench.write_prompts(given.vbench_prompts, _videos(given.made), _prompts(given))
    if frames is None and videos is None and scorer is None and compare is None and not each:
        return found
    made = _videos(given.made)
    if frames is not None:
        found |= _fid(_features(_videos(given.real), frames), _features(made, frames))
    if videos is not None:
        real = _moments(_features(_videos(given.real), videos))
        found["fvd"] = frechet(real, _moments(_features(made, videos)), biased=True)
    if scorer is not None:
        rows = [scorer(_read(path), prompts[path.stem]) for path in made]
        found |= {name: str(estimate(np.array([row[name] for row in rows]))) for name in rows[0]}
    if compare is not None:
        found["lpips"] = str(estimate(np.array([compare(_real(given.real, path), _read(path)) for path in made])))
    if each:
        values: dict[str, list[float]] = {name: [] for name in each}
        for path in made:
            clip = read_video(path)
            for name, measure in each.items():
                try:
                    values[name].append(measure(path, clip))
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
        found |= {name: str(estimate(np.array(row))) for name, row in values.items()}
    return found | {"videos": len(made)}


def _vbench_asked(given: argparse.Namespace) -> tuple[Any, ...]:
    return given.raft, given.between, given.dino, given.clip_frames, given.vbench, given.vbench_prompts


def _vbench_measures(given: argparse.Namespace) -> dict[str, Callable[[Path, Clip], float]]:
    """VBench's measures of one video, by name."""
    found: dict[str, Callable[[Path, Clip], float]] = {}
    if given.raft:
        flow = vbench_models.raft(given.raft, given.device)
        found["dynamic_degree"] = lambda path, clip: float(vbench.dynamic_degree(clip.frames, clip.fps, flow).dynamic)
    if given.between:
        between: Path = given.between
        found["motion_smoothness"] = lambda path, clip: vbench.smoothness(
            clip.frames, vbench.read_between(between, path.stem)
        )
    if given.dino:
        subject = vbench_models.subject(given.dino, given.device)
        found["subject_consistency"] = lambda path, clip: frame_consistency(subject(clip.frames))
    if given.clip_frames:
        background = vbench_models.background(given.clip_frames, given.device)
        found["background_consistency"] = lambda path, clip: frame_consistency(background(clip.frames))
    return found


def _vbench_results(given: argparse.Namespace) -> dict[str, str]:
    """Means of what VBench found of these very videos. Raises ValueError where one of them is missing there."""
    if not given.vbench:
        return {}
    names = [path.stem for path in _videos(given.made)]
    found = {}
    for dimension, values in vbench.read_results(given.vbench).items():
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{given.vbench}: {dimension} has no value of {', '.join(missing[:5])}")
        found[dimension] = str(estimate(np.array([values[name] for name in names])))
    return found


def _fid(real: Iterator[NDArray[Any]], made: Iterator[NDArray[Any]]) -> dict[str, float]:
    """FID over all frames, KID over a random choice of them."""
    sums, kept = [], []
    for each in (real, made):
        moments, some = Moments(), _Some(_MOST)
        for features in each:
            moments.add(features)
            some.add(features)
        sums.append(moments)
        kept.append(some.array())
    size = min(_SUBSET, *map(len, kept))
    mean, spread = kid(kept[0], kept[1], size=size)
    return {"fid": frechet(sums[0], sums[1]), "kid": mean, "kid_std": spread, "kid_subset": size}


class _Some:
    """A random choice of rows of fixed size, each row as likely as any other."""

    def __init__(self, most: int) -> None:
        self._most, self._seen, self._rows = most, 0, list[NDArray[Any]]()
        self._chance = np.random.default_rng(0)

    def add(self, rows: NDArray[Any]) -> None:
        for row in rows.astype(np.float32):
            self._seen += 1
            if len(self._rows) < self._most:
                self._rows.append(row)
            elif (at := int(self._chance.integers(self._seen))) < self._most:
                self._rows[at] = row

    def array(self) -> NDArray[Any]:
        return np.stack(self._rows)


def _moments(features: Iterator[NDArray[Any]]) -> Moments:
    moments = Moments()
    for each in features:
        moments.add(each)
    return moments


def _features(paths: Sequence[Path], extract: Callable[[torch.Tensor], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for path in paths:
        try:
            yield extract(_read(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> torch.Tensor:
    return read_video(path).frames


def _real(folder: Path, path: Path) -> torch.Tensor:
    return _read(folder / path.name)


def _videos(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*.mp4") if not path.name.startswith("."))
    if len(found) < 1:
        raise ValueError(f"there are no .mp4 files in {folder}")
    return found


def _prompts(given: argparse.Namespace) -> dict[str, str]:
    """Prompts by video. Raises ValueError where a video has none."""
    place = given.prompts or given.made / "prompts.json"
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f'CLIP-SIM needs prompts, {{"ID": "prompt"}} in {place}: {error!s:.200}') from None
    if not isinstance(found, dict) or not all(isinstance(text, str) and text for text in found.values()):
        raise ValueError(f'{place} is no JSON object {{"ID": "prompt"}}')
    if missing := [path.name for path in _videos(given.made) if path.stem not in found]:
        raise ValueError(f"{place} has no prompt of {', '.join(missing[:5])}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.score_quality", description=__doc__.splitlines()[0])
    parser.add_argument("made", type=Path, help="folder of generated videos")
    parser.add_argument("--real", type=Path, help="folder of real videos")
    parser.add_argument("--inception", type=Path, help="Inception weights of torch-fidelity: FID, KID")
    parser.add_argument("--i3d", type=Path, help="I3D weights of cd-fvd: FVD")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model: CLIP-SIM")
    parser.add_argument("--prompts", type=Path, help="JSON of prompts (default: MADE/prompts.json)")
    parser.add_argument("--lpips", action="store_true", help="LPIPS with the real video of the same name")
    parser.add_argument("--jedi", type=Path, nargs=2, metavar=("REAL", "MADE"), help="V-JEPA features, .npy")
    parser.add_argument("--raft", type=Path, help="torchvision's RAFT weights: VBench's dynamic degree")
    parser.add_argument("--between", type=Path, help="interpolated frames, ID.npy: VBench's motion smoothness")
    parser.add_argument("--dino", type=Path, help="folder of DINO ViT-B/16: VBench's subject consistency")
    parser.add_argument("--clip-frames", type=Path, help="folder of CLIP ViT-B/32: VBench's background consistency")
    parser.add_argument("--vbench", type=Path, help="..._eval_results.json that VBench wrote about these videos")
    parser.add_argument("--vbench-prompts", type=Path, help="writes the prompt file that VBench reads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
