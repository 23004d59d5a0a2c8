"""Puts the configurations and profiles into a wheel, inside the package; setup.cfg has the rest."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = {
    "configs": "configs",
    "configs/wandb": "configs/wandb",
    "launch/profiles": "profiles",
}


class BuildWithFiles(build_py):
    """Builds the package, with the files of folders outside of it."""

    def run(self) -> None:
        """Build; an editable installation reads the folders themselves."""
        super().run()
        if self.editable_mode:
            return
        for source, target in FOLDERS.items():
            folder = Path(self.build_lib, "pattlite_dist", target)
            self.mkpath(str(folder))
            for path in sorted(Path(source).glob("*.yaml")):
                self.copy_file(str(path), str(folder / path.name))


setup(cmdclass={"build_py": BuildWithFiles})
