"""Options that several verbs share: a configuration, a profile, a job's."""

import os
from typing import TYPE_CHECKING, Any

from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.config import Config
    from pattlite_dist.slurm.profile import Profile


CONFIG_HELP = "YAML file, or the name of one that is installed; see `pattlite configs`"
MODELS = (
    "run folder, one of its checkpoints, an exported .safetensors file, or pretrained[:NAME], "
    "which is installed"
)


def config_options(parser: "ArgumentParser") -> None:
    """A configuration: a file, and every key as an option."""
    from pattlite_dist.commands.configfile import ConfigFile
    from pattlite_dist.config import Config

    parser.add_argument("-c", "--config", action=ConfigFile, help=CONFIG_HELP)
    parser.add_class_arguments(Config)


def given_config(options: Any) -> "Config":
    """The configuration among parsed options.

    Raises:
        UserError: it is not a valid configuration.
    """
    from pattlite_dist.config import Config, parse_config

    tree = options.as_dict()
    return parse_config({key: tree[key] for key in Config.model_fields}, "configuration")


def chosen_config(options: Any) -> "Config":
    """The configuration among parsed options, from at least one file.

    Raises:
        UserError: it is not a valid configuration, or no file was given.
    """
    from pattlite_dist.shipped import CONFIGS, shipped

    config = given_config(options)
    if not options.config:
        raise UserError(
            "no configuration is given; choose one with -c: an installed one "
            f"({', '.join(shipped(CONFIGS))}; see `pattlite configs`), or your own YAML file"
        )
    return config


def profile_option(parser: "ArgumentParser", required: bool = True) -> None:
    """The profile; `profile.KEY=VALUE` words change it."""
    parser.add_argument(
        "--profile",
        required=required,
        help="YAML file, or the name of one that is installed; see `pattlite profiles`. "
        "profile.KEY=VALUE changes it",
    )


def given_profile(options: Any) -> "Profile":
    """The profile among parsed options.

    Raises:
        UserError: it is not a profile, or this version of submitit is not supported.
    """
    from pattlite_dist.compat.submitit import check
    from pattlite_dist.slurm.profile import load_profile

    check()  # here, because every profile is loaded to make a job
    profile = load_profile(options.profile, options.profile_overrides)
    os.environ.update(profile.secrets)  # sbatch and srun pass on the environment
    return profile


def job_options(parser: "ArgumentParser") -> None:
    """Options of every submission."""
    profile_option(parser)
    parser.add_argument("--after", help="start after this job has succeeded")
    parser.add_argument("--dry-run", action="store_true", help="only print the text for sbatch")
    parser.add_argument("--parsable", action="store_true", help="print only job ids")


def train_job_options(parser: "ArgumentParser") -> None:
    """Options of a submission of training."""
    job_options(parser)
    parser.add_argument("--snapshot", action="store_true", help="run a copy of the current code")
    parser.add_argument(
        "--skip-checks", action="store_true", help="submit despite problems that `doctor` finds"
    )
