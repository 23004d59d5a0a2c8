"""The quick tests on other Pythons, and with other versions of what the package requires.

    python tests/versions.py pythons|oldest|newest [options of pytest]

`pythons`: on every Python from the oldest supported one to 3.14 that is found. `oldest`: on the
oldest Python, with the lowest versions that setup.cfg states. `newest`: on the newest Python found,
without the upper bounds of setup.cfg. uv, which must lie beside the interpreter that runs this,
makes an environment of each in .venvs/; UV_TORCH_BACKEND=cpu has it take the smaller CPU build of
PyTorch. Beside an environment, NAME.txt lists what is in it.
"""

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"
UV = Path(sys.executable).with_name("uv")
NEWEST = 14  # the newest 3.x that is looked for
QUICK = "not slow and not slurm and not real_data"
SHOWN = ("torch", "numpy", "pytorch-lightning", "pillow")
# What setup.cfg does not name is the newest there is, except where an old Matplotlib uses names of
# which the newest one warns.
OLD_BESIDE_OLD = ["pyparsing>=3.1,<3.3"]

# A test of the wheel installs it as users do.
INSTALLER = "pip>=23"


def settings() -> configparser.ConfigParser:
    """What setup.cfg says."""
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def oldest_minor() -> int:
    """The x of the oldest Python 3.x that setup.cfg supports."""
    return int(settings()["options"]["python_requires"].removeprefix(">=3."))


def requirements() -> list[str]:
    """All that setup.cfg requires, extras included."""
    found = settings()
    extras = found["options.extras_require"].values()
    text = "\n".join([found["options"]["install_requires"], *extras])
    return [line for line in text.splitlines() if line]


def unbounded(requirement: str) -> str:
    """A requirement without its upper bounds: `torch>=2.6,<3` becomes `torch>=2.6`."""
    name, bounds = re.fullmatch(r"([^<>=!~\s]+)\s*(.*)", requirement).groups()  # type: ignore[union-attr]
    kept = [bound for bound in re.split(r",\s*", bounds) if not bound.startswith("<")]
    return name + ",".join(kept)


def candidates(minor: int) -> Iterator[Path]:
    """Where Python 3.`minor` may lie: on the PATH, or where pyenv, uv and asdf install it."""
    yield from (Path(f, f"python3.{minor}") for f in os.environ["PATH"].split(os.pathsep))
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    for folder, pattern in (
        (pyenv / "versions", f"3.{minor}.*"),
        (uv, f"cpython-3.{minor}.*"),
        (home / ".asdf/installs/python", f"3.{minor}.*"),
    ):
        yield from (found / f"bin/python3.{minor}" for found in sorted(folder.glob(pattern)))


def find_python(minor: int) -> Path | None:
    """The first Python 3.`minor` that runs; pyenv's shims are found, but do not."""
    ask = "import sys; sys.exit(sys.version_info[1] != int(sys.argv[1]))"
    for path in candidates(minor):
        if path.is_file() and not subprocess.run(
            [path, "-c", ask, str(minor)], capture_output=True, check=False
        ).returncode:  # fmt: skip
            return path
    return None


@dataclass
class Environment:
    """A Python with a set of packages of its own.

    Attributes:
        name: of its folder.
        minor: it is Python 3.`minor`.
        python: the interpreter that it is made from.
        requirements: what is installed, in the highest versions that go together.
        resolution: as uv names it.
    """

    name: str
    minor: int
    python: Path
    requirements: list[str]
    resolution: str = "highest"

    def make(self) -> bool:
        """Install what it lacks, remove what it has too much; false where uv cannot."""
        folder, pins = ENVIRONMENTS / self.name, ENVIRONMENTS / f"{self.name}.txt"
        pins.unlink(missing_ok=True)  # uv would keep to the versions in it
        python = f"--python={folder}/bin/python"
        resolve = ["--no-header", "--no-annotate", f"--resolution={self.resolution}"]
        wanted = "\n".join([*self.requirements, INSTALLER])
        return (
            _uv("venv", "--allow-existing", f"--python={self.python}", folder)
            and _uv("pip", "compile", python, *resolve, f"-o={pins}", "-", given=wanted)
            and _uv("pip", "sync", python, pins)
            and _uv("pip", "install", python, "--no-deps", f"--editable={ROOT}")
        )

    def test(self, options: Sequence[str]) -> tuple[bool, str]:
        """Run the quick tests: whether all passed, and how many did."""
        report = ENVIRONMENTS / f"{self.name}.xml"
        report.unlink(missing_ok=True)
        command = [f"{ENVIRONMENTS}/{self.name}/bin/python", "-m", "pytest", "-m", QUICK]
        done = subprocess.run([*command, f"--junitxml={report}", *options], cwd=ROOT, check=False)
        return done.returncode == 0, counts(report) if report.exists() else "pytest did not start"

    def versions(self) -> str:
        """Of the packages on which most depends."""
        lines = (ENVIRONMENTS / f"{self.name}.txt").read_text().splitlines()
        pins = dict(line.split("==") for line in lines if "==" in line)
        return ", ".join(f"{name} {pins[name].split()[0]}" for name in SHOWN if name in pins)


def _uv(*arguments: str | Path, given: str = "") -> bool:
    command = [UV, "--quiet", *arguments]
    return not subprocess.run(command, cwd=ROOT, input=given, text=True, check=False).returncode


def counts(report: Path) -> str:
    """How many tests passed, failed and so on, of pytest's report in JUnit's format."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, *others = (int(suite.get(n, 0)) for n in ("tests", "failures", "errors", "skipped"))
    names = ("failed", "in error", "skipped")
    told = [f"{count} {name}" for count, name in zip(others, names, strict=True) if count]
    return ", ".join([f"{tests - sum(others)} passed", *told])


def environments(what: str, pythons: dict[int, Path]) -> list[Environment]:
    """The environments of one of the three commands, of the Pythons that were found."""
    wanted = requirements()
    if what == "pythons":
        return [Environment(f"python3.{x}", x, path, wanted) for x, path in pythons.items()]
    if what == "oldest":
        x = oldest_minor()
        if x not in pythons:
            raise SystemExit(f"versions: the oldest supported Python, 3.{x}, is not found")
        return [Environment(what, x, pythons[x], wanted + OLD_BESIDE_OLD, "lowest-direct")]
    x = max(pythons)
    return [Environment(what, x, pythons[x], [unbounded(line) for line in wanted])]


def main(what: str, *options: str) -> int:
    """Run one of the three commands; 0 where every test passed in every environment."""
    looked_for = range(oldest_minor(), NEWEST + 1)
    found = {x: path for x in looked_for if (path := find_python(x)) is not None}
    if not found:
        raise SystemExit(f"versions: no Python from 3.{looked_for[0]} to 3.{NEWEST} is found")
    all_passed, table = True, []
    for environment in environments(what, found):
        print(f"versions: {environment.name}: {environment.python}", flush=True)
        if environment.make():
            passed, told = environment.test(options)
            told += f" ({environment.versions()})"
        else:
            passed, told = False, "not installed: see above"
        all_passed &= passed
        table.append(f"Python 3.{environment.minor}: {told}")
    absent = [f"Python 3.{x}: not found" for x in looked_for if x not in found]
    print(*table, *(absent if what == "pythons" else []), sep="\n")
    return 0 if all_passed else 1


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("pythons", "oldest", "newest"):
        raise SystemExit(__doc__)
    sys.exit(main(*sys.argv[1:]))
