"""`pattlite train` and `pattlite evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.config import Config


def config_options(parser: "ArgumentParser") -> None:
    """A configuration: a file, and every key as an option."""
    from pattlite_dist.config import Config

    parser.add_argument("-c", "--config", action="config", help="YAML file, from configs/")
    parser.add_class_arguments(Config)


def given_config(options: Any) -> "Config":
    """The configuration among parsed options.

    Raises:
        UserError: it does not hold what a configuration holds.
    """
    from pattlite_dist.config import Config, parse_config

    tree = options.as_dict()
    return parse_config({key: tree[key] for key in Config.model_fields}, "configuration")


train_options = config_options


def train(options: Any) -> int:
    """Train, or continue, a run."""
    config = given_config(options)
    from pattlite_dist.report import draw_curves
    from pattlite_dist.train.run import train as fit
    from pattlite_dist.world import detect

    run = fit(config)
    if detect().main:
        picture = draw_curves(run)
        print(f"{run}: trained; curves in {picture}; now `pattlite evaluate {run}`")
    return 0


def evaluate_options(parser: "ArgumentParser") -> None:
    """Options of `evaluate`."""
    parser.add_argument("target", type=Path, help="run folder, or one of its checkpoints")
    parser.add_argument("--shards", type=str, default=None, help="instead of the run's own")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def evaluate(options: Any) -> int:
    """Score a run."""
    from pattlite_dist.evaluate import evaluate as score
    from pattlite_dist.world import detect

    run, results = score(options.target, options.shards, options.accelerator)
    if detect().main:
        rows = [["split", "samples", "top-1 %", "macro-F1 %", "nll"]]
        for name, r in results.items():
            scores = (f"{100 * r.top1:.2f}", f"{100 * r.macro_f1:.2f}", f"{r.nll:.4f}")
            rows.append([name, f"{r.samples:,}", *scores])
        print_rows(rows)
        print(f"{run / 'evaluation.json'}, {run / 'confusion.png'}")
    return 0
