"""What pyproject.toml cannot say: a built package carries the studies, which lie beside `src/`."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STUDIES = Path(__file__).parent / "studies"


class BuildWithStudies(build_py):
    """`build_py`, and the specs of `studies/` into the package; a checkout reads them where they are."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for path in [*STUDIES.rglob("*.yaml"), *STUDIES.glob("scales/*.json")]:
            target = Path(self.build_lib) / "neurolora/studies/specs" / path.relative_to(STUDIES)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithStudies})
