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
    parser.add_argument("--pictures", type=bool, default=True, help="whether to draw them")
    parser.add_argument(
        "--views", type=str, default="one", help="of one, flip, ten-crop; each is scored for itself"
    )


def evaluate(options: Any) -> int:
    """Score a run."""
    from pattlite_dist.evaluate import evaluate as score
    from pattlite_dist.evaluation.views import parse_views
    from pattlite_dist.world import detect

    views = parse_views(options.views)
    run, found = score(options.target, options.shards, options.accelerator, views, options.pictures)
    if detect().main:
        many = len(views) > 1
        head = ["split", "samples", "top-1 %", "95 % interval", "macro-F1 %", "balanced %", "nll"]
        rows = [[*head, "ece %"]]
        for view, scores in found.of_views().items():
            for name, r in scores.items():
                low, high = r.top1_interval
                rows.append(
                    [
                        f"{name}, {view}" if many else name,
                        f"{r.samples:,}",
                        f"{100 * r.top1:.2f}",
                        f"{100 * low:.1f} to {100 * high:.1f}",
                        f"{100 * r.macro_f1:.2f}",
                        f"{100 * r.balanced_accuracy:.2f}",
                        f"{r.nll:.4f}",
                        f"{100 * r.ece:.1f}",
                    ]
                )
        print_rows(rows)
        pictures = ("confusion", "reliability", "precision_recall", "mistakes")
        drawn = [f"{name}.png" for name in pictures if options.pictures]
        names = ["evaluation.json", "predictions.npz", *drawn]
        print(", ".join(str(run / name) for name in names))
    return 0
