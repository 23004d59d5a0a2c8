"""`make soak`: faults of all kinds, on three machines of a rank each, drawn from a seed.

A machine is a call of `launch/torchrun.sh`, which a supervisor here starts again when it has ended,
as a machine does that comes back. Round after round, a short training is disturbed and its end
compared, bit for bit, with an undisturbed one's. Each fault is a line of JSON in `faults.jsonl`.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.faces import write_faces
from pattlite_dist.shards.manifest import Options
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.tracking import history
from pattlite_dist.train.checkpoint import newest
from tests.conftest import ROOT, tiny
from tests.test_torchrun import QUICK, Agent, step
from tests.train.harness import assert_same_training

EPOCHS, STEPS = 20, 220
EVERY = 4  # steps between checkpoints
FAULTS = 4  # in a round
LIMIT = 300.0  # seconds in which a run has to get on again
RANKS = (1, 1, 1)  # of each machine, which have to be equal
KINDS = {
    "killed": "a rank is killed",
    "lost": "a machine is lost and comes back",
    "preempted": "SIGTERM to all, started again",
    "hung": "a rank is stopped (SIGSTOP)",
    "memory": "a rank is out of memory (MemoryError)",
    "stale": "a rank meets ESTALE",
    "full": "the disk is full while saving",
    "torn": "the newest checkpoint is cut short, and a rank killed",
}


@dataclass(frozen=True)
class Drawn:
    """What is to happen.

    Attributes:
        kind: one of `KINDS`.
        step: it happens once this step is recorded.
        rank: which rank, and which machine, as each has one.
    """

    kind: str
    step: int
    rank: int


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        drawn: the fault.
        seconds: until the first step that had not been taken before it.
        again: steps computed a second time.
        round: of which round it was.
        equal: whether that round's end is that of the undisturbed run; None until it is known.
    """

    drawn: Drawn
    seconds: float
    again: int
    round: int
    equal: bool | None = field(default=None)


