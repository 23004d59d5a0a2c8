"""`pattlite doctor --report`: what a bug report needs, and nothing private."""

import getpass
import socket
from pathlib import Path

import pytest

from pattlite_dist.cli import main
from pattlite_dist.commands.bugreport import bug_report, changed, impersonal
from pattlite_dist.config import parse_config


@pytest.fixture(autouse=True)
def _person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ada, on the machine lab7.example.org, in a folder of her home."""
    (tmp_path / "ada" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ada" / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab7.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("lab7.example.org is 10.0.0.7, lab7 too", "HOST is 10.0.0.7, HOST too"),
        ("{home}/.cache/torch: 3 GB", "~/.cache/torch: 3 GB"),
        ("{home}/work: 3 GB, {home}/work/runs", ".: 3 GB, ./runs"),
        ("/scratch/ada/runs", "/scratch/USER/runs"),
        ("adam and lab77 stay", "adam and lab77 stay"),
        ("https://ada:5ecret@host/x?sig=5ecret", "https://host/x"),
    ],
)
def test_what_is_private_is_replaced(text: str, left: str, tmp_path: Path) -> None:
    assert impersonal(text.format(home=tmp_path / "ada")) == left


def test_only_settings_that_were_changed_are_told_and_no_folders() -> None:
    config = parse_config(
        {
            "seed": 3,
            "runs": "/scratch/ada/runs",
            "optim": {"lr": 0.5},
            "wandb": {"entity": "ada-lab", "mode": "offline"},
        },
        "test",
    )
    # Of runs, the last part is the default.
    assert list(changed(config)) == ["seed=3", "optim.lr=0.5"]


def test_a_report_is_one_block_to_be_pasted() -> None:
    first, *middle, last = bug_report(["ok       GPUs       lab7"], None)
    assert (first, last) == ("```text", "```")
    assert "ok       GPUs       HOST" in middle
    assert any(line.startswith("torch ") for line in middle)


def test_the_doctor_reports_what_it_finds_even_if_it_cannot_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor", "--report", "-c", "demo", "trainer.accelerator=gpu"]) == 0
    told = capsys.readouterr().out
    assert "failed   shards" in told and "trainer.accelerator=gpu" in told
    assert main(["doctor", "--report", "--profile", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "error: no configuration is given" in told
    assert str(tmp_path) not in told
