"""Which samples loaders see, and in which order, after a stop and a resumption: counts, no speed.

Does not import pattlite_dist unless it is asked about it, so that a peer can run in an environment
of its own:

    python benchmarks/order.py {ours,energon,energon-endless,grain,grain-endless} FOLDER

prints one line of JSON, from which `row` makes a row of a table. All ranks run in this process, one
after another. An epoch is read on two ranks: whole, and for STOP global batches. From the states
saved there, each as its loader's documentation shows, the rest is read on two, one and four ranks.
"""

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH, STOP, WORLD = 128, 5, 2
RESUMED = (2, 1, 4)  # ranks
WORKERS = 4  # of Energon, over all ranks: their number has to stay the same

Samples = list[str]
Flow = list[list[Samples]]  # of each rank, of each global batch: what the rank takes of it


def ours(folder: Path) -> dict[str, Flow]:
    """`TrainLoader`; a sample that does not count is padding, and not one that is seen."""
    from stream import loader_of

    def read(ranks: int, state: Any, steps: int | None) -> tuple[Flow, Any]:
        flow: Flow = []
        for rank in range(ranks):
            loader = loader_of(folder, cache, rank, ranks)
            if state is not None:
                loader.load_state_dict(state)
            batches = list(itertools.islice(loader, steps))
            flow.append([b["id"][b["counts"]].tolist() for b in batches])
            saved = loader.state_dict()
        return flow, saved

    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        return cases(read)


def cases(read: Any) -> dict[str, Flow]:
    """The whole epoch, its start, and the rest of it on several numbers of ranks."""
    start, state = read(WORLD, None, STOP)
    found = {"whole": read(WORLD, None, None)[0], "start": start}
    return found | {str(ranks): read(ranks, state, None)[0] for ranks in RESUMED}


def energon(folder: Path, endless: bool, scratch: Path) -> dict[str, Flow]:
    """Megatron-Energon on a prepared copy, shuffled over the whole set.

    Its documentation asks for the same number of workers over all ranks and the same global batch
    before and after `energon checkpoint redist`. So each worker makes a quarter of a global batch,
    and a rank takes as many of these as it has workers.
    """
    import torch
    from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset

    last = _samples(folder) // BATCH if endless else None

    def read(ranks: int, states: list[Path] | None, steps: int | None) -> tuple[Flow, Any]:
        each, flow, saved = WORKERS // ranks, [], []
        if states is not None:
            states = _redistributed(states, ranks, scratch / str(ranks))
        if steps is None and last is not None:
            steps = last - (STOP if states is not None else 0)
        for rank in range(ranks):
            data = get_train_dataset(
                folder, worker_config=WorkerConfig(rank=rank, world_size=ranks, num_workers=each),
                batch_size=BATCH // WORKERS, shuffle_buffer_size=None, max_samples_per_sequence=1,
                repeat=endless,
            )  # fmt: skip
            loader = get_savable_loader(data)
            if states is not None:
                loader.restore_state_rank(torch.load(states[rank], weights_only=False))
            parts = itertools.islice(loader, None if steps is None else steps * each)
            keys = [list(part.__key__) for part in parts]
            turns = range(0, len(keys), each)
            flow.append([list(itertools.chain(*keys[at : at + each])) for at in turns])
            saved.append(scratch / f"state{rank}.pt")
            if states is None:
                torch.save(loader.save_state_rank(), saved[-1])
            del loader
        return flow, saved

    start, state = read(WORLD, None, STOP)
    found = {"start": start}
    kept = [path.rename(path.with_name(f"kept{rank}.pt")) for rank, path in enumerate(state)]
    found |= {str(ranks): read(ranks, kept, None)[0] for ranks in RESUMED}
    return found | {"whole": read(WORLD, None, None)[0]}


