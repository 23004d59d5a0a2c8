"""Time and memory to make and check shards, compared with a plain script in the same run.

    python benchmarks/shards.py fer2013.csv [--jobs 2] [--rounds 3] [--json figures.json]

The plain script is the csv module, Pillow and webdataset's ShardWriter. Every figure comes from its
own processes and includes start-up; the rounds alternate, and the fastest of each is reported,
because other processes only add time. Memory is the highest sum over all processes of a command,
with shared pages counted once, in a separate run, because sampling takes time; it is measured for
the whole file and for every fourth sample of it. The CSV must be a plain file, because the script
cannot read others.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SAMPLED_EVERY = 0.05  # seconds between samples of the memory
SPLITS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
NAMES = {
    "plain": "csv + Pillow + ShardWriter",
    "create": "`shards create --jobs {}`",
    "verify": "`shards verify --jobs {}`",
}


class Figure(NamedTuple):
    """One command: seconds, and peak memory in MB, 0 if not measured."""

    seconds: float
    peak_mb: float


def plain(source: Path, folder: Path) -> None:
    """Write shards as webdataset's documentation shows."""
    import numpy as np
    import webdataset
    from PIL import Image

    sinks = {
        usage: webdataset.ShardWriter(f"{folder}/{split}-%06d.tar", maxcount=2048, verbose=0)
        for usage, split in SPLITS.items()
    }
    with source.open(newline="") as stream:
        for i, row in enumerate(csv.DictReader(stream)):
            pixels = np.array(row["pixels"].split(), dtype=np.uint8).reshape(48, 48)
            sample = {"png": Image.fromarray(pixels), "cls": int(row["emotion"])}
            sinks[row["Usage"]].write({"__key__": f"{i:08d}", "json": {"row": i}, **sample})
    for sink in sinks.values():
        sink.close()


def tree(root: int) -> list[int]:
    """A process and all of its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:  # the list grows during the loop
        found += children.get(pid, [])
    return found


def memory(root: int) -> float:
    """MB of a process and its descendants: proportional set sizes, so that they can be summed."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def measure(watched: bool, *command: object) -> Figure:
    """Run a command, sampling its memory if `watched`."""
    began, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen([str(word) for word in command], stdout=told, stderr=told)
        pid = 0
        while not pid:
            if watched:
                peak = max(peak, memory(process.pid))
                time.sleep(SAMPLED_EVERY)
            pid, status = os.waitpid(process.pid, os.WNOHANG if watched else 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            sys.exit(told.read().decode(errors="replace"))
    return Figure(seconds, peak)


def one_round(source: Path, folder: Path, jobs: int, watched: bool) -> dict[str, Figure]:
    """Each command once."""
    pattlite = (sys.executable, "-m", "pattlite_dist", "shards")
    (folder / "plain").mkdir()
    figures = {
        "plain": measure(watched, sys.executable, __file__, source, "--plain", folder / "plain"),
        "create": measure(watched, *pattlite, "create", source, folder / "ours", "--jobs", jobs),
        "verify": measure(watched, *pattlite, "verify", folder / "ours", "--jobs", jobs),
    }
    for name in ("plain", "ours"):
        shutil.rmtree(folder / name)
    return figures


def write_quarter(source: Path, path: Path) -> int:
    """Write every fourth sample, of all splits; returns the number of samples in the whole file."""
    with source.open("rb") as lines, path.open("wb") as out:
        out.write(next(lines))
        samples = 0
        for line in lines:
            if samples % 4 == 0:
                out.write(line)
            samples += 1
    return samples


def figures_of(source: Path, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Every figure, by command."""
    with tempfile.TemporaryDirectory() as name:
        folder, small = Path(name), Path(name) / "quarter.csv"
        samples = write_quarter(source, small)  # reads the whole file into the page cache
        quarter = one_round(small, folder, jobs, watched=True)
        whole = one_round(source, folder, jobs, watched=True)
        timed = []
        for number in range(rounds):
            timed.append(one_round(source, folder, jobs, watched=False))
            told = {what: f"{one.seconds:.1f}" for what, one in timed[-1].items()}
            print(f"round {number + 1}, seconds:", told, file=sys.stderr, flush=True)
    return {
        what: {
            "samples": samples,
            "seconds": min(one[what].seconds for one in timed),
            "peak_mb": whole[what].peak_mb,
            "peak_mb_of_a_quarter": quarter[what].peak_mb,
        }
        for what in NAMES
    }


def table(figures: dict[str, dict[str, float]], jobs: int) -> list[list[str]]:
    """Rows, header first; a ratio is the plain script's time over this one's."""
    rows = [["", "seconds", "images/s", "times as fast", "peak MB", "of a quarter"]]
    slow = figures["plain"]["seconds"]
    for what, title in NAMES.items():
        one = figures[what]
        seconds = one["seconds"]
        rows.append(
            [title.format(jobs), f"{seconds:.1f}", f"{one['samples'] / seconds:,.0f}",
             f"{slow / seconds:.1f}", f"{one['peak_mb']:.0f}",
             f"{one['peak_mb_of_a_quarter']:.0f}"]
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a plain fer2013.csv")
    parser.add_argument("--jobs", type=int, default=2, help="processes of `shards`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.source, options.plain)
        return
    figures = figures_of(options.source, options.jobs, options.rounds)

    from pattlite_dist.console import print_rows  # here, because the plain script does not need it

    print_rows(table(figures, options.jobs))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
