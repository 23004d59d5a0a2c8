"""Runs killed repeatedly at random points end as if nothing had happened."""

import json
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.buckets import copies
from pattlite_dist.tracking.history import read
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.names import parse_name
from tests.conftest import environment, tiny
from tests.shards.s3_server import new_bucket, s3_clients, s3_environment, s3_server
from tests.starts import Zygote
from tests.train.faults import REMOVE, RENAME, RENAMED, REWIND, WRITE, Fault
from tests.train.harness import (
    assert_same_training,
    final,
    nothing_left_over,
    uninterrupted,
)

EPOCHS, STEPS, SAVE_EVERY = 6, 7, 4  # steps per epoch: 104 samples in global batches of 16
VALIDATION_BATCHES = {1: 5, 2: 3}  # by ranks: 37 samples in batches of 8

# Where a fault can occur, by the kind of step. Each place is reached only after all places of
# earlier steps, so that faults sorted by step all occur.
INSIDE = [
    ("on_train_batch_start", False),
    ("on_after_backward", False),
    ("on_before_optimizer_step", False),
    ("on_train_batch_end", False),
    ("on_train_batch_end", True),
]
SAVING = [(WRITE, False), (RENAME, False), (RENAMED, False), ("on_train_batch_end", True)]
EPOCH_END = [
    ("on_validation_batch_start", False),
    (WRITE, False),
    ("on_train_epoch_end", False),
    (RENAMED, False),
    ("on_validation_end", False),
    (REMOVE, False),
    ("on_validation_batch_end", True),
    (RENAME, False),
    ("on_train_epoch_end", True),
    ("on_train_epoch_start", False),
]


def is_epoch_end(step: int) -> bool:
    return step % STEPS == 0


def is_saving(step: int) -> bool:
    return step % SAVE_EVERY == 0 and not is_epoch_end(step)


def plan(seed: int, epoch_ends: int, saves: int, inside: int, ranks: int) -> list[Fault]:
    """Random faults in the order in which they occur, at most one per step.

    The kinds of places are assigned in turn across seeds, so that each is certain to be covered.
    """
    draw = random.Random(seed)
    steps = range(1, EPOCHS * STEPS)
    faults = []
    for kind, count, places in (
        ([s for s in steps if is_epoch_end(s)], epoch_ends, EPOCH_END),
        ([s for s in steps if is_saving(s)], saves, SAVING),
        ([s for s in steps if not is_epoch_end(s) and not is_saving(s)], inside, INSIDE),
    ):
        dealt = [places[(seed * count + i) % len(places)] for i in range(count)]
        for step, (place, late) in zip(draw.sample(kind, count), dealt, strict=True):
            validating = place.startswith("on_validation_batch")
            detail = draw.randrange(VALIDATION_BATCHES[ranks]) if validating else 0
            if place == WRITE:
                detail = draw.randrange(1, 100)
            on_disk = place in (WRITE, RENAME, RENAMED, REMOVE)
            rank = 0 if on_disk else draw.randrange(ranks)
            faults.append(Fault(place, step, late, detail, rank))
    return sorted(faults, key=lambda fault: fault.step)


def options(shards: Path, runs: Path | str, **overrides: object) -> list[str]:
    changing: dict[str, object] = {  # what changes with the epoch
        "data.image_sizes": "[[0,48],[1,56]]", "data.image_size": 56, "augment.mixup": 0.4,
        "augment.cutmix": 1, "augment.crop": "[0.6,1]", "augment.calm_epochs": 1,
    }  # fmt: skip
    size = {"trainer.epochs": EPOCHS, "trainer.global_batch": 16}
    return tiny(shards, runs, **{**changing, **size, **overrides})


@pytest.fixture(scope="module")
def zygote(zygote: Zygote) -> Zygote:
    """Where runs are interrupted is the point here; those of test_run have a larger network."""
    return zygote.with_small_networks()


