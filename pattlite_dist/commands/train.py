"""`pattlite train`: train a run, or continue it."""

from typing import Any

from pattlite_dist.commands.options import chosen_config, config_options
from pattlite_dist.runtime.imports import quick_imports

add_options = config_options


def work(options: Any) -> int:
    """Train, or continue, a run."""
    config = chosen_config(options)
    from pattlite_dist.runtime.world import detect

    with quick_imports():
        from pattlite_dist.tracking.curves import draw_curves
        from pattlite_dist.train.run import train as fit

    run = fit(config)
    if detect().main:
        picture = draw_curves(run)
        print(f"{run}: trained; curves in {picture}; now `pattlite evaluate {run}`")
    return 0
