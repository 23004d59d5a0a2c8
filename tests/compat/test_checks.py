"""Where a private name is gone or has another shape, a command says so before it begins."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment

from pattlite_dist import cli
from pattlite_dist.compat import jsonargparse as parsers
from pattlite_dist.compat import lightning, submitit, torch, torchrun, wandb
from pattlite_dist.errors import UserError
from pattlite_dist.runtime import elastic
from pattlite_dist.train.trainer import quiet_libraries
from tests.conftest import tiny


def test_all_is_there_today() -> None:
    lightning.check()
    torch.check()
    submitit.check()
    wandb.check()


LIGHTNING = "pytorch_lightning.trainer.connectors.signal_connector._SignalConnector"
LOOP = "pytorch_lightning.loops.training_epoch_loop._TrainingEpochLoop"
PROGRESS = "pytorch_lightning.loops.progress._ReadyCompletedTracker"
GONE = [
    (lightning.check, f"{LIGHTNING}.register_signal_handlers"),
    (lightning.check, f"{LOOP}._broadcast_sigterm_tensor"),
    (lightning.check, "pytorch_lightning.strategies.DDPStrategy.configure_ddp"),
    (torch.check, "torch._foreach_copy_"),
    (torch.check, "torch._foreach_lerp_"),
    (torch.check, "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._shutdown_workers"),
    (submitit.check, "submitit.slurm.slurm._make_sbatch_string"),
    (submitit.check, "submitit.core.job_environment.JobEnvironment._requeue"),
    (submitit.check, "submitit.core.job_environment.SignalHandler.checkpoint_and_try_requeue"),
    (wandb.check, "wandb.Settings.update_from_env_vars"),
    (wandb.check, "wandb.proto.wandb_internal_pb2.Record"),
]


@pytest.mark.parametrize(("check", "name"), GONE, ids=[name for _, name in GONE])
def test_a_name_that_is_gone_is_one_line(
    check: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(name)
    with pytest.raises(UserError, match=r"has no .*, which pattlite_dist requires; install a supp"):
        check()


def trainer() -> pl.Trainer:
    quiet_libraries()
    return pl.Trainer(accelerator="cpu", barebones=True, plugins=[LightningEnvironment()])


def test_a_counter_of_another_layout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = trainer().fit_loop
    state = loop.state_dict()
    checkpoint = {"loops": {"fit_loop": state}}
    lightning.begin_validation(checkpoint)
    assert state["epoch_loop.val_loop.batch_progress"]["total"]["started"] == 1
    assert state["epoch_loop.val_loop.batch_progress"]["total"]["completed"] == 0
    del state["epoch_loop.batch_progress"]["total"]["processed"]
    with pytest.raises(UserError, match=r"`epoch_loop\.batch_progress\.total` among"):
        lightning.begin_validation(checkpoint)
    monkeypatch.setattr(type(loop), "state_dict", lambda self: {})
    with pytest.raises(UserError, match="among a checkpoint's counters"):
        lightning.check()


def test_lightning_is_left_no_handler_and_no_broadcast() -> None:
    left = trainer()
    lightning.leave_signals_alone(left)
    assert left._signal_connector.register_signal_handlers() is None
    assert left.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None
    del left.fit_loop.epoch_loop
    with pytest.raises(UserError, match="_broadcast_sigterm_tensor"):
        lightning.leave_signals_alone(left)


def test_a_submitit_that_would_ignore_the_requeue_command_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(self: Any, signum: int, frame: Any = None) -> None:
        """Requeues on its own."""

    monkeypatch.setattr(
        "submitit.core.job_environment.SignalHandler.checkpoint_and_try_requeue", other
    )
    with pytest.raises(UserError, match=r"that calls `env\._requeue`"):
        submitit.check()


def test_a_handler_is_checked_and_changed() -> None:
    class Handler:
        def __init__(self, env: Any) -> None:
            self.env = env

        def act(self, signum: int, frame: Any) -> None:
            self.env._requeue(3)

    submitit.check_handler(0)  # none: not a job of submitit's
    with pytest.raises(UserError, match=r"submitit .* has no `__self__\.env\._requeue`"):
        submitit.check_handler(Handler(SimpleNamespace()).act)
    left: list[int] = []
    handler = Handler(SimpleNamespace(_requeue=print)).act
    submitit.requeue_by(handler, left.append)
    handler(0, None)
    assert left == [3]


def test_a_torch_that_does_not_know_the_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    torchrun.separate_stores()
    assert os.environ.pop("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    monkeypatch.setattr(torchrun, "_SEPARATE", "TORCH_NO_SUCH_VARIABLE")
    with pytest.raises(UserError, match="variable TORCH_NO_SUCH_VARIABLE"):
        torchrun.separate_stores()
    monkeypatch.delenv("TORCH_NO_SUCH_VARIABLE")


def test_an_agents_patience_is_an_option_that_the_user_may_have_set() -> None:
    for given, kept in ((None, 60), (5, 5)):
        options = SimpleNamespace(shutdown_timeout=given)
        torchrun.wait_for_workers(options, 60)
        assert options.shutdown_timeout == kept


def test_an_older_agent_is_patient_after_a_signal_and_as_before_between_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.elastic.multiprocessing import api

    waited: list[int] = []

    def close(self: object, death_sig: object = None, timeout: int = 30) -> None:
        waited.append(timeout)

    monkeypatch.setattr(api.PContext, "close", close)
    torchrun.wait_for_workers(SimpleNamespace(), 60)
    try:
        raise api.SignalException("", signal.SIGTERM)
    except api.SignalException:
        api.PContext.close(None, signal.SIGTERM)  # type: ignore[arg-type]
    api.PContext.close(None)  # type: ignore[arg-type]
    assert waited == [60, 30]
    monkeypatch.setattr(api.PContext, "close", lambda self: None)
    with pytest.raises(UserError, match=r"`PContext\.close`"):
        torchrun.wait_for_workers(SimpleNamespace(), 60)


def test_an_agent_gives_up_at_a_status_that_no_attempt_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    def monitor(self: object, worker_group: list[int]) -> Any:
        return SimpleNamespace(failures={n: SimpleNamespace(exitcode=n) for n in worker_group})

    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", monitor)
    torchrun.give_up_at(2)
    agent = SimpleNamespace(_remaining_restarts=100)
    look: Any = LocalElasticAgent._monitor_workers
    assert look(agent, [-9, 1]).failures and agent._remaining_restarts == 100
    assert look(agent, [1, 2]).failures and agent._remaining_restarts == 0
    with pytest.raises(UserError, match="`_remaining_restarts`"):
        look(SimpleNamespace(), [2])
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self: None)
    with pytest.raises(UserError, match="`_monitor_workers`"):
        torchrun.give_up_at(2)


def test_training_stops_before_it_touches_anything(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delattr(f"{LOOP}._broadcast_sigterm_tensor")
    assert cli.main(tiny(face_shards, tmp_path / "runs")) == 2
    assert "pytorch-lightning 2." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
def test_nothing_is_scored(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delattr(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._shutdown_workers"
    )
    assert cli.main([verb, str(tmp_path)]) == 2
    assert "torch 2." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_agent_that_logs_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delattr("torch.distributed.elastic.multiprocessing.api.logger")
    assert elastic.main(["--help"]) == 2
    assert "has no `logger`" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["submit", "submit evaluate", "submit shards", "sweep", "doctor"])
def test_nothing_is_submitted_nor_printed(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delattr("submitit.slurm.slurm._make_sbatch_string")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text("nodes: 1\n")
    (tmp_path / "c.yaml").write_text("name: a\n")
    before = sorted(tmp_path.rglob("*"))
    arguments = {
        "submit": ["-c", "c.yaml", "--dry-run"],
        "submit evaluate": ["c.yaml", "--dry-run"],
        "submit shards": ["c.yaml", "out", "--dry-run"],
        "sweep": ["-c", "c.yaml", "--name=s", "--dry-run", "seed=0,1"],
        "doctor": ["-c", "c.yaml"],
    }
    assert cli.main([*verb.split(), *arguments[verb], "--profile=p.yaml"]) == 2
    said = capsys.readouterr()
    assert "submitit 1." in said.err and "_make_sbatch_string" in said.err
    assert not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delattr("wandb.proto.wandb_internal_pb2.Record")
    assert cli.main(["sync", str(tmp_path)]) == 2
    assert "has no `Record`" in capsys.readouterr().err


def test_a_parser_that_does_not_list_its_options_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jsonargparse.DefaultHelpFormatter", SimpleNamespace())
    with pytest.raises(UserError, match=r"jsonargparse .* has no `_expand_help`"):
        parsers.plain_formatter()
    with pytest.raises(UserError, match=r"jsonargparse .* has no `_actions`"):
        parsers.actions(SimpleNamespace())  # type: ignore[arg-type]
