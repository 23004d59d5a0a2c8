"""`pattlite replay`: the samples that a step of a run saw."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `replay`."""
    from pattlite_dist.location import Run

    parser.add_argument("run", type=Run, help="run folder")
    parser.add_argument(
        "--step", type=int, required=True, help="of the run, from 0, as in metrics.jsonl"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=None,
        help="picture to write, .png or .svg; default: RUN/replay-STEP.png",
    )  # fmt: skip
    parser.add_argument("--most", type=int, default=128, help="samples drawn; default: 128")
    parser.add_argument("--json", action="store_true", help="print ids and labels, draw nothing")


def work(options: Any) -> int:
    """Draw the samples, or print what they are.

    Raises:
        UserError: there is no such step, or its shards cannot be read.
    """
    if options.most < 1:
        raise UserError(f"--most {options.most} draws nothing; give 1 or more")
    with quick_imports():
        from pattlite_dist.evaluation.pictures import sheet
        from pattlite_dist.files import write_figure
        from pattlite_dist.shards.glyphs import unformatted
        from pattlite_dist.train.replay import replay

    run = Path(options.run)
    seen = replay(run, options.step)
    if options.json:
        rows = [
            {"id": number, "label": label, "counts": counts}
            for number, label, counts in zip(
                seen.ids.tolist(), seen.labels, seen.counts.tolist(), strict=True
            )
        ]
        print(json.dumps({"epoch": seen.epoch, "step": seen.step, "samples": rows}, indent=1))
        return 0
    out = options.out or run / f"replay-{options.step}.png"
    drawn = seen.images[: options.most]
    above = [
        label.replace(" + ", "\n") if " + " in label else f"\n{label}"
        for label in unformatted(seen.labels)
    ]
    below = [
        f"id {number}" if counts else f"id {number}, does not count"
        for number, counts in zip(seen.ids.tolist(), seen.counts.tolist(), strict=True)
    ]
    title = (
        f"{run.resolve().name} on {seen.shards}: step {options.step} "
        f"(epoch {seen.epoch + 1}, step {seen.step + 1} of it), "
        f"{len(drawn):,} of {len(seen.ids):,} samples"
    )
    write_figure(sheet(drawn, above, below, unformatted([title])[0]), out)
    print(f"{out}: {title}")
    return 0
