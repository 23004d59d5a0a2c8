"""`pattlite nodes`, from the folders of runs."""

import json
from pathlib import Path

import pytest

from pattlite_dist.cli import main
from pattlite_dist.tracking import history


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on two nodes, of which one was killed, then on the other, for which it is left out."""
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    history.append(run, "started", step=0, nodes=["n1", "n2"], ranks=2)
    killed = "rank 1 on n2 was killed after step 9"
    history.append(run, "requeued", error=killed, step=5, lost=65.0, excluded=["n2"])
    history.append(run, "started", step=5, nodes=["n1"], ranks=1)
    waits = [
        {"step": step, "time": 9e9, "ranks/reduce": [0.1, 0.9], "time/reduce": 0.5,
         "time/compute": 0.5}
        for step in range(20)
    ]  # fmt: skip
    lines = (json.dumps(line) + "\n" for line in waits)
    (run / "metrics.jsonl").write_text("".join(lines))
    return run.parent


def test_what_runs_have_seen_is_a_table_without_empty_columns(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodes", str(runs)]) == 0
    head, n1, n2 = (
        [cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line[0] in "┃│"
    )
    assert head == [
        "node", "runs", "starts", "steps", "crashes", "lost", "waited for", "last failure",
    ]  # fmt: skip
    assert n1 == ["n1", "1", "2", "20", "", "", "80 %", ""]
    assert n2 == ["n2", "1", "1", "5", "1", "1:05", "", "rank 1 on n2 was killed after step 9"]


def test_scripts_get_each_failure(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "--runs", str(runs), "--json"]) == 0
    _, n2 = json.loads(capsys.readouterr().out)
    assert n2["counts"] == {"crash": 1, "hang": 0, "probe": 0}
    assert n2["excluded"] == [str(runs / "one")]
    assert n2["failures"][0]["run"] == str(runs / "one")


def test_a_folder_without_runs_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodes", "--runs", str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err