def draw(seed: int, number: int, steps: int = STEPS, faults: int = FAULTS) -> list[Drawn]:
    """The faults of a round, in order of their steps, a part of the run for each.

    Kinds are dealt from shuffled decks that go on from round to round, so that each is met equally
    often.
    """
    deck: list[str] = []
    stream = random.Random(seed)
    while len(deck) < (number + 1) * faults:
        deck += stream.sample(sorted(KINDS), len(KINDS))
    kinds = deck[number * faults : (number + 1) * faults]
    stream = random.Random(f"{seed} {number}")
    part = steps // (faults + 1)
    return [
        Drawn(kind, (i + 1) * part + stream.randrange(part // 2), stream.randrange(sum(RANKS)))
        for i, kind in enumerate(kinds)
    ]


def bound(kind: str) -> int:
    """The most steps a fault may cost: those since the last checkpoint that can be read."""
    return {"full": 0, "preempted": 0, "torn": 2 * EVERY}.get(kind, EVERY)


def table(outcomes: Iterable[Outcome]) -> str:
    """A table of outcomes by kind, in Markdown."""
    lines = [
        "| fault | number | median time lost | longest "
        "| most steps computed again | equal at the end |",
        "|---|---|---|---|---|---|",
    ]
    outcomes = list(outcomes)
    for kind, words in KINDS.items():
        some = [item for item in outcomes if item.drawn.kind == kind]
        if some:
            seconds = [item.seconds for item in some]
            equal = sum(item.equal is True for item in some)
            lines.append(
                f"| {words} | {len(some)} | {statistics.median(seconds):.1f} s | "
                f"{max(seconds):.1f} s | {max(item.again for item in some)} | "
                f"{equal} of {len(some)} |"
            )
    return "\n".join(lines)


class Soak:
    """The machines of a round, and what is done to them."""

    def __init__(self, folder: Path, shards: Path) -> None:
        self.folder, self.run, self.asked = folder, folder / "tiny", folder / "asked"
        self.asked.mkdir(parents=True)
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{held.getsockname()[1]}"
        self.options = tiny(
            shards, folder, trainer__epochs=EPOCHS, trainer__global_batch=9,
            trainer__checkpoint_every_steps=EVERY, trainer__hang_minutes=0.15,
            trainer__timeout_minutes=3,
        )  # fmt: skip
        self.env = {
            "NNODES": "3", "RDZV": address, "PET_RDZV_CONF": QUICK, "SOAK": str(self.asked),
            "PYTHONPATH": f"{ROOT / 'tests' / 'struck'}:{ROOT}", "MAX_RESTARTS": "100",
        }  # fmt: skip
        self.starts = 0
        self.machines = [self.start(i) for i in range(len(RANKS))]

    def start(self, machine: int) -> Agent:
        self.starts += 1
        log = self.folder / f"agent-{machine}-{self.starts:03d}.log"
        return Agent(self.options, log, NPROC=str(RANKS[machine]), **self.env)

    def attend(self) -> bool:
        """Start again what has ended too early; whether all have ended well."""
        statuses = [machine.process.poll() for machine in self.machines]
        if all(status == 0 for status in statuses):
            return True
        for i, status in enumerate(statuses):
            if status is not None and status != 0:
                if status == 2:
                    raise RuntimeError(f"ended as by a user's mistake:\n{self.machines[i].log}")
                self.machines[i] = self.start(i)
        return False

    def until(self, ready: Callable[[], Any]) -> None:
        deadline = time.monotonic() + LIMIT
        while not ready():
            if self.attend() and not ready():
                raise RuntimeError(f"ended early; see {self.folder}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"did not get on for {LIMIT:.0f} s; see {self.folder}")
            time.sleep(0.02)

    def continued(self) -> list[int]:
        """At which step each start began, oldest first."""
        return [event["step"] for event in history.read(self.run) if event["event"] == "started"]

    def workers(self) -> list[int]:
        """All ranks' processes, those of the first machine first."""
        return [pid for machine in self.machines for pid in machine.workers()]

    def strike(self, drawn: Drawn) -> None:
        if drawn.kind == "preempted":
            for machine in self.machines:
                machine.process.send_signal(signal.SIGTERM)
        elif drawn.kind == "lost":
            self.machines[drawn.rank].lose()
        elif drawn.kind in ("memory", "stale"):
            (self.asked / f"raise-{drawn.rank}").write_text(drawn.kind)
        elif drawn.kind == "full":
            (self.asked / "full").touch()
        else:
            path = newest(self.run / "checkpoints") if drawn.kind == "torn" else None
            if path is not None:
                os.truncate(path, path.stat().st_size // 2)
            signum = signal.SIGSTOP if drawn.kind == "hung" else signal.SIGKILL
            os.kill(self.workers()[drawn.rank], signum)

    def suffer(self, drawn: Drawn, number: int) -> Outcome:
        """Let a fault happen, and wait until the run has got beyond it."""
        self.until(lambda: step(self.run) >= drawn.step and len(self.workers()) == sum(RANKS))
        before, peak, begin = len(self.continued()), step(self.run), time.monotonic()
        self.strike(drawn)
        if drawn.kind == "full":
            self.until(lambda: step(self.run) > peak)
            seconds = time.monotonic() - begin
            self.until((self.asked / "met").exists)
            (self.asked / "full").unlink()
            (self.asked / "met").unlink()
            return Outcome(drawn, seconds, 0, number)

        def restarted() -> bool:
            nonlocal peak
            found = step(self.run)
            if len(self.continued()) > before:
                return True
            peak = max(peak, found)
            return False

        self.until(restarted)
        self.until(lambda: step(self.run) > peak)
        again = max(0, peak + 1 - self.continued()[-1])
        return Outcome(drawn, time.monotonic() - begin, again, number)

    def end(self) -> None:
        for machine in self.machines:
            with contextlib.suppress(ProcessLookupError):
                machine.lose()


def soak(minutes: float, seed: int, folder: Path) -> list[Outcome]:
    """Rounds for so many minutes; raises where a run does not get on."""
    write_faces(folder / "faces.csv", train=106, val=37, test=41)
    create_shards(
        open_source(folder / "faces.csv"), folder / "shards",
        samples_per_shard=32, options=Options(blanks="drop"),
    )  # fmt: skip
    outcomes: list[Outcome] = []
    log, begin = folder / "faults.jsonl", time.monotonic()
    for number in range(-1, 10_000):
        if number > 0 and time.monotonic() - begin > 60 * minutes:
            break
        machines = Soak(folder / (f"round-{number}" if number >= 0 else "whole"), folder / "shards")
        suffered: list[Outcome] = []
        try:
            for drawn in draw(seed, number) if number >= 0 else []:
                suffered.append(machines.suffer(drawn, number))
                with log.open("a") as stream:
                    stream.write(json.dumps(asdict(suffered[-1])) + "\n")
                print(json.dumps(asdict(suffered[-1])), flush=True)
            machines.until(lambda machines=machines: machines.attend())  # type: ignore[misc]
        finally:
            machines.end()
        equal = True
        try:
            assert_same_training(folder / "whole" / "tiny", machines.run)
        except AssertionError as error:
            equal = False
            print(f"round {number} differs: {error}", flush=True)
        outcomes += [Outcome(i.drawn, i.seconds, i.again, number, equal) for i in suffered]
        print(f"round {number}: equal={equal}, {time.monotonic() - begin:.0f} s", flush=True)
        print(table(outcomes), flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; otherwise a temporary one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = soak(given.minutes, given.seed, folder)
    costly = [item for item in outcomes if item.again > bound(item.drawn.kind)]
    for item in costly:
        print(f"computed more again than since its last checkpoint: {item}")
    return int(bool(costly) or not all(item.equal for item in outcomes))


if __name__ == "__main__":
    sys.exit(main())