def _redistributed(states: list[Path], ranks: int, folder: Path) -> list[Path]:
    folder.mkdir()
    command = Path(sys.executable).with_name("energon")
    subprocess.run(
        [command, "checkpoint", "redist", "--new-world-size", str(ranks), *states, folder],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return sorted(folder.glob("*.pt"))


def prepare(folder: Path) -> None:
    """Add Energon's index to a copy of a set, as its documentation shows."""
    parts = [f"{split}:{split}-.*\\.tar" for split in ("train", "val", "test")]
    subprocess.run(
        [Path(sys.executable).with_name("energon"), "prepare", folder, "--non-interactive",
         "--num-workers", "1", *itertools.chain.from_iterable(("--split-parts", p) for p in parts),
         "--sample-type", "ImageClassificationSample",
         "--field-map", '{"image": "png", "label": "cls"}'],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


class Tars:
    """Random access to the PNGs of a folder's training shards, which grain asks of a source."""

    def __init__(self, folder: Path) -> None:
        self.places: list[tuple[Path, int, int, str]] = []
        for path in sorted(folder.glob("train-*.tar")):
            with tarfile.open(path) as tar:
                self.places += [
                    (path, member.offset_data, member.size, member.name)
                    for member in tar
                    if member.name.endswith(".png")
                ]
        self.files = {place[0]: place[0].open("rb", buffering=0) for place in self.places}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: int) -> tuple[str, io.BytesIO]:
        path, offset, size, name = self.places[at]
        return name, io.BytesIO(os.pread(self.files[path].fileno(), size, offset))


def grain(folder: Path, endless: bool) -> dict[str, Flow]:
    """Grain's `ElasticIterator` over a source of one's own, without and with `repeat()`."""
    from grain import MapDataset, ReadOptions, sharding
    from grain.experimental import ElasticIterator

    source = Tars(folder)
    last = len(source) // BATCH if endless else None

    def read(ranks: int, state: Any, steps: int | None) -> tuple[Flow, Any]:
        flow: Flow = []
        if steps is None and last is not None:
            steps = last - (STOP if state is not None else 0)
        for rank in range(ranks):
            data = MapDataset.source(source).seed(0).shuffle()
            data = (data.repeat() if endless else data).map(lambda sample: sample[0])
            shard = sharding.ShardOptions(shard_index=rank, shard_count=ranks)
            loader = iter(
                ElasticIterator(data, BATCH, shard, read_options=ReadOptions(num_threads=0))
            )
            if state is not None:
                loader.set_state(state)
            flow.append([list(map(str, b)) for b in itertools.islice(loader, steps)])
            saved = loader.get_state()
        return flow, saved

    return cases(read)


def _samples(folder: Path) -> int:
    return len(Tars(folder))


def steps(flow: Flow) -> Iterator[list[Samples]]:
    """Of each global batch, what each rank takes of it; of ranks that end early, nothing."""
    return (list(parts) for parts in itertools.zip_longest(*flow, fillvalue=[]))


def rank_by_rank(parts: Sequence[Samples]) -> Samples:
    """A global batch in which the samples of the first rank come first."""
    return list(itertools.chain(*parts))


def one_by_one(parts: Sequence[Samples]) -> Samples:
    """A global batch whose first sample is the first rank's, the second the second's, and so on."""
    turns = itertools.zip_longest(*parts)
    return [sample for turn in turns for sample in turn if sample is not None]


def judged(found: dict[str, Flow], samples: int) -> dict[str, Any]:
    """Counts of what was seen.

    `same order` holds if the global batches are the same lists, their samples taken either rank by
    rank or one by one from each rank.

    Args:
        found: what `cases` returns.
        samples: in the set.
    """
    whole = list(steps(found["whole"]))
    seen = Counter(sample for parts in whole for part in parts for sample in part)
    result: dict[str, Any] = {
        "samples": samples,
        "steps": [len(rank) for rank in found["whole"]],
        "taken": sum(seen.values()),
        "different": len(seen),
    }
    for ranks in RESUMED:
        rest = list(steps(found[str(ranks)]))
        run = [*steps(found["start"]), *rest]
        resumed = Counter(sample for parts in run for part in parts for sample in part)
        both = (whole[STOP:], rest)
        sets = [[Counter(itertools.chain(*parts)) for parts in one] for one in both]
        orders = [
            [[arranged(parts) for parts in one] for one in both]
            for arranged in (rank_by_rank, one_by_one)
        ]
        result[str(ranks)] = {
            "more often": sum((resumed - seen).values()),
            "less often": sum((seen - resumed).values()),
            "same sets": sets[0] == sets[1],
            "same order": any(one == other for one, other in orders),
        }
    return result


HEADER = ["who", "steps by rank", "different of taken", "never"]
HEADER += [f"resumed on {ranks}: lost, twice, batches" for ranks in RESUMED]


def row(name: str, counts: dict[str, Any]) -> list[str]:
    """A row of the table, under `HEADER`."""
    cells = [name, " and ".join(map(str, sorted(set(counts["steps"]))))]
    cells += [f"{counts['different']:,} of {counts['taken']:,}"]
    cells += [f"{counts['samples'] - counts['different']:,}"]
    for ranks in map(str, RESUMED):
        part = counts[ranks]
        what = "other sets"
        if part["same sets"]:
            what = "same order" if part["same order"] else "same sets"
        cells.append(f"{part['less often']:,}, {part['more often']:,}, {what}")
    return cells


def main() -> None:
    """Read, count and print JSON."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "prepare":
        prepare(folder)
        print("{}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        if name == "ours":
            found = ours(folder)
        elif name.startswith("energon"):
            found = energon(folder, name.endswith("endless"), Path(scratch))
        else:
            found = grain(folder, name.endswith("endless"))
    print(json.dumps(judged(found, _samples(folder))))


if __name__ == "__main__":
    main()
