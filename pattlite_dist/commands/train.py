"""`pattlite train`: train a run, or continue it."""

from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import chosen_config, config_options
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from pattlite_dist.config import Config

add_options = config_options


def work(options: Any) -> int:
    """Train, or continue, a run."""
    config = chosen_config(options)
    from pattlite_dist.runtime.world import detect

    with quick_imports():
        from pattlite_dist.buckets.living import Living
        from pattlite_dist.tracking.curves import CURVES_NAME, draw_what_is_new
        from pattlite_dist.tracking.folder import run_folder
        from pattlite_dist.tracking.reporting import finish_report
        from pattlite_dist.tracking.wandb_run import as_agent_says
        from pattlite_dist.train.run import train as fit

    config, bucket = at_home(as_agent_says(config))
    run, main = run_folder(config), detect().main
    if bucket is not None and main:
        print(f"{bucket}: kept in {run} on this machine")
    minutes = config.trainer.takeover_minutes, config.trainer.timeout_minutes
    lives = None if bucket is None else Living(bucket, *(60 * m for m in minutes))
    try:
        fit(config, lives=lives)
    finally:  # also of a run that was stopped
        if main:
            draw_what_is_new(run)
            finish_report(run)
    if main:
        print(f"{run}: trained; curves in {run / CURVES_NAME}; now `pattlite evaluate {run}`")
        if bucket is not None:
            print(f"{bucket}: published")
    return 0


def at_home(config: "Config") -> tuple["Config", str | None]:
    """The configuration with a local folder for its runs, and the run's address in a bucket."""
    from pattlite_dist.buckets.address import joined, last_name, scratch_folder
    from pattlite_dist.location import is_bucket

    if not is_bucket(config.runs):
        return config, None
    address = joined(config.runs, config.name)
    last_name(address)
    folder = scratch_folder(config.runs, config.scratch)
    return config.model_copy(update={"runs": str(folder)}), address
