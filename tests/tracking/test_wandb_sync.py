"""Real segments, real `wandb sync`, a stand-in for W&B's server."""

import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from pattlite_dist.commands import sync as verb
from pattlite_dist.errors import UserError
from pattlite_dist.tracking import wandb_sync as sync
from pattlite_dist.tracking.settings import WandbConfig
from pattlite_dist.tracking.wandb_run import run_id
from pattlite_dist.tracking.wandb_segments import Segment
from tests.starts import Zygote
from tests.tracking.test_wandb_run import of_wandb, segments, start
from tests.tracking.wandb_server import KEY, Server, closed_port, wandb_server

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def three_starts(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: steps 0 to 9 and killed, 6 to 11 in another project, 12 to 13."""
    run = tmp_path_factory.mktemp("runs") / "run"
    start(zygote, run, 0, 10, "kill=1", status=-9)
    start(zygote, run, 6, 12, "project=early")
    start(zygote, run, 12, 14, "project=late", "entity=team")
    return run


@pytest.fixture
def run(three_starts: Path, tmp_path: Path) -> Path:
    shutil.copytree(three_starts, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """W&B's environment, with a login and empty working and home folders."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
    assert of_wandb(tmp_path / "home") == []
    assert list((tmp_path / "work").iterdir()) == []


def call(*arguments: object) -> int:
    parser = ArgumentParser(prog="pattlite sync", exit_on_error=False)
    verb.add_options(parser)
    return verb.work(parser.parse_args([str(argument) for argument in arguments]))


@slow
def test_all_segments_become_one_run_in_order(
    zygote: Zygote, run: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run) == 0
    known = run_id(run / "wandb")
    assert known is not None
    assert server.names == {known: ("late", "team", "run")}
    history = server.history(known)
    assert set(history) == set(range(14))
    assert history[-2:] == [12, 13]
    own = server.history(known, "_step")
    assert own == sorted(set(own))
    assert "2 segment(s) uploaded, 0 before" in capsys.readouterr().out

    rows = len(server.rows[known])
    assert call(run) == 0  # marked, so skipped
    assert "nothing to upload; 2 segment(s) already uploaded" in capsys.readouterr().out
    start(zygote, run, 14, 16)
    assert call(run) == 0
    assert "1 segment(s) uploaded, 2 before" in capsys.readouterr().out
    assert server.history(known)[-2:] == [14, 15]
    assert len(server.rows[known]) > rows


@slow
def test_a_segment_torn_by_a_kill_does_not_keep_later_ones_back(run: Path, server: Server) -> None:
    torn = segments(run)[1]
    os.truncate(torn, torn.stat().st_size - 5)  # wandb would stop here, with status 0
    assert call(run) == 0
    known = run_id(run / "wandb")
    assert known is not None
    assert set(server.history(known)) == set(range(14))


@slow
def test_a_dry_run_prints_a_command_that_does_it_and_does_nothing(
    run: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    spaced = run.rename(run.with_name("a run"))
    before = sorted(path.stat().st_mtime_ns for path in spaced.rglob("*"))
    assert call("--dry-run", spaced) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert server.names == {}
    assert sorted(path.stat().st_mtime_ns for path in spaced.rglob("*")) == before
    assert KEY not in line
    words = shlex.split(line)
    assert words[-2:] == [str(path.parent) for path in segments(spaced)[1:]]
    subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=120)
    known = run_id(spaced / "wandb")
    assert known is not None
    assert set(server.history(known)) == set(range(14))


@slow
@pytest.mark.parametrize("where", ["login", "server", "rights"])
def test_what_keeps_wandb_from_uploading_is_one_line_without_the_key(
    where: str, run: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = {
        "login": "No API key configured",
        "server": "connection refused",
        "rights": "403",
    }[where]
    if where == "login":
        monkeypatch.delenv("WANDB_API_KEY")
    elif where == "server":
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS", "0.5")
    else:
        server.refuse = 403
    with pytest.raises(UserError, match="2 of 2 segments were not uploaded") as caught:
        call(run)
    error = str(caught.value)
    assert message in error
    assert "`wandb login`" in error
    assert "\n" not in error
    assert KEY not in error


def test_a_key_in_what_wandb_says_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync.reason(f"wandb: ERROR The key {KEY} is bad.\n") == "The key *** is bad"
    assert sync.reason("wandb: one\nwandb: two\n") == "two"
    assert sync.reason("") == "wandb says nothing"


@slow
def test_a_start_that_goes_on_is_left_out(
    run: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    live = segments(run)[2]
    os.truncate(live, live.stat().st_size - 100)  # it has not ended
    holder = subprocess.Popen(
        ["python3", "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); "
         "fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()", run / "run.lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert call("--dry-run", run) == 0
        remark, command = capsys.readouterr().out.splitlines()
        assert remark.startswith("# ")
        assert live.parent.name in remark
        assert live.parent.name not in command
        assert holder.stdin is not None
        holder.stdin.close()
    assert call("--dry-run", run) == 0
    (command,) = capsys.readouterr().out.splitlines()
    assert live.parent.name in command


def test_without_locks_what_was_just_written_may_go_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "run.lock").touch()

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    newest = segments(run)[-1]
    os.truncate(newest, newest.stat().st_size - 100)
    assert sync.prepare(run)[0].open is not None
    for path in segments(run):
        os.utime(path, (0, 0))
    assert sync.prepare(run)[0].open is None


def test_a_folder_that_is_no_runs_is_told_before_anything_is_uploaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("uploaded")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UserError, match="is not a run folder"):
        call(run, tmp_path / "nowhere")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    with pytest.raises(UserError, match="holds no offline segments"):
        call(run, bare)


def segment(started: float | None, ended: bool = True, whole: int = 100) -> Segment:
    path = Path(f"offline-run-{started}-x/run-x.wandb")
    return Segment(path, started, ended, whole, 100)


def test_segments_are_ordered_by_their_starts_and_empty_ones_left_out() -> None:
    a, b, c = segment(1.0), segment(2.0, ended=False, whole=90), segment(3.0, ended=False)
    plan = sync.make_plan([c, segment(None, ended=False), a, b], going_on=False)
    assert plan == sync.Plan([a, b, c], [b], 0, None)
    assert sync.make_plan([c, a, b], going_on=True) == sync.Plan([a, b], [b], 0, c)
    assert sync.make_plan([a], going_on=True) == sync.Plan([a], [], 0, None)  # it has ended
    assert sync.make_plan([], going_on=True) == sync.Plan([], [], 0, None)


def test_the_command_names_the_run_by_id_project_and_entity(tmp_path: Path) -> None:
    command = sync.make_command(
        tmp_path / "run", "abc", WandbConfig(project="p", entity="e"), [segment(1.0), segment(2.0)]
    )
    words = " ".join(command)
    assert words.startswith(f"env WANDB_DIR={tmp_path / 'run'} ")
    assert words.endswith(
        "-m wandb sync --id abc --project p --entity e offline-run-1.0-x offline-run-2.0-x"
    )
    assert "--entity" not in sync.make_command(tmp_path, "abc", WandbConfig(), [])
