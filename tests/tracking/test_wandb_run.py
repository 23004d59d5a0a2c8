"""W&B with real starts of its client, offline and against a stand-in for its server."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.errors import AuthenticationError, CommError

from pattlite_dist.config import Config
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.runtime.code import git_state
from pattlite_dist.tracking import wandb_run
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.tracking.loggers import CSV_NAME, table_of
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics, scalars
from pattlite_dist.tracking.wandb_run import (
    missing,
    run_id,
    wandb_folders,
    wandb_logger,
    wandb_mode,
)
from pattlite_dist.tracking.wandb_segments import records
from tests.conftest import Run, environment, tiny
from tests.data.test_fetch import Server, served
from tests.starts import Zygote
from tests.tracking.wandb_server import KEY, wandb_server
from tests.train.harness import assert_same_training, logged


@pytest.fixture(scope="module")
def zygote(zygote: Zygote) -> Zygote:
    """What is told of a step is the point here, not its network."""
    return zygote.with_small_networks()


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)


def write_netrc(path: Path, host: str) -> None:
    path.write_text(f"machine {host} login user password secret\n")
    path.chmod(0o600)


@pytest.mark.usefixtures("logged_out")
def test_auto_is_offline_until_there_is_a_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert wandb_mode("auto") == "offline"
    write_netrc(tmp_path / ".netrc", "api.wandb.ai")
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode("auto") == "offline"  # that key is another server's
    write_netrc(tmp_path / "elsewhere", "wandb.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    assert wandb_mode("offline") == "offline"


@pytest.mark.usefixtures("logged_out")
def test_online_without_a_login_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"wandb": {"mode": "online"}})
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(config, tmp_path, main=True)


class Attempts:
    """Stands in for wandb's start, which fails online."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.modes = error, list[str]()

    def __call__(self, config: Config, run: Path, mode: str) -> Any:
        self.modes.append(mode)
        if mode == "online" and self.error is not None:
            raise self.error
        return SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda *_: None)


@pytest.fixture
def attempts(
    logged_out: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[str]]:
    """Start a run with a login; returns the modes that wandb was started in."""

    def start(mode: str, why: str | None = None, error: Exception | None = None) -> list[str]:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        made = Attempts(error)
        monkeypatch.setattr(wandb_run, "_init", made)
        monkeypatch.setattr(wandb_run, "unreachable", lambda: why)
        config = Config.model_validate({"wandb": {"mode": mode}})
        assert wandb_logger(config, tmp_path / "run", main=True) is not None
        return made.modes

    return start


def test_auto_goes_on_offline_where_the_server_is_not_reached_and_says_so(
    attempts: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempts("auto") == ["online"]
    assert capsys.readouterr().err == ""
    assert attempts("auto", "https://a.b cannot be reached (no route)") == ["offline"]
    assert capsys.readouterr().err == (
        "pattlite: note: W&B is kept offline: https://a.b cannot be reached (no route); "
        "`pattlite sync` uploads it later\n"
    )
    malformed = AuthenticationError(f"API key {KEY}\nmust have 40+ characters")
    assert attempts("auto", None, malformed) == ["online", "offline"]
    told = capsys.readouterr().err
    assert "kept offline: API key *** must have 40+ characters; " in told
    assert told.count("\n") == 1


def test_online_is_not_replaced_where_it_was_asked_for(
    attempts: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts("online", "it cannot be reached") == ["online"]
    for error, kind, told in (
        (AuthenticationError("no such key"), UserError, "refuses the login: no such key; run `wan"),
        (CommError("timed out"), Unreachable, "W&B cannot be started: timed out; start again late"),
    ):
        with pytest.raises(kind, match=told):
            attempts("online", None, error)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(Unreachable):
        attempts("auto", None, CommError("timed out"))


def test_only_the_first_rank_logs(tmp_path: Path) -> None:
    config = Config.model_validate({"wandb": {"mode": "offline"}})
    assert wandb_logger(config, tmp_path, main=False) is None
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(0, 300)), st.booleans())
def test_the_last_minute_is_told_again_and_everything_the_first_time(
    times: list[float], first: bool
) -> None:
    lines = [{"step": step, "time": time} for step, time in enumerate(sorted(times))]
    told = missing(lines, first)
    assert told == lines[len(lines) - len(told) :]  # the end of them, in order
    if first:
        assert told == lines
    assert all(line in told for line in lines if line["time"] > lines[-1]["time"] - 60)
    assert first or all(line["time"] >= lines[-1]["time"] - 60 for line in told)


