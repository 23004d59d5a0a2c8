"""Publishers that are killed, owners that start together, and what publishing costs a step.

    python benchmarks/bucket.py [--kills 500] [--races 100] [--rounds 5] [--seed 0] [--faults 0.1]
        [--early 0.2] [--azurite FOLDER]

A small network is trained, undisturbed. Then publishers' processes get its saves, one after the
other, and each is killed at a random moment; what a start on an empty disk finds is compared with
the undisturbed run, byte for byte. Between them and the store (moto's server, or azurite from that
folder of npm's) is a proxy that cuts, delays and answers with errors at any byte. At last, runs are
trained with and without a bucket, in turn.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.azurite import azurite  # noqa: E402
from pattlite_dist.tracking.record import read_metrics  # noqa: E402
from tests.buckets.killing import Script, kills, of_run, race  # noqa: E402
from tests.buckets.proxy import proxy  # noqa: E402
from tests.conftest import environment, tiny  # noqa: E402
from tests.shards.s3_server import new_bucket, s3_clients, s3_environment, s3_server  # noqa: E402

EPOCHS = 24


class Store(NamedTuple):
    """A store that runs here.

    Attributes:
        env: by which clients find it.
        new: makes the address of a new bucket.
        behind: the variable with its address, and its value; a proxy takes its place.
    """

    env: Mapping[str, str]
    new: Callable[[], str]
    behind: str


@contextlib.contextmanager
def store(folder: Path | None) -> Iterator[Store]:
    """Moto's server, or azurite from a folder of npm's."""
    if folder is not None:
        with azurite(folder) as (env, new):
            yield Store(env, new, "AZURE_STORAGE_ENDPOINT")
        return
    with s3_server() as server:
        env = s3_environment(server)

        def new() -> str:
            with s3_clients(**env):
                return f"s3://{new_bucket(server)}/runs"

        yield Store(env, new, "AWS_ENDPOINT_URL")


def trained(folder: Path) -> tuple[Script, Path]:
    """An undisturbed run of a small network that has kept all checkpoints; and its shards."""
    from pattlite_dist.shards.faces import write_faces

    write_faces(folder / "faces.csv", 320, 40, 40, 0)
    pattlite("shards", "create", str(folder / "faces.csv"), str(folder / "shards"))
    words = tiny(folder / "shards", folder, "whole",
                 **{"trainer.epochs": EPOCHS, "trainer.keep_best": EPOCHS,
                    "trainer.global_batch": 80})  # fmt: skip
    pattlite(*words)
    return of_run(folder / "whole"), folder / "shards"


def pattlite(*words: str, **env: str) -> None:
    """Run a command to its end."""
    subprocess.run(
        [sys.executable, "-m", "pattlite_dist", *words], check=True, env=environment(**env),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill_many(
    script: Script, place: Store, count: int, seed: int, faults: float, early: float
) -> None:
    """Kill publishers of one run after the other, and check what each leaves."""
    draw, found, whole = random.Random(seed), list[bool](), 0
    with disturbed(place, seed, faults) as (env, met), tempfile.TemporaryDirectory() as base:
        ended = 0
        while ended < count:
            address = f"{place.new()}/run"
            for kill in kills(script, address, Path(base), draw, 0.2, early, env):
                found.append(kill.began)
                ended += 1
                whole += kill.step == script.last
                if ended % 50 == 0:
                    print(f"{ended} kills so far", file=sys.stderr, flush=True)
                if ended == count:
                    break
    print(f"{count} kills, {count - sum(found)} of them as the publisher started: each time")
    print(f"the newest published state was found, equal to the undisturbed run; {whole} runs came")
    print(f"to their end. Faults met: {dict(met)}", flush=True)


def race_many(script: Script, place: Store, count: int, seed: int, faults: float) -> None:
    """Start two owners together, again and again."""
    draw, found = random.Random(seed), Counter[bool | None]()
    with disturbed(place, seed, faults) as (env, met):
        while found[True] + found[False] < count:
            with tempfile.TemporaryDirectory() as base:
                found[race(script, f"{place.new()}/run", Path(base), draw, env)] += 1
    print(
        f"{count} pairs started together: one published to its end each time; in {found[True]} the"
    )
    print(f"other had published before it was replaced. Faults met: {dict(met)}", flush=True)


@contextlib.contextmanager
def disturbed(
    place: Store, seed: int, faults: float
) -> Iterator[tuple[dict[str, str], Counter[str]]]:
    """The environment that leads to a store by a proxy, here too, and what is met on the way."""
    with proxy(place.env[place.behind], seed, faults) as between:
        env = {**place.env, place.behind: between.instead_of(place.env[place.behind])}
        with s3_clients(**env):
            yield env, between.met


def cost(shards: Path, place: Store, rounds: int) -> None:
    """Train with and without a bucket, in turn, and print how a step's median compares."""
    ratios = []
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        for number in range(rounds):
            medians = {}
            for kind in ("a folder", "a bucket")[:: 1 if number % 2 else -1]:
                runs: Path | str = place.new() if kind == "a bucket" else folder / "runs"
                words = tiny(
                    shards, runs, f"run{number}", scratch=folder / "scratch",
                    **{"trainer.epochs": 6, "trainer.checkpoint_every_steps": 20},
                )  # fmt: skip
                pattlite(*words, **place.env)
                [record] = folder.rglob(f"run{number}/metrics.jsonl")
                stamps = [line["time"] for line in read_metrics(record) if "train/loss" in line]
                steps = [1000 * (b - a) for a, b in itertools.pairwise(stamps)]
                medians[kind] = statistics.median(steps)
                shutil.rmtree(record.parent)
            ratios.append(medians["a bucket"] / medians["a folder"])
            print(f"a step in {len(steps)}: {medians['a folder']:.1f} ms with a folder, "
                  f"{medians['a bucket']:.1f} with a bucket", flush=True)  # fmt: skip
    print(f"with a bucket a step takes {statistics.median(ratios):.3f} of its time without "
          f"({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


def main() -> None:
    """Kill, race, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.1)
    parser.add_argument("--early", type=float, default=0.2)
    parser.add_argument("--azurite", type=Path, default=None)
    options = parser.parse_args()
    os.environ.pop("PATTLITE_SHARDS", None)
    with tempfile.TemporaryDirectory() as base, store(options.azurite) as place:
        script, shards = trained(Path(base))
        if options.kills:
            kill_many(script, place, options.kills, options.seed, options.faults, options.early)
        if options.races:
            race_many(script, place, options.races, options.seed, options.faults)
        if options.rounds:
            cost(shards, place, options.rounds)


if __name__ == "__main__":
    main()
