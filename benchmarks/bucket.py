"""A publisher that is killed again and again, and what publishing costs a step.

    python benchmarks/bucket.py [--kills 500] [--rounds 3] [--seed 0]

On moto's server here. Each kill is one of a publisher's process at a random moment while
checkpoints appear, with the server answering 500 now and then; what a start on an empty disk finds
is compared with what was published. Then runs are trained with and without a bucket, in turn.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pattlite_dist.buckets.fetch import fetch  # noqa: E402
from pattlite_dist.buckets.publisher import Task  # noqa: E402
from pattlite_dist.buckets.shelf import Bucket  # noqa: E402
from pattlite_dist.tracking.record import read_metrics, rewind_metrics  # noqa: E402
from tests.conftest import environment, tiny  # noqa: E402
from tests.shards.s3_server import (  # noqa: E402
    S3Server,
    new_bucket,
    s3_clients,
    s3_environment,
    s3_server,
)


def content(seed: int, step: int) -> bytes:
    """A checkpoint's bytes: a pure function of its step."""
    return random.Random(1_000_003 * seed + step).randbytes(200_000)


def save(folder: Path, seed: int, step: int) -> None:
    """As a run saves: the record, then the new checkpoint, then the old one is removed."""
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step}) + "\n")
    checkpoints = folder / "checkpoints"
    path = checkpoints / f"epoch=0000-step={step:08d}.ckpt"
    temporary = checkpoints / f".{step}.tmp"
    temporary.write_bytes(content(seed, step))
    temporary.replace(path)
    for old in checkpoints.glob("*.ckpt"):
        if old != path:
            old.unlink()


def kill_once(server: S3Server, address: str, folder: Path, draw: random.Random, seed: int) -> int:
    """Start a publisher, save, kill it; returns the step that it last said it had published."""
    task = Task(address, str(folder), 0.0, {"nonce": str(draw.random()), "pid": 0})
    with subprocess.Popen(
        [sys.executable, "-m", "pattlite_dist.buckets.publisher"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(**s3_environment(server)),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task._asdict()) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        assert said["word"] == "ready", said
        first = said["step"]
        rewind_metrics(folder / "metrics.jsonl", first + 1)  # as a start does
        server.faults["PUT head.json"] = draw.choice([0, 0, 1, 2, 4])
        for step in range(first + 1, first + 4):
            save(folder, seed, step)
            time.sleep(draw.uniform(0, 0.4))
        time.sleep(draw.uniform(0, 0.6))
        process.kill()
        rest = [json.loads(line) for line in process.stdout if line.endswith("\n")]
    server.faults.clear()
    steps = [facts["step"] for facts in rest if facts["word"] == "published"]
    return max(steps, default=first)


def kills(count: int, seed: int) -> None:
    """Kill publishers, each on an empty disk, and check what the next one finds."""
    draw, found_newer = random.Random(seed), 0
    with (
        tempfile.TemporaryDirectory() as base,
        s3_server() as server,
        s3_clients(**s3_environment(server)),
    ):
        address = f"s3://{new_bucket(server)}/runs/a"
        for number in range(count):
            folder = Path(base, str(number))
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "metrics.jsonl").touch()
            (folder / "config.yaml").touch()
            published = kill_once(server, address, folder, draw, seed)
            shutil.rmtree(folder)
            empty = Path(base, "empty")
            state = fetch(Bucket(address), empty)
            if state is not None:
                assert state.step >= published, (number, state.step, published)
                found_newer += state.step > published
                (path,) = (empty / "checkpoints").glob("*.ckpt")
                assert path.read_bytes() == content(seed, state.step), number
                lines = read_metrics(empty / "metrics.jsonl")
                assert [line["step"] for line in lines][: state.step + 1] == [
                    *range(state.step + 1)
                ], number
            else:
                assert published < 0, number
            shutil.rmtree(empty, ignore_errors=True)
        objects = len(Bucket(address).keys("objects"))
    print(f"{count} kills: the newest published state was found each time; {found_newer} times one")
    print(f"that the killed publisher had not yet reported; {objects} objects are left")


def cost(rounds: int) -> None:
    """Train with and without a bucket, in turn, and print the median step of each."""
    from pattlite_dist.shards.faces import write_faces

    with tempfile.TemporaryDirectory() as base, s3_server() as server:
        folder = Path(base)
        env = environment(**s3_environment(server))
        command = [sys.executable, "-m", "pattlite_dist"]
        write_faces(folder / "faces.csv", 1600, 40, 40, 0)
        subprocess.run(
            [*command, "shards", "create", str(folder / "faces.csv"), str(folder / "shards")],
            check=True, env=env, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        times: dict[str, list[float]] = {"a folder": [], "a bucket": []}
        with s3_clients(**s3_environment(server)):
            bucket = new_bucket(server)
            for number in range(2 * rounds):
                kind = [*times][number % 2]
                runs = f"s3://{bucket}/runs" if kind == "a bucket" else folder / "runs"
                words = tiny(
                    folder / "shards", runs, f"run{number}", scratch=folder / "scratch",
                    **{"trainer.checkpoint_every_steps": 20},
                )  # fmt: skip
                subprocess.run(
                    [*command, *words], check=True, env=env, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
                where = next(folder.rglob(f"run{number}/metrics.jsonl"))
                stamps = [line["time"] for line in read_metrics(where) if "train/loss" in line]
                times[kind] += [1000 * (b - a) for a, b in itertools.pairwise(stamps)]
    for kind, found in times.items():
        print(f"{kind}: a step takes {statistics.median(found):.1f} ms (median of {len(found)})")


def main() -> None:
    """Kill, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.pop("PATTLITE_SHARDS", None)
    if options.kills:
        kills(options.kills, options.seed)
    if options.rounds:
        cost(options.rounds)


if __name__ == "__main__":
    main()
