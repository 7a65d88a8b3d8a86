"""Puts scripts of `web/js` into the library's wheel; everything else about the package is in pyproject.toml.

ComfyUI serves `web/js` from where it is, and an installed library has no `web`: its pages and widgets take a copy.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithScripts(build_py):
    """The usual build, `web/js/viewer` as data of `matrix_lib.viewer`, and the track editor as data of
    `matrix_lib.pages`."""

    def run(self) -> None:
        super().run()
        source = Path("web/js")
        for script in sorted((source / "viewer").glob("*.js")):
            self._copied(script, Path("viewer", "js", script.name))
        for script in [*sorted(source.glob("*.js")), *sorted((source / "editor").glob("*.js"))]:
            self._copied(script, Path("pages", "js", script.relative_to(source)))

    def _copied(self, script: Path, place: Path) -> None:
        target = Path(self.build_lib) / "matrix_lib" / place
        self.mkpath(str(target.parent))
        self.copy_file(str(script), str(target))


setup(cmdclass={"build_py": BuildWithScripts})
