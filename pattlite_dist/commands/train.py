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
        from pattlite_dist.tracking.curves import CURVES_NAME, draw_what_is_new
        from pattlite_dist.tracking.folder import run_folder
        from pattlite_dist.tracking.reporting import finish_report
        from pattlite_dist.tracking.wandb_run import as_agent_says
        from pattlite_dist.train.run import train as fit

    config = as_agent_says(config)
    run, main = run_folder(config), detect().main
    try:
        fit(config)
    finally:  # also of a run that was stopped
        if main:
            draw_what_is_new(run)
            finish_report(run)
    if main:
        print(f"{run}: trained; curves in {run / CURVES_NAME}; now `pattlite evaluate {run}`")
    return 0
