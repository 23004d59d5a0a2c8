"""Libraries find a folder where there is no home; a container with little is enough for a run."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import home
from pattlite_dist.runtime.home import instead_of_home, provide_home, temporary_files
from tests.conftest import environment, tiny
from tests.ready import PHOTOGRAPH


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(home, "_found", [])


def test_a_home_that_can_be_written_into_is_left_alone(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not" / "yet"):
        env = {"HOME": str(folder)}
        provide_home(env)
        assert env == {"HOME": str(folder)} and instead_of_home() is None
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_can_only_be_read_keeps_its_logins_but_no_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    env = {"HOME": "/home/ada", "MPLCONFIGDIR": "/mine"}
    provide_home(env)
    folder = tmp_path / f"pattlite-home-{os.getuid()}"
    assert env == {
        "HOME": "/home/ada", "MPLCONFIGDIR": "/mine", "XDG_CACHE_HOME": str(folder / ".cache"),
    }  # fmt: skip
    assert instead_of_home() == folder and folder.stat().st_mode & 0o777 == 0o700


def test_who_has_no_home_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    env: dict[str, str] = {}
    provide_home(env)
    folder = str(tmp_path / f"pattlite-home-{os.getuid()}")
    assert (env["HOME"], env["MPLCONFIGDIR"]) == (folder, f"{folder}/matplotlib")
    provide_home(env)  # as a process that the first one starts
    assert env["HOME"] == folder


@pytest.mark.parametrize("kind", ["link", "file", "open", "no temporary folder"])
def test_a_folder_that_others_may_have_put_there_is_not_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / f"pattlite-home-{os.getuid()}"
    if kind == "link":
        (tmp_path / "theirs").mkdir(0o700)
        place.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        place.touch()
    elif kind == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    env = {"HOME": "/home/ada"}
    provide_home(env)
    assert env == {"HOME": "/home/ada"} and instead_of_home() is None


def test_without_a_folder_for_temporary_files_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "no")])
    with pytest.raises(UserError, match="set TMPDIR"), temporary_files():
        tempfile.gettempdir()
    with pytest.raises(FileNotFoundError, match="elsewhere"), temporary_files():
        (tmp_path / "elsewhere").read_bytes()


# Its arguments are the folder to write into, then a command. The folder is the only one that can be
# written into: all else is read. Then the user has an id that nobody knows, and no rights.
BARE = """
set -e
mount --bind "$1" /mnt
mount -o remount,bind,ro /
mount -t tmpfs -o size=64m tmpfs /dev/shm
cd /
shift
exec unshare --user --map-user=4242 --map-group=4242 "$@"
"""
# In one process, as importing PyTorch takes seconds.
COMMANDS = """
import json, sys
from pattlite_dist.cli import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


@pytest.mark.slow
def test_any_user_trains_and_predicts_where_only_one_folder_can_be_written_into(
    faces_csv: Path, tmp_path: Path
) -> None:
    """A container without a name for its user, or a home, and with 64 MB of shared memory."""
    (tmp_path / "faces.csv").write_bytes(faces_csv.read_bytes())
    (tmp_path / "tmp").mkdir()
    inside = Path("/mnt")
    train = tiny(
        inside / "shards", inside / "runs", trainer__epochs=1, trainer__global_batch=52,
        data__workers=1, wandb__mode="offline",
    )  # fmt: skip
    commands = [
        ["--help"],
        ["shards", "create", "/mnt/faces.csv", "/mnt/shards", "--blanks", "drop", "--jobs", "2"],
        train,
        ["predict", "/mnt/runs/tiny", str(PHOTOGRAPH), "--faces", "whole"],
    ]
    env = {name: text for name, text in environment().items() if name in ("PATH", "PYTHONPATH")}
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", BARE, "sh", tmp_path,
         sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**env, "TMPDIR": "/mnt/tmp", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(word in done.stderr for word in ("Traceback", "Matplotlib", "home", "denied"))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"faces.csv", "shards", "runs", "tmp"}
    assert (tmp_path / "runs" / "tiny" / "curves.png").stat().st_size > 10_000
    assert {path.name for path in (tmp_path / "tmp").iterdir()} <= {
        "pattlite-cache-4242", "pattlite-home-4242", "torchinductor_uid_4242",
    }  # fmt: skip
