"""Whatever is cut wherever: a reader finds a complete state, and one owner publishes."""

import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pattlite_dist.buckets.fetch import fetch
from pattlite_dist.buckets.head import HEAD, parse_head
from pattlite_dist.buckets.owner import Owner, Part, Replaced
from pattlite_dist.errors import UserError
from pattlite_dist.stores import Transient
from tests.buckets.shelves import Killed, Memory, Objects, stream

T = TypeVar("T")


def contents(step: int, who: str = "") -> dict[str, bytes]:
    """The files of a run at a step."""
    return {
        f"checkpoints/epoch=0000-step={step:08d}.ckpt": f"{who} weights {step}".encode() * 9,
        "metrics.jsonl": b"".join(f'{{"step": {i}}}\n'.encode() for i in range(step + 1)),
        "config.yaml": b"seed: 0\n",
    }


def parts(files: dict[str, bytes]) -> dict[str, Part]:
    return {
        path: Part(
            stream(data),
            hashlib.sha256(data).hexdigest() if path.endswith(".ckpt") else None,
            len(data),
        )
        for path, data in files.items()
    }


def publish(owner: Owner, step: int, who: str = "") -> None:
    owner.publish(parts(contents(step, who)), step)


def found(objects: Objects, folder: Path) -> dict[str, bytes] | None:
    """What a start on an empty disk finds."""
    if fetch(Memory(objects), folder) is None:
        return None
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def again(work: Callable[[], T]) -> T:
    """As a publisher does: try again until it succeeds."""
    for _ in range(500):
        try:
            return work()
        except Transient:
            continue
    raise AssertionError("never succeeded")


def session(memory: Memory, steps: range, said: list[int]) -> None:
    owner = Owner(memory, {"nonce": "a"})
    owner.take()
    owner.clear_others()
    for step in steps:
        publish(owner, step)
        said.append(step)
    owner.release()


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_operation_the_newest_published_state_is_found(
    after: bool, tmp_path: Path
) -> None:
    whole = Memory(Objects())
    session(whole, range(4), [])
    for number in range(whole.count):
        objects, said = Objects(), list[int]()
        with pytest.raises(Killed):
            session(Memory(objects, dies_at=number, after=after), range(4), said)
        files = found(objects, tmp_path / str(number))
        newest = said[-1] if said else -1
        # The last publication may have been finished by the very operation at which it died.
        assert files in [contents(s) for s in (newest, newest + 1) if s >= 0] or (
            files is None and newest < 0
        )
        second = list[int]()  # the next start continues, and what was left unfinished is deleted
        session(Memory(objects), range(newest + 1, 6), second)
        assert found(objects, tmp_path / f"{number}-next") == contents(5)
        assert len(objects.held) < 14


@pytest.mark.parametrize("seed", range(50))
def test_a_network_that_cuts_delays_and_repeats_loses_nothing(seed: int, tmp_path: Path) -> None:
    faults = random.Random(seed)
    memory = Memory(objects := Objects(), faults=faults, chance=faults.choice([0.1, 0.3, 0.6]))
    owner = Owner(memory, {"nonce": "a"})
    again(owner.take)
    for step in range(6):
        again(lambda step=step: publish(owner, step))  # type: ignore[misc]
        if faults.random() < 0.3:
            again(owner.beat)
        if faults.random() < 0.3:
            assert found(objects, tmp_path / str(step)) == contents(step)
    again(owner.release)
    for late in memory.late:
        late()
    assert found(objects, tmp_path / "end") == contents(5)
    head = parse_head(objects.held[HEAD].data)
    assert (head.released, head.number) == (True, 1)


