from pathlib import Path

import pytest

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.train.logs import JsonlLogger, wandb_logger, wandb_mode
from pattlite_dist.train.record import read_metrics


def test_each_set_of_metrics_is_a_line(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_metrics({"epoch": 2.0, "train/loss": 0.5}, 7)
    logger.log_metrics({"val/top1": 0.25}, 8)
    first, second = read_metrics(logger.path)
    assert (first["step"], first["epoch"], first["train/loss"]) == (7, 2, 0.5)
    assert (second["step"], second["val/top1"]) == (8, 0.25)
    assert "epoch" not in second


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("logged_out")
def test_auto_is_offline_until_there_is_a_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert wandb_mode("auto") == "offline"
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    netrc.chmod(0o600)
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    assert wandb_mode("offline") == "offline"


@pytest.mark.usefixtures("logged_out")
def test_online_without_a_login_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"wandb": {"mode": "online"}})
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(config, tmp_path, main=True)


def test_only_the_first_rank_logs(tmp_path: Path) -> None:
    config = Config.model_validate({"wandb": {"mode": "offline"}})
    assert wandb_logger(config, tmp_path, main=False) is None
    assert list(tmp_path.iterdir()) == []
