import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.pool import parallel


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3 == 0))  # so that later ones are done first
    return number * number, os.getpid()


def fail(number: int) -> int:
    if number == 3:
        raise UserError("item 3 is bad; fix it")
    return number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_tasks(jobs: int) -> None:
    results = list(parallel(square, range(20), jobs))
    assert [value for value, _ in results] == [number**2 for number in range(20)]
    here = {pid == os.getpid() for _, pid in results}
    assert here == {jobs == 1}


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_worker_arrives_as_it_is(jobs: int) -> None:
    results = parallel(fail, range(10), jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"^item 3 is bad; fix it$"):
        next(results)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_while_tasks_are_made_arrives_as_it_is(jobs: int) -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise UserError("row 1 is bad; fix it")

    with pytest.raises(UserError, match=r"^row 1 is bad; fix it$"):
        list(parallel(square, tasks(), jobs))


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(UserError, match=r"worker process was killed.*smaller --jobs") as caught:
        list(parallel(die, range(50), 2))
    assert "\n" not in str(caught.value)


_MASKS = """
import multiprocessing, signal
from pattlite_dist.runtime.signals import STOPPING
from pattlite_dist.shards.pool import parallel

def blocked(_=0):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOPPING)

def tell():
    print(blocked() == set(STOPPING))

if __name__ == "__main__":
    print(not any(parallel(blocked, range(4), 2)), flush=True)
    process = multiprocessing.get_context("forkserver").Process(target=tell)
    process.start()
    process.join()
"""


def test_workers_can_be_ended_and_what_is_forked_later_is_safe_until_it_says_so(
    tmp_path: Path,
) -> None:
    """The fork server outlives the pool, and a loader's processes may come from it."""
    script = tmp_path / "masks.py"
    script.write_text(_MASKS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_tasks_are_taken_only_as_results_are() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = parallel(square, tasks(), 2)
    next(results)
    assert len(taken) <= 6
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 6


@pytest.mark.parametrize("jobs", [0, -1])
def test_fewer_than_one_job_is_refused(jobs: int) -> None:
    with pytest.raises(UserError, match=f"--jobs is {jobs}; give 1 or more"):
        list(parallel(square, range(3), jobs))
