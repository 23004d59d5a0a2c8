"""Publishers that are killed or race, and a run played to them that must come back as it was."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pattlite_dist.buckets.fetch import fetch
from pattlite_dist.buckets.head import HEAD, Head, parse_head
from pattlite_dist.buckets.publisher import Task
from pattlite_dist.buckets.shelf import Bucket
from pattlite_dist.stores import patiently
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics, rewind_metrics
from pattlite_dist.train.names import listed, make_name, parse_name
from tests.conftest import environment

KEPT = 2  # checkpoints
TRIES = 30  # of a reader, on a network with many faults
LIMIT = 120.0  # seconds for anything that a publisher says
LAST = ("done", "lost", "replaced", "refused")


class Script(NamedTuple):
    """An undisturbed run, by its saves.

    Attributes:
        checkpoints: their bytes, by their names, the oldest first.
        record: lines of `metrics.jsonl`.
    """

    checkpoints: dict[str, bytes]
    record: Sequence[Mapping[str, Any]]

    @property
    def last(self) -> int:
        """The step at its end."""
        return max(map(step_of, self.checkpoints))

    def after(self, step: int) -> list[str]:
        """The checkpoints that are newer than a step."""
        return [name for name in self.checkpoints if step_of(name) > step]

    def save(self, folder: Path, name: str) -> None:
        """As a run saves: the record, then the checkpoint, then an old one is removed."""
        path = folder / "checkpoints" / name
        newest = max((found.step for found in listed(path.parent)), default=0)
        with (folder / RECORD_NAME).open("a") as stream:
            for line in self.record:
                if newest <= line["step"] < step_of(name):
                    stream.write(json.dumps(line) + "\n")
        temporary = path.with_name(".tmp")
        temporary.write_bytes(self.checkpoints[name])
        temporary.replace(path)
        for old in sorted(listed(path.parent))[:-KEPT]:
            (path.parent / old.name).unlink()

    def check(self, folder: Path, step: int) -> None:
        """Check that a folder has what the undisturbed run had at a step."""
        found = listed(folder / "checkpoints")
        assert max(item.step for item in found) == step
        for item in found:
            kept = (folder / "checkpoints" / item.name).read_bytes()
            assert kept == self.checkpoints[item.name], item
        lines = read_metrics(folder / RECORD_NAME)
        assert lines == self.record[: len(lines)]
        assert len(lines) >= sum(line["step"] < step for line in self.record)


def step_of(name: str) -> int:
    found = parse_name(name)
    assert found is not None
    return found.step


def made_up(saves: int, size: int = 20_000) -> Script:
    """The script of a run that nobody has trained."""
    names = [make_name(0, 2 * save, None) for save in range(1, saves + 1)]
    data = {name: random.Random(name).randbytes(size) for name in names}
    return Script(data, [{"step": step, "train/loss": 1 / (step + 1)} for step in range(2 * saves)])


def of_run(run: Path) -> Script:
    """The script of a run that has kept all of its checkpoints."""
    folder = run / "checkpoints"
    data = {item.name: (folder / item.name).read_bytes() for item in sorted(listed(folder))}
    return Script(data, read_metrics(run / RECORD_NAME))


class Publisher:
    """A publisher in a process of its own, and what it says.

    Args:
        address: of the run.
        folder: for it, on this machine.
        nonce: that nobody else has.
        takeover: seconds to wait for an owner before.
        env: variables.
    """

    def __init__(
        self, address: str, folder: Path, nonce: str, takeover: float, env: Mapping[str, str]
    ) -> None:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").touch()
        self.folder, self.said = folder, list[dict[str, Any]]()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pattlite_dist.buckets.publisher"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(**env),
        )  # fmt: skip
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.tell(Task(address, str(folder), takeover, {"nonce": nonce, "pid": 0})._asdict())

    def tell(self, content: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(content) + "\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                if line.endswith("\n"):  # else it was killed
                    with self._heard:
                        self.said.append(json.loads(line))
                        self._heard.notify_all()

    def heard(self, *words: str) -> dict[str, Any] | None:
        """The first that it has said with one of these words."""
        return next((said for said in self.said if said["word"] in words), None)

    def ready(self) -> int | None:
        """The step with which it begins, to which the record is rewound; None if it does not."""
        with self._heard:
            assert self._heard.wait_for(lambda: self.heard("ready", *LAST), LIMIT), self.said
        said = self.heard("ready")
        if said is None:
            return None
        rewind_metrics(self.folder / RECORD_NAME, max(said["step"], 0))
        return int(said["step"])

    def ended(self) -> dict[str, Any] | None:
        """Wait for its end; what it said last, of the words that it may end with."""
        self.process.wait(LIMIT)
        self._reader.join()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.heard(*LAST)

    def kill(self) -> int:
        """Kill it; returns the newest step that it said was published, or -1."""
        self.process.kill()
        self.ended()
        return max((said["step"] for said in self.said if said["word"] == "published"), default=-1)


class Kill(NamedTuple):
    """What came of a kill.

    Attributes:
        step: of the newest state that was found.
        reported: of the newest that a publisher had reported.
        began: whether the publisher was left time to start, and has.
    """

    step: int
    reported: int
    began: bool


def kills(
    script: Script,
    address: str,
    base: Path,
    draw: random.Random,
    pause: float,
    early: float,
    env: Mapping[str, str],
) -> Iterator[Kill]:
    """Kill publishers of a run until it is over; after each kill, look from an empty disk.

    Args:
        script: of the run.
        address: of the run.
        base: for folders.
        draw: when each is killed.
        pause: about that many seconds between two saves.
        early: the chance that one is killed while it starts, or soon after.
        env: the publishers' variables.
    """
    reported = found = -1
    while found < script.last:
        folder, empty = base / "machine", base / "empty"
        one = Publisher(address, folder, str(draw.random()), 0.0, env)
        begun = None
        if early and draw.random() < early:
            time.sleep(draw.uniform(0, 2))
        else:
            begun = one.ready()
        if begun is not None:
            assert begun >= found, (begun, found)
            if begun >= 0:
                script.check(folder, begun)
            for name in script.after(begun)[: draw.randint(1, 4)]:
                script.save(folder, name)
                time.sleep(draw.uniform(0, 2 * pause))
            time.sleep(draw.uniform(0, 2 * pause))
        reported = max(reported, one.kill())
        shutil.rmtree(folder)
        found = look(address, empty)
        assert found >= reported, (found, reported)
        if found >= 0:
            script.check(empty, found)
        shutil.rmtree(empty, ignore_errors=True)
        yield Kill(found, reported, begun is not None)


def look(address: str, folder: Path) -> int:
    """Bring the newest state into an empty folder; returns its step, or -1."""
    state = patiently(lambda: fetch(Bucket(address), folder), address, TRIES)
    return -1 if state is None else state.step


def head_of(address: str) -> Head:
    held = patiently(lambda: Bucket(address).get(HEAD), address, TRIES)
    assert held is not None
    return parse_head(held.data)


def race(
    script: Script, address: str, base: Path, draw: random.Random, env: Mapping[str, str]
) -> bool | None:
    """Start two owners together, and check that one publishes, to its end.

    Each writes its name into its folder, and trains until it is replaced or the script is over.

    Returns:
        Whether the one that was replaced had published before; None if one could not even begin.
    """
    both = {who: Publisher(address, base / who, who, draw.choice([0.0, 60.0]), env) for who in "ab"}
    pauses = {who: [draw.uniform(0, 0.2) for _ in script.checkpoints] for who in both}

    def train(who: str) -> None:
        one, other = both[who], both["ab".replace(who, "")]
        begun = one.ready()
        if begun is not None:
            (one.folder / "who").write_text(who)
            for name, pause in zip(script.after(begun), pauses[who], strict=False):
                if one.heard("replaced"):
                    break
                script.save(one.folder, name)
                time.sleep(pause)
            while not other.said:  # it has not taken the run yet
                time.sleep(0.05)
        one.tell({"finish": LIMIT})

    threads = [threading.Thread(target=train, args=(who,)) for who in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = {who: one.ended() for who, one in both.items()}
    said = {who: end and end["word"] for who, end in ends.items()}
    if {"lost", "refused"} & set(said.values()):
        assert not all(one.heard("ready") for one in both.values()), ends
        return None
    assert sorted(map(str, said.values())) == ["done", "replaced"], ends
    winner, loser = sorted(said, key=lambda who: str(said[who]))
    head = head_of(address)
    assert (head.owner["nonce"], head.released) == (winner, True)
    assert look(address, base / "empty") == script.last
    script.check(base / "empty", script.last)
    assert (base / "empty" / "who").read_text() == winner
    assert head.states[0].startswith(f"states/{head.number:06}-")
    return both[loser].heard("published") is not None
