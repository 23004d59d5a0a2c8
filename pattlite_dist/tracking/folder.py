"""A run's folder: where it is, its configuration, and whether this run may continue it."""

from pathlib import Path

import yaml

from pattlite_dist.config import Config, conflicts, parse_written, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.location import is_bucket, with_absolute_paths
from pattlite_dist.tracking.record import RECORD_NAME, rewind_metrics

CONFIG_NAME = "config.yaml"


def run_folder(config: Config) -> Path:
    """Where a run keeps everything.

    Raises:
        UserError: that is in a bucket, which only `train` understands.
    """
    if is_bucket(config.runs):
        raise UserError(
            f"runs={config.runs} is in a bucket, which only `pattlite train` can work with; give "
            "a folder"
        )
    return Path(config.runs) / config.name


def load_config(run: Path) -> Config:
    """The configuration that a run folder was created with.

    Raises:
        UserError: it is not a run folder.
    """
    path = run / CONFIG_NAME
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} is not a run folder: it has no config.yaml; train first") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {path}: {reason}; restore it") from error
    return parse_written(content, str(path))


def same_run(config: Config, run: Path) -> Config:
    """Check that a folder, if it holds a run, holds this one.

    Returns:
        The configuration to continue with: that given, but what earlier versions did otherwise, a
        run that they began still does; see `as_before`.

    Raises:
        UserError: the folder holds a run with a different configuration.
    """
    if not (run / CONFIG_NAME).exists():
        return config
    before = load_config(run)
    if (before.data.tail, config.data.tail) == ("drop", "pad"):
        data = config.data.model_copy(update={"tail": "drop"})
        config = config.model_copy(update={"data": data})
    if before.optim.decay_positions:
        optim = config.optim.model_copy(update={"decay_positions": True})
        config = config.model_copy(update={"optim": optim})
    changed = conflicts(before, config)
    if changed:
        raise UserError(
            f"{run} holds a run with a different configuration ({'; '.join(changed)}); "
            "set name to start a new one, or restore these values to continue it"
        )
    return config


def as_before(given: Config, config: Config) -> list[str]:
    """What a run does as earlier versions did, a line for each.

    Args:
        given: by the user.
        config: what `same_run` made of it.
    """
    lines = []
    if given.data.tail != config.data.tail:
        lines.append("leaves out each epoch's incomplete last batch, as before: data.tail=drop")
    if given.optim.decay_positions != config.optim.decay_positions:
        lines.append("decays position embeddings, as before: optim.decay_positions=true")
    return lines


def prepare_folder(config: Config, run: Path, step: int | None, scored: bool = True) -> None:
    """Write `config.yaml`, and remove metrics from `step` on: those steps are repeated.

    Paths are written as absolute ones, so that a run can be used from any folder.

    Args:
        config: of the run.
        run: folder.
        step: that it continues from; None: no metrics are removed.
        scored: see `rewind_metrics`.
    """
    write_text(run / CONFIG_NAME, to_yaml(with_absolute_paths(config)))
    if step is not None:
        rewind_metrics(run / RECORD_NAME, step, scored)