def start(
    zygote: Zygote, run: Path, first: int, last: int, *options: str, status: int = 0, **env: str
) -> None:
    done = zygote.start(
        [str(run), str(first), str(last), *options], module="tests.tracking.wandb_start",
        preload=["wandb.sdk.launch"],
        env=environment(HOME=str(run.parent / "home"), **env),
    )  # fmt: skip
    assert done.statuses == [status], done.log


def of_wandb(home: Path) -> list[Path]:
    """What wandb left there; other libraries have their own caches."""
    return [path for path in home.rglob("*") if "wandb" in str(path.relative_to(home)).lower()]


def segments(run: Path) -> list[Path]:
    """A run's segments in the order of their names, which is also that of their starts here."""
    return sorted((run / "wandb").glob("offline-run-*/*.wandb"))


def rows(segment: Path) -> list[dict[str, Any]]:
    """The history in a segment."""
    found = []
    for _, record in records(segment):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


def told(segment: Path) -> dict[str, list[Any]]:
    """The records of a segment by their kind."""
    found: dict[str, list[Any]] = {}
    for _, record in records(segment):
        found.setdefault(record.WhichOneof("record_type"), []).append(record)
    return found


def summary(records: dict[str, list[Any]]) -> dict[str, Any]:
    """What they add to the run's summary, wandb's own keys left out; of a table, `name.part`."""
    found: dict[str, Any] = {}
    for record in records.get("summary", ()):
        for item in record.summary.update:
            key, value = item.key or ".".join(item.nested_key), json.loads(item.value_json)
            parts = value if isinstance(value, dict) else {"": value}
            found |= {f"{key}.{part}".rstrip("."): value for part, value in parts.items()}
    return {key: value for key, value in found.items() if not key.startswith("_")}


def steps(run: Path) -> list[int]:
    """The step metric over all segments."""
    return [row["trainer/global_step"] for path in segments(run) for row in rows(path)]


def recorded(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run / RECORD_NAME)]


