"""How long a job takes to its first step, to stop at a signal, and to resume, on a real SLURM.

    python benchmarks/slurm.py shards/fer2013 --profile cpu [--rounds 3] [--json figures.json]

Submits one run of configs/fer2013.yaml, sends it SIGUSR2 as SLURM does before its time limit, and
waits for its next step; repeats that, then cancels the job. Medians are reported.
`profile.KEY=VALUE` arguments change the profile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.console import print_rows
from pattlite_dist.slurm.queue import state_of
from pattlite_dist.tracking import history

CONFIG = Path(__file__).parent.parent / "configs" / "fer2013.yaml"
LIMIT = 600.0  # seconds to wait for anything


def wait(found: Callable[[], Any]) -> Any:
    """What `found` returns, as soon as it is true."""
    deadline = time.monotonic() + LIMIT
    while not (result := found()):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing happened in {LIMIT:.0f} s; is the cluster busy?")
        time.sleep(0.02)
    return result


def pattlite(*words: str) -> str:
    """What a `pattlite` command prints."""
    argv = [sys.executable, "-m", "pattlite_dist", *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(options: argparse.Namespace, runs: Path) -> dict[str, list[float]]:
    """Seconds of each round, by what took them."""
    run = runs / "benchmark"

    def events(name: str) -> list[dict[str, Any]]:
        return [event for event in history.read(run) if event["event"] == name]

    began = time.time()
    job = pattlite(
        "submit", "-c", str(CONFIG), "--name", run.name, "--runs", str(runs), "--data.shards",
        options.shards, "--trainer.epochs", "1000", "--trainer.accelerator", "auto", "--wandb.mode",
        "offline", "--profile", options.profile, "--parsable", *options.words,
    ).strip()  # fmt: skip
    times: dict[str, list[float]] = {"`pattlite submit` itself": [time.time() - began]}
    try:
        [first] = wait(lambda: events("first_step"))
        times["from `pattlite submit` to the first step"] = [first["time"] - began]
        left, again, saving = [], [], []
        for number in range(1, options.rounds + 1):
            time.sleep(1)
            signalled = time.time()
            subprocess.run(["scancel", "--signal=USR2", job], check=True)
            # COMPLETING while any of its processes is alive.
            wait(lambda: state_of(job) not in ("RUNNING", "COMPLETING", "SIGNALING"))
            left.append(time.time() - signalled)
            wait(lambda n=number: len(events("first_step")) > n)
            again.append(events("first_step")[number]["time"] - events("requeued")[-1]["time"])
            saving.append(events("stopped")[-1]["save_seconds"])
        times["from the signal until all ranks are gone"] = left
        times["from the requeue to the next step"] = again
        times["of these, a checkpoint"] = saving
    finally:
        subprocess.run(["scancel", job], check=False)
        wait(lambda: state_of(job) not in ("RUNNING", "COMPLETING", "PENDING", "SIGNALING"))
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("words", nargs="*", help="profile.KEY=VALUE, or KEY=VALUE for the run")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        times = measure(options, Path(folder))
    figures = {name: statistics.median(seconds) for name, seconds in times.items()}
    print_rows([["seconds", "median"], *([k, f"{v:.2f}"] for k, v in figures.items())])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
