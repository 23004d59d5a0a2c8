"""What one steady training step asks of a GPU, counted where there is none.

    python benchmarks/launches.py shards/fer2013 [--config configs/fer2013.yaml] [--lines]

A step between two logged ones, on the pretended GPU of tests/gpu/pretended.py: launches of kernels,
waits of the host, and copies that block it. `--lines` lists what causes them. Batches are small,
because the numbers do not depend on their size.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pattlite_dist.config import Config  # noqa: E402
from pattlite_dist.console import print_rows  # noqa: E402
from pattlite_dist.train.module import FERModule  # noqa: E402
from pattlite_dist.train.run import train  # noqa: E402
from tests.gpu.pretended import machine  # noqa: E402

STEP = 6  # the average has begun, and nothing is logged


class Counted(Exception):
    """The step is over."""


def count(config: Config) -> dict[str, Counter[str]]:
    """The launches, waits and copies of one step, by the lines that cause them."""
    found: dict[str, Counter[str]] = {}
    begin = FERModule.on_train_batch_start
    with machine() as gpu:

        def note(self: FERModule, batch: Any, batch_idx: int) -> None:
            if self.global_step == STEP + 1:
                found.update(
                    launches=gpu.launches.copy(), waits=gpu.waits.copy(), copies=gpu.copies.copy()
                )
                raise Counted
            gpu.reset()
            begin(self, batch, batch_idx)

        FERModule.on_train_batch_start = note  # type: ignore[method-assign]
        try:
            train(config)
        except Counted:
            pass
        finally:
            FERModule.on_train_batch_start = begin  # type: ignore[method-assign]
    return found


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fer2013.yaml")
    parser.add_argument("--lines", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tree = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    tree.setdefault("data", {})["shards"] = options.shards
    tree.setdefault("optim", {})["warmup_epochs"] = 0
    tree.setdefault("trainer", {}).update(global_batch=8, log_every_steps=10_000)
    with tempfile.TemporaryDirectory() as folder:
        tree.update(runs=folder, wandb={"mode": "disabled"})
        found = count(Config.model_validate(tree))
    print_rows([[*found], [str(sum(table.values())) for table in found.values()]])
    for name, table in found.items() if options.lines else ():
        for line, number in table.most_common():
            print(f"{name} {number:4d} {line}")


if __name__ == "__main__":
    main()