@pytest.fixture(scope="module")
def references(
    zygote: Zygote, face_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Uninterrupted runs, by their number of ranks."""
    folder = tmp_path_factory.mktemp("references")
    return uninterrupted(zygote, folder, lambda name: options(face_shards, folder, name=name))


def assert_whole(folder: Path) -> None:
    """Every file with a checkpoint's name can be loaded and matches its name."""
    for path in folder.glob("*.ckpt"):
        found = parse_name(path.name)
        assert found is not None
        assert checkpoints.load(path)["global_step"] == found.step


def killed(zygote: Zygote, arguments: list[str], run: Path, ranks: int, faults: list[Fault]) -> int:
    """Start a run once per fault, and once more to its end; returns the number of kills."""
    sessions: list[int] = []
    kills = 0
    with nothing_left_over(zygote, sessions):
        for fault in faults:
            start = zygote.start(arguments, ranks, fault)
            sessions += start.sessions
            assert start.killed_by(fault), (fault, start)
            assert "Warning" not in start.log, start.log
            kills += 1
            assert_whole(run / "checkpoints")
        start = zygote.start(arguments, ranks)
        sessions += start.sessions
        assert start.ended, start.log
    return kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "workers", "seed", "counts"),
    [(1, 0, 0, (5, 4, 4)), (1, 2, 1, (5, 4, 4)), (2, 0, 2, (2, 1, 1)), (2, 2, 3, (2, 1, 1))],
)
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    ranks: int,
    workers: int,
    seed: int,
    counts: tuple[int, int, int],
    zygote: Zygote,
    references: dict[int, Path],
    face_shards: Path,
    tmp_path: Path,
) -> None:
    """Within steps, validations and checkpoints, at epoch ends, and once on a restart."""
    faults = plan(seed, *counts, ranks)
    faults.insert(len(faults) // 2, Fault(REWIND, 0))
    arguments = options(
        face_shards, tmp_path,
        **{"data.workers": workers, "trainer.checkpoint_every_steps": SAVE_EVERY,
           "trainer.async_save": seed != 1},
    )  # fmt: skip
    kills = killed(zygote, arguments, tmp_path / "tiny", ranks, faults)
    assert kills == sum(counts) + 1
    assert_same_training(references[ranks], tmp_path / "tiny")


@pytest.mark.slow
def test_in_a_bucket_a_run_survives_the_loss_of_its_machine(
    zygote: Zygote, references: dict[int, Path], face_shards: Path, tmp_path: Path
) -> None:
    """Killed, its folder deleted, and started again from the bucket; once it is only asked to stop.

    At last the bucket gives back a run like the one that nobody disturbed.
    """
    with s3_server() as server, s3_clients(**s3_environment(server)):
        address = f"s3://{new_bucket(server)}/runs"
        scratch = tmp_path / "scratch"
        arguments = options(
            face_shards, address,
            **{"scratch": scratch, "trainer.checkpoint_every_steps": SAVE_EVERY},
        )  # fmt: skip
        env = environment(**s3_environment(server))
        for fault in (
            Fault("on_train_batch_end", 2 * STEPS + 2, late=True),
            Fault("on_train_batch_end", 4 * STEPS + 2, signum=int(signal.SIGTERM)),
        ):
            start = zygote.start(arguments, 1, fault, env=env)
            if fault.signum != signal.SIGKILL:
                assert start.stopped_by(fault), start.log
                assert f"{address}/tiny: published to step {fault.step}" in start.stderr
            else:
                assert start.killed_by(fault), start.log
            shutil.rmtree(scratch)
        start = zygote.start(arguments, 1, env=env)
        assert start.ended, start.log
        assert f"{address}/tiny: its state at step {fault.step} is here" in start.stderr
        assert f"{address}/tiny: published" in start.stdout
        copies.copy(f"{address}/tiny", str(tmp_path / "copy"))
        assert_same_training(references[1], tmp_path / "copy")
        assert read(tmp_path / "copy")[-1]["event"] == "finished"


def fed(record: Path) -> dict[tuple[int, int], dict[int, str]]:
    """The input of all ranks at each step: the hash of each sample's pixels, by sample id."""
    found: dict[tuple[int, int], dict[int, str]] = {}
    for path in record.parent.glob(f"{record.name}.*"):
        for line in map(json.loads, path.read_text().splitlines()):
            batch = found.setdefault(tuple(line["place"]), {})
            assert not batch.keys() & set(line["ids"])
            batch.update(zip(line["ids"], line["pixels"], strict=True))
    return found


def losses(record: Path) -> dict[tuple[int, int], float]:
    """The mean loss over all ranks at each step."""
    found: dict[tuple[int, int], list[float]] = {}
    for path in record.parent.glob(f"{record.name}.*"):
        for line in map(json.loads, path.read_text().splitlines()):
            found.setdefault(tuple(line["place"]), []).append(line["loss"])
    return {place: float(np.mean(values)) for place, values in found.items()}


@pytest.mark.slow
def test_saved_at_two_ranks_a_run_continues_on_one_and_on_four(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """The same global batches, augmented pixels (byte for byte), and loss curve.

    For the curve, BatchNorm keeps its initial statistics and dropout is off, since both depend on
    which samples share a rank. Checkpoints are written at their step: one written beside the next
    steps may not be whole yet at the kill.
    """
    plain = {"model.dropout": 0, "optim.ema": 0, "trainer.epochs": 2,
             "trainer.checkpoint_every_steps": SAVE_EVERY, "trainer.async_save": False}  # fmt: skip
    whole = tmp_path / "whole-record"
    arguments = options(face_shards, tmp_path, name="whole", **plain)
    start = zygote.start(arguments, 2, record=whole, freeze=True)
    assert start.ended, start.log
    everything, curve = fed(whole), losses(whole)
    assert sorted(everything) == [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    assert all(len(batch) == 16 for batch in everything.values())

    half = options(face_shards, tmp_path, name="half", **plain)
    fault = Fault("on_train_batch_end", SAVE_EVERY + 1, late=True)
    first = tmp_path / "half-record"
    assert zygote.start(half, 2, fault, first, freeze=True).killed_by(fault)
    assert losses(first).items() <= curve.items()
    for ranks in (1, 4):
        shutil.copytree(tmp_path / "half", tmp_path / f"on-{ranks}")
        record = tmp_path / f"record-{ranks}"
        arguments = options(face_shards, tmp_path, name=f"on-{ranks}", **plain)
        config = tmp_path / f"on-{ranks}" / "config.yaml"
        config.write_text(config.read_text().replace("name: half", f"name: on-{ranks}"))
        start = zygote.start(arguments, ranks, record=record, freeze=True)
        assert start.ended, start.log
        rest = fed(record)
        assert sorted(rest) == sorted(everything)[SAVE_EVERY:]
        assert rest == {place: everything[place] for place in rest}
        continued = losses(record)
        assert continued == pytest.approx({place: curve[place] for place in continued}, rel=1e-4)
        assert len(list(record.parent.glob(f"{record.name}.*"))) == ranks
        assert final(tmp_path / f"on-{ranks}")["global_step"] == 2 * STEPS
