"""`python -m training.curate RAW WORK OUT [stage.setting=value ...]`: from raw clips and captions to a set that trains.

    RAW     videos, and captions.jsonl with {"video", "caption"} a line
    WORK    what each stage finds, one line of JSON a clip; any of it may come from you or another tool
    OUT     the set, in MATRIX-11K's layout, with its card and charts

Models are folders, files or addresses that you name; nothing is downloaded, and nothing is sent to another machine
before you agree. Stop it at any time: the same command goes on. See docs/curation.md.
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from matrix_lib.evaluation.judges.endpoint_wire import Endpoint
from matrix_lib.io.files import expanded
from matrix_lib.pages.server import PageServer

from .curation.asking import EndpointSource, FileSource, JudgeSource, LocalSource
from .curation.card import tell, write_card
from .curation.local import Engine, LocalEngine
from .curation.models.detectors import FolderDetector
from .curation.models.overlays import RapidOcr
from .curation.models.sam3 import Sam3Tracker
from .curation.models.shots import Histograms, ShotDetector, TransNet
from .curation.models.trackers import MiniTracker, Sam2Tracker, TrackerSource
from .curation.raw import read_raw
from .curation.review_page import Follower, ReviewSite, to_look_at
from .curation.review_pictures import Pictures
from .curation.run import FILES, BadInputError, Curation, Options, Stages
from .curation.sheets import save_review_sheets
from .curation.stage import Place, StageDownError
from .curation.stages.anchors import Anchors
from .curation.stages.candidates import Candidates
from .curation.stages.checks import Checks
from .curation.stages.clips import Clips
from .curation.stages.tracks import Tracks
from .curation.stages.triplets import Triplets
from .curation.stages.verify import Verify
from .curation.stages.write import Write
from .run.config import override
from .run.ending import alone

__all__ = ["main"]

_SHOTS: dict[str, type[Histograms] | type[TransNet]] = {"histograms": Histograms, "transnet": TransNet}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where every clip has come to its end, 2 where some wait for somebody, 1 for an error."""
    given = _parser().parse_intermixed_args(arguments)
    try:
        return _run(given)
    except BadInputError as error:
        print(f"training.curate: {error}", file=sys.stderr)
        return 1
    except StageDownError as error:
        print(f"\ntraining.curate: it cannot go on: {error}", file=sys.stderr)
        print("everything that was found is kept: run the same command to go on", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"training.curate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; everything that was found is kept: run the same command to go on", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    place = Place(expanded(given.work).resolve(), expanded(given.raw).resolve())
    out = expanded(given.out).resolve()
    roots = tuple(expanded(root).resolve() for root in given.roots.split(",") if root)
    raw = read_raw(place.raw, roots, given.any_script)
    for note in raw.notes:
        print(f"note: {note}")
    stages = override(_stages(given, out), given.settings)
    options = Options(given.skip_bad, given.unreviewed, given.doubles, given.add, given.until)
    judges = [stages.triplets.judge, stages.anchors.judge, *([stages.verify.judge] if stages.verify else [])]
    _agree(given, judges, len(raw.items))
    with tqdm(disable=given.quiet, unit=" clips") as bar:

        def tick(stage: str) -> None:
            bar.set_description(stage, refresh=False)
            bar.update()

        with alone(place.work):
            curation = Curation(raw, place, stages, options, print, tick)
            curation.run(_engine(given, place), (lambda found: _review(found, given)) if given.review else None)
    if given.until == "write":
        write_card(curation, out)
    if given.sheets != "none":
        for path in save_review_sheets(curation, given.sheets):
            print(f"contact sheet: {path}")
    print(tell(curation))
    return 2 if curation.failures or any(end.status in ("open", "waiting") for end in curation.ends()) else 0


def _stages(given: argparse.Namespace, out: Path) -> Stages:
    shots: ShotDetector | None = _SHOTS[given.shots]() if given.shots != "none" else None
    detector = FolderDetector(expanded(given.detector).resolve()) if given.detector else None
    tracker: TrackerSource | None = Sam2Tracker(expanded(given.sam2).resolve()) if given.sam2 else None
    if given.sam3:
        tracker = Sam3Tracker(expanded(given.sam3).resolve())
    if sum(map(bool, (given.sam2, given.sam3, given.mini_tracker))) > 1:
        raise ValueError("one tracker follows: --sam2, --sam3 or --mini-tracker")
    if given.mini_tracker:
        tracker = MiniTracker()
    return Stages(
        Clips(shots, overlays=RapidOcr() if given.overlays else None),
        Triplets(_judge(given.reader, given)),
        Candidates(detector),
        Anchors(_judge(given.looker, given)),
        Tracks(tracker),
        Checks(),
        Write(out),
        Verify(_judge(given.looker, given), given.verify) if given.verify else None,
    )


def _judge(said: str, given: argparse.Namespace) -> JudgeSource:
    """`file`, `local:FOLDER` or `MODEL@ADDRESS`."""
    if said == "file":
        return FileSource()
    if said.startswith("local:"):
        return LocalSource(expanded(said.removeprefix("local:")).resolve())
    model, at, url = said.rpartition("@")
    if not at:
        raise ValueError(f"who answers is `file`, `local:FOLDER` or `MODEL@https://HOST/v1`; got {said!r}")
    return EndpointSource(Endpoint(url, model, given.key_env, workers=given.requests, tries=given.tries))


def _agree(given: argparse.Namespace, judges: Sequence[JudgeSource], clips: int) -> None:
    """Nothing goes to another machine that nobody agreed to."""
    away = {each.endpoint.url for each in judges if isinstance(each, EndpointSource) and not each.endpoint.here}
    if not away or given.yes:
        return
    print(f"captions and frames of up to {clips} clips would be sent to {', '.join(sorted(away))}")
    if not sys.stdin.isatty():
        raise ValueError("nothing was sent: say --yes to send captions and frames there")
    if input("Send them? [yes/no] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was sent")


def _engine(given: argparse.Namespace, place: Place) -> Engine:
    if given.engine == "ray":
        from .curation.on_ray import RayEngine

        return RayEngine(place, given.workers, given.address)
    if given.engine == "nemo":
        from .curation.on_nemo import NemoEngine

        return NemoEngine(place, given.workers)
    return LocalEngine(place, given.workers)


def _review(curation: Curation, given: argparse.Namespace) -> None:
    """Serves the page on which people review, until Ctrl-C; then the set is written."""
    names = to_look_at(curation)
    if not names:
        print("there is nothing to review yet")
        return
    with Pictures(curation.place, curation.place.work / "review") as pictures, Follower(curation) as follower:
        sites = [ReviewSite(curation, names, by, pictures, follower) for by in given.review]
        with PageServer(sites, given.port) as server:
            for site, address in zip(sites, server.addresses, strict=True):
                left = sum(not card["done"] for card in site.state()["cards"])
                print(f"{site.by}: {left} of {len(names)} clips are left. Open this in a browser on this machine:")
                print(f"    {address}", flush=True)
                if given.open:
                    webbrowser.open(address)
            print("Verdicts are kept as they are given. Ctrl-C ends the page, and the set is written.", flush=True)
            server.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.curate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("raw", help="folder of videos with captions.jsonl")
    parser.add_argument("work", help="folder of what the stages find")
    parser.add_argument("out", help="folder of the set")
    parser.add_argument("settings", nargs="*", metavar="stage.setting=value", help="such as clips.frames=81")
    who = "file (default), local:FOLDER, or MODEL@ADDRESS of an OpenAI-compatible endpoint"
    parser.add_argument("--reader", default="file", help=f"who reads captions: {who}")
    parser.add_argument("--looker", default="file", help=f"who says which box is whom: {who}")
    parser.add_argument(
        "--verify", type=int, default=0, metavar="K", help="the looker sees K frames of masks again (0)"
    )
    parser.add_argument("--shots", choices=("none", *_SHOTS), default="none", help="who finds cuts (default: none)")
    parser.add_argument("--overlays", action="store_true", help="leave out clips with text laid over them (rapidocr)")
    parser.add_argument("--detector", help="a detector's folder, for transformers")
    parser.add_argument("--sam2", help="a SAM 2 or 2.1 checkpoint, which follows instances")
    parser.add_argument("--sam3", help="a SAM 3 folder, which finds and follows by words")
    parser.add_argument("--mini-tracker", action="store_true", help="for clips of the mini world: no model")
    parser.add_argument("--engine", choices=("local", "ray", "nemo"), default="local", help="who runs the stages")
    parser.add_argument("--workers", type=int, default=1, help="processes for stages without a GPU (1; 0: all cores)")
    parser.add_argument("--address", help="ray: of a cluster; without one a local one is started")
    parser.add_argument("--until", choices=tuple(FILES), default="write", help="the last stage that runs")
    parser.add_argument("--skip-bad", action="store_true", help="go on without clips that cannot be used")
    parser.add_argument("--any-script", action="store_true", help="captions in other than Latin letters, too")
    parser.add_argument("--roots", default="", help="other folders, with commas, that links may lead to")
    parser.add_argument(
        "--unreviewed", choices=("none", "clean", "all"), default="none", help="clips that go out without a look"
    )
    parser.add_argument("--review", nargs="+", default=[], metavar="NAME", help="a page on which these people review")
    parser.add_argument("--port", type=int, default=0, help="of that page on 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open that page in a browser")
    parser.add_argument("--doubles", type=float, default=6.0, help="bits of 64 between clips that are one (-1: off)")
    parser.add_argument("--add", action="store_true", help="grow a set that is there, and leave that as it is")
    parser.add_argument("--sheets", choices=("none", "open", "all"), default="open", help="contact sheets of these")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    sent = parser.add_argument_group("endpoints")
    sent.add_argument("--key-env", default="OPENAI_API_KEY", help="environment variable with the key")
    sent.add_argument("--requests", type=int, default=4, help="requests at once (4)")
    sent.add_argument("--tries", type=int, default=6, help="times that a request is sent where the service fails (6)")
    sent.add_argument("--yes", action="store_true", help="send without asking")
    return parser


if __name__ == "__main__":
    sys.exit(main())
