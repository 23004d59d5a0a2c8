"""The Makefile, with stand-ins for what it calls."""

import http.server
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import commands
from tests.serving import serving

Make = Callable[..., "subprocess.CompletedProcess[str]"]
Calls = Callable[..., list[str]]

# Shows its arguments, a line each.
_SHOWS = """#!/bin/sh
printf "[%s]" "$(basename "$0")" "$@"
echo
"""
# Makes an environment that only shows what is installed; runs all else.
_PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p .venv/bin
  cat > .venv/bin/python <<'END'
{_SHOWS}END
  chmod +x .venv/bin/python
else
  exec {sys.executable} "$@"
fi
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Run make in a folder with a Makefile and stand-ins."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    script(tmp_path / "python", _PYTHON)
    # The real one runs $PYTHON, where that is set: not the one that the environment is made with.
    refuses = _SHOWS.replace("\n", '\n[ -z "${PYTHON-}" ] || exit 3\n', 1)
    script(tmp_path / "launch" / "torchrun.sh", refuses)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "NPROC=2", f"PYTHON={tmp_path / 'python'}", *arguments],
            cwd=tmp_path, env={**env, "HOME": "/home/me"}, capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def calls(make: Make, tmp_path: Path) -> Calls:
    """What make calls in an environment that has been made."""
    script(tmp_path / ".venv" / "bin" / "pattlite", _SHOWS)
    (tmp_path / ".venv" / "installed").touch()
    return lambda *arguments: [
        line for line in make(*arguments).stdout.splitlines() if line[0] == "["
    ]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("fer2013.csv", "fer2013.csv"),
        ("my data/x.csv", "my data/x.csv"),
        ("two  blanks.csv", "two  blanks.csv"),
        ('it\'s "quoted".csv', 'it\'s "quoted".csv'),
        ("$HOME $(shell false) `false` \\ & ; x.csv", "$HOME $(shell false) `false` \\ & ; x.csv"),
        ("a,b (1)*.zip", "a,b (1)*.zip"),
        ("~/my data/x.csv", "/home/me/my data/x.csv"),
        ("a~/x.csv", "a~/x.csv"),
    ],
)
def test_the_source_of_the_demo_may_be_any_path(source: str, path: str, calls: Calls) -> None:
    create, *others = calls("demo", f"SOURCE={source}")
    assert create == f"[pattlite][shards][create][{path}][demo/fer2013]"
    assert [call.split("]")[1] for call in others] == ["[train", "[evaluate"]