def test_of_two_owners_in_any_order_one_publishes(tmp_path: Path) -> None:
    """All interleavings of what two starts do, each with three operations on the bucket at most."""
    for number, order in enumerate(sorted(set(itertools.permutations("aaaabbbb")))):
        objects = Objects()
        owners = {name: Owner(Memory(objects), {"nonce": name}) for name in "ab"}
        last, dead, published = "", set(), list[str]()
        steps = dict.fromkeys("ab", 0)
        for name in order:
            if name in dead:
                continue
            owner, step = owners[name], steps[name]
            steps[name] += 1
            try:
                if step == 0:
                    owner.take()
                    last = name
                else:
                    publish(owner, step, name)
                    published.append(name)
                    assert name == last  # nobody publishes after another has taken the run
            except Replaced as error:
                assert error.by.owner == {"nonce": last}
                dead.add(name)
        assert published[-1] == last
        files = found(objects, tmp_path / str(number))
        assert files == contents(steps[last] - 1, last)


@pytest.mark.parametrize("seed", range(25))
def test_two_owners_on_a_bad_network_publish_one_after_the_other(seed: int, tmp_path: Path) -> None:
    faults = random.Random(1000 + seed)
    objects = Objects()
    memories = {name: Memory(objects, faults=faults) for name in "ab"}
    owners = {name: Owner(memories[name], {"nonce": name}) for name in "ab"}
    taken, dead, steps = list[str](), set[str](), dict.fromkeys("ab", 0)
    while len(dead) < 1 or any(steps[name] < 4 for name in "ab" if name not in dead):
        name = faults.choice([one for one in "ab" if one not in dead])
        try:
            if name not in taken:
                owners[name].take()
                taken.append(name)
            else:
                publish(owners[name], steps[name], name)
                steps[name] += 1
        except Transient:
            pass
        except Replaced:
            dead.add(name)
        if steps["a"] > 50 or steps["b"] > 50:
            break
    for memory in memories.values():
        for late in memory.late:
            late()
    winner = max("ab", key=lambda name: owners[name].head.number if owners[name].head else 0)
    head = parse_head(objects.held[HEAD].data)
    files = found(objects, tmp_path)
    assert head.owner == {"nonce": winner}
    assert files is not None
    assert any(files == contents(step, who) for who in "ab" for step in range(steps[who] + 1))


def test_a_damaged_state_is_passed_over_and_not_built_upon(tmp_path: Path) -> None:
    objects = Objects()
    owner = Owner(Memory(objects), {"nonce": "a"})
    owner.take()
    publish(owner, 1)
    publish(owner, 2)
    key = next(k for k, held in objects.held.items() if b"weights 2" in held.data)
    objects.write(key, objects.held[key].data[:-1] + b"?")
    told: list[str] = []
    state = fetch(Memory(objects), tmp_path / "a", told=told.append)
    assert state is not None
    assert state.step == 1
    assert "another hash" in told[0]
    second = Owner(Memory(objects), {"nonce": "b"})
    second.take()
    second.trusts = False
    publish(second, 2)
    assert found(objects, tmp_path / "b") == contents(2)
    for key in [k for k in objects.held if k.startswith("states/")]:
        del objects.held[key]
    with pytest.raises(UserError, match="no state of the run in the bucket is complete"):
        found(objects, tmp_path / "c")


def test_what_was_appended_is_a_further_piece_and_the_pieces_stay_few() -> None:
    objects = Objects()
    owner = Owner(memory := Memory(objects), {"nonce": "a"})
    owner.take()
    for step in range(300):
        publish(owner, step)
    state = owner.state()
    assert state is not None
    assert len(state.files["metrics.jsonl"]) < 12
    before = memory.count
    publish(owner, 299)
    assert memory.count == before, "nothing has changed, so nothing is sent"


def test_an_owner_that_went_silent_is_known_by_the_buckets_clock() -> None:
    objects = Objects()
    first, second = (Owner(Memory(objects), {"nonce": name}) for name in "ab")
    assert first.take() == (None, 0.0)
    objects.clock = 40.0
    before, silent = second.take()
    assert before == first.head
    assert silent == 40.0
    with pytest.raises(Replaced):
        first.beat()
