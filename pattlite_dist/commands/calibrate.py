"""`pattlite calibrate`: make a run's probabilities honest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `calibrate`."""
    from pattlite_dist.location import Location, Run

    parser.add_argument("target", type=Run, help="run folder, or one of its checkpoints")
    parser.add_argument(
        "--shards", type=Location, default=None, help="use instead of the run's own"
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def work(options: Any) -> int:
    """Calibrate a run."""
    with quick_imports():
        from pattlite_dist.evaluation.calibrating import calibrate_run
    from pattlite_dist.runtime.world import detect
    from pattlite_dist.train.temperature import CALIBRATION_NAME

    run, found = calibrate_run(Path(options.target), options.shards, options.accelerator)
    if detect().main:
        print(
            f"{found.checkpoint}: temperature {found.temperature:.3f}, fitted on {found.samples:,} "
            f"samples of val: ece {100 * found.ece[0]:.1f} % -> {100 * found.ece[1]:.1f} %, "
            f"nll {found.nll[0]:.4f} -> {found.nll[1]:.4f}"
        )
        print(run / CALIBRATION_NAME)
    return 0
