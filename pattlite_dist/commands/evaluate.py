"""`pattlite evaluate`: score a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `evaluate`."""
    from pattlite_dist.location import Location

    parser.add_argument("target", type=Path, help="run folder, or one of its checkpoints")
    parser.add_argument(
        "--shards", type=Location, default=None, help="use instead of the run's own"
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
