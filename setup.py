"""Puts the viewer's scripts into the library's wheel; everything else about the package is in pyproject.toml.

ComfyUI serves `web/js` from where it is, and an installed library has no `web`: its pages and widgets take a copy.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithScripts(build_py):
    """The usual build, and `web/js/viewer` as data of `matrix_lib.viewer`."""

    def run(self) -> None:
        super().run()
        for script in sorted(Path("web/js/viewer").glob("*.js")):
            target = Path(self.build_lib) / "matrix_lib" / "viewer" / "js" / script.name
            self.mkpath(str(target.parent))
            self.copy_file(str(script), str(target))


setup(cmdclass={"build_py": BuildWithScripts})