@pytest.fixture(scope="module")
def started_twice(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run after steps 0 to 5 and then 6 to 8."""
    run = tmp_path_factory.mktemp("twice") / "run"
    start(zygote, run, 0, 6)
    start(zygote, run, 6, 9)
    return run


@pytest.mark.slow
def test_two_starts_are_two_segments_of_one_run(started_twice: Path) -> None:
    run = started_twice
    first, second = segments(run)
    assert {path.name for path in (first, second)} == {f"run-{run_id(run / 'wandb')}.wandb"}
    assert [row["trainer/global_step"] for row in rows(first)] == list(range(6))
    # The first start's lines are less than a minute old, so they are sent again; then its own.
    assert [row["trainer/global_step"] for row in rows(second)] == list(range(9))
    assert recorded(run) == list(range(9))
    assert {row["train/loss"] for row in rows(second)} == {1 / (step + 1) for step in range(9)}
    assert of_wandb(run.parent / "home") == []


@pytest.mark.slow
def test_the_step_metric_is_defined_and_each_segment_asks_to_be_appended(
    started_twice: Path,
) -> None:
    for path in segments(started_twice):
        by_kind: dict[str, list[Any]] = {}
        for _, record in records(path):
            by_kind.setdefault(record.WhichOneof("record_type"), []).append(record)
        (begun,) = (record.run for record in by_kind["run"])
        assert begun.resume
        defined = [(m.metric.name or m.metric.glob_name, m.metric.step_metric)
                   for m in by_kind["metric"]]  # fmt: skip
        assert ("trainer/global_step", "") in defined
        assert ("*", "trainer/global_step") in defined


@pytest.mark.slow
def test_two_starts_within_one_second_do_not_share_a_segment(
    zygote: Zygote, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for first in (0, 2):
        start(zygote, run, first, first + 2, "clock=1700000000.25")
    names = [path.parent.name for path in segments(run)]
    assert len(names) == 2
    assert len({name[: len("offline-run-20231114_221320")] for name in names}) == 1
    assert [rows(path)[-1]["trainer/global_step"] for path in segments(run)] == [1, 3]


@pytest.mark.slow
def test_what_a_killed_start_did_not_write_is_told_by_the_next(
    zygote: Zygote, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start(zygote, run, 0, 10, "kill=1", status=-9)
    assert set(steps(run)) < set(range(10))  # wandb held them in memory only
    assert recorded(run) == list(range(10))
    start(zygote, run, 8, 12)  # from a checkpoint at step 8: 8 and 9 are repeated
    assert recorded(run) == list(range(12))
    assert set(steps(run)) == set(range(12))
    assert len(segments(run)) == 2


@pytest.mark.slow
def test_w_and_b_from_the_second_start_on_has_the_first_too(zygote: Zygote, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        json.dumps({"step": step, "train/loss": 0.5, "time": 60.0 * step}) for step in range(9)
    ]
    (run / RECORD_NAME).write_text("\n".join(lines) + "\n")
    start(zygote, run, 9, 10)
    assert steps(run) == list(range(10))


@pytest.mark.slow
def test_online_a_killed_start_is_continued_and_no_step_is_refused(
    zygote: Zygote, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with wandb_server() as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        start(zygote, run, 0, 10, "mode=online", "kill=1", status=-9, **env)
        start(zygote, run, 6, 12, "mode=online", "group=other", **env)
        start(zygote, run, 12, 14, "mode=online", "test=0.75", **env)
        (known,) = server.names
        assert known == run_id(run / "wandb")
        history = server.history(known)
        assert set(history) == set(range(14))
        assert history[-2:] == [12, 13]
        own = server.history(known, "_step")
        assert own == sorted(set(own))
        summary = server.summaries[known]
        assert (summary["best/test_top1"], summary["train/loss"]) == (0.75, 1 / 14)
    assert of_wandb(tmp_path / "home") == []


@pytest.mark.slow
def test_a_run_of_two_ranks_started_twice_is_one_run_and_writes_nothing_at_home(
    forked: Run, face_shards: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for epochs in (1, 2):
        arguments = tiny(
            face_shards, tmp_path, wandb__mode="offline", trainer__epochs=epochs,
            wandb__tags="[one,two]", wandb__mistakes=3, tracking__loggers="[wandb,csv]",
            tracking__raw_val="true", optim__warmup_epochs=0.99,
        )  # fmt: skip
        done = forked(*arguments, ranks=2, HOME=str(home), WANDB_API_KEY="")
        assert done.returncode == 0, done.stderr
    run = tmp_path / "tiny"
    assert len(segments(run)) == 2
    assert set(recorded(run)) == set(range(26)) == set(steps(run))
    values = {(row["trainer/global_step"], key): row[key]
              for path in segments(run) for row in rows(path) for key in row}  # fmt: skip
    for line in read_metrics(run / RECORD_NAME):  # not only the steps: each metric
        for key in scalars(line):
            assert values[line["step"], key] == pytest.approx(line[key]), (line["step"], key)
    assert of_wandb(home) == []
    both = [logged(run, f"val/{name}") for name in ("nll", "raw_nll")]
    assert both[0][0] == both[1][0] and both[0][1] != both[1][1]  # the average begins as a copy
    assert (run / CSV_NAME).read_text() == table_of(read_metrics(run / RECORD_NAME))
    first, second = map(told, segments(run))
    for each in (first, second):
        (begun,) = (record.run for record in each["run"])
        assert (begun.job_type, list(begun.tags)) == ("train", ["one", "two"])
        assert begun.git.commit == (git_state()["commit"] or "")
    kinds = [[one.artifact.type for one in each["artifact"]] for each in (first, second)]
    assert kinds[0][0] == "dataset" and "dataset" not in kinds[1]  # named once
    best = max(value for _, value in logged(run, "val/top1"))
    for each, epoch in ((first, 0), (second, None)):
        model = next(one.artifact for one in each["artifact"] if one.artifact.type == "model")
        assert "best" in model.aliases
        assert epoch in (None, json.loads(model.metadata)["epoch"] - 1)
        assert model.manifest.contents[0].ref.startswith("file://")
    assert summary(second)["best/val_top1"] == pytest.approx(best)
    tables = [path.name for path in (run / "wandb").rglob("*.table.json")]
    assert any("confusion" in name for name in tables) and any("mistakes" in n for n in tables)
    files = [file.path for one in first["artifact"] for file in one.artifact.manifest.contents]
    assert sum(file.startswith("media/images/") for file in files) == 3
    done = forked("evaluate", str(run), "--pictures=false", HOME=str(home), WANDB_API_KEY="")
    assert done.returncode == 0, done.stderr
    *_, third = map(told, segments(run))
    assert third["run"][0].run.resume and "history" not in third
    scores = json.loads((run / "evaluation.json").read_text())["splits"]
    tested = {f"best/{part}_{name}": scores[part][name]
              for part in ("test", "test_clean") for name in ("top1", "macro_f1")}  # fmt: skip
    # An uploaded segment replaces the summary, so each begins with that of those before.
    assert summary(third) == {**summary(first), **summary(second), **tested}
    with wandb_server() as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(home)}
        done = forked("sync", str(run), **env)
        assert done.returncode == 0, done.stderr
        (known,) = server.names
        uploaded = server.summaries[known]
    assert set(server.history(known)) == set(range(26))
    assert uploaded.items() >= {**tested, "best/val_top1": summary(second)["best/val_top1"]}.items()
    assert uploaded["val/confusion_table"]["_type"] == "table-file"
    assert {kind for kind, _ in server.artifacts} == {"dataset", "model", "run_table"}


@pytest.mark.slow
def test_the_record_is_the_same_without_w_and_b_and_nothing_that_is_written_holds_a_login(
    forked: Run, face_shards: Path, tmp_path: Path
) -> None:
    def train(mode: str, shards: str | Path) -> str:
        given = {"wandb__mode": mode, "trainer__epochs": 1, "data__shards": shards}
        done = forked(*tiny(face_shards, tmp_path, mode, **given))
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    train("disabled", face_shards)
    with served(face_shards) as address:
        given = address.replace("://", "://ada:5ecret@") + "?sig=5ecret"
        printed = train("offline", given)
        assert Server.login == "Basic YWRhOjVlY3JldA=="
        assert "manifest.json?sig=5ecret" in Server.seen
    assert_same_training(tmp_path / "disabled", tmp_path / "offline")
    assert not (tmp_path / "disabled" / "wandb").exists()
    assert "5ecret" not in printed
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".yaml", ".jsonl", ".ckpt", ".wandb"} <= {path.suffix for path in files}
    for path in files:
        assert b"5ecret" not in path.read_bytes(), path
    assert load_config(tmp_path / "offline").data.shards == address


def test_every_folder_of_wandb_is_in_the_run(tmp_path: Path) -> None:
    places = {Path(value) for value in wandb_folders(tmp_path / "run").values()}
    assert all(place.is_relative_to(tmp_path / "run") for place in places)
