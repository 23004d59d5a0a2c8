"""The shipped sweep by `wandb sweep` and `wandb agent`, against a stand-in for W&B's server."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from pattlite_dist.cli import parse
from pattlite_dist.commands.options import given_config
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.tracking.record import RECORD_NAME, best_on_val, read_metrics
from tests.conftest import ROOT, environment
from tests.starts import Zygote
from tests.tracking.wandb_server import KEY, SWEEP, Server, wandb_server

SHIPPED = ROOT / "configs" / "wandb" / "sweep.yaml"
# wandb's own commands; the agent looks every five seconds whether its run has ended.
_AGENT = """
import sys
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.2
cli(["sweep", sys.argv[1]], standalone_mode=False)
cli(["agent", sys.argv[2]], standalone_mode=False)
"""
# Stands in for `pattlite`: says what it is started with, and ends as it is told.
_PROGRAM = """#!/bin/sh
env -0 > env
printf '%s\\0' "$@" > words.part && mv words.part words
until [ -e status ]; do sleep 0.2; done
exit "$(cat status)"
"""


def points() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two opposite corners of the shipped sweep: a value by key."""
    axes = yaml.safe_load(SHIPPED.read_text())["parameters"]
    values = {key: axis.get("values") or [axis["min"], axis["max"]] for key, axis in axes.items()}
    low, high = ({key: each[end] for key, each in values.items()} for end in (0, -1))
    return low, high


@contextlib.contextmanager
def agent(folder: Path, server: Server) -> Iterator["subprocess.Popen[bytes]"]:
    """wandb's agent at work, with a program of ours as `pattlite`."""
    program = folder / "bin" / "pattlite"
    program.parent.mkdir()
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    env = environment(
        PATH=f"{program.parent}:{environment()['PATH']}", HOME=str(folder / "home"),
        WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY, NO_PROXY="*",
    )  # fmt: skip
    words = [sys.executable, "-c", _AGENT, SHIPPED, f"me/pattlite/{SWEEP}"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        stack.callback((folder / "status").write_text, "1")
        yield process


@pytest.mark.slow
def test_wandbs_agent_trains_a_run_of_its_own_for_a_point_of_the_shipped_sweep(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    point, _ = points()
    with wandb_server() as server:
        server.points = [point]
        with agent(tmp_path, server) as process:
            asked = tmp_path / "words"
            while not asked.exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            words = asked.read_text().rstrip("\0").split("\0")
            given = (tmp_path / "env").read_text().rstrip("\0").split("\0")
            done = zygote.with_small_networks().start(
                [*words, f"--data.shards={face_shards}", "--model.weights=none", "--model.width=32",
                 "--data.image_size=48", "--trainer.epochs=1", "--trainer.global_batch=52",
                 "--trainer.accelerator=cpu", "--optim.warmup_epochs=0"],
                env=dict(line.split("=", 1) for line in given), cwd=tmp_path,
                preload=["wandb.sdk.launch"],
            )  # fmt: skip
            assert done.ended, done.log
            (tmp_path / "status").write_text("0")
            assert process.wait(300) == 0, (tmp_path / "log").read_text()
    run = tmp_path / "runs" / "fer2013-point0"
    config = load_config(run)
    assert (config.optim.lr, config.seed) == (point["optim.lr"], point["seed"])
    assert server.sweeps == {"point0": SWEEP}
    assert server.names == {"point0": ("pattlite", "me", run.name)}
    best = best_on_val(read_metrics(run / RECORD_NAME))
    assert best is not None
    metric = yaml.safe_load(server.sweep)["metric"]["name"]  # which the sweep is for
    assert server.summaries["point0"][metric] == pytest.approx(best["val/top1"])
    # The stand-in has no artifacts that a run uses, which keeps W&B from nothing else.
    assert "W&B is not given the manifest: " in done.stderr and "has ended" not in done.stderr


def test_each_key_of_the_shipped_sweep_is_one_and_takes_the_ends_of_its_range() -> None:
    command = yaml.safe_load(SHIPPED.read_text())["command"]
    assert command[:2] == ["${env}", "pattlite"] and command[-1] == "${args_no_hyphens}"
    for point in points():
        args = {key: {"value": value} for key, value in point.items()}
        words = create_sweep_command_args({"args": args})["args_no_hyphens"]
        config = given_config(parse("train", [*command[3:-1], *words]))
        assert (config.optim.lr, config.seed) == (point["optim.lr"], point["seed"])
        assert config.optim.weight_decay == point["optim.weight_decay"]
