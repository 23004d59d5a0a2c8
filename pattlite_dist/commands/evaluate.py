"""`pattlite evaluate`: score a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import MODELS
from pattlite_dist.console import print_rows
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.evaluation.schema import Evaluation


def add_options(parser: "ArgumentParser") -> None:
    """Options of `evaluate`."""
    from pattlite_dist.location import Location, Run

    parser.add_argument("target", type=Run, help=MODELS)
    parser.add_argument(
        "--shards",
        type=Location,
        default=None,
        help="use instead of the run's own; scores on others are in RUN/evaluation/NAME",
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--pictures", type=bool, default=True, help="whether to draw them")
    parser.add_argument(
        "--views", type=str, default="one", help="one, flip, ten-crop; each is scored separately"
    )


def work(options: Any) -> int:
    """Score a run."""
    with quick_imports():
        from pattlite_dist.evaluation.evaluate import evaluate as score
    from pattlite_dist.evaluation.views import parse_views
    from pattlite_dist.runtime.world import detect

    views = parse_views(options.views)
    target = Path(options.target)
    run, found = score(target, options.shards, options.accelerator, views, options.pictures)
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
        for line in remarks(found):
            print(line)
        pictures = ("confusion", "reliability", "precision_recall", "mistakes")
        drawn = [f"{name}.png" for name in pictures if options.pictures]
        names = ["evaluation.json", "predictions.npz", *drawn]
        print(", ".join(str(run / name) for name in names))
    return 0


def remarks(found: "Evaluation") -> list[str]:
    """A line for what was left out because only the network or only the shards have its class."""
    lines = []
    if found.only_network or found.only_shards:
        lines.append(f"scored over the classes that both have: {', '.join(found.labels)}")
    if found.only_shards:
        lines.append(f"left out: samples of {', '.join(found.only_shards)}, unknown to the network")
    if found.only_network:
        names = ", ".join(found.only_network)
        lines.append(f"left out: the network's outputs for {names}, which the shards do not have")
    return lines