def test_the_best_figure_is_repeated_by_one_line(calls: Calls) -> None:
    given = ("SOURCE=my fer.csv", "WEIGHTS=~/mobile net.pt", "SEED=3")
    place, first = "reproduced/seed-3", "reproduced/seed-3/fer2013-pattlite"
    both = (
        f"[--seed][3][--runs][{place}][--data.shards][reproduced/fer2013][--wandb.mode][disabled]"
    )
    assert calls("reproduce", *given, "TRAIN_ARGS=--wandb.mode disabled") == [
        "[pattlite][shards][create][my fer.csv][reproduced/fer2013]",
        f"[torchrun.sh][train][-c][configs/fer2013-pattlite.yaml]{both}"
        "[--model.weights][/home/me/mobile net.pt]",
        f"[torchrun.sh][train][-c][configs/fer2013-distilled.yaml]{both}"
        f"[--model.weights][{first}][--distill.teachers][[{first}, pretrained:mobilenetv2-vit]]",
        f"[torchrun.sh][evaluate][{place}/fer2013-distilled]",
    ]
    for name in ("fer2013-pattlite", "fer2013-distilled"):  # the runs have their files' names
        assert f"\nname: {name}\n" in (ROOT / "configs" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("given", [(), ("SOURCE=fer.csv",), ("WEIGHTS=net.pt",)])
def test_the_best_figure_is_not_begun_without_what_it_requires(
    given: tuple[str, ...], calls: Calls
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        calls("reproduce", *given)
    assert caught.value.returncode == 2 and not caught.value.stdout
    said, *_ = caught.value.stderr.splitlines()
    assert said.startswith("make: reproduce requires SOURCE=fer2013.csv WEIGHTS=mobilenet_v1.pt")


class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    """The address of an index of packages."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}/cpu"


def test_the_build_of_pytorch_is_that_for_the_machine_and_told_before_it_is_fetched(
    make: Make, index: str
) -> None:
    def installed(*arguments: str) -> tuple[str, str]:
        done = make("--always-make", ".venv/installed", *arguments)
        *_, last = [line for line in done.stdout.splitlines() if line[0] == "["]
        said = [line for line in done.stderr.splitlines() if line.startswith("make: ")]
        return last.removeprefix("[python][-m][pip][install][--quiet]"), "".join(said)

    package = "[--editable][.[dev]]"
    here, told = f"CPU_INDEX={index}", "make: no GPU found; "
    assert installed("GPUS=", here) == (
        f"[--extra-index-url][{index}]{package}",
        f"{told}PyTorch comes without CUDA (see `make help`)",
    )
    for address in ("http://127.0.0.1:9/cpu", f"{index}s"):
        assert installed("GPUS=", f"CPU_INDEX={address}", "PIP_ARGS=--no-compile") == (
            f"[--no-compile]{package}",
            f"{told}{address} cannot be reached: PyTorch comes with CUDA, several gigabytes "
            "(see `make help`)",
        )
    assert installed("GPUS=/dev/nvidia0", here) == (package, "")
    assert installed("GPUS=", here, "PIP_ARGS=--index-url x") == (f"[--index-url][x]{package}", "")


def test_as_many_tests_run_at_once_as_the_cores_that_may_be_used_and_two_more(
    make: Make, tmp_path: Path
) -> None:
    counts = '#!/bin/sh\n[ "$*" = "-m pattlite_dist.runtime.limits" ] && echo 6\n'
    script(tmp_path / "cores" / "python", counts)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    done = make("-n", "tests", f"PYTHON={tmp_path / 'cores' / 'python'}")
    assert "pytest -n 8 " in done.stdout


_LINT = ["[ruff][check][.]", "[ruff][format][--check][.]"]
_WORKERS = "[-n][7][--dist][loadscope][--no-loadscope-reorder]"
_CALLS = {
    "make lint": _LINT,
    "make types": ["[mypy]"],
    'make tests PYTEST_ARGS="-k plan"': [f"[pytest]{_WORKERS}[-k][plan]"],
    # As tests/test_docs.py builds them.
    "make docs": ["[python][-m][sphinx][-W][--keep-going][-q][-b][html][docs][docs/_build]"],
    "make test": [*_LINT, f"[pytest]{_WORKERS}"],
    "make test-pythons": [f"[python][tests/versions.py][pythons]{_WORKERS}"],
    "make test-oldest": [f"[python][tests/versions.py][oldest]{_WORKERS}"],
    "make test-newest": [f"[python][tests/versions.py][newest]{_WORKERS}"],
    "make test-container": ["[container.sh]"],
    "make test-cloud": [
        "[uv][venv][--quiet][--allow-existing][.venvs/cloud]",
        "[uv][pip][install][--quiet][--python=.venvs/cloud/bin/python][skypilot>=0.14,<0.15]"
        "[kubeflow-trainer-api>=2.3,<3]",
        "[python][tests/clouds.py]",
    ],
    "make fuzz": ["[pytest][--timeout=0][tests/fuzz]"],
}


def test_the_targets_for_contributors_call_what_they_are_for(make: Make, tmp_path: Path) -> None:
    for name in ("ruff", "mypy", "pytest", "python"):
        script(tmp_path / ".venv" / "bin" / name, _SHOWS)
    for name in ("uv", "python"):
        script(tmp_path / ".venvs" / "uv" / "bin" / name, _SHOWS)
    script(tmp_path / ".venvs" / "cloud" / "bin" / "python", _SHOWS)
    script(tmp_path / "tests" / "container.sh", _SHOWS)
    (tmp_path / ".venv" / "installed").touch()
    lines = [one.line for one in commands("CONTRIBUTING.md") if one.how == "tested"]
    assert lines == [*_CALLS]
    for line in lines:
        done = make("WORKERS=7", *shlex.split(line)[1:])
        calls = [text for text in done.stdout.splitlines() if text.startswith("[")]
        assert calls == _CALLS[line]
