"""Runs in buckets as local folders, for those who read them; and copies to and from buckets."""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from pattlite_dist.buckets.address import last_name, scratch_folder
from pattlite_dist.buckets.fetch import CHECKPOINTS, everything, fetch, light
from pattlite_dist.buckets.head import HEAD
from pattlite_dist.buckets.owner import Owner, Replaced
from pattlite_dist.buckets.publisher import machine
from pattlite_dist.buckets.shelf import Bucket, Shelf
from pattlite_dist.buckets.snapshot import Snapshots
from pattlite_dist.buckets.state import Damaged, State
from pattlite_dist.errors import UserError
from pattlite_dist.location import is_bucket
from pattlite_dist.stores import Final, Transient, patiently
from pattlite_dist.tracking.claim import me
from pattlite_dist.tracking.lock import describe
from pattlite_dist.train.names import listed

_RETRIES = 4


def here(place: str, checkpoints: bool = True) -> Path:
    """A path, or for an address a local copy of the run's newest state, which nobody publishes.

    Args:
        place: a path, or the address of a run, or without checkpoints also of a folder of runs.
        checkpoints: whether these are needed.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    if not is_bucket(place):
        return Path(place)
    with _one_line(place):
        parent, _, name = place.rstrip("/").rpartition("/")
        shelf, folder = Bucket(place), _copies(parent) / name
        if patiently(lambda: shelf.get(HEAD), place, _RETRIES) is not None:
            state = bring(shelf, place, folder, checkpoints)
            for item in listed(folder / CHECKPOINTS):
                if f"{CHECKPOINTS}/{item.name}" not in state.files:
                    (folder / CHECKPOINTS / item.name).unlink(missing_ok=True)
            return folder
        names = [] if checkpoints else patiently(shelf.folders, place, _RETRIES)
        runs = [f"{place.rstrip('/')}/{one}" for one in names]
        runs = [run for run in runs if Bucket(run).get(HEAD) is not None]
        if not runs:
            raise UserError(f"{place} is not a run, and has none; check the address")
        for run in runs:
            here(run, checkpoints)
        return _copies(place)


def _copies(runs: str) -> Path:
    """Where copies of the runs of a folder in a bucket are, apart from those that train here."""
    folder = scratch_folder(runs)
    return folder.with_name(f"{folder.name}-read")


def bring(shelf: Shelf, place: str, folder: Path, checkpoints: bool = True) -> State:
    """Bring a run's newest state into a folder.

    Raises:
        UserError: no state is complete, or none was ever published.
    """
    wanted = everything if checkpoints else light

    def told(text: str) -> None:
        print(f"pattlite: warning: {place}: {text}", file=sys.stderr)

    state = patiently(lambda: fetch(shelf, folder, wanted, told=told), place, _RETRIES)
    if state is None:
        raise UserError(f"{place}: nothing was published there yet; check the address")
    return state


def send(folder: Path, shelf: Shelf, place: str) -> None:
    """Publish a folder as a new run.

    Raises:
        UserError: there is a run already, or it was taken by another process in the meantime.
    """
    owner = Owner(shelf, {**me(), "machine": machine(), "nonce": secrets.token_hex(8)})
    held = patiently(lambda: shelf.get(HEAD), place, _RETRIES)
    if held is not None:
        raise UserError(f"{place} is a run already; give another address")
    try:
        patiently(owner.take, place, _RETRIES)

        def publish() -> None:
            with Snapshots(folder).take() as (parts, step):
                owner.publish(parts, step)

        patiently(publish, place, _RETRIES)
        patiently(owner.release, place, _RETRIES)
    except Replaced as error:
        raise UserError(f"{place} was taken by {describe(error.by.owner)}; try again") from error


def copy(source: str, target: str) -> None:
    """Copy a run from a folder to a bucket, or from a bucket to a folder.

    Raises:
        UserError: neither or both are in a bucket, there is no run at the source, or another one
            at the target.
    """
    if is_bucket(source) == is_bucket(target):
        raise UserError("give a folder and the address of a run in a bucket, in either order")
    with _one_line(source if is_bucket(source) else target):
        if is_bucket(source):
            last_name(source)
            if (Path(target) / "config.yaml").exists():
                raise UserError(f"{target} is a run already; give another folder")
            bring(Bucket(source), source, Path(target))
            return
        last_name(target)
        if not (Path(source) / "config.yaml").exists():
            raise UserError(f"{source} is not a run folder: it has no config.yaml; train first")
        send(Path(source), Bucket(target), target)


@contextlib.contextmanager
def _one_line(place: str) -> Iterator[None]:
    try:
        yield
    except (Final, Transient, Damaged) as error:
        raise UserError(f"cannot use {place}: {error}") from error


def main() -> None:
    """Bring the run of an address into a folder, which may hold an earlier state of it."""
    place, folder = sys.argv[1:]
    try:
        with _one_line(place):
            bring(Bucket(place), place, Path(folder))
    except UserError as error:
        raise SystemExit(f"pattlite: {error}") from error


if __name__ == "__main__":
    main()
